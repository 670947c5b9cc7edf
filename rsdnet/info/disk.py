"""A file's disk: the share of the file in the page cache, and the rate of plain reads."""

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsdnet.errors import DataError

BLOCK = 1 << 20  # bytes of a sequential read
COLD = 0.1  # largest share in the page cache of a range that is called cold
_WINDOW = 1 << 30  # bytes of a file mapped at once to ask for its cached pages
_FOLIO = 2 << 20  # bytes of the largest group of pages that a page cache keeps together
_libc = ctypes.CDLL(None, use_errno=True)


class Reads(NamedTuple):
    """Bytes and blocks read, and the seconds it took."""

    bytes: int
    blocks: int
    seconds: float


def cached_share(path: Path, extents: np.ndarray | None = None) -> float | None:
    """Share of a file's pages in the page cache; with `extents`, (N, 2) first byte and bytes, of their pages alone.

    None where the system does not tell: it tells the file's owner alone.
    """
    size = path.stat().st_size
    if size == 0 or not (os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()):
        return None
    ranges = np.array([[0, size]], np.int64) if extents is None else extents
    ranges = np.column_stack([ranges[:, 0], ranges.sum(1)])
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    cached = total = 0
    with path.open("rb") as file:
        for begin in range(0, size, _WINDOW):
            end = min(begin + _WINDOW, size)
            own = ranges[(ranges[:, 0] < end) & (ranges[:, 1] > begin)]
            if not len(own):
                continue
            pages = _cached_pages(file.fileno(), begin, end - begin)
            if pages is None:
                return None
            sums = np.concatenate([[0], np.cumsum(pages, dtype=np.int64)])
            first = (np.maximum(own[:, 0], begin) - begin) // mmap.PAGESIZE
            last = -((begin - np.minimum(own[:, 1], end)) // mmap.PAGESIZE)
            cached += int((sums[last] - sums[first]).sum())
            total += int((last - first).sum())
    return cached / total if total else None


def _cached_pages(descriptor: int, begin: int, length: int) -> np.ndarray | None:
    """(pages,) bool: the cached pages of a range; None where mincore fails."""
    with mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=begin) as view:
        memory = np.frombuffer(view, np.uint8)
        pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
        address, answer = ctypes.c_void_p(memory.ctypes.data), ctypes.c_void_p(pages.ctypes.data)
        failed = _libc.mincore(address, ctypes.c_size_t(length), answer)
        del memory  # or the map could not be closed
    return None if failed else (pages & 1).astype(bool)


def evict(path: Path, extents: np.ndarray) -> bool:
    """Drop extents, (N, 2) first byte and bytes, from the page cache. True if they are cold then.

    Large folios are dropped whole or not at all: where the extents' own pages stay, whole folios are dropped.
    """
    for unit in (mmap.PAGESIZE, _FOLIO):
        begins, ends = extents[:, 0] // unit * unit, -(-extents.sum(1) // unit) * unit
        with path.open("rb") as file:
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)
        share = cached_share(path, extents)
        if share is not None and share <= COLD:
            return True
    return False


def sequential(path: Path, first: int, length: int, seconds: float) -> Reads:
    """Read a range in blocks of 1 MiB until its end, or for so long. Raises DataError if it cannot be read."""
    offsets = range(first, first + length, BLOCK)
    blocks = [(offset, min(BLOCK, first + length - offset)) for offset in offsets]
    return _read(path, blocks, 1, seconds, os.POSIX_FADV_SEQUENTIAL)


def scattered(path: Path, blocks: np.ndarray, threads: int, seconds: float) -> Reads:
    """Read blocks, (N, 2) first byte and bytes, in order until all are read, or for so long.

    Raises DataError if they cannot be read.
    """
    return _read(path, blocks.tolist(), threads, seconds, os.POSIX_FADV_RANDOM)


def _read(path: Path, blocks: Sequence[Sequence[int]], threads: int, seconds: float, advice: int) -> Reads:
    """pread, which releases Python's lock while it waits for the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    began = time.perf_counter()

    def work(own: Sequence[Sequence[int]]) -> tuple[int, int]:
        read = count = 0
        buffer = memoryview(bytearray(max((length for _, length in own), default=1)))
        for offset, length in own:
            if time.perf_counter() - began >= seconds:
                break
            read += os.preadv(descriptor, [buffer[:length]], offset)
            count += 1
        return read, count

    try:
        os.posix_fadvise(descriptor, 0, 0, advice)
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(work, [blocks[i::threads] for i in range(threads)]))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check the disk, then ingest again") from error
    finally:
        os.close(descriptor)
    return Reads(sum(read for read, _ in parts), sum(count for _, count in parts), time.perf_counter() - began)
