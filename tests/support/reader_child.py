"""Uses the reader on a database in a process of its own, so that a crash is an answer and not the end of the tests."""

import multiprocessing
import multiprocessing.connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What the child found: the error, or every entry's tensors (an error where one cannot be read).
Found = str | dict[str, str | dict[str, NDArray]]

PATIENCE = 30  # seconds for one small database


def use(path: str) -> Found:
    """Everything a caller may do with a database, mapped and not. Only ReaderError is caught."""
    found, other = (_use(path, access) for access in ("map", "pread"))
    if not _same(found, other):
        raise AssertionError(f"mapped: {found}, not mapped: {other}")
    return found


def _same(found: Found, other: Found) -> bool:
    if isinstance(found, str) or isinstance(other, str):
        return found == other
    return found.keys() == other.keys() and all(
        one == two
        if isinstance(one, str) or isinstance(two, str)
        else one.keys() == two.keys() and all(np.array_equal(one[n], two[n], equal_nan=True) for n in one)
        for one, two in zip(found.values(), other.values(), strict=True)
    )


def _use(path: str, access: str) -> Found:
    from rsdnet import bands
    from rsdnet._reader import Reader, ReaderError

    found: dict[str, str | dict[str, NDArray]] = {}
    try:
        reader = Reader([path], bands.spellings(), threads=2, access=access)
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
    _gather(reader, entries)
    for modality in ("ms", "sar"):
        _stream(reader, keys, modality)
    return found


def _gather(reader: Any, entries: NDArray) -> None:
    """Every band of every entry: what `check` refuses, `gather` refuses alike."""
    from rsdnet import bands
    from rsdnet._reader import ReaderError

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


def _stream(reader: Any, keys: list[str], modality: str) -> None:
    """The entries that hold a band, as samples: every batch of an epoch, and each band once."""
    from rsdnet import bands
    from rsdnet._reader import Stream, Table

    pool = [bands.band_id("B02" if modality == "ms" else "VV")]
    table = Table(reader, modality, pool, pool)
    faults = table.add(0, np.arange(len(keys)), keys, keys)
    if len(faults) + len(table) != len(keys):
        raise AssertionError(f"{len(keys)} keys, of which {len(table)} samples and {len(faults)} faults")
    if not len(table):
        return
    data = np.zeros(2 * table.band_bytes(modality), np.uint8)
    slot = (data, np.zeros((2, 1, 1, 5), np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64))
    stream = Stream(table, [slot], seed=0, batch=2, bands=pool, drop_last=False, last=(len(table) + 1) // 2, threads=2)
    seen: list[int] = []
    while (batch := stream.next()) is not None:
        seen += slot[3][: batch[1]].tolist()
        stream.release(batch[0])
    if sorted(seen) != list(range(len(table))):
        raise AssertionError(f"an epoch of {len(table)} samples gave {seen}")


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
