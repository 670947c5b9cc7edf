"""From databases to the device: batches of raw bands, in a reproducible order, read ahead by a thread.

The order and the bands are pure functions of (seed, epoch, sample), so a position (a step) is all that resuming needs.
"""

import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from rsdnet._reader import philox
from rsdnet.samples import Samples

ORDER = 4  # Philox stream of the samples' order; the streams of the plan are in kernels/plan.py
GROWTH = 1.25  # room a slot gets beyond the batch that did not fit, so that it soon fits all
SLOTS = 3  # batches read ahead: one being filled, one ready, one in use


class Batch(NamedTuple):
    """Raw bands of B samples on the device. Valid until the next batch is asked for."""

    data: Tensor  # (N,) uint8: the bands' bytes
    records: Tensor  # (B, V, C, 5) int64: byte offset, type code, height, width, band id
    samples: Tensor  # (B,) int64: the samples' numbers, for the draws
    epoch: int


def order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """A permutation of range(samples), int64: the order of an epoch, a pure function of (seed, epoch, samples).

    Samples are sorted by 64 random bits of theirs (Philox4x32-10), ties by number.
    """
    counter = np.zeros((samples, 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 3] = np.arange(samples), epoch, ORDER
    key = np.array((seed & 0xFFFFFFFF, seed >> 32), np.uint32)
    words = philox(key, counter).astype(np.uint64)
    return np.argsort(words[:, 0] << np.uint64(32) | words[:, 1], kind="stable")


class Slot:
    """One batch's memory, used again and again: host buffers, pinned for a GPU, and the copy that still reads them."""

    def __init__(self, shape: tuple[int, int, int], pinned: bool) -> None:
        self.pinned = pinned
        self.data = torch.empty(0, dtype=torch.uint8, pin_memory=pinned)
        self.records = torch.empty((*shape, 5), dtype=torch.int64, pin_memory=pinned)
        self.samples = torch.empty(shape[0], dtype=torch.int64, pin_memory=pinned)
        self.copied: torch.cuda.Event | None = None


class Loader:
    """Batches of `samples` from step `start` up to step `stop`, read ahead; whole batches only.

    channels: bands in a view; views: views of a sample. `waited` sums the seconds the consumer had to wait.
    Use as a context manager: leaving it ends the reading thread.
    """

    def __init__(
        self,
        samples: Samples,
        batch: int,
        *,
        channels: int,
        seed: int,
        device: torch.device,
        start: int = 0,
        stop: int,
        views: int = 2,
    ) -> None:
        self.samples, self.batch, self.seed, self.device = samples, batch, seed, device
        self.shape = (batch, views, channels)
        self.start, self.stop = start, stop
        self.steps_per_epoch = len(samples) // batch
        self.waited = 0.0
        self._order = (-1, np.empty(0, np.int64))
        self._free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[Batch, Slot] | BaseException | None] = queue.SimpleQueue()
        for _ in range(SLOTS):
            self._free.put(Slot(self.shape, device.type == "cuda"))
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._run, name="rsdnet-loader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.put(None)
        while self._thread.is_alive():  # it may be filling slots that came free before the end was asked for
            self._thread.join(0.05)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            item = self._ready.get()
            self.waited += time.perf_counter() - began
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            batch, slot = item
            if slot.copied is not None:
                torch.cuda.current_stream(self.device).wait_event(slot.copied)
                for tensor in batch[:3]:
                    tensor.record_stream(torch.cuda.current_stream(self.device))
                self._free.put(slot)
                yield batch
            else:
                yield batch
                self._free.put(slot)

    def _run(self) -> None:
        """The reading thread: fills free slots, step after step, and hands them over."""
        try:
            for step in range(self.start, self.stop):
                slot = self._free.get()
                if slot is None:
                    return
                if slot.copied is not None:
                    slot.copied.synchronize()
                self._ready.put((self._fill(slot, step), slot))
            self._ready.put(None)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            self._ready.put(error)

    def _fill(self, slot: Slot, step: int) -> Batch:
        """Read the bands of a step into `slot`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, order(self.seed, epoch, len(self.samples)))
        positions = self._order[1][position * self.batch : (position + 1) * self.batch]
        chosen = self.samples.draw(positions, self.seed, epoch, views=self.shape[1], channels=self.shape[2])
        while (used := self.samples.gather(positions, chosen, slot.data, slot.records)) > len(slot.data):
            slot.data = torch.empty(int(GROWTH * used), dtype=torch.uint8, pin_memory=slot.pinned)
        slot.samples.copy_(torch.from_numpy(self.samples.rows[positions]))
        batch = Batch(slot.data[:used], slot.records, slot.samples, epoch)
        if self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            data, records, numbers = (tensor.to(self.device, non_blocking=True) for tensor in batch[:3])
            slot.copied = torch.cuda.Event()
            slot.copied.record(self._stream)
        return Batch(data, records, numbers, epoch)
