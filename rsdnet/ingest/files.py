"""The files of a data set on disk: found, named, and told apart.

Links to folders are followed, each folder is read once; hidden files, the clutter of desktops and notebooks, and
folders that hold a database are passed over. Names are compared in Unicode's composed form (NFC): macOS writes some of
them decomposed (NFD).
"""

import os
import re
import unicodedata
from collections import deque
from collections.abc import Collection, Hashable, Iterator
from pathlib import Path
from typing import TypeVar

from rsdnet.data.catalog import DATA, JOURNAL
from rsdnet.errors import DataError

K = TypeVar("K", bound=Hashable)

GEOTIFF = (".tif", ".tiff")
RASTER = (*GEOTIFF, ".jp2")
_IMAGES = (*RASTER, ".jpg", ".jpeg", ".png", ".img", ".vrt", ".nc", ".h5", ".npy")
_CLUTTER = {
    "__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "lost+found", "$RECYCLE.BIN",
    "System Volume Information",
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DATABASE = {DATA, JOURNAL}  # one of these files makes a folder a database
# Copies as Jupyter, Windows, macOS, GNOME, browsers, and Drive, Dropbox, Nextcloud and Syncthing name them.
_COPY = re.compile(
    r"copy of (.+)|(.+?)(?:-checkpoint|[-_ ]+copy ?\d*| - copy \(\d+\)| ?\(\d+\)"
    r"| \((?:another |\d+(?:st|nd|rd|th) )?copy(?: \d+)?\)| \([^()]*conflicted copy[^()]*\)|\.sync-conflict-[\w-]+)",
    re.I,
)
_MARK = re.compile(r"checkpoint|copy|\(\d|sync-conflict", re.I)


def find_geotiffs(folder: Path, notices: list[str] | None = None) -> list[Path]:
    """All GeoTIFFs below `folder`: see `find_files`."""
    return find_files(folder, GEOTIFF, notices)


def find_files(folder: Path, suffixes: tuple[str, ...], notices: list[str] | None = None) -> list[Path]:
    """All visible files below `folder` whose names end in one of `suffixes` (lower case), sorted.

    notices: gets a line on each kind of image and folder that was passed over.
    Raises DataError if it is no folder that can be read, or a file's name is not UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found, passed = list[str](), dict[str, list[str]]()
    others = tuple(suffix for suffix in _IMAGES if suffix not in suffixes)
    for path in _walk(str(folder), passed):
        if path.lower().endswith(suffixes):
            found.append(path)
        elif path.lower().endswith(others):
            passed.setdefault(f"images that are no {' or '.join(suffixes)}, not read", []).append(path)
    _require_text(found)
    if notices is not None:
        notices += [counted(what, len(paths), min(paths)) for what, paths in passed.items()]
    return [Path(path) for path in sorted(found)]


def counted(what: str, count: int, first: str | Path) -> str:
    """A line on files or folders that were passed over."""
    return f"{what}: {count:,}; the first: {escaped(first)}"


def _walk(folder: str, passed: dict[str, list[str]]) -> Iterator[str]:
    """The visible files below a folder: links to folders after all others, and each folder once.

    passed: gets the folders that were passed over, by reason.
    """
    seen, linked = set[tuple[int, int | str]](), deque([folder])
    while linked:
        within = [linked.popleft()]
        while within:
            root = within.pop()
            try:
                status = os.stat(root)
                identity = (status.st_dev, status.st_ino or os.path.realpath(root))  # inodes may be unknown
                if identity in seen:
                    passed.setdefault("folders that are links to another, not read again", []).append(root)
                    continue
                seen.add(identity)
                visible = _visible(root)
            except OSError as error:
                if root == folder:
                    raise DataError(f"{folder} cannot be read ({error.strerror})") from error
                passed.setdefault(f"folders that cannot be read ({error.strerror})", []).append(root)
                continue
            if root != folder and _DATABASE.intersection(entry.name for entry in visible):
                images = [entry.path for entry in visible if entry.name.lower().endswith(_IMAGES)]
                if images:
                    passed.setdefault("images in the folder of a database, not read", []).extend(images)
                continue
            folders = [entry for entry in visible if _is_folder(entry)]
            within += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
            linked += [entry.path for entry in folders if entry.is_symlink()]
            yield from (entry.path for entry in visible if _is_file(entry))


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in `folder`, sorted, links to folders too; none if it does not exist or holds a
    database.

    Raises DataError if it cannot be read, or a name is not UTF-8.
    """
    if not folder.is_dir():
        return []
    try:
        visible = _visible(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from error
    if _DATABASE.intersection(entry.name for entry in visible):
        return []
    names = [entry.name for entry in visible if _is_folder(entry)]
    _require_text([str(folder / name) for name in names])
    return names


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or clutter of a desktop or file server."""
    return name.startswith(".") or name in _CLUTTER


def holds_database(folder: Path) -> bool:
    """Whether a folder holds a database, finished or not, or its shards."""
    return any((each / name).exists() for each in (folder, *folder.glob("shard-*-of-*")) for name in _DATABASE)


def _visible(folder: str | Path) -> "list[os.DirEntry[str]]":
    """The entries of a folder that are not hidden, by name. Raises OSError if it cannot be read."""
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a file to read, also a link to nowhere, which fails when it is read; no pipe, no socket."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _require_text(paths: list[str]) -> None:
    """Raise DataError if a path cannot be a key, or stand in a table."""
    for fault, bad in (
        ("that is not UTF-8", [path for path in paths if not is_utf8(path)]),
        ("with a control character", list(filter(_CONTROL.search, paths))),
    ):
        if bad:
            more = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
            raise DataError(f"{escaped(min(bad))} has a name {fault}{more}: rename it")


def is_utf8(path: str | Path) -> bool:
    """Whether a path can be a key."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(path: str | Path) -> str:
    r"""A path as one line of text: a byte that is not UTF-8 as \xe9, a control character as \x0a."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def key_of(name: str) -> str:
    """A name in Unicode's composed form: equal for both spellings of one name."""
    return unicodedata.normalize("NFC", name)


def add(found: dict[K, Path], key: K, path: Path) -> None:
    """Add a file or folder under its key; one that is reached again by a link is kept once.

    Raises DataError that names both if another has the key.
    """
    other = found.setdefault(key, path)
    if other is not path and not _same(other, path):
        common = os.path.commonpath((other, path))
        raise DataError(f"{other} and {path} have one name: keep one of them in {common}, or rename it")


def _same(one: Path, two: Path) -> bool:
    try:
        return os.path.samefile(one, two)
    except OSError:
        return False


def copies(names: Collection[str]) -> dict[str, str]:
    """The names that are another's with a copy's addition, as "a (1)" or "a-Copy1" beside "a", and that other.

    names: paths without suffix; a folder may be named as the copy of another, too.
    """
    every = names if isinstance(names, set | dict) else set(names)
    found: dict[str, str] = {}
    for name in filter(_MARK.search, names):
        parts = name.split("/")
        for at, part in enumerate(parts):
            if match := _COPY.fullmatch(part):
                original = "/".join((*parts[:at], match[1] or match[2], *parts[at + 1 :]))
                if original in every:
                    found[name] = original
    return found
