"""The contents of a database: `python -m rsdnet.info DB [--verify] [--speed]`.

Samples by split and class, bands with types and shapes, statistics, damaged entries, size on disk; with `--speed` the
samples a second that this machine reads, and their bound. A database without a catalog, such as rico-hdl's own, has no
table of samples and no `--speed`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rsdnet import options
from rsdnet.errors import command
from rsdnet.files import writable
from rsdnet.info.info import info
from rsdnet.options import Seconds


@dataclass(frozen=True)
class Options:
    db: tyro.conf.Positional[Path]
    """Folder of the database, or of its shards."""
    verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read every entry whole, not its header alone."""
    json: Path | None = None
    """Write all damaged entries and absent keys into this file."""
    speed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the samples a second that this machine reads from the database, cold and warm, and name their bound. The
    database is dropped from the page cache for it."""
    seconds: Seconds = 20.0
    """Duration of --speed, about, once the samples are open."""


def main() -> int:
    """The command."""
    asked = options.parse(Options, prog="python -m rsdnet.info", description=__doc__)
    if asked.json:
        writable(asked.json, "JSON")
    status = 0
    try:
        if asked.verify or asked.json or not asked.speed:
            status = info(asked.db, asked.verify, asked.json)
        if asked.speed:
            from rsdnet.info.speed import speed

            speed(asked.db, asked.seconds)
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    command(main)
