"""Shards: a database in parts, each ingested by a job of its own (`--shard I/N`), read as one.

Shard I of N is a database in DB/shard-000I-of-000N: of the I-th stretch of the sources, so that the rows of all shards
in order are those of a whole ingest. Every command that takes a database takes DB for all of its shards.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rsdnet.data import catalog
from rsdnet.errors import DataError

_FOLDER = re.compile(r"shard-(\d+)-of-(\d+)")
_NAMED = 10  # shards named in a message, at most


class Shard(NamedTuple):
    """Shard `number` (from 0) of `of`."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"shard-{self.number:04}-of-{self.of:04}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def stretch(self, count: int) -> slice:
        """Its part of `count` items; parts differ in size by one at most, and joined in order are the whole."""
        return slice(count * self.number // self.of, count * (self.number + 1) // self.of)


def parse(text: str) -> Shard:
    """The shard of a text "I/N". Raises DataError for any other."""
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if shard.number >= shard.of:
        raise DataError(
            f"--shard is {text!r}, but must be I/N with I from 0 to N - 1: 0/8, 1/8, ... 7/8 for 8 jobs, "
            "and fewer than 10,000"
        )
    return shard


def found(db: Path) -> list[Shard]:
    """The shards with a folder below `db`, finished or not, by number."""
    names = [entry.name for entry in os.scandir(db) if entry.is_dir()] if db.is_dir() else []
    shards = (Shard(*map(int, match.groups())) for match in map(_FOLDER.fullmatch, names) if match)
    return sorted(shard for shard in shards if (db / shard.name).is_dir())


def check_room(db: Path, shard: Shard | None) -> None:
    """Raise DataError if `db` holds what cannot be read as one with `shard`, or with a whole database (None)."""
    if shard and (db / catalog.DATA).exists():
        raise DataError(f"{db} holds a database that is no shard: name another folder for --shard {shard}")
    other = next((other for other in found(db) if shard is None or other.of != shard.of), None)
    if other:
        want = f"--shard I/{other.of}"
        raise DataError(f"{db} holds {other.name}: go on with {want}, name another folder, or delete its shards")


def parts(db: Path) -> tuple[Path, ...]:
    """The folders of a database: its shards with a sample, by number, or `db` itself without shards.

    Raises DataError if the shards are incomplete, unfinished or of different ingests, or none has a sample.
    """
    shards = found(db)
    if not shards:
        return (db,)
    if (db / catalog.DATA).exists():
        raise DataError(f"{db} holds {catalog.DATA} and {shards[0].name}: delete one of them, or name a shard alone")
    counts = sorted({shard.of for shard in shards})
    if len(counts) > 1:
        raise DataError(f"{db} holds shards of {' and of '.join(map(str, counts))}: delete those of all but one ingest")
    every = [Shard(number, counts[0]) for number in range(counts[0])]
    _require_whole(db, every)
    _require_alike(db, every)
    held = tuple(db / shard.name for shard in every if catalog.count(db / shard.name))
    if not held:
        raise DataError(f"{db}: none of its {len(every)} shards holds a sample: see left_out.tsv in each")
    return held


def _require_whole(db: Path, every: Sequence[Shard]) -> None:
    missing = [shard for shard in every if not (db / shard.name).is_dir()]
    unfinished = [shard for shard in every if shard not in set(missing) and not _finished(db / shard.name)]
    faults = [
        f"{what} {', '.join(map(str, shards[:_NAMED]))}{', ...' if len(shards) > _NAMED else ''}"
        for what, shards in (("missing:", missing), ("not finished:", unfinished))
        if shards
    ]
    if faults:
        raise DataError(f"{db}: shards are {'; '.join(faults)}: run `python -m rsdnet.ingest ... --shard` of each")


def _finished(folder: Path) -> bool:
    return (folder / catalog.CATALOG).is_file() and not (folder / catalog.JOURNAL).exists()


def _require_alike(db: Path, every: Sequence[Shard]) -> None:
    """Raise DataError if the shards were made with different options, or of different files."""
    first = options(catalog.read_meta(db / every[0].name))
    for shard in every[1:]:
        own = options(catalog.read_meta(db / shard.name))
        differing = [name for name in {**first, **own} if first.get(name) != own.get(name)]
        if differing:
            name = next((name for name in differing if name != "listing"), "listing")
            how = f"with {name} {own.get(name)!r}, not {first.get(name)!r},"
            how = f"of other files in {own.get('source')}" if name == "listing" else how
            raise DataError(f"{db}: shard {shard} was made {how} than shard {every[0]}: delete one and ingest it anew")


def options(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a catalog's metadata that shards of one ingest share: options, and the digest of all sources."""
    own = meta.get("ingest")
    return own if isinstance(own, dict) else {}


def of_one_ingest(metas: Sequence[Mapping[str, Any]]) -> bool:
    """True for the metadata of a single catalog, or of shards of one ingest."""
    return len(metas) == 1 or bool(options(metas[0]) and all(options(meta) == options(metas[0]) for meta in metas))


def classes(lists: Sequence[tuple[str, ...]], metas: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The class names of each catalog; of shards, those of a whole ingest.

    A data set without class names has the label ids up to the highest found, of which a shard knows its own alone.
    Names are kept as they are: where those of one ingest differ, a catalog was edited.
    """
    keys = [json.dumps(options(meta), sort_keys=True) for meta in metas]
    longest: dict[str, tuple[str, ...]] = {}
    for key, own in zip(keys, lists, strict=True):
        longest[key] = max(longest.get(key, ()), own, key=len)
    return [
        longest[key] if options(meta) and all(map(str.isdecimal, own)) else own
        for key, own, meta in zip(keys, lists, metas, strict=True)
    ]
