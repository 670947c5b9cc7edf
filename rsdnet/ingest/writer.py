"""Write a database: LMDB entries in transactions that grow the map, and the journal that lets an ingest continue.

The journal, `ingest.journal`, is JSON lines: the options first, then one line a source, in order. A line is written
only after the entries it speaks of are committed, so whatever moment a process dies, the entries of every line are
there; those of the sources in flight are written again, with the same values.
"""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from rsdnet.data.catalog import DATA, JOURNAL
from rsdnet.errors import DataError

_SMALLEST_MAP = 64 << 20  # bytes; the file grows with its content, the map only bounds it
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextlib.contextmanager
def space_for(folder: Path, done: str) -> Iterator[None]:
    """Turn a full disk into one line: what is safe and what to do."""
    try:
        yield
    except (lmdb.DiskError, OSError) as error:
        raise _full(folder, done, error) from error
    except lmdb.Error as error:
        if any(os.strerror(code) in str(error) for code in (*_FULL, errno.EIO)):
            raise _full(folder, done, error) from error
        raise DataError(f"{folder / DATA} cannot be written ({error})") from error


def _full(folder: Path, done: str, error: Exception) -> DataError:
    return DataError(f"no space to write {folder} ({error}): {done}; free some and run the same command again")


class Writer:
    """The LMDB environment of a database, open for writing. Close it, or use `with`."""

    def __init__(self, folder: Path):
        path = folder / DATA
        size = path.stat().st_size if path.exists() else 0
        try:
            self.environment = lmdb.open(str(folder), map_size=max(_SMALLEST_MAP, 2 * size), readahead=False)
        except lmdb.Error as error:
            raise DataError(f"{path} is no LMDB database ({error}): name another folder") from error
        self.size = self.environment.info()["map_size"]

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.environment.close()

    def put(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Write entries in one transaction, doubling the map until they fit. An entry already there with the
        same value is left, so that writing again after an interruption leaves no holes in the file."""
        entries = list(entries)
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    for key, blob in entries:
                        if transaction.get(key.encode()) != blob:
                            transaction.put(key.encode(), blob)
                return
            except lmdb.MapFullError:
                self.size *= 2
                self.environment.set_mapsize(self.size)

    def get(self, key: str) -> bytes:
        with self.environment.begin(buffers=False) as transaction:
            blob = transaction.get(key.encode())
        if blob is None:
            raise DataError(f"{key} is not in the database that its journal speaks of: delete it and ingest anew")
        return bytes(blob)


class Journal:
    """The journal of an ingest, locked: `done` sources are finished, more are appended."""

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.path = folder / JOURNAL
        self.file = open(self.path, "a+b")  # noqa: SIM115 - lives as long as the ingest
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder}: another ingest is writing to it; wait for it to end") from error
        self.done = self._recover(identity)

    def _recover(self, identity: dict[str, Any]) -> int:
        """Cut a torn last line off, compare the options, count the finished sources."""
        self.file.seek(0)
        whole = lines = 0
        for line in self.file:
            if not line.endswith(b"\n"):
                break
            if lines == 0:
                _compare(self.path.parent, json.loads(line), identity)
            whole, lines = whole + len(line), lines + 1
        self.file.truncate(whole)
        if lines == 0:
            self._write([identity])
        return max(0, lines - 1)

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add lines; on the disk when this returns."""
        self._write(records)
        self.done += len(records)

    def _write(self, records: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(record, separators=(",", ":"), default=str) + "\n" for record in records)
        self.file.write(text.encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def records(self) -> Iterator[dict[str, Any]]:
        """The finished sources' lines, in order."""
        with open(self.path, "rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what is not flushed is written again next time
            self.file.close()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    before, now = json.loads(json.dumps(before)), json.loads(json.dumps(now))
    if before == now:
        return
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names == ["listing"]:
        raise DataError(
            f"{folder} was begun when {before['source']} held other files: put them back, or delete {folder}"
        )
    name = next(name for name in names if name != "listing")
    raise DataError(
        f"{folder} was begun with {name} {before.get(name)!r}, now it is {now.get(name)!r}: "
        "use the same options, another folder, or delete it"
    )


def compare_finished(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise DataError if a finished database was made with other options."""
    _compare(folder, {**before, "listing": ""}, {**now, "listing": ""})
