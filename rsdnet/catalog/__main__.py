"""A database that rico-hdl wrote, adopted in place: `python -m rsdnet.catalog LAYOUT DB`.

Writes catalog.parquet and stats.json beside data.mdb, and not one byte of data.mdb: samples, splits and labels by its
keys and --metadata, statistics by one pass over its entries, with the checks of ingest. Entries left out are named in
left_out.tsv. An interrupted adoption continues if the same command runs again.
"""

import sys

import tyro

from rsdnet.catalog.adopt import adopt
from rsdnet.catalog.base import Adoption
from rsdnet.catalog.layouts import ADOPTIONS
from rsdnet.errors import command
from rsdnet.options import checked, read


def main() -> int:
    """The command."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return adopt(asked(sys.argv[1:]))


def asked(argv: list[str]) -> Adoption:
    """The options of a command line. Raises DataError on a mistake in it."""
    prog = "python -m rsdnet.catalog"
    return checked(
        read(
            lambda: tyro.extras.subcommand_cli_from_dict(dict(ADOPTIONS), prog=prog, description=__doc__, args=argv),
            argv,
        )
    )


if __name__ == "__main__":
    command(main)
