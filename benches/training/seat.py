"""A contender's seat in a comparison: in this process (`Local`), or in one of its own (remote.py)."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor

from benches.core.clock import GPU
from benches.core.turns import Times, race
from benches.training.contenders import Contender
from benches.training.setting import Setting, resident

# Steps before anything is timed: compilation, cuDNN's choice, the trial of rsdnet/training/cuda_graph.py.
WARM = 10 if GPU else 3
PILOT = 32  # steps at most by which the length of a turn is found
LOADED, RESIDENT = "loaded", "resident"  # views of a turn: from the contender's loader, or one batch on the device


class Seat(Protocol):
    """A contender that takes turns."""

    name: str
    note: str

    def turn(self, steps: int, views: str) -> float:
        """Seconds of `steps` steps on views that are LOADED or RESIDENT."""
        ...


class Local:
    """A contender in this process, made and warmed. bytes: its peak on a GPU, counted from its making."""

    def __init__(self, make: Callable[[], Contender], setting: Setting) -> None:
        before = allocated()
        self.contender = contender = make()
        self.name = contender.name
        self.views = resident(setting)
        self.opened: AbstractContextManager[Iterator[Tensor]] | None = None
        self.loaded: Iterator[Tensor] = iter(())
        self._run(WARM, self._same())
        self.note = contender.note()
        self.bytes = torch.cuda.max_memory_allocated() - before if GPU else 0

    def open(self) -> None:
        """Start the contender's loader, and warm it."""
        self.opened = self.contender.views()
        self.loaded = self.opened.__enter__()
        self._run(WARM, self.loaded)

    def turn(self, steps: int, views: str) -> float:
        """Seconds of the steps. Batches that were ready before are skipped, so that all are read in the measured time;
        then comes a step for each of the batches that were under way."""
        if views == RESIDENT:
            return self._timed(steps, self._same())
        for _ in range(self.contender.ahead):
            next(self.loaded)
        self._run(max(1, self.contender.ahead // 2), self.loaded)
        return self._timed(steps, self.loaded)

    def close(self) -> None:
        """End the loader."""
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

    def _run(self, steps: int, views: Iterator[Tensor]) -> None:
        """Steps, and the wait for their end. Raises FloatingPointError on a loss that is not finite."""
        loss = torch.zeros(())
        for _ in range(steps):
            loss = self.contender.step(next(views))
        value = float(loss)
        if not isfinite(value):
            raise FloatingPointError(f"the loss is {value}")
        wait()


def wait() -> None:
    """Until the device is idle."""
    if GPU:
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes on the GPU now, and a new peak from here; 0 on a CPU."""
    if not GPU:
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def step_race(
    seats: Mapping[str, tuple[Seat, str]],
    *,
    rounds: int,
    seconds: float,
    left: Callable[[], float] = lambda: inf,
    done: Callable[[int], None] = lambda rounds: None,
) -> Times:
    """Seconds a step by name, round by round. A turn is as many steps as take about `seconds`, at least one."""

    def turn(name: str, n: int) -> float:
        seat, views = seats[name]
        return seat.turn(steps[name], views) / steps[name]

    steps = {name: lasting(partial(seat.turn, views=views), seconds) for name, (seat, views) in seats.items()}
    return race({name: partial(turn, name) for name in seats}, rounds, left=left, done=done)


def lasting(turn: Callable[[int], float], seconds: float) -> int:
    """The steps that take about `seconds`, at least one: by the time of one, then by that of as many as it suggests.

    One step finds its batch ready, even where the loader is slower than the step by far.
    """
    steps = 1
    for _ in range(2):
        pilot = min(steps, PILOT)
        steps = max(1, round(seconds * pilot / max(turn(pilot), 1e-9)))
        if steps == 1:
            break
    return steps
