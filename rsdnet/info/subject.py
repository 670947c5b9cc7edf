"""What a measurement of speed reads: some samples of a database, spread over it, through the reader as training does.

With a catalog: samples, through Table and Stream (two views of one drawn band each). Without: entries, one band of
each, through Reader.gather.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from rsdnet import bands
from rsdnet.data import catalog
from rsdnet.data.catalog import Catalog
from rsdnet.data.databases import Databases
from rsdnet.errors import DataError
from rsdnet.info import disk

if TYPE_CHECKING:
    from rsdnet._reader import Reader, Table

BATCH, VIEWS, SLOTS = 64, 2, 4
_MOST = 20_000  # samples
_PROBED = 16  # entries that tell how large a value is
_DRAWN = 1 << 14  # band sizes
_HEADER = 4096  # bytes asked for before headers are checked one by one
_LONG = 1 << 31  # epochs: more than there is time for
_GATHERED = ("uint8", "int16", "uint16", "float16", "float32")


class Done(NamedTuple):
    """What was read: samples, bytes of their bands, seconds, seconds on a core of all threads together."""

    samples: int
    bytes: int
    seconds: float
    cpu: float


@dataclass(frozen=True, eq=False)
class Subject(ABC):
    """Some samples of a database.

    extents: (N, 2) int64, first byte and bytes of each entry's value in the file. drawn: (K,) int64, bytes of bands as
    reading draws them. host: bytes that the bands of all samples of the database take, or None. note: a line on what
    is read, or "".
    """

    db: Path
    extents: np.ndarray
    drawn: np.ndarray
    host: int | None
    note: str

    name = ""
    looks_ahead = True

    @property
    def block(self) -> int:
        """Bytes of a drawn band, on average."""
        return int(self.drawn.mean())

    @property
    def room(self) -> int:
        """Bytes that batches are read into, one after the other."""
        return SLOTS * BATCH * VIEWS * -(-int(self.drawn.max()) // 16) * 16

    @abstractmethod
    def first(self, most: int) -> Self:
        """The first of the samples, whose values take at most so many bytes (one sample at least)."""

    @abstractmethod
    def read(self, threads: int, hints: str, seconds: float, once: bool) -> Done:
        """Read bands as training does, for so long; `once`: or until each sample was read. hints: "on" or "off"."""


def reader_file(db: Path) -> Path:
    """The data file of the database in folder `db`."""
    return db / catalog.DATA if db.is_dir() else db


def choose(db: Path, most: int) -> Subject:
    """Samples of the database in folder `db`, whose values take about `most` bytes at most.

    Raises DataError if it cannot be read, or holds no band.
    """
    if (db / catalog.CATALOG).is_file():
        return _streamed(db, most)
    return _gathered(db, most)


@dataclass(frozen=True, eq=False)
class Streamed(Subject):
    """Samples of the catalog: their rows, and their keys by modality (None without that modality)."""

    rows: np.ndarray
    keys: dict[str, list[str] | None]
    pools: dict[str, list[int]]

    name = "samples"

    @property
    def modality(self) -> str:
        """As Table takes it."""
        return "+".join(modality for modality in ("ms", "sar") if self.keys[modality] is not None)

    def first(self, most: int) -> Self:
        extents = self.extents.reshape(len(self.rows), -1, 2)  # sample by sample
        count = max(1, int(np.searchsorted(np.cumsum(extents[:, :, 1].sum(1)), most, "right")))
        keys = {modality: names and names[:count] for modality, names in self.keys.items()}
        return replace(self, rows=self.rows[:count], keys=keys, extents=extents[:count].reshape(-1, 2))

    def read(self, threads: int, hints: str, seconds: float, once: bool) -> Done:
        from rsdnet._reader import Stream

        table = self.table(threads)
        batch = min(BATCH, len(table))
        room = batch * VIEWS * max(table.band_bytes(m) for m in ("ms", "sar") if self.keys[m] is not None)
        slots = [
            (np.zeros(room, np.uint8), np.zeros((batch, VIEWS, 1, 5), np.int64), *np.zeros((2, batch), np.int64))
            for _ in range(SLOTS)
        ]
        steps = -(-len(table) // batch) if once else len(table) // batch * _LONG
        samples = read = 0
        began, cpu = time.perf_counter(), time.process_time()
        stream = Stream(
            table, slots, seed=0, batch=batch, views=VIEWS, channels=1, drop_last=not once, last=steps,
            threads=threads, hints=hints, damaged="stand-in",
        )  # fmt: skip
        try:
            while time.perf_counter() - began < seconds and (item := stream.next()) is not None:
                slot, count, used = item[:3]
                samples, read = samples + count, read + used
                stream.release(slot)
            took, spent = time.perf_counter() - began, time.process_time() - cpu
        finally:
            stream.close()
        return Done(samples, read, took, spent)

    def table(self, threads: int) -> "Table":
        """The samples that can be read. Raises DataError if none can."""
        from rsdnet._reader import Reader, Table

        reader = Reader([self.db], bands.spellings(), threads)
        table = Table(reader, self.modality, self.pools["ms"], self.pools["sar"])
        left_out = table.add(0, self.rows, self.keys["ms"], self.keys["sar"])
        if not len(table):
            raise DataError(f"{self.db}: no sample can be read; the first: {left_out[0][1]}")
        return table


@dataclass(frozen=True, eq=False)
class Gathered(Subject):
    """Entries, and of each the bands it holds."""

    keys: list[str]
    held: list[list[int]]

    name = "entries"
    looks_ahead = False

    def first(self, most: int) -> Self:
        count = max(1, int(np.searchsorted(np.cumsum(self.extents[:, 1]), most, "right")))
        return replace(self, keys=self.keys[:count], held=self.held[:count], extents=self.extents[:count])

    def read(self, threads: int, hints: str, seconds: float, once: bool) -> Done:
        from rsdnet._reader import Reader

        reader = Reader([self.db], bands.spellings(), threads)
        rng = np.random.default_rng(0)
        order = rng.permutation(len(self.keys))
        entries = reader.entries(self.keys)[order]
        drawn = np.array([rng.choice(self.held[index]) for index in order], np.int64)
        out, records = np.zeros(self.room, np.uint8), np.zeros((BATCH, 5), np.int64)
        samples = read = 0
        began, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds and not (once and samples >= len(entries)):
            at = samples % len(entries)
            own = slice(at, at + BATCH)
            count = len(entries[own])
            read += reader.gather(entries[own], drawn[own], out, records[:count])
            samples += count
        return Done(samples, read, time.perf_counter() - began, time.process_time() - cpu)


def _streamed(db: Path, most: int) -> Streamed:
    from rsdnet._reader import Reader

    reader = Reader([db], bands.spellings())
    modality, total = _count(db)
    _, keys = _pick(db, modality, np.arange(min(_PROBED, total)), reader)
    pools, drawn = _pools(reader, keys)
    each = sum(float(_extents(reader, names)[:, 1].mean()) for names in keys.values() if names)
    count = int(np.clip(most // each, 1, min(_MOST, total)))
    chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    rows, keys = _pick(db, modality, chosen, reader)
    extents = np.stack([_extents(reader, names) for names in keys.values() if names], 1).reshape(-1, 2)
    subject = Streamed(db, extents, drawn, None, "", rows, keys, pools)
    table = subject.table(0)
    lost = count - len(table)
    note = f"{lost:,} of the {count:,} samples chosen cannot be read: see --verify" if lost else ""
    return replace(subject, host=int(table.arena_bytes / len(table) * total), note=note)


def _count(db: Path) -> tuple[str, int]:
    """The modality that training would show, and how many samples have it. Raises DataError if none has any."""
    counts = dict.fromkeys(catalog.MODALITIES, 0)
    for piece in _pieces(db):
        for modality in counts:
            counts[modality] += int(piece.mask(modality=modality).sum())
    modality = "ms+sar" if counts["ms+sar"] else max(("ms", "sar"), key=counts.__getitem__)
    if not counts[modality]:
        raise DataError(f"{db / catalog.CATALOG} holds no sample: ingest into the database first")
    return modality, counts[modality]


def _pieces(db: Path) -> Iterable[Catalog]:
    return (piece.catalog for piece in Databases(db))


def _pick(
    db: Path, modality: str, chosen: np.ndarray, reader: "Reader"
) -> tuple[np.ndarray, dict[str, list[str] | None]]:
    """Rows and keys of the samples with these numbers, ascending, among those of a modality; absent entries left out.

    Raises DataError if none is left.
    """
    rows, before, first = list[int](), 0, 0
    keys: dict[str, list[str] | None] = {name: [] if name in modality.split("+") else None for name in ("ms", "sar")}
    for piece in _pieces(db):
        eligible = np.flatnonzero(piece.mask(modality=modality))
        own = eligible[chosen[(chosen >= before) & (chosen < before + len(eligible))] - before]
        names = {name: getattr(piece, name)[own] for name in keys if keys[name] is not None}
        there = np.logical_and.reduce([reader.contains(part.tolist()) for part in names.values()])
        rows += (own[there] + first).tolist()
        for name, part in names.items():
            keys[name] = [*(keys[name] or []), *part[there]]
        before, first = before + len(eligible), first + len(piece)
        if before > chosen[-1]:
            break
    if not rows:
        raise DataError(f"{db}: its entries are not those that its catalog names; ingest again")
    return np.array(rows, np.int64), keys


def _extents(reader: "Reader", keys: Sequence[str]) -> np.ndarray:
    from rsdnet._reader import extents

    return extents(reader, keys)


def _pools(reader: "Reader", keys: dict[str, list[str] | None]) -> tuple[dict[str, list[int]], np.ndarray]:
    """Band ids to draw from by modality, the paper's where an entry holds them; and bytes of bands as they are drawn:
    a modality, then one of its bands.
    """
    pools: dict[str, list[int]] = {"ms": [], "sar": []}
    sizes: list[list[int]] = []
    for modality, names in keys.items():
        if names is None:
            continue
        held = _held(reader, names, modality)
        paper = {band: count for band, count in held.items() if bands.NAMES[band] in (*bands.MS, *bands.SAR)}
        pools[modality] = sorted(paper or held)
        sizes.append(list((paper or held).values()))
    return pools, _draw(sizes)


def _draw(sizes: Sequence[Sequence[int]]) -> np.ndarray:
    """(K,) int64: sizes drawn from one of several lists, each as likely, and in it each as likely."""
    rng = np.random.default_rng(0)
    return np.array([rng.choice(sizes[index]) for index in rng.integers(len(sizes), size=_DRAWN)], np.int64)


def _held(reader: "Reader", keys: Sequence[str], modality: str | None = None) -> dict[int, int]:
    """{band id: bytes} of the images in the first of these entries that is sound and holds any.

    Raises DataError if none does.
    """
    reason = ""
    for key in keys:
        try:
            tensors = reader.describe(key)
        except DataError as error:
            reason = reason or f"; the first: {error}"
            continue
        held = {}
        for name, (dtype, shape) in tensors.items():
            band = _band(name)
            if band is None or dtype not in _GATHERED or len(shape) != 2 or 0 in shape:
                continue
            if modality in (None, bands.BANDS[bands.NAMES[band]].modality):
                held[band] = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if held:
            return held
    raise DataError(f"{reader.paths[0]}: none of {len(keys)} entries holds a band to read{reason}")


def _band(name: str) -> int | None:
    try:
        return bands.band_id(name)
    except DataError:
        return None


def _gathered(db: Path, most: int) -> Gathered:
    from rsdnet._reader import Reader, spread

    reader = Reader([db], bands.spellings())
    each = float(_extents(reader, spread(reader, _PROBED))[:, 1].mean())
    keys = spread(reader, int(np.clip(most // max(each, 1), 1, _MOST)))
    disk.ask_ahead(reader_file(db), _extents(reader, keys), _HEADER)
    readable = _readable(reader, keys)
    sound = np.flatnonzero(readable.any(1))
    if not len(sound):
        raise DataError(f"{db}: none of {len(keys)} entries holds a band to read")
    held = [np.flatnonzero(readable[index]).tolist() for index in sound]
    kept = [keys[index] for index in sound]
    kinds = {tuple(own): key for own, key in zip(held, kept, strict=True)}  # an example of each
    sizes = {own: list(_held(reader, [key]).values()) for own, key in kinds.items()}
    drawn = _draw([sizes[tuple(own)] for own in held])
    note = f"no catalog: entries were read, one band of each ({len(kept):,} of {len(reader):,})"
    return Gathered(db, _extents(reader, kept), drawn, None, note, kept, held)


def _readable(reader: "Reader", keys: Sequence[str]) -> np.ndarray:
    """(N, bands) bool: which bands gather can read of each entry. From headers alone."""
    count = len(bands.NAMES)
    pairs = np.repeat(reader.entries(keys), count), np.tile(np.arange(count), len(keys))
    readable = np.ones(len(keys) * count, bool)
    readable[[position for position, _ in reader.check(*pairs)]] = False
    return readable.reshape(-1, count)
