"""This disk: files put out of the page cache, and what it reads by itself, past the cache."""

import ctypes
import mmap
import os
from pathlib import Path
from threading import Thread

import numpy as np

from benches.core.peers import Absent
from benches.reader.workload import Workload
from rsdnet.info import disk

SECTOR = 4096  # bytes that direct reads are aligned to
BLOCK = 4 << 20  # bytes of a sequential read
FLIGHT = 16  # reads in flight
WARM = 0.01  # share of a file's pages that may stay where it counts as cold

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def evict(path: Path) -> None:
    """Put a file out of the page cache. Raises Absent where the machine keeps it there, or does not tell."""
    unmap(path)
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    disk.evict(path, np.array([[0, path.stat().st_size]]))
    left = disk.cached_share(path)
    if left is None:
        raise Absent("the system does not tell what the page cache holds")
    if left > WARM:
        raise Absent(f"{left:.0%} of the database stay in the page cache: this machine does not evict it")


def unmap(path: Path) -> None:
    """Take the pages of a file out of this process's maps of it: mapped pages are not evicted. They come again."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path.resolve())):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            _libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)


class Direct:
    """Reads past the page cache, FLIGHT at a time, as many bytes as a workload's steps have.

    random: the blocks of those steps in their order, with the sectors that they touch; else one large block after the
    other. Raises Absent where the file system has no direct reads.
    """

    def __init__(self, workload: Workload, random: bool) -> None:
        self.workload, self.random = workload, random
        self.name = f"the disk's own {'random' if random else 'sequential'} reads"
        self.blocks: dict[int, list[tuple[int, int]]] = {}
        self.path = workload.pairs.folder / "data.mdb"
        try:
            self.file = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
            os.preadv(self.file, [mmap.mmap(-1, SECTOR)], 0)
        except OSError as error:
            raise Absent(f"no direct reads on this file system: {error.strerror}") from error

    def prepare(self, steps: range) -> None:
        """(first byte, bytes) of each read of a step."""
        end = self.path.stat().st_size // BLOCK * BLOCK
        for step in steps:
            if self.random:
                self.blocks[step] = [sectors(*block) for block in self.workload.blocks(step).tolist()]
            else:
                count = max(1, int(self.workload.sizes(step).sum()) // BLOCK)
                self.blocks[step] = [((step * count + n) * BLOCK % max(end, 1), BLOCK) for n in range(count)]

    def run(self, steps: range) -> None:
        blocks = [block for step in steps for block in self.blocks[step]]
        readers = [Thread(target=self._read, args=(blocks[n::FLIGHT],)) for n in range(FLIGHT)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    def moved(self, steps: range) -> int:
        """Bytes that `run` reads."""
        return sum(size for step in steps for _, size in self.blocks[step])

    def _read(self, blocks: list[tuple[int, int]]) -> None:
        buffer = memoryview(mmap.mmap(-1, BLOCK))  # aligned, as direct reads must be
        for begin, size in blocks:
            os.preadv(self.file, [buffer[:size]], begin)


def sectors(begin: int, size: int) -> tuple[int, int]:
    """The smallest run of whole sectors around a block."""
    first = begin // SECTOR * SECTOR
    return first, -(-(begin + size) // SECTOR) * SECTOR - first
