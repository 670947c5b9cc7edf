"""Atomic writes: a file is complete or absent, even after a power cut."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from rsdnet.errors import DataError

PART = ".part"
LEFT = (f".*{PART}", ".tmp*")  # ours, and what safetensors writes to before it gives a file its name


class aside:
    """`with aside(path) as temporary`: write to `temporary`, which is renamed to `path` when the block ends.

    The file is flushed to disk before the rename, and the folder after it. An exception deletes `temporary`; a killed
    process leaves it, to be overwritten by the next one or removed by `sweep`.
    """

    def __init__(self, path: Path):
        self.path, self.temporary = path, path.with_name(f".{path.name}{PART}")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                with open(self.temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self.temporary, self.path)
                _settle(self.path.parent)
        finally:
            self.temporary.unlink(missing_ok=True)


def writable(path: Path, kind: str) -> None:
    """Raise DataError where no file can be written at `path`: it is a folder, or lies in none. kind: of the file."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file to write, {kind}")
    if not path.absolute().parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.absolute().parent}; make it first")


def lock(file: IO[bytes], taken: str) -> None:
    """Lock an open file until it is closed or this process ends, however it does.

    taken: the message of the DataError where another process, perhaps on another machine, has locked it. Raises OSError
    on a file system without locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(taken) from None


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed processes from `folder`. Nobody may be writing there."""
    for pattern in LEFT:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Flush the folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems take no fsync of a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
