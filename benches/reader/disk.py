"""This disk: files put out of the page cache, and the speed of plain reads."""

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benches.core.peers import Absent
from benches.reader.workload import Workload
from rsdnet.info import disk

BLOCK = 4 << 20  # bytes of a sequential read
FLIGHT = 16  # reads in flight
WARM = 0.01  # share of a file's pages that may stay where it counts as cold

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def evict(path: Path) -> None:
    """Put a file out of the page cache. Raises Absent where the machine keeps it there, or does not tell."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path.resolve())):  # pages in this process's maps are not evicted; they come again
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            _libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)
    disk.evict(path)
    left = disk.cached_share(path)
    if left is None:
        raise Absent("the system does not tell what the page cache holds")
    if left > WARM:
        raise Absent(f"{left:.0%} of the database stay in the page cache: this machine does not evict it")


def _read(descriptor: int, blocks: NDArray[np.int64]) -> None:
    """Read blocks (N, 2), first byte and bytes, one after the other; a read releases Python's lock."""
    buffer = memoryview(bytearray(blocks[:, 1].max(initial=0)))
    for offset, length in blocks.tolist():
        os.preadv(descriptor, [buffer[:length]], offset)


class Disk:
    """Reads of a cold file, FLIGHT at a time, of as many bytes as the steps of a workload have.

    random: the very blocks of those steps in their order; else large blocks, one after the other.
    """

    def __init__(self, workload: Workload, random: bool) -> None:
        self.workload, self.random = workload, random
        self.name = f"the disk's own {'random' if random else 'sequential'} reads"
        self.blocks: dict[int, NDArray[np.int64]] = {}
        self.path = workload.pairs.folder / "data.mdb"

    def prepare(self, steps: range) -> None:
        """(N, 2) first byte and bytes of each read of a step."""
        end = max(self.path.stat().st_size // BLOCK, 1)
        for step in steps:
            if self.random:
                self.blocks[step] = self.workload.blocks(step)
            else:
                count = max(1, int(self.workload.sizes(step).sum()) // BLOCK)
                begins = (step * count + np.arange(count)) % end * BLOCK
                self.blocks[step] = np.column_stack([begins, np.full(count, BLOCK)])

    def run(self, steps: range) -> None:
        blocks = np.concatenate([self.blocks[step] for step in steps])
        with self.path.open("rb") as file, ThreadPoolExecutor(FLIGHT) as pool:
            advice = os.POSIX_FADV_RANDOM if self.random else os.POSIX_FADV_SEQUENTIAL
            os.posix_fadvise(file.fileno(), 0, 0, advice)
            list(pool.map(lambda own: _read(file.fileno(), own), [blocks[at::FLIGHT] for at in range(FLIGHT)]))

    def moved(self, steps: range) -> int:
        """Bytes that `run` reads."""
        return sum(int(self.blocks[step][:, 1].sum()) for step in steps)
