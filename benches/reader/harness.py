"""Readers side by side: compared byte for byte, warmed, then run in turns; on a warm or a cold page cache."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch

from benches.core.turns import Ratio, Times, Wrong, against, race
from benches.reader.disk import Disk, evict
from benches.reader.workload import Bands, Workload


class Contender(Protocol):
    """Reads the steps of a workload.

    prepare: what its users would do beforehand, outside the time. take: the bytes of each band of each sample of a
    step, to be compared with the entries.
    """

    @property
    def name(self) -> str: ...
    @property
    def workload(self) -> Workload: ...

    def prepare(self, steps: range) -> None: ...
    def run(self, steps: range) -> None: ...
    def take(self, step: int) -> Bands: ...


def check(contender: Contender, steps: Sequence[int]) -> None:
    """Raise Wrong where the contender's bytes of one of the steps are not those of the entries."""
    for step in steps:
        given, expected = contender.take(step), contender.workload.expected(step)
        if given != expected:
            off = sum(a != b for a, b in zip(given, expected, strict=False)) + abs(len(given) - len(expected))
            told = f"{off} of {len(expected)} samples of step {step} are not what the entries hold"
            raise Wrong(contender.name, told)


def duel(ours: Contender, other: Contender, *, steps: int, rounds: int) -> Ratio:
    """How many times the other's speed ours is, over turns of `steps` steps on a warm cache.

    In a round the two read other samples, so that none finds its bytes in the processor's caches; over all rounds both
    read the same ones. Raises Wrong before anything is timed.
    """
    parts = [range(n * steps, (n + 1) * steps) for n in range(rounds)]
    for contender in (ours, other):
        check(contender, (0, parts[-1].stop - 1))
        contender.prepare(range(parts[-1].stop))
        contender.run(range(parts[-1].stop))  # warms: pages in the cache and in the process's map
    shift = (rounds + 1) // 2
    turns = {"ours": lambda n: seconds(ours, parts[n]), "other": lambda n: seconds(other, parts[(n + shift) % rounds])}
    return against(race(turns, rounds), "ours", "other")


def cold_race(contenders: Sequence[Contender], disks: Sequence[Disk], *, steps: int, rounds: int) -> Times:
    """Seconds a byte by contender and round, the database put out of the page cache before each turn.

    In a round all read other samples, since a host may cache what one has just read. Raises Wrong where a contender
    gives wrong bytes, Absent where the machine does not evict.
    """
    workload, everybody = contenders[0].workload, list[Contender | Disk]([*contenders, *disks])
    for contender in contenders:
        check(contender, (0,))
    for each in everybody:
        each.prepare(range(rounds * len(everybody) * steps))

    def turn(number: int, n: int) -> float:
        each, first = everybody[number], (n * len(everybody) + number) * steps
        part = range(first, first + steps)
        evict(workload.pairs.folder / "data.mdb")
        taken = seconds(each, part)
        return taken / (each.moved(part) if isinstance(each, Disk) else int(sum(workload.sizes(s).sum() for s in part)))

    return race({each.name: partial(turn, number) for number, each in enumerate(everybody)}, rounds)


def seconds(contender: Contender | Disk, steps: range) -> float:
    """Time of the steps."""
    begin = time.perf_counter()
    contender.run(steps)
    return time.perf_counter() - begin


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and those that it starts, on one core; torch on one thread."""
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(allowed)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
