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


def locked(path: Path) -> IO[bytes]:
    """The file at `path`, made if it is not there, locked until it is closed or this process ends, however it does.

    Raises DataError where another process, perhaps on another machine, holds it. A file system without locks holds
    nobody off.
    """
    file = open(path, "ab")  # noqa: SIM115 - the caller holds it
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        file.close()
        raise DataError(f"{path.parent} is in use by another process: wait for it to end, or name another") from None
    except OSError:
        pass
    return file


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
