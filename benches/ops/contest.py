"""A contest: providers of one op side by side, each checked against float64 before it is timed.

A benchmark gives a `Contest` (the inputs, what must come out, the bytes that must move) and a provider's `Entrant`; the
fixture `hold` of conftest.py checks it, times it and keeps the row. What is wrong gets no figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, isfinite
from typing import Any

import torch
from torch import Tensor

from benches.core.clock import GPU, cache_bytes
from benches.core.peers import Absent

Step = Callable[[], Any]
CHECKED = 1234  # seed of the inputs that are checked; those that are timed count from 0
ROTATIONS = 64  # sets of inputs at most


@dataclass(frozen=True)
class Contest:
    """One op at one shape and type.

    op, mode, shape, dtype: name it. moved: bytes the op must move: what it needs read once, what it makes written once.
    make: a set of inputs from a seed, on the device; any object. expected: its results in float64, computed from inputs
    that no provider has touched. tolerance: of the relative error, norm(result - expected) / norm(expected), for each
    result. steps: calls that the check makes on one set, for ops that carry a state.
    """

    op: str
    mode: str
    shape: str
    dtype: str
    moved: int
    make: Callable[[int], Any]
    expected: Callable[[Any], Sequence[Tensor]]
    tolerance: float
    steps: int = 1


@dataclass(frozen=True)
class Entrant:
    """How one provider does the op.

    prepare: from a set of inputs to the step that is timed. results: what the step made, to be compared: from the
    inputs and the step's last return. version: of the package it comes from. expected: the contest's, unless the
    provider can do a neighbour of the job only; then that neighbour, and the provider's name says so.
    """

    prepare: Callable[[Any], Step]
    results: Callable[[Any, Any], Sequence[Tensor]] = lambda inputs, returned: returned
    version: str = ""
    expected: Callable[[Any], Sequence[Tensor]] | None = None


Hold = Callable[[str, Contest, Callable[[], Entrant]], None]  # the fixture: a provider enters a contest


def error(contest: Contest, entrant: Entrant) -> float:
    """Largest relative error of the entrant's results; infinite where one is not finite or of another shape."""
    inputs = contest.make(CHECKED)
    wanted = (entrant.expected or contest.expected)(inputs)
    step = entrant.prepare(inputs)
    returned = None
    for _ in range(contest.steps):
        returned = step()
    results = entrant.results(inputs, returned)
    worst = 0.0
    for result, want in zip(results, wanted, strict=True):
        if result.shape != want.shape:
            return float("inf")
        off = (result.detach().double() - want).norm() / want.norm().clamp(min=1e-30)
        worst = max(worst, float(off)) if isfinite(float(off)) else float("inf")
    return worst


def rotation(contest: Contest, entrant: Entrant) -> list[Step]:
    """Steps over sets of inputs that together move four times the GPU's L2; one set on a CPU."""
    sets = min(max(ceil(4 * cache_bytes() / contest.moved), 2), ROTATIONS) if GPU else 1
    return [entrant.prepare(contest.make(seed)) for seed in range(sets)]


# ---- entrants -----------------------------------------------------------------------------------------------


def ours(entrant: Entrant) -> Entrant:
    """Our kernel; absent where it would fall back to the reference."""
    if not GPU:
        raise Absent("our kernel needs a CUDA GPU; on a CPU the op is the reference")
    return entrant


def graphed(entrant: Entrant, contest: Contest) -> Entrant:
    """The same steps replayed from a CUDA graph: no launch by the CPU is left in the time."""

    def prepare(inputs: Any) -> Step:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles and allocates; on inputs of its own, since steps may change them
            warm = entrant.prepare(contest.make(CHECKED + 1))
            for _ in range(3):
                warm()
            step = entrant.prepare(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            returned = step()

        def replay() -> Any:
            graph.replay()
            return returned

        return replay

    return replace(entrant, prepare=prepare)


@cache
def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """torch.compile of a function, once a run."""
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, backend=backend)
