"""The samples of one or several databases, ready to be read by band."""

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rsdnet import bands, hardware
from rsdnet._reader import Reader, Table, draw_bands, draw_partners
from rsdnet.data import cache, seasons
from rsdnet.data.cache import CacheLocation
from rsdnet.data.catalog import Catalog, Labelling
from rsdnet.data.databases import Databases, Piece
from rsdnet.data.identity import Identity, identity_of, sample_hashes
from rsdnet.data.pools import Pools
from rsdnet.errors import DataError

Damaged = Literal["leave out", "raise"]
PAPER: Pools = {"ms": bands.MS, "sar": bands.SAR}
REASONS = 1000  # that are kept word for word; the rest are only counted
REST = "further samples"


def view_ids(fixed: Mapping[str, Sequence[str]]) -> tuple[list[int], list[int]]:
    """Band ids of the MS and of the SAR view as the C++ reader takes them; none where bands are drawn."""
    ms, sar = ([bands.band_id(name) for name in fixed.get(sensor, ())] for sensor in ("ms", "sar"))
    return ms, sar


class Samples:
    """The samples of several databases as one: those that can be read, and where their entries are.

    databases: folders, each of a database or of its shards. modality: "ms+sar", "ms" or "sar": the entries that a
    sample must have. pools: the bands to draw from, which those entries must hold.
    split, labelled: as `Catalog.mask` takes them.
    threads: of the reader; 0: one a core, divided among the ranks of a machine.
    damaged: a sample whose entry is absent, damaged or lacks a band is left out (`left_out` counts them by reason), or
    raises. A `Loader` treats a sample that is damaged later alike: another one takes its place, or it raises.

    A sample takes 32 bytes of memory; the catalog is read in pieces and not kept.
    Raises DataError where a database cannot be read, no sample is left, or labels are asked for and mean different
    things in the databases.
    """

    def __init__(
        self,
        databases: Path | str | Sequence[Path | str],
        modality: str = "ms+sar",
        pools: Pools = PAPER,
        *,
        split: str | None = None,
        labelled: bool | Labelling | None = None,
        threads: int = 0,
        damaged: Damaged = "leave out",
    ) -> None:
        self.databases, self.modality, self.damaged = Databases(databases), modality, damaged
        if damaged not in get_args(Damaged):
            raise DataError(f"damaged is {damaged!r}: it must be one of {', '.join(get_args(Damaged))}")
        self.threads = threads or hardware.cores()
        self.pools = {m: np.array([bands.band_id(name) for name in pools[m]], np.int32) for m in ("ms", "sar")}
        self.reader = Reader(self.databases.folders, bands.spellings(), self.threads)
        ms, sar = (self.pools[m].tolist() if m in modality.split("+") else [] for m in ("ms", "sar"))
        self.table = Table(self.reader, modality, ms, sar)
        """Of the C++ reader: where each sample's entries are."""
        self.cache_location: CacheLocation = "none"
        self.arena: Tensor | None = None
        """The cache, (N,) uint8, once `fill_cache` has made one."""
        self.left_out: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        """Samples of the catalog that would do, by split: those of the other splits are held out."""
        self._hashes = np.empty(0, np.uint64)  # of the samples, as they were in the catalog when it was opened
        if labelled is not None:
            self.databases.require_one_list()
        self._fill({"split": split, "labelled": labelled})

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        if self.arena is not None:
            raise DataError(
                f"{self.databases}: samples with a cache of {len(self.arena)} bytes cannot be sent to another process: "
                "use no cache there, or start workers by fork"
            )
        return {name: value for name, value in self.__dict__.items() if name not in ("rows", "catalog")}

    # ---- the catalog -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """(N,) int64 rows of the joined catalog, ascending: a sample's number in every draw."""
        return self.table.rows

    @functools.cached_property
    def catalog(self) -> Catalog:
        """The samples' rows of the joined catalog, read again when first asked for: hundreds of bytes a sample."""
        return self.databases.take(self.rows)

    def pieces(self) -> Iterator[tuple[Piece, np.ndarray, slice]]:
        """The catalog once more in pieces: the piece, the samples' rows in it, and their positions."""
        return self.databases.at(self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label id."""
        return self.databases.classes

    @functools.cached_property
    def identity(self) -> Identity:
        """Digests of the samples, their order and their pixels: see identity.py. Reads at most 32 MB, once."""
        pools = {modality: self.pools[modality] for modality in self.modality.split("+")}
        return identity_of(self.table, self._hashes, pools, bands.NAMES)

    def _fill(self, select: dict[str, Any]) -> None:
        """Add every sample that can be read to the table, piece by piece of the catalog."""
        found, hashes = 0, list[np.ndarray]()
        for piece in self.databases:
            fit = piece.catalog.mask(modality=self.modality, labelled=select["labelled"])
            self.splits.update(piece.catalog.split[fit].tolist())
            rows = np.flatnonzero(fit & piece.catalog.mask(split=select["split"]))
            keys = {m: list(getattr(piece.catalog, m)[rows]) for m in self.modality.split("+")}
            numbers = (rows + piece.first).astype(np.int64)
            faults = self.table.add(piece.database, numbers, keys.get("ms"), keys.get("sar"))
            for _, reason in faults:
                if self.damaged == "raise":
                    raise DataError(reason)
                self.left_out[reason if len(self.left_out) < REASONS else REST] += 1
            own = sample_hashes(piece.catalog.samples[rows], *keys.values())
            hashes.append(np.delete(own, [index for index, _ in faults]))
            found += len(rows)
        if not found:
            raise DataError(self._nothing(select))
        if not len(self.table):
            raise DataError(
                f"{self.databases}: none of {found} samples can be read; the first: {next(iter(self.left_out))}"
            )
        self._hashes = np.concatenate(hashes)

    def _nothing(self, select: dict[str, Any]) -> str:
        """Why there is no sample to read: how many have which entries, and which splits."""
        counts = dict.fromkeys(("ms", "sar"), 0)
        for piece in self.databases:
            for modality in counts:
                counts[modality] += int(piece.catalog.mask(modality=modality, **select).sum())
        kind = " ".join(["no", *filter(None, [select["split"]]), *(["labelled"] if select["labelled"] else [])])
        there = ", ".join(f"{modality} {count}" for modality, count in counts.items())
        elsewhere = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        return f"{self.databases}: {kind} samples with {self.modality} entries (there are: {there})" + (
            f"; other splits hold such samples: {elsewhere}" if elsewhere else ""
        )

    def report(self) -> str | None:
        """One line on the samples left out and why, or None."""
        if not self.left_out:
            return None
        count, first = sum(self.left_out.values()), next(iter(self.left_out))
        return f"left out {count} of {count + len(self)} samples that cannot be read; the first: {first}"

    # ---- seasons of a place ------------------------------------------------------------------------------------------

    @functools.cached_property
    def partners(self) -> np.ndarray:
        """(N,) int64: by sample another season of its place, in a cycle; itself where there is no other.

        Raises DataError where a database is not of SSL4EO-S12, or no place has two seasons.
        """
        places = list[tuple[str, str]]()
        for piece, at, _ in self.pieces():
            if piece.catalog.meta.get("layout") != seasons.LAYOUT:
                folder = self.databases.folders[piece.database]
                raise DataError(f"--pair-seasons: {folder} has no seasons of a place; ingest's {seasons.LAYOUT} has")
            places += map(seasons.place_of, piece.catalog.samples[at])
        found = seasons.cycles(places)
        if (found == np.arange(len(self))).all():
            raise DataError(f"--pair-seasons: {self.databases}: no place has two seasons among {len(self)} samples")
        return found

    def shown(self, positions: np.ndarray, seed: int, epoch: int, *, views: int) -> np.ndarray:
        """(B, views): the samples whose bands the views of those at `positions` (B,) show, where seasons are paired."""
        return draw_partners(seed, epoch, self.rows[positions], positions, self.partners, views)

    # ---- an epoch ----------------------------------------------------------------------------------------------------

    def quotas(self, weights: Sequence[float]) -> list[int] | None:
        """Samples of an epoch from each folder, by the sampling weights of the databases: see `Databases.quotas`."""
        return self.databases.quotas(weights, self.table.counts)

    def steps_per_epoch(self, batch: int, world: int = 1, drop_last: bool = True) -> int:
        """Steps of world * batch samples in an epoch. Raises DataError where not one is full."""
        if batch < 1:
            raise DataError(f"a batch of {batch}: it needs at least one sample")
        if steps := len(self) // (batch * world) if drop_last else -(-len(self) // (batch * world)):
            return steps
        ranks = f" over {world} ranks, {len(self) // world} each," if world > 1 else ""
        raise DataError(
            f"{self.databases}: {len(self)} samples{ranks} do not fill a batch of {batch}: "
            f"use --batch {max(len(self) // world, 2)} or smaller, or more data"
        )

    # ---- the cache ---------------------------------------------------------------------------------------------------

    @property
    def resident(self) -> Tensor | None:
        """The cache on the device, where batches only say where in it their bands lie; None without one."""
        return self.arena if self.cache_location == "device" else None

    def check_cache(self, location: CacheLocation, device: torch.device) -> str:
        """One line on the cache's size and the free memory. Raises DataError where it does not fit."""
        return cache.check(self.table, location, device, str(self.databases))

    def fill_cache(
        self, location: CacheLocation, device: torch.device | str = "cpu", *, progress: bool = False
    ) -> None:
        """Hold the pools' raw bands in `arena` from now on, in host memory ("host") or on `device` ("device").

        A second call keeps the first cache. progress: draw a bar.
        Raises DataError where it does not fit, or there is another one; ReaderError on an entry that cannot be read.
        """
        if location == "none":
            return
        device = torch.device(device)
        if self.arena is None:
            self.check_cache(location, device)
            _ = self.identity  # from the databases, which a cache replaces
            self.arena = cache.fill(self.table, location, device, progress=progress)
            self.cache_location = location
        elif (self.cache_location, self.arena.device.type) != (location, cache.home_of(location, device).type):
            raise DataError(f"{self.databases}: is in a cache on {self.arena.device} already: open the samples again")

    # ---- reading -----------------------------------------------------------------------------------------------------

    def draw(
        self, positions: np.ndarray, seed: int, epoch: int, *, views: int, channels: int,
        fixed: Mapping[str, Sequence[str]] = {},
    ) -> np.ndarray:  # fmt: skip
        """Band ids (B, views, channels) of the samples at `positions` (B,): see kernels/draws.py, `draw_bands`.

        fixed: {"ms" or "sar": band names}, one a channel, that the sensor's views show instead of drawn ones.
        """
        pools = self.pools["ms"].tolist(), self.pools["sar"].tolist()
        return draw_bands(seed, epoch, self.rows[positions], views, channels, *pools, self.modality, *view_ids(fixed))

    def read(self, positions: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """The raw bands `chosen` (B, V, C band ids) of the samples at `positions`, for `render_views`.

        positions: (B,), or (B, V) where each view is of a sample of its own.
        Returns data (N,) uint8, or the cache on the device, and records (B, V, C, 5) int64.
        Raises ReaderError on an entry that cannot be read.
        """
        data, records = torch.empty(0, dtype=torch.uint8), torch.empty((*chosen.shape, 5), dtype=torch.int64)
        positions = positions.reshape(-1)
        each = chosen.size // max(len(positions), 1)
        chosen, flat = chosen.reshape(-1, each), records.numpy().reshape(-1, each, 5)
        needed = self.table.gather(positions, chosen, data.numpy(), flat)
        if self.resident is not None:
            return self.resident, records.to(self.resident.device)
        while needed > len(data):
            data = torch.empty(needed, dtype=torch.uint8)
            needed = self.table.gather(positions, chosen, data.numpy(), flat)
        return data, records

    @functools.cached_property
    def side(self) -> int:
        """Pixels a side of the first sample's finest band."""
        pool = np.concatenate([self.pools[modality] for modality in self.modality.split("+")])
        records = torch.empty((1, 1, len(pool), 5), dtype=torch.int64)
        self.table.gather(np.zeros(1, np.int64), pool.reshape(1, 1, -1), np.empty(0, np.uint8), records.numpy())
        return int(records[..., 2:4].max())

    def band_bytes(self, names: Sequence[str]) -> list[int]:
        """The most bytes that each band takes in a batch."""
        most = {m: self.table.band_bytes(m) for m in self.modality.split("+")}
        return [most[bands.BANDS[name].modality] for name in names]
