"""Some samples of a database, spread over it, read as training reads them: two views of one drawn band each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsdnet import bands
from rsdnet.data import catalog
from rsdnet.data.databases import Databases
from rsdnet.errors import DataError

if TYPE_CHECKING:
    from rsdnet._reader import Reader, Table

BATCH, VIEWS, SLOTS = 64, 2, 4
_MOST = 20_000  # samples
_PROBED = 16  # entries asked for their bands
_DRAWN = 1 << 14  # band sizes
_ENDLESS = 1 << 31  # epochs
_IDS = {name: band for band, names in enumerate(bands.spellings()) for name in names}  # by tensor name
_TYPES = ("uint8", "int16", "uint16", "float16", "float32")


class Done(NamedTuple):
    """Samples read, bytes of their bands, seconds, CPU seconds of all threads."""

    samples: int
    bytes: int
    seconds: float
    cpu: float


@dataclass(frozen=True, eq=False)
class Selection:
    """N samples.

    rows: (N,) int64, rows of the catalog. keys: of their entries, by modality. extents: (N, modalities, 2) int64, first
    byte and bytes of each entry's value. pools: band ids to draw from, by modality. drawn: (K,) int64, bytes of drawn
    bands. host: bytes of all bands of the pools, in the whole database.
    """

    db: Path
    rows: np.ndarray
    keys: dict[str, np.ndarray]
    extents: np.ndarray
    pools: dict[str, list[int]]
    drawn: np.ndarray
    host: int = 0

    @property
    def block(self) -> int:
        """Bytes of a drawn band, on average."""
        return int(self.drawn.mean())

    def take(self, at: slice | np.ndarray) -> "Selection":
        """Some of the samples."""
        keys = {modality: names[at] for modality, names in self.keys.items()}
        return replace(self, rows=self.rows[at], keys=keys, extents=self.extents[at])

    def first(self, most: int) -> "Selection":
        """The first samples, whose values take at most so many bytes; one sample at least."""
        ends = np.cumsum(self.extents[:, :, 1].sum(1))
        return self.take(slice(max(1, int(np.searchsorted(ends, most, "right")))))

    def table(self, threads: int) -> "Table":
        """The reader's table of the samples that can be read. Raises DataError if there is none."""
        from rsdnet._reader import Reader, Table

        reader = Reader([self.db], bands.spellings(), threads)
        table = Table(reader, "+".join(self.keys), self.pools.get("ms", []), self.pools.get("sar", []))
        ms, sar = (list(self.keys[modality]) if modality in self.keys else None for modality in ("ms", "sar"))
        left_out = table.add(0, self.rows, ms, sar)
        if not len(table):
            raise DataError(f"{self.db}: no sample can be read; the first: {left_out[0][1]}")
        return table

    def read(self, threads: int, hints: str, seconds: float, once: bool) -> Done:
        """Read batches for so long; once: or until each sample was read. hints: look-ahead "on" or "off".

        Raises DataError if none can be read.
        """
        from rsdnet._reader import Stream

        table = self.table(threads)
        batch = min(BATCH, len(table))
        room = batch * VIEWS * max(table.band_bytes(modality) for modality in self.keys)
        slots = [
            (np.zeros(room, np.uint8), np.zeros((batch, VIEWS, 1, 5), np.int64), *np.zeros((2, batch), np.int64))
            for _ in range(SLOTS)
        ]
        steps = -(-len(table) // batch) if once else len(table) // batch * _ENDLESS
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
            return Done(samples, read, time.perf_counter() - began, time.process_time() - cpu)
        finally:
            stream.close()


def select(db: Path, most: int) -> Selection:
    """Samples of the database in folder `db`, whose values take about `most` bytes at most.

    Raises DataError if its catalog or its entries cannot be read, or hold no band.
    """
    from rsdnet._reader import Reader, extents

    rng, reader, found = np.random.default_rng(0), Reader([db], bands.spellings()), Databases([db])
    modality, every = _eligible(db, found)
    rows = np.sort(rng.choice(every, min(_MOST, len(every)), replace=False))
    chosen = found.take(rows)
    keys = {name: getattr(chosen, name) for name in modality.split("+")}
    there = np.logical_and.reduce([reader.contains(names.tolist()) for names in keys.values()])
    if not there.any():
        raise DataError(f"{db}: its entries are not those that its catalog names; ingest again")
    keys = {name: names[there] for name, names in keys.items()}
    places = np.stack([extents(reader, names.tolist()) for names in keys.values()], 1)
    sizes = {name: _bands(reader, names[:_PROBED].tolist(), name) for name, names in keys.items()}
    pools = {name: sorted(held) for name, held in sizes.items()}
    lists = [list(held.values()) for held in sizes.values()]
    drawn = np.array([rng.choice(lists[index]) for index in rng.integers(len(lists), size=_DRAWN)], np.int64)
    whole = Selection(db, rows[there], keys, places, pools, drawn)
    count = int(np.clip(most // places[:, :, 1].sum(1).mean(), 1, len(places)))
    some = whole.take(np.sort(rng.choice(len(places), count, replace=False)))
    table = some.table(0)
    return replace(some, host=int(table.arena_bytes / len(table) * len(every)))


def _eligible(db: Path, found: Databases) -> tuple[str, np.ndarray]:
    """The modality of training, "ms+sar" if any sample has both, and the rows of all samples that have it."""
    parts: dict[str, list[np.ndarray]] = {modality: [] for modality in catalog.MODALITIES}
    for piece in found:
        for modality, rows in parts.items():
            rows.append(piece.first + np.flatnonzero(piece.catalog.mask(modality=modality)))
    every = {modality: np.concatenate([np.empty(0, np.int64), *rows]) for modality, rows in parts.items()}
    modality = "ms+sar" if len(every["ms+sar"]) else max(("ms", "sar"), key=lambda name: len(every[name]))
    if not len(every[modality]):
        raise DataError(f"{db / catalog.CATALOG} holds no sample: ingest into the database first")
    return modality, every[modality]


def _bands(reader: "Reader", keys: Sequence[str], modality: str) -> dict[int, int]:
    """{band id: bytes} of the first sound entry with bands of the modality: the paper's bands, else all that it holds.

    Raises DataError if there is none.
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
            band = _IDS.get(name)
            if band is None or dtype not in _TYPES or len(shape) != 2 or 0 in shape:
                continue
            if bands.BANDS[bands.NAMES[band]].modality == modality:
                held[band] = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if held:
            return {band: size for band, size in held.items() if bands.NAMES[band] in (*bands.MS, *bands.SAR)} or held
    raise DataError(f"{reader.paths[0]}: none of {len(keys)} entries holds a band to read{reason}")
