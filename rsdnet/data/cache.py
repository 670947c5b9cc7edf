"""Raw bands of all samples in memory, on the host or on the GPU: after the first read no disk is touched again."""

from typing import Literal

import torch
from rich.progress import track
from torch import Tensor

from rsdnet._reader import Table
from rsdnet.console import size
from rsdnet.errors import DataError
from rsdnet.hardware import free_bytes

CacheLocation = Literal["none", "host", "device"]
PIECE = 256  # samples loaded between two steps of the progress bar: 70 MB of BigEarthNet


def check(table: Table, location: CacheLocation, device: torch.device, where: str) -> str:
    """One line: the cache's size and the free memory. where: the databases, for the message.

    Raises DataError, with both sizes, where it does not fit.
    """
    home = home_of(location, device)
    name = "host memory" if home.type == "cpu" else f"memory of {torch.cuda.get_device_name(home)}"
    needed, free = table.arena_bytes, free_bytes(home)
    if needed > free:
        other = "none" if home.type == "cpu" else "host or none"
        raise DataError(
            f"{where}: --cache {location} takes {size(needed)} of {name} and {size(free)} are free: use --cache "
            f"{other}, fewer bands, or another machine"
        )
    return f"cache: {size(needed)} of raw bands in {name} ({size(free)} free)"


def fill(table: Table, location: CacheLocation, device: torch.device, *, progress: bool = False) -> Tensor:
    """Load the pools' bands of all samples, and make the table read from there. Returns (table.arena_bytes,) uint8.

    progress: draw a bar. Raises ReaderError on an entry that cannot be read.
    """
    home = home_of(location, device)
    arena = torch.empty(table.arena_bytes, dtype=torch.uint8, device=home)
    load(table, arena, through_host=home.type != "cpu", progress=progress)
    if location == "host":
        table.keep(arena.numpy())
    else:
        table.device()
    return arena


def load(table: Table, arena: Tensor, *, through_host: bool, progress: bool = False) -> None:
    """Load all bands into `arena`; through_host: by way of a buffer on the host, where the reader can write."""
    buffer = torch.empty(0, dtype=torch.uint8)
    for first in track(range(0, len(table), PIECE), "filling the cache", disable=not progress):
        count = min(PIECE, len(table) - first)
        target = arena[table.place(first) : table.place(first + count)]
        if not through_host:
            table.load(target.numpy(), first, count)
            continue
        if len(target) > len(buffer):
            buffer = torch.empty(len(target), dtype=torch.uint8, pin_memory=arena.is_cuda)
        table.load(buffer[: len(target)].numpy(), first, count)
        target.copy_(buffer[: len(target)])


def home_of(location: CacheLocation, device: torch.device) -> torch.device:
    """The device of the cache."""
    return torch.device("cpu") if location == "host" else device
