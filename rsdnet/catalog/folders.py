"""The folders of an adoption: what may be read and written, and the journal by which it continues."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsdnet.catalog.base import Adoption
from rsdnet.data import shards
from rsdnet.data.catalog import CATALOG, DATA, JOURNAL
from rsdnet.errors import DataError
from rsdnet.ingest.journal import Journal, differing
from rsdnet.ingest.writer import space_for

ADOPTION, STATE = "adoption.journal", "adoption.state"


def check_folders(asked: Adoption) -> None:
    """Raise DataError where there is no database to adopt, or a catalog that may not be replaced."""
    db, home = asked.db, asked.home
    if not db.is_dir():
        raise DataError(f"{db} is no folder: name the folder of a database")
    if (db / JOURNAL).exists():
        raise DataError(f"{db} is being ingested: run its `python -m rsdnet.ingest` command again, not this one")
    if not (db / DATA).is_file():
        below = sorted(path.parent.name for path in db.glob(f"*/{DATA}"))
        hint = f", but its folders {', '.join(below[:3])} do: adopt each by itself" if below else ""
        raise DataError(f"{db} holds no {DATA}{hint}")
    if shards.found(db):
        raise DataError(f"{db} holds shards of an ingest beside {DATA}: name another folder")
    if home.exists() and not home.is_dir():
        raise DataError(f"{home} is a file: name a folder for the catalog")
    if (home / DATA).exists() and not os.path.samefile(home / DATA, db / DATA):
        raise DataError(f"{home} holds another database: name another folder for --out")
    if (home / CATALOG).exists() and not (home / ADOPTION).exists() and not asked.force:
        raise DataError(f"{home / CATALOG} exists: --force replaces it and stats.json")


def begin(asked: Adoption, identity: dict[str, Any]) -> Journal:
    """The journal of this adoption, begun or opened; with --out also the link to data.mdb."""
    home = asked.home
    with writing(asked, "nothing is written yet"):
        home.mkdir(parents=True, exist_ok=True)
        if not (home / DATA).exists():
            (home / DATA).unlink(missing_ok=True)  # a link to nowhere
            (home / DATA).symlink_to((asked.db / DATA).resolve())
        try:
            return Journal(home, identity, ADOPTION, _compare)
        except _Differs:
            if not asked.force:
                raise
        (home / ADOPTION).unlink()
        return Journal(home, identity, ADOPTION, _compare)


class _Differs(DataError):
    """The journal is of an adoption with other options, or of another database."""


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if not (name := differing(before, now)):
        return
    how = f"with {name} {before.get(name)!r}, now it is {now.get(name)!r}"
    how = "when data.mdb or the metadata were others" if name in ("listing", "bytes", "changed") else how
    raise _Differs(f"{folder / ADOPTION} was begun {how}: use the same, or --force to begin anew")


@contextlib.contextmanager
def writing(asked: Adoption, done: str) -> Iterator[None]:
    """A folder that may not be written to, and a full disk, become a DataError of one line."""
    try:
        with space_for(asked.home, done):
            yield
    except DataError as error:
        readonly = not asked.out and isinstance(error.__cause__, OSError) and "no space" not in str(error)
        raise DataError(f"{error}, or give --out FOLDER") if readonly else error from error.__cause__
