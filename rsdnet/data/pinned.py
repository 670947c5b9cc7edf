"""Batches on their way to the device: a ring of pinned slots, one copy stream, an event a copy."""

from collections import deque
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rsdnet._reader import ReaderError

FIELDS = 5  # of a record: kernels/records.py
ALIGN = 512  # bytes; where the bands begin in a slot, so that any type can be loaded from there


Fields = tuple[Tensor, Tensor, Tensor, Tensor]
"""Data, records, samples, positions: the first fields of a `Batch`."""


class Shape(NamedTuple):
    """The size of a slot: B samples, V views, C channels, and `room` bytes of bands."""

    batch: int
    views: int
    channels: int
    room: int

    @property
    def head(self) -> int:
        """Bytes of records, samples and positions, which stand before the bands."""
        numbers = self.batch * self.views * self.channels * FIELDS + 2 * self.batch
        return -(-8 * numbers // ALIGN) * ALIGN

    def fields(self, block: Tensor, count: int, used: int, arena: Tensor | None = None) -> Fields:
        """Data (used,) or `arena`, records (count, V, C, 5), samples, positions (count,), in a slot's block."""
        batch, views, channels, _ = self
        records = batch * views * channels * FIELDS
        numbers = block[: self.head].view(torch.int64)
        return (
            block[self.head : self.head + used] if arena is None else arena,
            numbers[:records].view(batch, views, channels, FIELDS)[:count],
            numbers[records : records + batch][:count],
            numbers[records + batch : records + 2 * batch][:count],
        )


class Slot:
    """One batch on the host, in one block: records, samples, positions, bands."""

    def __init__(self, shape: Shape, pinned: bool) -> None:
        self.shape = shape
        self.block = torch.empty(shape.head + shape.room, dtype=torch.uint8, pin_memory=pinned)

    def buffers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Data, records, samples, positions, for the reader's threads to fill."""
        data, records, samples, positions = self.shape.fields(self.block, self.shape.batch, self.shape.room)
        return data.numpy(), records.numpy(), samples.numpy(), positions.numpy()


class Stream(Protocol):
    """The part of `_reader.Stream` that a delivery uses."""

    def next(self) -> tuple[int, int, int, int, int] | None: ...
    def release(self, slot: int) -> None: ...
    @property
    def ready(self) -> int: ...


class HostDelivery:
    """Batches as they lie in their slots; a slot goes back when the next batch is asked for.

    arena: the bands' bytes, where they are not in the slots.
    """

    def __init__(self, stream: Stream, slots: list[Slot], *, arena: Tensor | None = None) -> None:
        self.stream, self.slots, self.arena = stream, slots, arena
        self._held: int | None = None

    def next(self) -> Fields | None:
        """The next batch; None at the end. Raises ReaderError."""
        if self._held is not None:
            self.stream.release(self._held)
            self._held = None
        filled = self.stream.next()
        if filled is None:
            return None
        self._held, count, used = filled[:3]
        slot = self.slots[self._held]
        return slot.shape.fields(slot.block, count, used, self.arena)


class Gpu:
    """A GPU's copy stream."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def upload(self, host: Tensor, used: int) -> tuple[Tensor, Any]:
        """Enqueue the copy of the first `used` bytes of a pinned block; returns a block of its size and the event."""
        with torch.cuda.stream(self.stream):
            block = torch.empty(len(host), dtype=torch.uint8, device=self.device)
            block[:used].copy_(host[:used], non_blocking=True)
            event = torch.cuda.Event()
            event.record(self.stream)
        return block, event

    def hand_over(self, block: Tensor, event: Any) -> None:
        """Make the current stream wait on the copy, and record_stream."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(event)
        block.record_stream(current)


class DeviceDelivery:
    """Batches on a GPU: while one is computed on, the next is copied and the others are filled.

    A slot goes back to the threads only once its copy's event has passed. Before a batch is handed out, the copy of the
    next one is enqueued if that is filled already; none waits for it. arena: as in `HostDelivery`, on the GPU.
    """

    def __init__(self, stream: Stream, slots: list[Slot], gpu: Gpu, *, arena: Tensor | None = None) -> None:
        self.stream, self.slots, self.gpu, self.arena = stream, slots, gpu, arena
        self._copying: deque[tuple[int, Any]] = deque()  # slots that a copy still reads, oldest first, with its event
        self._sent: deque[tuple[Fields, Tensor, Any]] = deque()  # batches under way, not handed out yet
        self._error: ReaderError | None = None
        self._ended = False

    def next(self) -> Fields | None:
        """The next batch, whose copy the current stream waits for; None at the end. Raises ReaderError."""
        self._give_back(wait=False)
        if not self._sent:
            if self._error is None and not self._ended and not self.stream.ready:
                self._give_back(wait=True)  # the threads are behind: let them have every slot
            self._send()
        if not self._sent:
            if self._error is not None:
                raise self._error
            return None
        if len(self._sent) < 2 and not self._ended and self._error is None and self.stream.ready:
            self._send()
        fields, block, event = self._sent.popleft()
        self.gpu.hand_over(block, event)
        return fields

    def finish(self) -> None:
        """Wait for the copies that still read a slot: afterwards the slots may be filled or freed."""
        while self._copying:
            self._copying.popleft()[1].synchronize()

    def _send(self) -> None:
        """Enqueue the copy of the next filled slot; wait for one to be filled. Notes the end, or an error for later."""
        if self._ended or self._error is not None:
            return
        try:
            filled = self.stream.next()
        except ReaderError as error:
            self._error = error
            return
        if filled is None:
            self._ended = True
            return
        index, count, used = filled[:3]
        slot = self.slots[index]
        block, event = self.gpu.upload(slot.block, slot.shape.head + (used if self.arena is None else 0))
        self._copying.append((index, event))
        self._sent.append((slot.shape.fields(block, count, used, self.arena), block, event))

    def _give_back(self, *, wait: bool) -> None:
        """Give back the slots whose copies are done, the oldest first; wait: for all of them."""
        while self._copying and (self._copying[0][1].query() or wait):
            index, event = self._copying.popleft()
            if wait:
                event.synchronize()
            self.stream.release(index)


Delivery = HostDelivery | DeviceDelivery
