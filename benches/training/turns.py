"""Contenders that take turns, round by round, so that what the machine does besides hits all of them alike.

A `Seat` is where one sits: in this process, or in one of its own (child.py). Ratios are of the same round.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor

from benches.core.clock import GPU
from benches.reader.measure import Ratio, quantiles
from benches.training.contenders import Contender
from benches.training.setting import Setting, resident

WARM = (
    10 if GPU else 3
)  # steps before anything is timed: compilation, cuDNN's choice, rsdnet/training/cuda_graph.py's trial
STREAM, RESIDENT = "stream", "resident"  # where a turn's views come from


class Seat(Protocol):
    """A contender that takes turns."""

    name: str
    note: str

    def turn(self, steps: int, source: str) -> float:
        """Seconds of `steps` steps."""
        ...


Times = dict[tuple[str, str], list[float]]  # seconds a step by seat and source, a number a round


class Local:
    """A contender in this process, made and warmed. bytes: what it holds on a GPU at its peak, from its making on."""

    def __init__(self, make: Callable[[], Contender], setting: Setting) -> None:
        before = allocated()
        self.contender = contender = make()
        self.name = contender.name
        self.views = resident(setting)
        self.opened: AbstractContextManager[Iterator[Tensor]] | None = None
        self.stream: Iterator[Tensor] = iter(())
        self._run(WARM, self._same())
        self.note = contender.note()
        self.bytes = torch.cuda.max_memory_allocated() - before if GPU else 0

    def open(self) -> None:
        """Start its own source of batches, and warm it."""
        self.opened = self.contender.views()
        self.stream = self.opened.__enter__()
        self._run(WARM, self.stream)

    def turn(self, steps: int, source: str) -> float:
        """Seconds of `steps` steps. Batches that lay ready from before are passed over, so that all are read in time;
        then one step each for the batches that were under way."""
        if source == RESIDENT:
            return self._timed(steps, self._same())
        for _ in range(self.contender.ahead):
            next(self.stream)
        self._run(max(1, self.contender.ahead // 2), self.stream)
        return self._timed(steps, self.stream)

    def close(self) -> None:
        """End its source."""
        if self.opened:
            self.opened.__exit__(None, None, None)

    def _same(self) -> Iterator[Tensor]:
        while True:
            yield self.views

    def _timed(self, steps: int, views: Iterator[Tensor]) -> float:
        wait()
        begin = time.perf_counter()
        self._run(steps, views)
        return time.perf_counter() - begin

    def _run(self, steps: int, views: Iterator[Tensor]) -> float:
        """The last step's loss, which all of them had to end for. Raises FloatingPointError on one not finite."""
        loss = torch.zeros(())
        for _ in range(steps):
            loss = self.contender.step(next(views))
        value = float(loss)
        if not isfinite(value):
            raise FloatingPointError(f"the loss is {value}")
        wait()
        return value


def wait() -> None:
    """Until the device is idle."""
    if GPU:
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes on the GPU now, from which a new peak is counted; 0 on a CPU."""
    if not GPU:
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def race(
    seats: Sequence[tuple[Seat, str]],
    *,
    rounds: int,
    seconds: float,
    left: Callable[[], float] = lambda: inf,
    done: Callable[[int], None] = lambda rounds: None,
) -> Times:
    """Seconds a step of each seat and source, round by round; who is first changes from round to round.

    A turn is as many steps as take about `seconds`, at least one. left: seconds of the whole run that are left; where
    the next round would outlast them, the rounds until then must do. done: called with the rounds that are behind.
    """
    steps = {}
    for seat, source in seats:
        once = seat.turn(1, source)
        steps[seat.name, source] = max(1, round(seconds / max(once, 1e-9)))
    times: Times = {key: [] for key in steps}
    began = time.monotonic()
    for n in range(rounds):
        if n and (time.monotonic() - began) / n > left():
            break
        for turn in range(len(seats)):
            seat, source = seats[(n + turn) % len(seats)]
            count = steps[seat.name, source]
            times[seat.name, source].append(seat.turn(count, source) / count)
        done(n + 1)
    return times


def against(times: Times, one: tuple[str, str], other: tuple[str, str]) -> Ratio:
    """How many times the other's speed the one has, round by round."""
    return quantiles([b / a for a, b in zip(times[one], times[other], strict=True)])
