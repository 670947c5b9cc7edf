"""The journal by which an interrupted ingest continues: `ingest.journal`, JSON lines. rsdnet.catalog has one, too.

The first line holds the options, every other one a source, in order. A source's line is written only after its entries
are committed, so whenever a process dies, the entries of every line are in the database; sources in flight are ingested
again, to the same values.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rsdnet.data.catalog import JOURNAL
from rsdnet.errors import DataError
from rsdnet.files import lock


def compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise DataError if the database in `folder` was begun with other options, or of other files."""
    if not (name := differing(before, now)):
        return
    one, two = _distinct(before.get(name), now.get(name))
    how = f"with {name} {one!r}, now it is {two!r}: use the same options, another folder,"
    if name == "listing":
        how = f"when {before['source']} held other files: put them back,"
    raise DataError(f"{folder} was begun {how} or delete {folder}")


def differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first option in which the two differ, "listing" last; "" for none."""
    now = json.loads(json.dumps(now))
    found = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return next((name for name in found if name != "listing"), "listing" if found else "")


Compare = Callable[[Path, dict[str, Any], dict[str, Any]], None]


class Journal:
    """The journal of an ingest, locked. done: number of finished sources."""

    def __init__(self, folder: Path, identity: dict[str, Any], name: str = JOURNAL, compare: Compare = compare):
        """Open or begin it, and cut off a torn last line.

        Raises DataError if another process has it, it is damaged, or the options are not `identity`.
        """
        self.path = folder / name
        self.file = open(self.path, "a+b")  # noqa: SIM115 - lives as long as the ingest
        lock(self.file, f"{folder}: another {self.path.stem} is writing to it; wait for it to end")
        self.file.seek(0)
        lengths = [len(line) for line in self.file if line.endswith(b"\n")]
        self.file.truncate(sum(lengths))
        self.done = max(0, len(lengths) - 1)
        if lengths:
            self.file.seek(0)
            compare(folder, _parsed(self.path, self.file.readline()), identity)
        else:
            self._write([identity])

    def append(self, lines: list[dict[str, Any]]) -> None:
        """Add sources; on the disk when this returns."""
        self._write(lines)
        self.done += len(lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        self.file.write(text.encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def cut(self, done: int) -> None:
        """Forget all sources after the first `done`."""
        self.file.seek(0)
        self.file.truncate(sum(len(line) for line in islice(self.file, 1 + done)))
        self.done = done

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the finished sources, in order."""
        with open(self.path, "rb") as file:
            next(file)
            yield from (_parsed(self.path, line) for line in file)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: lines not flushed are written again next time
            self.file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


def begun(folder: Path) -> dict[str, Any]:
    """The options of an unfinished ingest into `folder`; {} while they are being written."""
    with open(folder / JOURNAL, "rb") as file:
        line = file.readline()
    return _parsed(folder / JOURNAL, line) if line.endswith(b"\n") else {}


def _parsed(path: Path, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        how = f"delete {path.parent} and ingest anew" if path.name == JOURNAL else "delete it and run the command again"
        raise DataError(f"{path} is damaged: {how}")
    return found


def _distinct(one: Any, two: Any) -> tuple[Any, Any]:
    """Two values; of two lists the items that the other has not, unless these are in another order alone."""
    if not (isinstance(one, list) and isinstance(two, list)) or sorted(map(str, one)) == sorted(map(str, two)):
        return one, two
    return [item for item in one if item not in two], [item for item in two if item not in one]
