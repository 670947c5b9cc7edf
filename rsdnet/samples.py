"""The samples of one or several databases, ready to be read by band."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsdnet import bands
from rsdnet._reader import Reader, draw_bands
from rsdnet.catalog import Catalog, concat, read_stats
from rsdnet.config import Config, ViewConfig
from rsdnet.errors import DataError

Pools = dict[str, tuple[str, ...]]
"""{"ms": band names, "sar": band names}: what views are drawn from."""


class Samples:
    """Samples of several databases as one: which can be read, and where their entries are.

    databases: folders. modality: "ms+sar", "ms" or "sar": the entries that a sample must have.
    pools: the bands to draw from, which each of those entries must hold.
    split, labelled: as `Catalog.mask` takes them. threads: of the reader; 0 for all cores.

    Samples with an entry that is absent or damaged are left out: `left_out` counts them by reason.
    Raises DataError where a database cannot be read, or no sample is left.
    """

    def __init__(
        self,
        databases: Sequence[Path],
        modality: str,
        pools: Pools,
        *,
        split: str | None = None,
        labelled: bool | None = None,
        threads: int = 0,
    ) -> None:
        self.databases, self.modality = tuple(databases), modality
        self.pools = {m: np.array([bands.band_id(name) for name in pools[m]], np.int32) for m in ("ms", "sar")}
        self.reader = Reader([str(path) for path in databases], bands.spellings(), threads)
        parts = [Catalog.read(path) for path in databases]
        catalog = concat(parts)
        self._database = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        rows = np.flatnonzero(catalog.mask(split=split, modality=modality, labelled=labelled))
        if not len(rows):
            what = " ".join(["no", *([split] if split else []), *(["labelled"] if labelled else [])])
            counts = (f"{m} {catalog.mask(split=split, modality=m, labelled=labelled).sum()}" for m in ("ms", "sar"))
            raise DataError(f"{self.where}: {what} samples with {modality} entries (there are: {', '.join(counts)})")
        entries, reasons = self._locate(catalog, rows)
        self.left_out = Counter(reasons.values())
        if len(reasons) == len(rows):
            first = reasons[min(reasons)]
            raise DataError(f"{self.where}: none of {len(rows)} samples can be read; the first: {first}")
        whole = np.ones(len(rows), bool)
        whole[list(reasons)] = False
        self.rows = rows[whole]
        """(N,) rows of the joined catalog: a sample's number in every draw."""
        self.entries = {name: handles[whole] for name, handles in entries.items()}
        """Per modality, (N,) handles of the reader."""
        self.catalog = catalog.take(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def where(self) -> str:
        """The databases, for messages."""
        return ", ".join(str(path) for path in self.databases)

    def _locate(self, catalog: Catalog, rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Handles of the samples' entries by modality, and {position: reason} of the samples that cannot be read."""
        entries: dict[str, np.ndarray] = {}
        reasons: dict[int, str] = {}
        for modality in self.modality.split("+"):
            keys, pool = getattr(catalog, modality)[rows], self.pools[modality]
            handles = np.full(len(rows), -1, np.int64)
            for database, path in enumerate(self.databases):
                own = np.flatnonzero(self._database[rows] == database)
                present = np.asarray(self.reader.contains(list(keys[own]), database), bool)
                for position in own[~present]:
                    reasons.setdefault(int(position), f"key {keys[position]!r} of the catalog is not in {path}")
                handles[own[present]] = self.reader.entries(list(keys[own[present]]), database)
            known = np.flatnonzero(handles >= 0)
            pairs = np.repeat(handles[known], len(pool)), np.tile(pool, len(known))
            for index, reason in self.reader.check(*pairs):
                reasons.setdefault(int(known[index // len(pool)]), reason)
            entries[modality] = handles
        return entries, reasons

    def report(self) -> str | None:
        """One line on the samples left out and why, or None."""
        if not self.left_out:
            return None
        count, first = sum(self.left_out.values()), next(iter(self.left_out))
        return f"left out {count} of {count + len(self)} samples that cannot be read; the first: {first}"

    def draw(self, positions: np.ndarray, seed: int, epoch: int, *, views: int, channels: int) -> np.ndarray:
        """Band ids (B, views, channels) of the samples at `positions` (B,): see kernels/plan.py, `draw_bands`."""
        pools = self.pools["ms"].tolist(), self.pools["sar"].tolist()
        return draw_bands(seed, epoch, self.rows[positions], views, channels, *pools, self.modality)

    def handles(self, positions: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Entry handles (B, V, C) of the bands `chosen` (B, V, C band ids) of the samples at `positions` (B,)."""
        is_sar = np.isin(chosen, [bands.band_id(name) for name in bands.SAR])
        handles = np.empty(chosen.shape, np.int64)
        for modality, where in (("ms", ~is_sar), ("sar", is_sar)):
            if where.any():
                column = self.entries[modality][positions]
                handles[where] = np.broadcast_to(column[:, None, None], chosen.shape)[where]
        return handles

    def gather(self, positions: np.ndarray, chosen: np.ndarray, data: Tensor, records: Tensor) -> int:
        """Read the raw bands `chosen` (B, V, C band ids) of the samples at `positions` (B,), for `render_views`.

        data: uint8 (N,) and records: int64 (B, V, C, 5), on the host, are written. Returns the bytes of data that the
        bands take; where that is more than N, data is not written: call again with more.
        Raises ReaderError on an entry that cannot be read.
        """
        return self.reader.gather(self.handles(positions, chosen), chosen, data.numpy(), records.numpy())

    def read(self, positions: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """As `gather`, into tensors of its own: data (N,) and records (B, V, C, 5)."""
        data, records = torch.empty(0, dtype=torch.uint8), torch.empty((*chosen.shape, 5), dtype=torch.int64)
        while (needed := self.gather(positions, chosen, data, records)) > len(data):
            data = torch.empty(needed, dtype=torch.uint8)
        return data, records


def pools_of(views: ViewConfig) -> Pools:
    """The bands a configuration draws from. Raises DataError on a band that is unknown, misplaced or named twice."""
    pools = {"ms": tuple(map(bands.canonical, views.ms_bands)), "sar": tuple(map(bands.canonical, views.sar_bands))}
    for modality, names in pools.items():
        if not names and modality in views.modality.split("+"):
            raise DataError(f"views.{modality}_bands is empty: name at least one band")
        for name in names:
            if bands.BANDS[name].modality != modality:
                raise DataError(f"views.{modality}_bands: {name} is not a band of modality {modality}")
        if len(set(names)) < len(names):
            raise DataError(f"views.{modality}_bands names a band twice: {', '.join(names)}")
    return pools


def statistics(config: Config, pools: Pools) -> dict[str, dict[str, float]]:
    """{band: {"mean", "std"}} of the bands that views can hold, in the raw values' units (DN, dB).

    From the databases' own stats.json, pooled by the number of pixels, or from published tables (rsdnet/bands.py).
    Raises DataError on a band without statistics.
    """
    names = [name for modality in config.views.modality.split("+") for name in pools[modality]]
    if config.data.statistics == "database":
        tables = [read_stats(path)["bands"] for path in config.data.data]
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
