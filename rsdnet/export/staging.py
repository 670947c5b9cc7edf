"""Files and folders that are complete or absent, several at once."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsdnet.errors import DataError
from rsdnet.files import PART


def require_free(paths: Sequence[Path], force: bool) -> None:
    """Raise DataError where one of `paths` exists, or lies in no folder. force: files may exist."""
    for path in paths:
        if not path.absolute().parent.is_dir():
            raise DataError(f"{path}: there is no folder {path.absolute().parent}; make it first")
        if path.exists() and not force:
            raise DataError(f"{path} exists: name another, or replace it with --force")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, whose content moves there when the block ends, `out` last; an error removes it.

    Files of the same names are replaced; others, in a folder that was there, stay.
    """
    temporary = out.with_name(f".{out.name}{PART}")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process's
    try:
        temporary.mkdir()
        yield temporary
        for path in filter(Path.is_file, temporary.rglob("*")):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == out.name):
            move(path, out.with_name(path.name))
    except OSError as error:  # a full disk names no file
        raise DataError(f"{out} cannot be written ({error.strerror}): make room, or name another place") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Rename `source` to `target`; of a folder that exists, each file in it."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            move(path, target / path.name)
    else:
        os.replace(source, target)
