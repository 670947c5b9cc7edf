"""From databases to the device: batches of raw bands in a reproducible order, read ahead by the C++ reader's threads.

Order and bands are pure functions of (seed, epoch, position): neither ranks nor threads nor look-ahead change a step's
samples, and a step number is all that resuming needs.
"""

import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from rsdnet import _reader, bands
from rsdnet.console import size
from rsdnet.data.identity import Identity, comparable, differences
from rsdnet.data.normalisation import joined
from rsdnet.data.pinned import Delivery, DeviceDelivery, Gpu, HostDelivery, Shape, Slot
from rsdnet.data.samples import Samples, view_ids
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.hardware import free_memory

# Of `Loader.stats`: the name in the C++ stream's.
_SUMS = {"samples": "samples", "bytes": "bytes", "seconds": "seconds", "waited": "waited", "stand_ins": "left_out"}

REQUIRED = {"seed", "global_batch", "samples", "quotas", "drop_last"}  # of a state; the rest came later


class Batch(NamedTuple):
    """Raw bands of B samples, on the loader's device.

    On a GPU it is the consumer's own. On the host it lies in a slot and is valid until the next batch is asked for.
    """

    data: Tensor  # (N,) uint8: the bands' bytes; the whole cache, where it is on the device
    records: Tensor  # (B, V, C, 5) int64: byte offset, type code, height, width, band id
    samples: Tensor  # (B,) int64: the samples' numbers, for the draws
    positions: Tensor  # (B,) int64: the samples' places in the loader's `samples`
    seed: int  # of all draws
    epoch: int
    step: int  # over all epochs


@dataclass(frozen=True)
class Drawn:
    """Bands drawn for a sample: `views` views of `channels` bands each.

    pair_seasons: the first view is of the sample, any other of another season of its place.
    fixed: {"ms" or "sar": names of so many bands}, shown in this order by that sensor's views instead of drawn ones.
    """

    views: int = 2
    channels: int = 1
    pair_seasons: bool = False
    fixed: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """This rank's part, the rank-th of world, of each global batch of world * batch samples."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Ring:
    """The batches in memory: `slots` being read, ready or being copied; `lookahead` more are prefetched from disk."""

    slots: int = 4  # one being copied, one ready, two being filled
    lookahead: int = 2


class Loader(IterableDataset[Batch]):
    """Batches of the samples of several databases, shuffled anew each epoch.

    samples: databases' folders, or `Samples`, with their modality, bands, threads and cache. split: of folders.
    batch: samples a rank in a step. seed: of order and bands, 0 to 2^63 - 1.
    bands: `Drawn`; or the bands, by name or "all", of one view of every sample.
    weights: the sampling weight of each database, normalised; (): each sample once an epoch.
    drop_last: leave out an epoch's last samples that do not fill a global batch; else they are split evenly over the
    ranks, and a rank may get an empty batch.
    start, stop: the steps to load, over all epochs; stop None: each iteration ends with its epoch and the next one goes
    on with the next.

    A step is the whole state: `state_dict`, `load_state_dict`, which also know the data again (see identity.py).
    Raises DataError, in one line, on options that cannot work together and on databases that cannot be read;
    ReaderError while iterating.
    """

    def __init__(
        self,
        samples: Samples | Path | str | Sequence[Path | str],
        *,
        batch: int,
        seed: int = 0,
        bands: Drawn | Sequence[str] | Literal["all"] = Drawn(),
        split: str | None = None,
        weights: Sequence[float] = (),
        drop_last: bool = True,
        start: int = 0,
        stop: int | None = None,
        part: Part = Part(),
        device: torch.device | str = "cpu",
        ring: Ring = Ring(),
    ) -> None:
        self.samples = samples if isinstance(samples, Samples) else Samples(samples, split=split)
        self.batch, self.seed, self.part, self.drop_last = batch, seed, part, drop_last
        self.start, self.stop, self.device, self.ring = start, stop, torch.device(device), ring
        if part.world < 1 or not 0 <= part.rank < part.world:
            raise DataError(f"rank {part.rank} of world {part.world}: ranks go from 0 to world - 1")
        if not 0 <= seed < 2**63:
            raise DataError(f"seed {seed}: seeds go from 0 to 2^63 - 1")
        if start < 0 or (stop is not None and stop < start):
            raise DataError(f"steps {start} to {stop}: start may not be negative, nor stop before it")
        self.quotas = self.samples.quotas(weights)
        self.steps_per_epoch = self.samples.steps_per_epoch(batch, part.world, drop_last)
        self.drawn = bands if isinstance(bands, Drawn) else Drawn(1, 1)
        self.bands = None if isinstance(bands, Drawn) else _ids(bands, self.samples)
        self.shape = _shape(self.samples, batch, self.drawn, self.bands)
        _check_memory(self.shape, ring, self.device)
        self._step = start  # the next one
        self._running: _Running | None = None
        self._slots: list[Slot] = []
        self._totals: dict[str, float] = dict.fromkeys(_SUMS, 0)

    # ---- iteration ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.steps_per_epoch if self.stop is None else max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[Batch]:
        _refuse_workers()
        self.close()
        first = self._step
        last = (first // self.steps_per_epoch + 1) * self.steps_per_epoch if self.stop is None else self.stop
        running = self._running = _Running(self, first, max(first, last))
        try:
            for step in range(first, last):
                fields = running.delivery.next()
                if fields is None:
                    break
                self._step = step + 1
                yield Batch(*fields, seed=self.seed, epoch=step // self.steps_per_epoch, step=step)
                if self._running is not running:
                    raise RuntimeError("this iteration of the loader is over: it was closed, or another one was begun")
        finally:
            if self._running is running:
                self.close()

    def close(self) -> None:
        """End the reading threads; the step stays. A later iteration begins them anew. Never hangs."""
        running, self._running = self._running, None
        if running is None:
            return
        if running.process != os.getpid():  # this is a fork: the threads are the parent's
            self._slots = []
            return
        running.close()
        done = running.stream.stats()
        for name, key in _SUMS.items():
            self._totals[name] += done[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def slots(self) -> list[Slot]:
        """The ring's memory, allocated once."""
        if not self._slots:
            shape = self.shape if self.samples.resident is None else self.shape._replace(room=0)
            self._slots = [Slot(shape, self.device.type == "cuda") for _ in range(self.ring.slots)]
        return self._slots

    # ---- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The loader's position and the identity of its input: plain values. The batch handed out last counts as done.

        The first call reads at most 32 MB: see `Samples.identity`.
        """
        _refuse_workers()
        return {"step": self._step, "epoch": self._step // self.steps_per_epoch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the position `state`.

        Raises DataError if it is of another loader: another batch, other samples, another order of them, other pixels,
        other statistics in the databases; or damaged. Warns of a state from before these were noted.
        """
        _refuse_workers()
        if not isinstance(state, dict) or not isinstance(then := state.get("identity", {}), dict):
            raise DataError("the state is damaged: it must be a dict that state_dict gave")
        own = self._identity()
        for name, value in own.items():
            if name != "identity" and state.get(name, None if name in REQUIRED else value) != value:
                raise DataError(
                    f"the state is of another loader: {name} is {state.get(name)} in the state and {value} here"
                )
        if comparable(then) and (missing := self.samples.identity.keys() - then.keys()):
            raise DataError(f"the state is damaged: its identity lacks {min(missing)}")
        if found := differences(then, own["identity"]):
            raise DataError(f"the state is of other data: {'; '.join(found)}: bring them back, or begin anew")
        if not comparable(then):
            warnings.warn("the state does not say which data it is of: they were not compared", stacklevel=2)
        step = state.get("step")
        if type(step) is not int or not 0 <= step < 2**53:
            raise DataError(f"the state is damaged: its step is {step!r}, but must be a number from 0 on")
        self.close()
        self._step = step

    def _identity(self) -> dict[str, Any]:
        """All that decides the batch at a step; ranks may differ if the global batch does not."""
        return {
            "seed": self.seed, "global_batch": self.batch * self.part.world, "samples": len(self.samples),
            "quotas": self.quotas, "drop_last": self.drop_last,
            "drawn": [self.drawn.views, self.drawn.channels, *(list(names) for names in self.drawn.fixed.values())],
            "bands": self.bands, "pair_seasons": self.drawn.pair_seasons, "identity": self._data,
        }  # fmt: skip

    @functools.cached_property
    def _data(self) -> Identity:
        """The samples' identity, with the databases' statistics where all of them have some."""
        own = self.samples.identity
        names = [name for pool in own["bands"].values() for name in pool]
        try:
            found = joined([read_stats(path)["bands"] for path in self.samples.databases.named], names)
        except DataError:  # which reading does not need
            found = {}
        return own | {"statistics": {name: list(values) for name, values in found.items() if values}}

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counts and times of this process so far, over all iterations.

        samples, bytes: delivered. seconds: while iterating; waited: of those, the consumer waited for a batch.
        stand_ins: damaged samples replaced by another one; left_out: samples left out at the opening.
        ready: batches that wait for the consumer now; threads: reading now.
        """
        running = self._running
        now = running.stream.stats() if running and running.process == os.getpid() else {}
        return {name: self._totals[name] + now.get(key, 0) for name, key in _SUMS.items()} | {
            "left_out": sum(self.samples.left_out.values()),
            "ready": now.get("ready", 0),
            "threads": now.get("threads", 0),
        }


class _Running:
    """One iteration: the C++ stream, and the delivery of its batches to the consumer."""

    def __init__(self, loader: Loader, first: int, last: int) -> None:
        samples, ring, slots = loader.samples, loader.ring, loader.slots()
        ms_view, sar_view = view_ids(loader.drawn.fixed)
        self.process = os.getpid()
        self.stream = _reader.Stream(
            samples.table, [slot.buffers() for slot in slots], seed=loader.seed, batch=loader.batch,
            views=loader.drawn.views, channels=loader.drawn.channels, bands=loader.bands, quotas=loader.quotas,
            rank=loader.part.rank, world=loader.part.world, drop_last=loader.drop_last, first=first, last=last,
            threads=samples.threads, ahead=ring.lookahead, hints="auto" if ring.lookahead else "off",
            damaged="stand-in" if samples.damaged == "leave out" else "raise",
            partners=samples.partners if loader.drawn.pair_seasons else None,
            ms_view=ms_view, sar_view=sar_view,
        )  # fmt: skip
        self.delivery: Delivery
        if loader.device.type == "cuda":
            self.delivery = DeviceDelivery(self.stream, slots, Gpu(loader.device), arena=samples.resident)
        else:
            self.delivery = HostDelivery(self.stream, slots, arena=samples.resident)

    def close(self) -> None:
        """End the threads, then wait for the copies that still read a slot."""
        self.stream.close()
        if isinstance(self.delivery, DeviceDelivery):
            self.delivery.finish()


def _refuse_workers() -> None:
    if get_worker_info() is not None:
        raise DataError("a Loader inside a DataLoader's worker: the loader has threads of its own: use num_workers=0")


def _ids(names: Sequence[str] | Literal["all"], samples: Samples) -> list[int]:
    """Ids of the bands to read of every sample. Raises DataError on one that is not in the pools."""
    pool = [bands.NAMES[band] for m in samples.modality.split("+") for band in samples.pools[m]]
    asked = pool if names == "all" else [bands.canonical(name) for name in names]
    if not asked:
        raise DataError("bands is empty: name at least one band")
    if absent := [name for name in asked if name not in pool]:
        raise DataError(f"bands: {absent[0]} is not among the samples' bands ({', '.join(pool)})")
    return [bands.band_id(name) for name in asked]


def _shape(samples: Samples, batch: int, drawn: Drawn, ids: list[int] | None) -> Shape:
    """A slot that holds any batch: where bands differ in size, the largest ones count."""
    if drawn.views < 1 or drawn.channels < 1:
        raise DataError(f"{drawn.views} views of {drawn.channels} channels: there must be at least one of each")
    if ids is not None:
        return Shape(batch, 1, len(ids), batch * sum(samples.band_bytes([bands.NAMES[band] for band in ids])))
    most = sorted((samples.table.band_bytes(modality) for modality in samples.modality.split("+")), reverse=True)
    sides = [most[view % len(most)] for view in range(drawn.views)]  # views alternate between the sensors
    return Shape(batch, drawn.views, drawn.channels, batch * drawn.channels * sum(sides))


def _check_memory(shape: Shape, ring: Ring, device: torch.device) -> None:
    """Raise DataError on a ring with too few slots, or of more memory than is free."""
    least = 1 if device.type == "cpu" else 2
    if ring.slots < least:
        raise DataError(f"{ring.slots} slots: a ring on {device.type} needs at least {least}")
    needed, free = ring.slots * (shape.head + shape.room), free_memory()
    if needed > free:
        raise DataError(
            f"{ring.slots} slots for batches of {shape.batch} take {size(needed)} of host memory and {size(free)} are "
            "free: use a smaller batch or fewer slots"
        )
