"""Raw bands of all samples kept in memory, on the host or on the GPU: after the first read no disk is touched again."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from rsdnet._reader import Table
from rsdnet.console import size
from rsdnet.errors import DataError
from rsdnet.hardware import free_bytes

Place = Literal["none", "host", "device"]
PIECE = 256  # samples loaded between two steps of the progress bar: 70 MB of BigEarthNet
Track = Callable[[range], Iterable[int]]


def says(table: Table, place: Place, device: torch.device, where: str) -> str:
    """One line: what the cache takes and what is free. where: the databases, for the message.

    Raises DataError where it does not fit, with both sizes.
    """
    home = home_of(place, device)
    name = "host memory" if home.type == "cpu" else f"memory of {torch.cuda.get_device_name(home)}"
    needed, free = table.arena_bytes, free_bytes(home)
    if needed > free:
        other = "none" if home.type == "cpu" else "host or none"
        raise DataError(
            f"{where}: --cache {place} takes {size(needed)} of {name} and {size(free)} are free: use --cache {other}, "
            "fewer bands, or another machine"
        )
    return f"cache: {size(needed)} of raw bands in {name} ({size(free)} free)"


def load(table: Table, place: Place, device: torch.device, track: Track = lambda steps: steps) -> Tensor:
    """Read every band of the pools of all samples into memory and make the table read from there.

    track: goes over the steps, as `rsdnet.console.track` does. Returns the arena, (table.arena_bytes,) uint8.
    Raises ReaderError on an entry that cannot be read.
    """
    home = home_of(place, device)
    arena = torch.empty(table.arena_bytes, dtype=torch.uint8, device=home)
    pieces = track(range(0, len(table), PIECE))
    if home.type == "cpu":
        for first, count, begin, end in _places(table, pieces):
            table.load(arena[begin:end].numpy(), first, count)
    else:
        fill_by_parts(table, arena, pieces)
    if place == "host":
        table.keep(arena.numpy())
    else:
        table.device()
    return arena


def fill_by_parts(table: Table, arena: Tensor, pieces: Iterable[int]) -> None:
    """Fill an arena that the reader cannot write to, through a part of host memory that holds one piece."""
    part = torch.empty(0, dtype=torch.uint8)
    for first, count, begin, end in _places(table, pieces):
        if end - begin > len(part):
            part = torch.empty(end - begin, dtype=torch.uint8, pin_memory=arena.is_cuda)
        table.load(part[: end - begin].numpy(), first, count)
        arena[begin:end].copy_(part[: end - begin])


def _places(table: Table, pieces: Iterable[int]) -> Iterator[tuple[int, int, int, int]]:
    """Of each piece: its first sample, how many there are, and the bytes of the arena that they take."""
    for first in pieces:
        count = min(PIECE, len(table) - first)
        yield first, count, table.place(first), table.place(first + count)


def home_of(place: Place, device: torch.device) -> torch.device:
    """Where the arena lies."""
    return torch.device("cpu") if place == "host" else device
