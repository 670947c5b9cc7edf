"""The samples of one or several databases, ready to be read by band."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from rsdnet import bands
from rsdnet._reader import Reader, Table, draw_bands
from rsdnet.config import Config, ViewConfig
from rsdnet.console import track
from rsdnet.data import cache, databases, shards
from rsdnet.data.catalog import Catalog
from rsdnet.data.databases import Piece, Scan
from rsdnet.errors import DataError

Pools = dict[str, tuple[str, ...]]
"""{"ms": band names, "sar": band names}: what views are drawn from."""
Damaged = Literal["leave out", "raise"]
REASONS = 1000  # that are kept word for word; the rest are only counted
REST = "further samples"


def named(databases: Path | str | Sequence[Path | str]) -> tuple[Path, ...]:
    """One database or several, as paths."""
    return (Path(databases),) if isinstance(databases, str | Path) else tuple(Path(path) for path in databases)


class Samples:
    """Samples of several databases as one: which can be read, and where their entries are.

    databases: folders, each of a database or of its shards. modality: "ms+sar", "ms" or "sar": the entries that a
    sample must have.
    pools: the bands to draw from, which each of those entries must hold.
    split, labelled: as `Catalog.mask` takes them. threads: of the reader; 0 for all cores.
    catalog: one, or one a database, instead of
    their `catalog.parquet`. damaged: what to do about a sample with an entry that is absent or damaged or lacks a band:
    "leave out" (`left_out` counts them by reason) or "raise".

    A sample takes 24 bytes of memory; the catalog is read in pieces and not kept.
    Raises DataError where a database cannot be read, or no sample is left.
    """

    def __init__(
        self,
        databases: Path | str | Sequence[Path | str],
        modality: str,
        pools: Pools,
        *,
        split: str | None = None,
        labelled: bool | None = None,
        threads: int = 0,
        catalog: Catalog | Sequence[Catalog] | None = None,
        damaged: Damaged = "leave out",
    ) -> None:
        self.named, self.modality = named(databases), modality
        """The databases as they were named; a folder of shards is one of them."""
        self._parts = [shards.parts(path) for path in self.named]
        self.databases = tuple(itertools.chain.from_iterable(self._parts))
        """The folders that are read."""
        self.pools = {m: np.array([bands.band_id(name) for name in pools[m]], np.int32) for m in ("ms", "sar")}
        self.reader = Reader([str(path) for path in self.databases], bands.spellings(), threads)
        self.arena: Tensor | None = None
        """The cache, (N,) uint8, where there is one: see `keep`."""
        self.kept: cache.Place = "none"
        self.left_out: Counter[str] = Counter()
        self._scan = Scan(self.databases, [catalog] if isinstance(catalog, Catalog) else catalog)
        ms, sar = (self.pools[m].tolist() if m in modality.split("+") else [] for m in ("ms", "sar"))
        self.table = Table(self.reader, modality, ms, sar)
        """Of the C++ reader: where each sample's entries are."""
        self._fill({"split": split, "labelled": labelled}, damaged)

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        if self.arena is not None:
            raise DataError(
                f"{self.where}: samples with a cache of {len(self.arena)} bytes cannot be sent to another process: use "
                "no cache there, or start workers by fork"
            )
        return {name: value for name, value in self.__dict__.items() if name not in ("rows", "catalog")}

    @property
    def where(self) -> str:
        """The databases, for messages."""
        return ", ".join(str(path) for path in self.named)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """(N,) int64 rows of the joined catalog, ascending: a sample's number in every draw."""
        return self.table.rows

    @functools.cached_property
    def catalog(self) -> Catalog:
        """The samples' rows of the joined catalog, read again when first asked for: hundreds of bytes a sample."""
        return self._scan.take(self.rows)

    def pieces(self) -> Iterator[tuple[Piece, np.ndarray, slice]]:
        """The catalog once more, piece by piece: a piece, the samples' rows in it, and where they stand among all."""
        return self._scan.at(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label id."""
        return self._scan.classes

    def _fill(self, select: dict[str, Any], damaged: Damaged) -> None:
        """Add every sample that can be read to the table, piece by piece of the catalog."""
        found = 0
        for piece in self._scan:
            rows = np.flatnonzero(piece.catalog.mask(modality=self.modality, **select))
            keys = {m: list(getattr(piece.catalog, m)[rows]) for m in self.modality.split("+")}
            numbers = (rows + piece.first).astype(np.int64)
            for _, reason in self.table.add(piece.database, numbers, keys.get("ms"), keys.get("sar")):
                if damaged == "raise":
                    raise DataError(reason)
                self.left_out[reason if len(self.left_out) < REASONS else REST] += 1
            found += len(rows)
        if not found:
            raise DataError(self._nothing(select))
        if not len(self.table):
            raise DataError(
                f"{self.where}: none of {found} samples can be read; the first: {next(iter(self.left_out))}"
            )

    def _nothing(self, select: dict[str, Any]) -> str:
        """Why there is no sample to read."""
        counts = dict.fromkeys(("ms", "sar"), 0)
        for piece in self._scan:
            for modality in counts:
                counts[modality] += int(piece.catalog.mask(modality=modality, **select).sum())
        what = " ".join(["no", *filter(None, [select["split"]]), *(["labelled"] if select["labelled"] else [])])
        there = ", ".join(f"{modality} {count}" for modality, count in counts.items())
        return f"{self.where}: {what} samples with {self.modality} entries (there are: {there})"

    def quotas(self, weights: Sequence[float]) -> list[int] | None:
        """Samples that each folder gives to an epoch; weights: one a database as named. Else as `databases.quotas`.

        A folder of shards gets what one database of as many samples would, and its shards give in proportion.
        """
        counts = iter(self.table.counts)
        own = [[next(counts) for _ in folders] for folders in self._parts]
        quotas = databases.quotas(weights, [sum(part) for part in own], self.named)
        if quotas is None:
            return None
        return [piece for quota, part in zip(quotas, own, strict=True) for piece in shards.divide(quota, part)]

    def report(self) -> str | None:
        """One line on the samples left out and why, or None."""
        if not self.left_out:
            return None
        count, first = sum(self.left_out.values()), next(iter(self.left_out))
        return f"left out {count} of {count + len(self)} samples that cannot be read; the first: {first}"

    def check_cache(self, place: cache.Place, device: torch.device) -> str:
        """One line on the cache's size and what is free. Raises DataError where it does not fit."""
        return cache.says(self.table, place, device, self.where)

    def keep(self, place: cache.Place, device: torch.device, *, progress: bool = False) -> None:
        """Hold the pools' raw bands in `arena` from now on, in host memory ("host") or on `device` ("device").

        Nothing is read twice: a second call keeps the first arena. progress: draw a bar.
        Raises DataError where it does not fit, or another arena is held, ReaderError on an entry that cannot be read.
        """
        if place == "none":
            return
        home = cache.home_of(place, device)
        if self.arena is None:
            self.check_cache(place, device)
            bar = functools.partial(track, title="filling the cache", console=Console(quiet=not progress))
            self.arena = cache.load(self.table, place, device, bar)
            self.kept = place
        elif self.kept != place or self.arena.device.type != home.type:
            raise DataError(f"{self.where}: is in a cache on {self.arena.device} already: open the samples again")

    def draw(self, positions: np.ndarray, seed: int, epoch: int, *, views: int, channels: int) -> np.ndarray:
        """Band ids (B, views, channels) of the samples at `positions` (B,): see kernels/draws.py, `draw_bands`."""
        pools = self.pools["ms"].tolist(), self.pools["sar"].tolist()
        return draw_bands(seed, epoch, self.rows[positions], views, channels, *pools, self.modality)

    def gather(self, positions: np.ndarray, chosen: np.ndarray, data: Tensor, records: Tensor) -> int:
        """Read the raw bands `chosen` (B, V, C band ids) of the samples at `positions` (B,), for `render_views`.

        data: uint8 (N,) and records: int64 (B, V, C, 5), on the host, are written. Returns the bytes of data that the
        bands take; where that is more than N, data is not written: call again with more.
        Raises ReaderError on an entry that cannot be read.
        """
        return self.table.gather(positions, chosen, data.numpy(), records.numpy())

    def read(self, positions: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """As `gather`, into tensors of its own: data (N,) and records (B, V, C, 5); data is the cache on a device."""
        data, records = torch.empty(0, dtype=torch.uint8), torch.empty((*chosen.shape, 5), dtype=torch.int64)
        if self.arena is not None and self.kept == "device":
            self.gather(positions, chosen, data, records)
            return self.arena, records.to(self.arena.device)
        while (needed := self.gather(positions, chosen, data, records)) > len(data):
            data = torch.empty(needed, dtype=torch.uint8)
        return data, records

    def band_bytes(self, names: Sequence[str]) -> list[int]:
        """The most bytes that each band takes in a batch."""
        most = {m: self.table.band_bytes(m) for m in self.modality.split("+")}
        return [most[bands.BANDS[name].modality] for name in names]


def pools_of(views: ViewConfig) -> Pools:
    """The bands a configuration draws from. Raises DataError on a band that is unknown, misplaced or named twice."""
    pools: Pools = {}
    for modality, names in (("ms", views.ms_bands), ("sar", views.sar_bands)):
        what = f"views.{modality}_bands"
        pools[modality] = band_names(names, what) if names or modality in views.modality.split("+") else ()
        for name in pools[modality]:
            if bands.BANDS[name].modality != modality:
                raise DataError(f"{what}: {name} is not a band of modality {modality}")
    return pools


def band_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Band names in this project's spelling.

    Raises DataError, which calls them `what`, on none, an unknown one, and one that is named twice.
    """
    found = tuple(bands.canonical(name) for name in names)
    if not found:
        raise DataError(f"{what} is empty: name at least one band")
    if len(set(found)) < len(found):
        raise DataError(f"{what} names a band twice: {', '.join(found)}")
    return found


def statistics(config: Config, pools: Pools) -> dict[str, dict[str, float]]:
    """{band: {"mean", "std"}} of the bands that views can hold, in the raw values' units (DN, dB).

    From the databases' own stats.json, pooled by the number of pixels, or from published tables (rsdnet/bands.py).
    Raises DataError on a band without statistics.
    """
    names = [name for modality in config.views.modality.split("+") for name in pools[modality]]
    if config.data.statistics == "database":
        tables = [shards.read_stats(path)["bands"] for path in config.data.data]
        found = {name: _pooled([table[name] for table in tables if name in table]) for name in names}
    else:
        dataset, level = config.data.statistics.rsplit(" ", 1)
        table = bands.STATISTICS[dataset, level]
        found = {name: dict(zip(("mean", "std"), table[name], strict=True)) for name in names if name in table}
    missing = [name for name in names if not found.get(name)]
    if missing:
        source = "stats.json" if config.data.statistics == "database" else config.data.statistics
        raise DataError(
            f"{source} has no statistics of {', '.join(missing)}: leave them out of --ms-bands and --sar-bands"
        )
    return {name: value for name, value in found.items() if value}


def _pooled(parts: list[dict[str, Any]]) -> dict[str, float] | None:
    """Mean and standard deviation of the union of sets of pixels, by the law of total variance; None without pixels."""
    counts = np.array([part["count"] for part in parts], np.float64)
    if not counts.sum():
        return None
    means, deviations = (np.array([part[key] or 0 for part in parts], np.float64) for key in ("mean", "std"))
    mean = float(np.average(means, weights=counts))
    variance = float(np.average(deviations**2 + (means - mean) ** 2, weights=counts))
    return {"mean": mean, "std": variance**0.5}
