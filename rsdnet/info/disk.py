"""Files in the page cache: their share there, and dropping them."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

COLD = 0.1  # largest share in the page cache of a file that is called cold
_WINDOW = 1 << 30  # bytes of a file mapped at once to ask for its cached pages
_libc = ctypes.CDLL(None, use_errno=True)


def cached_share(path: Path) -> float | None:
    """Share of a file's pages in the page cache; None where the system tells the file's owner alone."""
    size, cached = path.stat().st_size, 0
    if size == 0 or not (os.access(path, os.W_OK) or path.stat().st_uid == os.geteuid()):
        return None
    with path.open("rb") as file:
        for begin in range(0, size, _WINDOW):
            length = min(_WINDOW, size - begin)
            pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
            with mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ, offset=begin) as view:
                memory = np.frombuffer(view, np.uint8)
                address, answer = ctypes.c_void_p(memory.ctypes.data), ctypes.c_void_p(pages.ctypes.data)
                failed = _libc.mincore(address, ctypes.c_size_t(length), answer)
                del memory  # or the map could not be closed
            if failed:
                return None
            cached += int((pages & 1).sum())
    return cached / -(-size // mmap.PAGESIZE)


def evict(path: Path) -> bool:
    """Write a file's changed pages to disk and drop all of it from the page cache. True if it is cold then."""
    with path.open("rb") as file:
        os.fsync(file)  # a page not yet on disk is not dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = cached_share(path)
    return share is not None and share <= COLD
