"""Write a database: LMDB entries in transactions, by a thread beside the reading of the next sources."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb

from rsdnet.data.catalog import DATA
from rsdnet.errors import FULL, DataError
from rsdnet.ingest.journal import Journal

_SMALLEST_MAP = 64 << 20  # bytes; the file grows with its content, the map only bounds it
_CHUNK_BYTES, _CHUNK_SECONDS = 64 << 20, 5.0  # of a transaction, about: the most that an interruption can lose


@contextlib.contextmanager
def space_for(folder: Path, done: str) -> Iterator[None]:
    """A full disk, and a folder that may not be written to, become a DataError of one line.

    done: the work that is safe.
    """
    try:
        yield
    except (lmdb.Error, OSError) as error:
        full = any(os.strerror(code) in str(error) for code in (*FULL, errno.EIO))
        if not full and not isinstance(error, lmdb.DiskError):
            raise DataError(f"{folder} cannot be written to ({error}): {done}; make it writable") from error
        why = f"no space to write {folder} ({error})"
        raise DataError(f"{why}: {done}; free some and run the same command again") from error


class Writer:
    """A database open for writing: sources gather to one transaction, which a thread writes beside the reading."""

    def __init__(self, folder: Path, journal: Journal):
        self.folder, self.journal = folder, journal
        path = folder / DATA
        size = path.stat().st_size if path.exists() else 0
        room = max(_SMALLEST_MAP, 2 * size)
        with space_for(folder, f"{journal.done:,} sources are safe"):
            try:  # the journal is locked; LMDB's own lock file is mapped, and a full disk would kill the process
                self.environment = lmdb.open(str(folder), map_size=room, readahead=False, lock=False)
            except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
                raise DataError(f"{path} is no LMDB database ({error}): name another folder") from error
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.entries: list[tuple[str, bytes]] = []
        self.bytes, self.began = 0, time.monotonic()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self.environment.close()

    def get(self, key: str) -> bytes:
        """The value of an entry. Raises DataError if there is none."""
        with self.environment.begin() as transaction:
            blob = transaction.get(key.encode())
        if blob is None:
            raise DataError(f"{key} is not in the database that its journal speaks of: delete it and ingest anew")
        return bytes(blob)

    def add(self, line: dict[str, Any], entries: list[tuple[str, bytes]]) -> None:
        """Take one source's line and entries; commit once there are many, or the first is old."""
        self.lines.append(line)
        self.entries += entries
        self.bytes += sum(len(blob) for _, blob in entries)
        if self.bytes >= _CHUNK_BYTES or time.monotonic() - self.began >= _CHUNK_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Start a transaction of all that was added, once the one before has ended."""
        self.wait()
        self._writing = self._thread.submit(self._write, self.entries, self.lines)
        self._begin()

    def wait(self) -> None:
        """Wait until the transaction under way is on the disk. Raises its error."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, entries: list[tuple[str, bytes]], lines: list[dict[str, Any]]) -> None:
        """Entries first, then their lines of the journal."""
        with space_for(self.folder, f"{self.journal.done:,} sources are safe"):
            self.put(entries)
            self.journal.append(lines)

    def put(self, entries: list[tuple[str, bytes]]) -> None:
        """Write entries in one transaction, doubling the map until they fit.

        An entry with the same value is left as it is, so that a resumed ingest leaves no holes in the file.
        """
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    for key, blob in entries:
                        if transaction.get(key.encode()) != blob:
                            transaction.put(key.encode(), blob)
                return
            except lmdb.MapFullError:
                self.environment.set_mapsize(2 * self.environment.info()["map_size"])
