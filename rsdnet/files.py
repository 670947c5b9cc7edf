"""Files that are there whole or not at all, after a power cut too."""

import contextlib
import os
from pathlib import Path

PART = ".part"
LEFT = (f".*{PART}", ".tmp*")  # ours, and what safetensors writes to before it gives a file its name


class aside:
    """`with aside(path) as temporary`: what is written to `temporary` appears at `path` whole or never.

    It is on the disk before it has its name, and its name is before the block ends. A process killed inside leaves
    `temporary`: the next one at the same path writes over it, and `sweep` removes it.
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


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in `folder`. Nobody may be writing there."""
    for pattern in LEFT:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems take no fsync of a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
