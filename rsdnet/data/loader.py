"""From databases to the device: batches of raw bands in a reproducible order, read ahead by the C++ reader's threads.

The order and the bands are pure functions of (seed, epoch, position): neither ranks nor threads nor look-ahead change
what a step holds, and a step number is all that resuming needs.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from rsdnet import _reader, bands
from rsdnet.config import ViewConfig
from rsdnet.console import size
from rsdnet.data.cache import Place
from rsdnet.data.catalog import Catalog
from rsdnet.data.pinned import Delivery, DeviceDelivery, Gpu, HostDelivery, Shape, Slot
from rsdnet.data.samples import Damaged, Pools, Samples, pools_of
from rsdnet.errors import DataError
from rsdnet.hardware import free_bytes

SLOTS = 4  # one being copied, one ready, two being filled
AHEAD = 2
_SUMS = ("samples", "bytes", "seconds", "waited", "idle", "left_out")


class Batch(NamedTuple):
    """Raw bands of B samples, on the stream's device.

    On a GPU it is the consumer's own. On the host it lies in a slot and is valid until the next batch is asked for,
    unless the stream was made with copy=True; in a DataLoader's worker it always is a copy.
    """

    data: Tensor  # (N,) uint8: the bands' bytes; the whole cache, where it is on the device
    records: Tensor  # (B, V, C, 5) int64: byte offset, type code, height, width, band id
    samples: Tensor  # (B,) int64: the samples' numbers, for the draws
    positions: Tensor  # (B,) int64: which of the stream's `samples` they are
    epoch: int
    step: int  # over all epochs


class Stream(IterableDataset[Batch]):
    """Batches of the samples of several databases, shuffled anew each epoch.

    databases: folders, or `Samples` already opened (then catalog, modality, pools and split are theirs).
    batch: samples a rank in a step. seed: of order and bands, 0 to 2^63 - 1.
    views, channels: a sample's views and the bands drawn for each; or bands: names, or "all", read of every sample as
    one view. pools: the bands to draw from; None: those of the paper.
    start, stop: the steps to stream, over all epochs; stop None: each iteration ends with its epoch and the next one
    goes on with the next. rank, world: this process's slice of every step's global batch of world * batch samples.
    drop_last: leave out an epoch's last samples that do not fill a global batch; else they are split evenly over the
    ranks, and a rank may get an empty batch.
    weights: the databases' shares of an epoch; (): every sample once. cache: hold all raw bands in host memory or on
    the device. slots: of the ring. ahead, hints: batches whose entries the kernel is told to fetch, "on", "off" or
    "auto". damaged: what to do about a sample that cannot be read: "leave out" (at the opening; later another sample
    takes its place, and stats() counts it) or "raise". threads: of the reader, 0: one a core.

    A position is the whole state: `state_dict`, `load_state_dict`. Inside DataLoader(stream, batch_size=None,
    num_workers=W) worker w reads every W-th step, so that the batches come in the same order; workers made anew each
    epoch begin where the stream in the main process stands, so call `set_epoch` before each.
    Raises DataError, in one line, on options that cannot work together and on databases that cannot be read;
    ReaderError while iterating.
    """

    def __init__(
        self,
        databases: Samples | Path | str | Sequence[Path | str],
        catalog: Catalog | Sequence[Catalog] | None = None,
        *,
        batch: int,
        seed: int = 0,
        views: int = 2,
        channels: int = 1,
        bands: Sequence[str] | Literal["all"] | None = None,
        modality: str = "ms+sar",
        pools: Pools | None = None,
        split: str | None = None,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        weights: Sequence[float] = (),
        cache: Place = "none",
        device: torch.device | str = "cpu",
        slots: int = SLOTS,
        ahead: int = AHEAD,
        hints: Literal["auto", "on", "off"] = "auto",
        damaged: Damaged = "leave out",
        threads: int = 0,
        copy: bool = False,
        progress: bool = False,
    ) -> None:
        self.samples = databases if isinstance(databases, Samples) else Samples(
            databases, modality, pools or pools_of(ViewConfig()), split=split, threads=threads,
            catalog=catalog, damaged=damaged,
        )  # fmt: skip
        self.batch, self.seed, self.rank, self.world, self.drop_last = batch, seed, rank, world, drop_last
        self.start, self.stop, self.device = start, stop, torch.device(device)
        self.slots, self.ahead, self.hints, self.threads, self.copy = slots, ahead, hints, threads, copy
        self.damaged = "stand-in" if damaged == "leave out" else "raise"
        self.quotas = self.samples.quotas(weights)
        self.bands = _names(bands, self.samples)
        self.shape = _shape(self.samples, batch, views, channels, self.bands)
        self.length = sum(self.quotas or self.samples.table.counts)
        """Samples in an epoch."""
        self._resident = "device" in (cache, self.samples.kept)  # then batches only say where in the cache bands lie
        self._check()
        self.steps_per_epoch = steps_per_epoch(self.length, batch, world, drop_last)
        self._position = start
        self._own = False  # whether the position is this DataLoader worker's alone, else all workers'
        self._until = 0  # where the iteration of an own position ends
        self._loaded: tuple[int, int] | None = None  # worker and workers of a state just loaded
        self._running: _Running | None = None
        self._slots: list[Slot] = []
        self._totals: dict[str, float] = dict.fromkeys(_SUMS, 0)
        self.samples.keep(cache, self.device, progress=progress)

    # ---- iteration ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.steps_per_epoch if self.stop is None else max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info and self.device.type == "cuda":
            raise DataError(
                f"device {self.device} inside a DataLoader's worker: give the stream device='cpu' and copy the batches "
                "in the loop, or use num_workers=0: the reader has threads of its own"
            )
        self.close()
        first, last = self._range(worker, workers)
        running = self._running = _Running(self, first, last, workers if info else 0)
        try:
            for step in range(first, max(first, last), workers):
                fields = running.delivery.next()
                if fields is None:
                    break
                self._position, self._own, self._until = step + workers, info is not None, last
                yield Batch(*fields, epoch=step // self.steps_per_epoch, step=step)
                if self._running is not running:
                    raise RuntimeError("this iteration of the stream is over: it was closed, or another one was begun")
        finally:
            if self._running is running:
                self.close()

    def close(self) -> None:
        """End the reading threads; the position stays. A later iteration begins them anew. Never hangs."""
        running, self._running = self._running, None
        if running is None:
            return
        if running.process != os.getpid():  # this is a fork: the threads are the parent's
            self._slots = []
            return
        running.close()
        for name in _SUMS:
            self._totals[name] += running.engine.stats()[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": None, "_slots": []}

    def _range(self, worker: int, workers: int) -> tuple[int, int]:
        """First step of this worker, and the step at which the iteration ends."""
        loaded, self._loaded = self._loaded, None
        if self._own and loaded is None:  # broken off by a worker's consumer, who did not see all that was read
            self._position, self._own = self._until, False
        if self._own and loaded != (worker, workers):
            raise DataError(
                f"the state is of DataLoader worker {loaded}, this is worker {(worker, workers)}: use as many workers "
                "as when it was saved"
            )
        if self._own:
            return self._position, self._until
        end = (self._position // self.steps_per_epoch + 1) * self.steps_per_epoch if self.stop is None else self.stop
        return self._position + worker, end

    # ---- state -------------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of `epoch`. For a DataLoader whose workers are made anew each epoch."""
        self._position, self._own, self._loaded = epoch * self.steps_per_epoch, False, None

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain values. The batch handed out last counts as done."""
        info = get_worker_info()
        return {
            "step": self._position, "epoch": self._position // self.steps_per_epoch,
            "worker": (info.id, info.num_workers) if info and self._own else None, "until": self._until,
            **self._identity(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises DataError where it is of another stream: other samples, other batch."""
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise DataError(
                    f"the state is of another stream: {name} is {state.get(name)} in the state and {own} here"
                )
        self.close()
        self._position, self._until = state["step"], state["until"]
        self._loaded = tuple(state["worker"]) if state["worker"] is not None else None  # type: ignore[assignment]
        self._own = self._loaded is not None

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a position to mean the same batches; ranks may differ if the global batch does not."""
        return {
            "seed": self.seed, "global_batch": self.batch * self.world, "samples": len(self.samples),
            "quotas": self.quotas, "drop_last": self.drop_last,
        }  # fmt: skip

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """What was read by this process so far, over all iterations.

        samples, bytes: delivered. seconds: while iterating; waited: of those, the consumer waited for a batch; idle:
        the threads together had nothing to do. samples_per_s, bytes_per_s. ready: batches that wait for the consumer;
        planned: batches planned ahead. left_out: samples left out at the opening, stand_ins: samples that
        another took the place of since. threads, hints (whether given now), cache (its bytes).
        """
        running = self._running
        now = running.engine.stats() if running and running.process == os.getpid() else {}
        total: dict[str, Any] = {name: self._totals[name] + now.get(name, 0) for name in _SUMS}
        seconds = max(total["seconds"], 1e-9)
        return total | {
            "samples_per_s": total["samples"] / seconds,
            "bytes_per_s": total["bytes"] / seconds,
            "ready": now.get("ready", 0),
            "planned": now.get("planned", 0),
            "threads": now.get("threads", 0),
            "hints": now.get("hints", False),
            "stand_ins": total["left_out"],
            "left_out": sum(self.samples.left_out.values()),
            "cache": 0 if self.samples.arena is None else len(self.samples.arena),
        }

    # ---- making ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise DataError on options that cannot work together."""
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise DataError(f"rank {self.rank} of world {self.world}: ranks go from 0 to world - 1")
        if self.start < 0 or (self.stop is not None and self.stop < self.start):
            raise DataError(f"steps {self.start} to {self.stop}: start may not be negative, nor stop before it")
        least = 1 if self.device.type == "cpu" else 2
        if self.slots < least:
            raise DataError(f"{self.slots} slots: a ring on {self.device.type} needs at least {least}")
        check_batch(self.samples, self.batch, self.world, self.drop_last)
        needed = self.slots * (self.shape.head + self._room())
        free = free_bytes(torch.device("cpu"))
        if needed > free:
            raise DataError(
                f"{self.slots} slots for batches of {self.batch} take {size(needed)} of host memory and {size(free)} "
                "are free: use a smaller batch or fewer slots"
            )

    def _room(self) -> int:
        """Bytes of bands in a slot; none where they stay in a cache on the device."""
        return 0 if self._resident else self.shape.room

    def _ring(self) -> list[Slot]:
        """The slots, made when first needed: a forked or pickled stream makes its own."""
        if not self._slots:
            shape = self.shape._replace(room=self._room())
            self._slots = [Slot(shape, self.device.type == "cuda") for _ in range(self.slots)]
        return self._slots


class _Running:
    """One iteration: the C++ engine and the way of its batches to the consumer."""

    def __init__(self, stream: Stream, first: int, last: int, workers: int) -> None:
        samples, slots = stream.samples, stream._ring()
        ids = None if stream.bands is None else [bands.band_id(name) for name in stream.bands]
        _, views, channels, _ = stream.shape
        self.process = os.getpid()
        self.engine = _reader.Stream(
            samples.table, [slot.buffers() for slot in slots], seed=stream.seed, batch=stream.batch, views=views,
            channels=channels, bands=ids, quotas=stream.quotas, rank=stream.rank, world=stream.world,
            drop_last=stream.drop_last, first=first, last=max(first, last), stride=max(workers, 1),
            threads=stream.threads or _cores(workers), ahead=stream.ahead, hints=stream.hints, damaged=stream.damaged,
        )  # fmt: skip
        arena = samples.arena if stream._resident else None
        self.delivery: Delivery
        if stream.device.type == "cuda":
            self.delivery = DeviceDelivery(self.engine, slots, Gpu(stream.device), arena=arena)
        else:
            self.delivery = HostDelivery(self.engine, slots, arena=arena, copy=stream.copy or workers > 0)

    def close(self) -> None:
        """End the threads, then wait for the copies that still read a slot."""
        self.engine.close()
        if isinstance(self.delivery, DeviceDelivery):
            self.delivery.finish()


def steps_per_epoch(samples: int, batch: int, world: int = 1, drop_last: bool = True) -> int:
    """Steps in an epoch of so many samples."""
    return samples // (batch * world) if drop_last else -(-samples // (batch * world))


def check_batch(samples: Samples, batch: int, world: int = 1, drop_last: bool = True) -> None:
    """Raise DataError where the samples do not fill a batch of every rank."""
    if batch < 1:
        raise DataError(f"a batch of {batch}: it needs at least one sample")
    if steps_per_epoch(len(samples), batch, world, drop_last):
        return
    shard = f" over {world} ranks, {len(samples) // world} each," if world > 1 else ""
    raise DataError(
        f"{samples.where}: {len(samples)} samples{shard} do not fill a batch of {batch}: "
        f"use --batch {max(len(samples) // world, 2)} or smaller, or more data"
    )


def _names(names: Sequence[str] | Literal["all"] | None, samples: Samples) -> list[str] | None:
    """The bands to read of every sample, by their names; None: draw them. Raises DataError on one not in the pools."""
    if names is None:
        return None
    pool = [bands.NAMES[band] for m in samples.modality.split("+") for band in samples.pools[m]]
    asked = pool if names == "all" else [bands.canonical(name) for name in names]
    if not asked:
        raise DataError("bands is empty: name at least one band")
    if absent := [name for name in asked if name not in pool]:
        raise DataError(f"bands: {absent[0]} is not among the stream's bands ({', '.join(pool)})")
    return asked


def _shape(samples: Samples, batch: int, views: int, channels: int, names: list[str] | None) -> Shape:
    """A slot that holds any batch: where bands differ in size, the largest ones count."""
    if views < 1 or channels < 1:
        raise DataError(f"{views} views of {channels} channels: there must be at least one of each")
    if names is not None:
        return Shape(batch, 1, len(names), batch * sum(samples.band_bytes(names)))
    most = sorted((samples.table.band_bytes(modality) for modality in samples.modality.split("+")), reverse=True)
    sides = [most[view % len(most)] for view in range(views)]  # views alternate between the sensors
    return Shape(batch, views, channels, batch * channels * sum(sides))


def _cores(workers: int) -> int:
    """Threads of one reader: 0 for its own choice, and a share of the cores in a DataLoader's worker."""
    return max(1, len(os.sched_getaffinity(0)) // workers) if workers else 0
