"""From an encoder to a map: `python -m rsdnet.embed ENCODER SCENE... OUT.tif`, or OUT.parquet with --db DB.

Maps of an encoder over a whole scene, as a GeoTIFF of its grid: overlapping windows, blended, block by block in bounded
memory. SCENE: GeoTIFFs, VRTs, Sentinel-2's band files, or a .SAFE folder. Offset, unit and grid are checked as
python -m rsdnet.ingest checks them. With --db one vector a patch of a database, as Parquet. Interrupted, the same
command continues; under torchrun each process embeds its share.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py says

import sys

from rich.console import Console

import rsdnet
from rsdnet.distributed import Ranks, open_ranks
from rsdnet.embed.options import Options, output_of
from rsdnet.embed.patches import embed_database
from rsdnet.embed.plan import planned
from rsdnet.errors import INTERRUPTED, command
from rsdnet.options import checked, parse, require_values


def embed(options: Options, ranks: Ranks, console: Console) -> None:
    """Write the output. Raises DataError on a mistake in the options or in the input."""
    with ranks.together():
        checked(options)
        out = output_of(options)
        encoder = rsdnet.load(options.encoder, ranks.device)
    if options.db:
        embed_database(
            encoder, options.db, out, options.bands, options.features, options.batch, options.force, ranks, console
        )
    else:
        with ranks.together():
            job = planned(encoder, options, out, console)
            job.check()
        job.run(ranks, console, options.force)
    console.print(f"{out}: written")


def main() -> int:
    """The command."""
    for option in ("--bands", "--layers"):
        require_values(sys.argv, option)
    options = parse(Options, prog="python -m rsdnet.embed", description=__doc__)
    with open_ranks(options.device) as ranks:
        console = Console(quiet=not ranks.main, markup=False, highlight=False, soft_wrap=True)
        try:
            embed(options, ranks, console)
        except KeyboardInterrupt:
            console.print("interrupted: finished parts are safe; the same command continues")
            return INTERRUPTED
    return 0


if __name__ == "__main__":
    command(main)
