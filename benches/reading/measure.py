"""Two contenders side by side: checked, warmed, then run in turns; what is told is the ratio of their speeds."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

if TYPE_CHECKING:  # they need py-lmdb, which quantiles do not
    from benches.reading.peers import Contender


class Wrong(Exception):
    """A contender that does not give the bytes it must: no figure."""

    def __init__(self, contender: str, told: str) -> None:
        super().__init__(told)
        self.contender = contender


class Runner(Protocol):
    """Reads steps."""

    def run(self, steps: range) -> None: ...


class Ratio(NamedTuple):
    """Quantiles over the rounds."""

    p20: float
    p50: float
    p80: float


def single(value: float) -> Ratio:
    """Of what is counted once."""
    return Ratio(value, value, value)


def quantiles(values: Sequence[float]) -> Ratio:
    if len(values) == 1:
        return single(values[0])
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Ratio(fifths[0], statistics.median(values), fifths[3])


def check(contender: "Contender", steps: Sequence[int]) -> None:
    """Raise Wrong where what the contender gives for one of the steps is not what the entries hold."""
    for step in steps:
        given, expected = contender.take(step), contender.plan.expected(step)
        if given != expected:
            off = sum(a != b for a, b in zip(given, expected, strict=False)) + abs(len(given) - len(expected))
            raise Wrong(
                contender.name, f"{off} of {len(expected)} samples of step {step} are not what the entries hold"
            )


def duel(ours: "Contender", other: "Contender", *, steps: int, rounds: int) -> Ratio:
    """How many times the other's speed ours is, over the rounds.

    A round: `steps` steps by the one and then by the other, who goes first by turns. In a round they read other
    samples, so that none finds its bytes in the processor's caches; over all rounds both read the same ones.
    Raises Wrong before anything is timed.
    """
    parts = [range(n * steps, (n + 1) * steps) for n in range(rounds)]
    for contender in (ours, other):
        check(contender, (0, parts[-1].stop - 1))
        contender.prepare(range(parts[-1].stop))
        contender.run(range(parts[-1].stop))  # warms: pages in the cache and in the process's map
    ratios = []
    for n in range(rounds):
        mine, theirs = parts[n], parts[(n + (rounds + 1) // 2) % rounds]
        if n % 2:
            taken = seconds(ours, mine), seconds(other, theirs)
        else:
            taken = tuple(reversed((seconds(other, theirs), seconds(ours, mine))))  # type: ignore[assignment]
        ratios.append(taken[1] / taken[0])
    return quantiles(ratios)


def seconds(contender: Runner, steps: range) -> float:
    """That the contender takes for the steps."""
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


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
