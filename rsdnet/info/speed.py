"""The rate at which this machine reads a database: `python -m rsdnet.info DB --speed`.

Samples are read cold (dropped from the page cache before, where it allows that) and warm, beside the disk's and
memcpy's rates for blocks of the same size. A rate that could not be measured gives its reason.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.table import Table

from rsdnet.console import percent, progress, size
from rsdnet.data import shards
from rsdnet.data.catalog import DATA
from rsdnet.errors import DataError
from rsdnet.hardware import free_memory, gpu_memory
from rsdnet.info import disk
from rsdnet.info.bounds import KINDS, Figures, Measured, Rate, verdict
from rsdnet.info.selection import BATCH, SLOTS, VIEWS, Selection, select
from rsdnet.info.tables import table, terminal

_REGION = 1 << 30  # bytes of the file read in order
_LOADED = 0.75  # load of a core, beside our own, that disturbs
_AT_ONCE = 256  # values read into the page cache between two looks at the clock
_TURNS = 4  # of memcpy and of warm reads
_SOURCE = 256 << 20  # bytes that memcpy reads from
_MOST = 2 << 30  # bytes of the values dropped and read
_UNKNOWN = "the page cache keeps what is to be read, or does not tell, so that nothing would surely come from the disk"


def speed(db: Path, seconds: float = 20.0) -> None:
    """Measure for about so many seconds; print a table and what bounds reading. Of shards, the largest is measured.

    Raises DataError if the database cannot be read, or has no catalog.
    """
    if not seconds > 0:
        raise DataError(f"--seconds {seconds} is not above 0: give about how long it may take")
    folders = shards.parts(db)
    largest = max(folders, key=lambda folder: (folder / DATA).stat().st_size) if len(folders) > 1 else folders[0]
    if largest != db:
        print(f"{largest} is measured, the largest of {len(folders)} shards")
    selection = select(largest, min(_MOST, free_memory() // 4))
    load = os.getloadavg()[0]
    with progress("measuring", 20) as show:
        figures = measure(selection, seconds, show)
    console = terminal()
    console.print(_rates(figures))
    held = "not told to this user" if figures.cached is None else percent(figures.cached)
    console.print(f"in the page cache before: {held} of {size(figures.size)}")
    lines = list(verdict(figures))
    if load > _LOADED * figures.threads:
        lines.insert(
            0, f"other programs keep this machine busy (load {load:.1f} on {figures.threads} cores): rates are low"
        )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def measure(selection: Selection, seconds: float, show: Callable[[float, str], None]) -> Figures:
    """All rates, in about so many seconds. show: called with the twentieths done and the next stage."""
    path, every, unit = selection.db / DATA, len(os.sched_getaffinity(0)), seconds / 20
    size, cached, free = path.stat().st_size, disk.cached_share(path), free_memory()
    rates: dict[tuple[str, int], Measured] = {}
    show(0, "disk, in order")
    rates["sequential", 1] = _sequential(path, 1.5 * unit)
    show(2, "disk, at random")
    for threads in (1, every):
        rates["random", threads] = _random(path, selection, threads, 1.2 * unit)
    for done, hints in ((5, "off"), (8, "on")):
        show(done, f"cold samples, look-ahead {hints}")
        evicted = disk.evict(path, selection.extents.reshape(-1, 2))
        rates[hints, every] = _rate(selection, every, hints, 2.4 * unit, once=True) if evicted else _UNKNOWN
    show(11, "warming")
    warmed = _warm_up(path, selection, every, 2.0 * unit)
    show(13, "memcpy and warm samples")
    rates |= _copy_and_warm(path, warmed, every, unit)
    return Figures(rates, every, selection.block, size, cached, free, selection.host, gpu_memory())


def _sequential(path: Path, seconds: float) -> Measured:
    length = path.stat().st_size
    first = max(0, length // 2 - _REGION // 2) // disk.BLOCK * disk.BLOCK
    length = min(_REGION, length - first)
    if not disk.evict(path, np.array([[first, length]])):
        return _UNKNOWN
    return _of(disk.sequential(path, first, length, seconds))


def _random(path: Path, selection: Selection, threads: int, seconds: float) -> Measured:
    """Blocks of a band's size, at random places of the values."""
    extents = selection.extents.reshape(-1, 2)
    if not disk.evict(path, extents):
        return _UNKNOWN
    rng = np.random.default_rng(0)
    extents = rng.permutation(extents)
    starts = extents[:, 0] + (rng.random(len(extents)) * np.maximum(extents[:, 1] - selection.block, 1)).astype(
        np.int64
    )
    blocks = np.column_stack([starts, np.minimum(selection.block, extents[:, 1])])
    return _of(disk.scattered(path, blocks, threads, seconds))


def _of(reads: disk.Reads) -> Rate:
    return Rate(reads.bytes / reads.seconds, reads.blocks / reads.seconds, reads.seconds)


def _warm_up(path: Path, selection: Selection, threads: int, seconds: float) -> Selection:
    """Read values into the page cache for so long. Returns the samples whose values were read."""
    left, read = seconds, 0
    extents = selection.extents.reshape(-1, 2)
    for begin in range(0, len(extents), _AT_ONCE):
        reads = disk.scattered(path, extents[begin : begin + _AT_ONCE], threads, left)
        left, read = left - reads.seconds, read + reads.bytes
        if left <= 0:
            break
    return selection.first(read)


def _copy_and_warm(path: Path, selection: Selection, every: int, unit: float) -> dict[tuple[str, int], Measured]:
    """memcpy and warm reads in turns, and the best of each, since other programs disturb."""
    share, copy = disk.cached_share(path, selection.extents.reshape(-1, 2)), _memcpy(selection, every)
    kept = share is None or share >= 1 - disk.COLD
    rates: dict[tuple[str, int], Measured] = {}
    for threads in (1, every):
        turns: dict[str, list[Measured]] = {"copy": [], "warm": []}
        for _ in range(_TURNS):
            turns["copy"].append(copy(threads, unit / _TURNS))
            lost = f"the page cache keeps only {percent(share or 0)} of what was just read"
            turns["warm"].append(_rate(selection, threads, "off", 2 * unit / _TURNS, once=False) if kept else lost)
        for kind, measured in turns.items():
            rates[kind, threads] = max(measured, key=lambda rate: rate.bytes if isinstance(rate, Rate) else 0)
    return rates


def _rate(selection: Selection, threads: int, hints: str, seconds: float, once: bool) -> Measured:
    try:
        done = selection.read(threads, hints, seconds, once)
    except DataError as error:
        return str(error)
    if not done.samples:
        return "no sample was read in this time"
    busy = done.cpu / (done.seconds * threads)
    return Rate(done.bytes / done.seconds, done.samples / done.seconds, done.seconds, busy)


def _memcpy(selection: Selection, threads: int) -> Callable[[int, float], Rate]:
    """memcpy of drawn bands' bytes on some threads for some seconds: from far more memory than a cache holds, into as
    much as a stream's slots, a part for each thread."""
    from rsdnet._reader import copy_blocks

    drawn, largest = selection.drawn, int(selection.drawn.max())
    source = np.ones(max(_SOURCE, largest), np.uint8)
    out = np.ones(max(SLOTS * BATCH * VIEWS * -(-largest // 16) * 16, threads * largest), np.uint8)
    starts = (np.random.default_rng(0).random(len(drawn)) * (len(source) - drawn + 1)).astype(np.int64) // 16 * 16

    def copy(threads: int, seconds: float) -> Rate:
        part, began = len(out) // threads, time.perf_counter()

        def work(thread: int) -> int:
            sizes, copied = drawn[thread::threads], 0
            to = thread * part + (np.cumsum(sizes) - sizes) % (part - largest + 1)
            blocks = np.column_stack([starts[thread::threads], to, sizes])
            while not copied or time.perf_counter() - began < seconds:
                copy_blocks(source, blocks, out)
                copied += int(sizes.sum())
            return copied

        with ThreadPoolExecutor(threads) as pool:
            copied = sum(pool.map(work, range(threads)))
        took = time.perf_counter() - began
        return Rate(copied / took, copied / took / float(drawn.mean()), took)

    return copy


def _rates(figures: Figures) -> Table:
    made = table(None, "measured", "threads", "MB/s", "a second", "cores busy")
    for kind, name in KINDS.items():
        for threads in sorted(threads for other, threads in figures.rates if other == kind):
            cells = ["-", "not measured", ""]
            if rate := figures.rate(kind, threads):
                unit, busy = ("samples", percent(rate.busy)) if name.startswith("samples") else ("blocks", "")
                cells = [f"{rate.bytes / 1e6:,.0f}", f"{rate.items:,.0f} {unit}", busy]
            made.add_row(name.format(block=size(figures.block)), str(threads), *cells)
    return made
