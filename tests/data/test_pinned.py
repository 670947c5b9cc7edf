"""Slots on their way to a GPU, with a reader and a copy stream that are played by hand."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rsdnet._reader import ReaderError
from rsdnet.data.pinned import DeviceDelivery, HostDelivery, Shape, Slot

SHAPE = Shape(batch=3, views=2, channels=1, room=64)


class Event:
    """Passes when its turn comes, or when waited for; only then are the slot's bytes read."""

    def __init__(self, gpu: "Gpu", host: Tensor, used: int, block: Tensor) -> None:
        self.gpu, self.host, self.used, self.block, self.passed, self.waits = gpu, host, used, block, False, 0

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.waits += 1
        self.gpu.finish(self)

    def copy(self) -> None:
        self.block[: self.used] = self.host[: self.used]
        self.passed = True


class Gpu:
    """A copy stream whose copies happen late, one after the other; handing a batch out does not hurry them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.handed: list[Event] = []

    def upload(self, host: Tensor, used: int) -> tuple[Tensor, Event]:
        block = torch.full_like(host, 0xEE)
        self.events.append(Event(self, host, used, block))
        return block, self.events[-1]

    def hand_over(self, block: Tensor, event: Event) -> None:
        assert event.block is block
        self.handed.append(event)

    def finish(self, last: Event) -> None:
        for event in self.events[: self.events.index(last) + 1]:
            if not event.passed:
                event.copy()


class Reader:
    """Batches 0, 1, ... of `total`; batch k has every byte and number k. Fills a free slot only when asked to."""

    def __init__(self, slots: list[Slot], total: int, fails_at: int | None = None) -> None:
        self.slots, self.total, self.fails_at = slots, total, fails_at
        self.free, self.filled = list(range(len(slots))), list[tuple[int, int]]()
        self.held: set[int] = set()
        self.made = 0

    def fill(self) -> bool:
        if not self.free or self.made == self.total or self.made == self.fails_at:
            return False
        index = self.free.pop(0)
        for buffer in self.slots[index].buffers():
            buffer[...] = self.made
        self.filled.append((index, self.made))
        self.made += 1
        return True

    def next(self) -> tuple[int, int, int, int, int] | None:
        if not self.filled and not self.fill():
            if self.made == self.fails_at:
                raise ReaderError("key 'x' is damaged")
            assert self.made == self.total, "next() would wait for ever: no slot is free"
            return None
        index, number = self.filled.pop(0)
        self.held.add(index)
        return index, 1 + number % 3, 16 * (1 + number % 4), 0, number

    def release(self, slot: int) -> None:
        assert slot in self.held, "released twice, or never handed out"
        self.held.remove(slot)
        self.free.append(slot)

    @property
    def ready(self) -> int:
        return len(self.filled)


def slots_of(count: int) -> list[Slot]:
    return [Slot(SHAPE, pinned=False) for _ in range(count)]


def check(fields: tuple[Tensor, ...], number: int) -> None:
    data, records, samples, positions = fields
    assert (len(data), len(records), len(samples), len(positions)) == (16 * (1 + number % 4), *[1 + number % 3] * 3)
    assert records.shape[1:] == (2, 1, 5)
    assert all((tensor == number).all() for tensor in fields)


@given(st.integers(2, 5), st.integers(0, 12), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_on_a_gpu_batches_come_whole_and_in_order_whatever_is_late(
    slots: int, total: int, seed: int, filling: float, copying: float
) -> None:
    rng = random.Random(seed)
    ring, gpu = slots_of(slots), Gpu()
    reader = Reader(ring, total)
    delivery = DeviceDelivery(reader, ring, gpu)  # type: ignore[arg-type]
    handed = []
    for number in range(total):
        while rng.random() < filling and reader.fill():
            pass
        waiting = [event for event in gpu.events if not event.passed]
        if waiting and rng.random() < copying:
            gpu.finish(rng.choice(waiting))
        ready = len(reader.filled)
        fields = delivery.next()
        assert fields is not None
        handed.append(fields)
        under_way = len(gpu.events) - number - 1
        assert under_way == 1 if ready >= 2 else under_way <= 1
    assert delivery.next() is None
    assert delivery.next() is None
    assert gpu.handed == gpu.events
    delivery.finish()
    assert all(event.passed for event in gpu.events)
    for number, fields in enumerate(handed):
        check(fields, number)  # no slot was filled again before its copy


def test_the_next_copy_is_enqueued_before_a_batch_is_handed_out() -> None:
    ring, gpu = slots_of(3), Gpu()
    reader = Reader(ring, 9)
    delivery = DeviceDelivery(reader, ring, gpu)  # type: ignore[arg-type]
    reader.fill(), reader.fill()
    delivery.next()
    assert len(gpu.events) == 2
    assert not gpu.events[1].passed
    delivery.next()  # batch 1 is handed out at once: nothing further is filled, and nothing is waited for
    assert len(gpu.events) == 2


def test_the_oldest_copy_is_waited_for_only_when_the_ring_is_empty() -> None:
    ring, gpu = slots_of(2), Gpu()
    reader = Reader(ring, 4)
    delivery = DeviceDelivery(reader, ring, gpu)  # type: ignore[arg-type]
    reader.fill(), reader.fill()
    delivery.next()
    delivery.next()
    assert [event.waits for event in gpu.events] == [0, 0]
    assert reader.free == []
    delivery.next()
    assert gpu.events[0].waits == 1


def test_slots_go_back_as_soon_as_their_copies_are_seen_to_be_done() -> None:
    ring, gpu = slots_of(3), Gpu()
    reader = Reader(ring, 9)
    delivery = DeviceDelivery(reader, ring, gpu)  # type: ignore[arg-type]
    reader.fill(), reader.fill()
    delivery.next()
    assert reader.held == {0, 1}
    gpu.finish(gpu.events[0])
    reader.fill()
    delivery.next()
    assert reader.held == {1, 2}
    assert [event.waits for event in gpu.events] == [0, 0, 0]


def test_an_error_comes_after_the_batches_before_it() -> None:
    ring, gpu = slots_of(3), Gpu()
    reader = Reader(ring, 9, fails_at=2)
    delivery = DeviceDelivery(reader, ring, gpu)  # type: ignore[arg-type]
    handed = [delivery.next(), delivery.next()]
    delivery.finish()
    for number, fields in enumerate(handed):
        assert fields is not None
        check(fields, number)
    for _ in range(2):
        with pytest.raises(ReaderError, match="'x' is damaged"):
            delivery.next()


def test_on_the_host_a_slot_goes_back_when_the_next_batch_is_asked_for() -> None:
    ring = slots_of(1)
    reader = Reader(ring, 5)
    delivery = HostDelivery(reader, ring)
    for number in range(5):
        fields = delivery.next()
        assert fields is not None
        check(fields, number)
        assert fields[0].data_ptr() == ring[0].block.data_ptr() + SHAPE.head
        assert reader.held == {0}
    assert delivery.next() is None


def test_a_cache_on_the_device_takes_the_place_of_the_bytes() -> None:
    arena = torch.arange(100, dtype=torch.uint8)
    ring, gpu = slots_of(2), Gpu()
    for delivery in (
        HostDelivery(Reader(ring, 1), ring, arena=arena),
        DeviceDelivery(Reader(ring, 1), ring, gpu, arena=arena),  # type: ignore[arg-type]
    ):
        fields = delivery.next()
        assert fields is not None
        assert fields[0] is arena
        assert fields[1].shape == (1, 2, 1, 5)
    assert gpu.events[0].used == SHAPE.head  # no byte of a band is copied


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5000))
def test_the_parts_of_a_slot_do_not_overlap_and_are_aligned(batch: int, views: int, channels: int, room: int) -> None:
    shape = Shape(batch, views, channels, room)
    slot = Slot(shape, pinned=False)
    data, records, samples, positions = slot.buffers()
    assert records.shape == (batch, views, channels, 5)
    data[...], records[...], samples[...], positions[...] = 1, 2, 3, 4
    assert (set(data), set(records.ravel()), set(samples), set(positions)) == ({1}, {2}, {3}, {4})
    assert len(data) == room
    assert (data.ctypes.data - slot.block.data_ptr()) % 512 == 0
    assert data.ctypes.data % 64 == 0
