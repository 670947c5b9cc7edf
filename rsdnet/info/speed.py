"""How fast this machine reads a database: `python -m rsdnet.info DB --speed`.

Reads are measured cold (the page cache has dropped what is read, and says so) and warm, beside what the disk and
memcpy give for the same blocks. What could not be measured says why.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsdnet.console import Show, percent, progress, size
from rsdnet.errors import DataError
from rsdnet.hardware import free_memory, gpu_memory
from rsdnet.info import disk
from rsdnet.info.bounds import SHORT, Figures, Measured, Rate, verdict
from rsdnet.info.subject import Subject, choose, reader_file

if TYPE_CHECKING:
    from rich.table import Table

_REGION = 1 << 30  # bytes of the file read in order
_LOADED = 0.75  # load a core, beyond our own, that disturbs
_AT_ONCE = 256  # values read before the clock is looked at
_TURNS = 4  # of memcpy and of warm reads
_SOURCE = 256 << 20  # bytes that memcpy reads from
_MOST = 2 << 30  # bytes of the values that are dropped and read
# Of 20 seconds, each; what opens files and drops pages takes the rest.
_SHARES = {"sequential": 1.5, "random": 1.2, "cold": 2.4, "warming": 2.0, "copy": 1.0, "warm": 2.0}


def measure(db: Path, seconds: float, say: Callable[[str, float], None]) -> tuple[Figures, Subject]:
    """Measure for about so many seconds. say: called with what begins and the seconds of 20 that it takes.

    Raises DataError if the database cannot be read.
    """
    from rsdnet._reader import Reader

    Reader([db])  # or why it cannot be read
    path = reader_file(db)
    every = len(os.sched_getaffinity(0))
    left = {name: seconds * share / 20 for name, share in _SHARES.items()}
    cached, free = disk.cached_share(path), free_memory()
    subject = choose(db, min(_MOST, free // 4))
    say("disk, in order", 2)
    in_order = _sequential(path, left["sequential"])
    say("disk, at random", 3)
    random = (_random(path, subject, 1, left["random"]), _random(path, subject, every, left["random"]))
    cold: list[Measured] = []
    for hints in ("off", "on"):
        say(f"cold samples, look-ahead {hints}", 3)
        cold.append(_cold(path, subject, hints, left["cold"]))
    say("warming", 2.5)
    warmed = _warm_up(path, subject, every, left["warming"])
    say("memcpy and warm samples", 6.5)
    copy, warm = _in_turns(path, warmed, every, left["copy"], left["warm"])
    figures = Figures(
        threads=every,
        sequential=in_order,
        random=random,
        cold=(cold[0], cold[1]),
        copy=copy,
        warm=warm,
        block=subject.block,
        size=path.stat().st_size,
        cached=cached,
        free=free,
        host=subject.host,
        gpu=gpu_memory(),
        unit=subject.name,
    )
    return figures, subject


def _sequential(path: Path, seconds: float) -> Measured:
    length = path.stat().st_size
    first = max(0, length // 2 - _REGION // 2) // disk.BLOCK * disk.BLOCK
    length = min(_REGION, length - first)
    if not disk.evict(path, np.array([[first, length]])):
        return _WARM
    reads = disk.sequential(path, first, length, seconds)
    return Rate(reads.bytes / reads.seconds, reads.blocks / reads.seconds, reads.seconds)


_WARM = "the page cache keeps what is to be read, or does not tell, so that nothing would surely come from the disk"


def _random(path: Path, subject: Subject, threads: int, seconds: float) -> Measured:
    """Blocks of a band's size, at random places of the values."""
    if not disk.evict(path, subject.extents):
        return _WARM
    rng = np.random.default_rng(0)
    extents = rng.permutation(subject.extents)
    starts = extents[:, 0] + (rng.random(len(extents)) * np.maximum(extents[:, 1] - subject.block, 1)).astype(np.int64)
    blocks = np.column_stack([starts, np.minimum(subject.block, extents[:, 1])])
    reads = disk.scattered(path, blocks, threads, seconds)
    return Rate(reads.bytes / reads.seconds, reads.blocks / reads.seconds, reads.seconds)


def _cold(path: Path, subject: Subject, hints: str, seconds: float) -> Measured:
    if hints == "on" and not subject.looks_ahead:
        return "look-ahead belongs to Stream, which needs a catalog"
    if not disk.evict(path, subject.extents):
        return _WARM
    return _rate(subject, 0, hints, seconds, once=True)


def _warm_up(path: Path, subject: Subject, threads: int, seconds: float) -> Subject:
    """Read values into the page cache for so long. Returns the samples whose values were read."""
    left, read = seconds, 0
    for begin in range(0, len(subject.extents), _AT_ONCE):
        reads = disk.scattered(path, subject.extents[begin : begin + _AT_ONCE], threads, left)
        left, read = left - reads.seconds, read + reads.bytes
        if left <= 0:
            break
    return subject.first(read)


def _in_turns(
    path: Path, subject: Subject, every: int, copying: float, reading: float
) -> tuple[tuple[Measured, Measured], tuple[Measured, Measured]]:
    """memcpy and warm reads, with one thread and with all. In turns, the best of each: other programs disturb."""
    share, memory = disk.cached_share(path, subject.extents), _Memory(subject, every)
    pairs: list[tuple[Measured, Measured]] = []
    for threads in (1, every):
        copies, reads = list[Rate](), list[Measured]()
        for _ in range(_TURNS):
            copies.append(memory.copy(threads, copying / _TURNS))
            if share is not None and share < 1 - disk.COLD:
                reads.append(f"the page cache keeps only {percent(share)} of what was just read")
            else:
                reads.append(_rate(subject, threads, "off", reading / _TURNS, once=False))
        pairs.append((_best(copies), _best(reads)))
    (copy_one, warm_one), (copy_all, warm_all) = pairs
    return (copy_one, copy_all), (warm_one, warm_all)


def _best(measured: Sequence[Measured]) -> Measured:
    rates = [rate for rate in measured if isinstance(rate, Rate)]
    return max(rates, key=lambda rate: rate.bytes) if rates else measured[0]


def _rate(subject: Subject, threads: int, hints: str, seconds: float, once: bool) -> Measured:
    threads = threads or len(os.sched_getaffinity(0))
    try:
        done = subject.read(threads, hints, seconds, once)
    except DataError as error:
        return str(error)
    if not done.samples:
        return "no sample was read in this time"
    busy = done.cpu / (done.seconds * threads)
    return Rate(done.bytes / done.seconds, done.samples / done.seconds, done.seconds, busy)


class _Memory:
    """Memory to copy blocks in, as the reader copies them: far larger than any cache, and a ring like a stream's."""

    def __init__(self, subject: Subject, threads: int) -> None:
        largest, room = int(subject.drawn.max()), subject.room
        self.source = np.ones(max(_SOURCE, largest), np.uint8)
        self.out = np.ones(max(room, threads * largest), np.uint8)
        starts = np.random.default_rng(0).random(len(subject.drawn)) * (len(self.source) - subject.drawn + 1)
        self.blocks = np.column_stack([starts.astype(np.int64) // 16 * 16, subject.drawn])

    def copy(self, threads: int, seconds: float) -> Rate:
        """memcpy for so long, each thread's blocks one after the other into a part of `out` of its own."""
        from rsdnet._reader import copy_blocks

        part = len(self.out) // threads

        def work(thread: int) -> int:
            first, sizes = self.blocks[thread::threads].T
            to = thread * part + (np.cumsum(sizes) - sizes) % (part - self.blocks[:, 1].max() + 1)
            blocks, copied = np.column_stack([first, to, sizes]), 0
            while not copied or time.perf_counter() - began < seconds:
                copy_blocks(self.source, blocks, self.out)
                copied += int(sizes.sum())
            return copied

        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            copied = sum(pool.map(work, range(threads)))
        took = time.perf_counter() - began
        return Rate(copied / took, copied / took / float(self.blocks[:, 1].mean()), took)


def rows(figures: Figures, name: str) -> list[tuple[str, int, Measured]]:
    """What was measured, on how many threads, and the figure. name: of what the reader reads."""
    every, block = figures.threads, f"disk, {size(figures.block)} at random, cold"
    ahead = [f"{name}, cold, look-ahead {hints}" for hints in ("off", "on")]
    return [
        ("disk, 1 MiB in order, cold", 1, figures.sequential),
        (block, 1, figures.random[0]),
        (block, every, figures.random[1]),
        (ahead[0], every, figures.cold[0]),
        (ahead[1], every, figures.cold[1]),
        ("memcpy of such blocks", 1, figures.copy[0]),
        ("memcpy of such blocks", every, figures.copy[1]),
        (f"{name}, warm", 1, figures.warm[0]),
        (f"{name}, warm", every, figures.warm[1]),
    ]


def table(figures: Figures, name: str) -> "Table":
    """The figures, a row each. name: of what the reader reads."""
    from rich.table import Table

    made = Table()
    for column in ("measured", "threads", "MB/s", "a second", "cores busy"):
        made.add_column(column, justify="left" if column == "measured" else "right")
    for what, threads, rate in rows(figures, name):
        if isinstance(rate, str):
            made.add_row(what, str(threads), "-", "not measured", "")
            continue
        unit = name if what.startswith(name) else "blocks"
        short = f" for {rate.seconds:.2f} s" if rate.seconds < SHORT else ""
        busy = percent(rate.busy) if unit == name else ""
        made.add_row(what, str(threads), f"{rate.bytes / 1e6:,.0f}", f"{rate.items:,.0f} {unit}{short}", busy)
    return made


def missing(figures: Figures, name: str) -> list[str]:
    """A line for each reason why figures are missing, with the rows that it concerns."""
    reasons: dict[str, list[str]] = {}
    for what, _, rate in rows(figures, name):
        if isinstance(rate, str) and what not in reasons.setdefault(rate, []):
            reasons[rate].append(what)
    return [f"not measured: {'; '.join(what)}: {reason}" for reason, what in reasons.items()]


def speed(db: Path, seconds: float = 20.0) -> None:
    """Measure, and print a table and what bounds reading. Raises DataError if the database cannot be read."""
    from rsdnet.info.info import terminal

    if not seconds > 0:
        raise DataError(f"--seconds {seconds} is not above 0: give about how long it may take")
    with progress("measuring", 20) as show:
        figures, subject = measure(db, seconds, _stages(show))
    console = terminal()
    console.print(table(figures, subject.name))
    held = "not told to this user" if figures.cached is None else percent(figures.cached)
    console.print(f"in the page cache at the begin: {held} of {size(figures.size)}")
    for line in (*_remarks(figures, subject), *missing(figures, subject.name), *verdict(figures)):
        console.print(line, soft_wrap=True, markup=False)


def _remarks(figures: Figures, subject: Subject) -> Iterator[str]:
    if subject.note:
        yield subject.note
    load = os.getloadavg()[0]
    if load > _LOADED * figures.threads + 1:  # 1: this measurement's own
        yield f"other programs keep this machine busy (load {load:.1f} on {figures.threads} cores): figures are low"


def _stages(show: Show) -> Callable[[str, float], None]:
    """A function to call with the name of a stage that begins and the seconds it takes of 20."""
    done = before = 0.0

    def say(stage: str, share: float) -> None:
        nonlocal done, before
        done, before = done + before, share
        show(done, stage)

    return say
