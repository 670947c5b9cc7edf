"""Uses the reader on a database in a process of its own, so that a crash is an answer and not the end of the tests."""

import multiprocessing
import multiprocessing.connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# What the child found: the error, or every entry's tensors (an error where one cannot be read).
Found = str | dict[str, str | dict[str, NDArray]]

PATIENCE = 30  # seconds for one small database


def use(path: str) -> Found:
    """Everything a caller may do with a database. Only ReaderError is caught."""
    from rsdnet import bands
    from rsdnet._reader import Reader, ReaderError

    found: dict[str, str | dict[str, NDArray]] = {}
    try:
        reader = Reader([path], bands.spellings(), threads=2)
        keys = reader.keys()
        entries = reader.entries(keys)
    except ReaderError as error:
        return str(error)
    for key in keys:
        try:
            reader.describe(key)
            found[key] = reader.read(key)
        except ReaderError as error:
            found[key] = str(error)
    pairs, band_ids = (grid.ravel() for grid in np.meshgrid(entries, np.arange(len(bands.NAMES))))
    refused = dict(reader.check(pairs, band_ids))
    out, records = np.zeros(1 << 20, np.uint8), np.zeros((1, 5), np.int64)
    for position in range(len(pairs)):
        one = slice(position, position + 1)
        try:
            reader.gather(pairs[one], band_ids[one], out, records)
            reason = None
        except ReaderError as error:
            reason = str(error)
        if reason != refused.get(position) and "; the buffer has" not in (reason or ""):
            raise AssertionError(f"gather says {reason}, check {refused.get(position)}")
    return found


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    while path := pipe.recv():
        try:
            pipe.send(use(path))
        except Exception as error:
            pipe.send(error)


class Child:
    """A process that answers `use(path)`; started anew after it died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def use(self, path: Path) -> Found:
        """What the reader says of this database. AssertionError if it crashes, hangs or raises anything of its own."""
        self._pipe.send(str(path))
        try:
            assert self._pipe.poll(PATIENCE), f"the reader hangs on {path}"
            found = self._pipe.recv()
        except (EOFError, ConnectionError, AssertionError):
            self.close()
            code = self._process.exitcode
            self._start()
            raise AssertionError(f"the reader crashed or hung (exit code {code}) on {path}") from None
        if isinstance(found, Exception):
            raise AssertionError(f"the reader raised {found!r} on {path}") from found
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.kill()
        self._process.join()
