"""Earlier work in the folder of a database: a finished ingest, or other shards of this one."""

from pathlib import Path
from typing import Any

from rsdnet.data import catalog, shards
from rsdnet.data.catalog import JOURNAL, Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.journal import begun, compare
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import DIGEST, Source, digest, once, whole_name
from rsdnet.ingest.splits import draw
from rsdnet.ingest.summary import LEFT_OUT


def finished(layout: Layout) -> bool:
    """Whether an ingest with the same options has ended; it then says so, and tells later changes of the source.

    Raises DataError if options or classes differ.
    """
    folder = layout.folder
    if not (folder / catalog.CATALOG).is_file() or (folder / JOURNAL).exists():
        return False
    meta = catalog.read_meta(folder)
    if "ingest" not in meta:
        raise DataError(f"{folder} holds a database that ingest did not make: name another folder")
    before = meta["ingest"]
    now = layout.identity()
    known = [name for name in now if name in before]
    if "version" not in before:  # it told folders below SOURCE as if they lay below the working folder
        known = [name for name in known if name == "source" or not isinstance(getattr(layout, name, None), Path)]
    compare(folder, before, before | {name: now[name] for name in known})
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
        drawn = [] if layout.split_by else draw(sources, layout.val, layout.test, layout.grouping()).sources
    except DataError as error:
        return " ".join(str(error).split())
    now = {source.name: source for source in sources if source.problem or source.images.keys() & {"ms", "sar"}}
    keys = {image.key for source in now.values() for image in source.images.values()}
    before = dict[str, tuple[str | None, ...]]()
    folders = [layout.folder]
    if layout.part:
        siblings = (layout.db / shard.name for shard in shards.found(layout.db))
        folders = [folder for folder in siblings if (folder / catalog.CATALOG).is_file()]
    for piece in (piece for folder in folders for piece in Catalog.scan(folder)):
        columns = (piece.samples, piece.ms, piece.sar, piece.split)
        for sample, ms, sar, split in zip(*(column.tolist() for column in columns), strict=True):
            own = (ms and whole_name(ms, keys), sar and whole_name(sar, keys), split)
            before.setdefault(whole_name(sample, now), own)
    for line in (line for folder in folders for line in _lines(folder / LEFT_OUT)):
        before.setdefault(whole_name(line.split("\t")[0], now), ())
    every = not layout.part or len(folders) == layout.part.of  # else the new ones may be in other shards
    new = sorted(now.keys() - before.keys()) if every else []
    gone = sorted(before.keys() - now.keys())
    other = sorted(name for name in now.keys() & before.keys() if _differs(now[name], before[name]))
    parts = (("new", new), ("gone or renamed", gone), ("of other files or another split", other))
    told = [f"samples {what}: {len(names):,} (the first: {names[0]})" for what, names in parts if names]
    if not told and drawn and listing.startswith(DIGEST) and digest(drawn) != listing:
        told = ["the files of samples that were left out"]
    return ", ".join(told)


def _differs(now: Source, before: tuple[str | None, ...]) -> bool:
    """Whether a source differs from what it was ingested as: (S2 key, S1 key, split), () for left out."""
    if now.problem or not before:
        return bool(now.problem) and bool(before)
    keys = tuple(now.images[kind].key if kind in now.images else None for kind in ("ms", "sar"))
    return keys != before[:2] or now.split not in (None, before[2])


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
    return path.read_text("utf-8").splitlines()[1:] if path.is_file() else []
