"""Earlier work in the folder of a database: a finished ingest, or other shards of this one."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdnet._reader import Reader
from rsdnet.data import catalog, shards
from rsdnet.data.catalog import JOURNAL, Catalog
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.ingest.journal import begun, compare
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import DIGEST, Source, digest, once, whole_name
from rsdnet.ingest.splits import draw
from rsdnet.ingest.summary import LEFT_OUT


def finished(layout: Layout) -> bool:
    """Whether an ingest with the same options has ended; it then says so, and tells later changes of the source.

    Raises DataError if options or classes differ, or a part of the database is missing or damaged.
    """
    folder = layout.folder
    if not (folder / catalog.CATALOG).is_file() or (folder / JOURNAL).exists():
        return False
    with _damage_told(folder):
        meta = catalog.read_meta(folder)
    if "ingest" not in meta:
        raise DataError(f"{folder} holds a database that ingest did not make: name another folder")
    before = meta["ingest"]
    now = layout.identity()
    known = [name for name in now if name in before]
    if "version" not in before:  # it told folders below SOURCE as if they lay below the working folder
        known = [name for name in known if name == "source" or not isinstance(getattr(layout, name, None), Path)]
    compare(folder, before, before | {name: now[name] for name in known})
    with _damage_told(folder):
        read_stats(folder)
    check_entries(folder, ([*piece.ms, *piece.sar, *piece.map] for piece in Catalog.scan(folder)))
    print(f"{folder} is finished: {catalog.count(folder):,} samples; delete it to ingest anew")
    if told := _changes(layout, str(before.get("listing"))):
        print(f"{layout.source} has changed since: {told}: delete {layout.db} and ingest anew, or name another folder")
    return True


def _changes(layout: Layout, listing: str) -> str:
    """The differences of the source's files from those that a finished database was made of, in words; "" for none.

    listing: the digest of those that it was made of.
    """
    try:
        sources = once(layout.sources())
        by = layout.grouping()
        drawn = [] if by.block is not None else draw(sources, *layout.shares, by).sources
    except DataError as error:
        return " ".join(str(error).split())
    now = {source.name: source for source in sources if source.problem or source.images.keys() & {"ms", "sar"}}
    keys = {image.key for source in now.values() for image in source.images.values()}
    before = dict[str, tuple[Any, ...]]()
    folders = [layout.folder]
    if layout.part:
        siblings = (layout.db / shard.name for shard in shards.found(layout.db))
        folders = [folder for folder in siblings if (folder / catalog.CATALOG).is_file()]
    for piece in (piece for folder in folders for piece in Catalog.scan(folder)):
        columns = (piece.samples, piece.ms, piece.sar, piece.split, piece.labels)
        for sample, ms, sar, split, labels in zip(*(column.tolist() for column in columns), strict=True):
            name = whole_name(sample, now)
            labels = now[name].labels if name in now and name != sample else labels  # a tile has none
            before.setdefault(name, (ms and whole_name(ms, keys), sar and whole_name(sar, keys), split, labels))
    for line in (line for folder in folders for line in _lines(folder / LEFT_OUT)):
        before.setdefault(whole_name(line.split("\t")[0], now), ())
    every = not layout.part or len(folders) == layout.part.of  # else the new ones may be in other shards
    new = sorted(now.keys() - before.keys()) if every else []
    gone = sorted(before.keys() - now.keys())
    other = sorted(name for name in now.keys() & before.keys() if _differs(now[name], before[name]))
    parts = (("new", new), ("gone or renamed", gone), ("of other files or another split", other))
    told = [f"samples {what}: {len(names):,} (the first: {names[0]})" for what, names in parts if names]
    if not told and drawn and listing.startswith(DIGEST) and digest(drawn) != listing:
        told = ["the files of samples that were left out" if every else "files of other shards, or of samples left out"]
    return ", ".join(told)


def _differs(now: Source, before: tuple[Any, ...]) -> bool:
    """Whether a source differs from what it was ingested as: (S2 key, S1 key, split, labels), () for left out."""
    if now.problem or not before:
        return bool(now.problem) and bool(before)
    keys = tuple(now.images[kind].key if kind in now.images else None for kind in ("ms", "sar"))
    return keys != before[:2] or now.split not in (None, before[2]) or now.labels != before[3]


def check_entries(folder: Path, written: Iterable[Sequence[str | None]]) -> None:
    """Raise DataError if the database lacks one of the keys that an ingest has written, or is damaged."""
    reader = None
    for keys in filter(None, ([key for key in some if key] for some in written)):
        with _damage_told(folder):
            reader = reader or Reader([folder])
            there = reader.contains(keys)
            if not there.all():
                raise DataError(f"it lacks the entry {keys[int(there.argmin())]}")


@contextlib.contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{folder} is damaged ({error}): delete it and ingest anew") from error


def check_apart(layout: Layout, sources: list[Source]) -> None:
    """Raise DataError if images of the source lie in the folder of a database that is to begin.

    They would be hidden as its files, and lost with it where a message says to delete it.
    """
    db = layout.db
    if not db.is_dir() or not {*os.listdir(db)} - {shard.name for shard in shards.found(db)}:
        return
    own = db.resolve()
    paths = (path for source in sources for image in source.images.values() for path, _ in image.files)
    first = {os.path.dirname(path): path for path in paths}
    for folder, path in first.items():
        if Path(folder).resolve().is_relative_to(own):
            raise DataError(f"{db} holds images of the source ({path}): name a folder of its own for the database")


def compare_shards(layout: Layout, identity: dict[str, Any]) -> None:
    """Raise DataError if another shard of the database was begun with other options, or of other files."""
    for shard in shards.found(layout.db) if layout.part else ():
        folder = layout.db / shard.name
        if shard != layout.part and (before := _identity(folder)):
            compare(folder, before, identity)


def _identity(folder: Path) -> dict[str, Any]:
    """The options of an ingest into `folder`, finished or not; {} where it holds none."""
    if (folder / JOURNAL).is_file():
        return begun(folder)
    return shards.options(catalog.read_meta(folder)) if (folder / catalog.CATALOG).is_file() else {}


def _lines(path: Path) -> list[str]:
    """The lines of a table below its header; none without the file."""
    return path.read_text("utf-8").rstrip("\n").split("\n")[1:] if path.is_file() else []
