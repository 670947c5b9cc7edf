"""A contest: contenders of one op side by side, each checked against float64 before it is timed.

A module of this package gives an `Op`: its contests (inputs, expected results, bytes that must move) and its
contenders. `bench_ops.py` runs them; results that are wrong get no figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import ceil, isfinite
from typing import Any

import torch
from rsdnet.kernels import uploads_after_capture
from torch import Tensor

from benches.core.clock import GPU, cache_bytes
from benches.core.peers import Absent

Step = Callable[[], Any]
CHECKED = 1234  # seed of the inputs that are checked; those that are timed count from 0
ROTATIONS = 64  # sets of inputs at most


@dataclass(frozen=True)
class Contest:
    """One op at one shape and type.

    op, mode, shape, dtype: its name. moved: bytes that the op must move, inputs read once and results written once.
    make: a set of inputs on the device, by seed; any object. expected: the results in float64, from inputs that no
    contender has touched. tolerance: of each result's relative error, norm(result - expected) / norm(expected).
    steps: calls that the check makes on one set, for ops with a state.
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
class Contender:
    """One implementation of the op.

    prepare: from a set of inputs to the step that is timed. results: the compared tensors, from the inputs and the
    step's last return. version: of its package. expected: in place of the contest's, where the contender can do a
    variant of the op alone; its name then says so.
    """

    prepare: Callable[[Any], Step]
    results: Callable[[Any, Any], Sequence[Tensor]] = lambda inputs, returned: returned
    version: str = ""
    expected: Callable[[Any], Sequence[Tensor]] | None = None


Make = Callable[[], Contender]  # raises Absent where the contender cannot take part


@dataclass(frozen=True)
class Op:
    """An op's contests and contenders.

    name: in the ids of pytest. kinds: modes or types, a contest each. contest: by the shapes' name ("tiny", "small",
    "full") and the kind. plain: PyTorch implementations by name, (wrapper, function); each also enters under
    torch.compile. ours: the kernel, which also enters in a CUDA graph. peers: of other packages.
    """

    name: str
    kinds: Sequence[str]
    contest: Callable[[str, str], Contest]
    plain: Mapping[str, tuple[Callable[..., Contender], Callable[..., Any]]]
    ours: Make
    peers: Mapping[str, Make] = field(default_factory=dict)

    def contenders(self, contest: Contest, backend: str) -> dict[str, Make]:
        """All of them by name. backend: of torch.compile."""
        found: dict[str, Make] = {}
        for name, (wrap, function) in self.plain.items():
            found[name] = partial(wrap, function)
            found[f"{name}, compiled"] = partial(compiled_by, wrap, function, backend)
        found |= {"ours": lambda: on_gpu(self.ours), "ours, graph": lambda: graphed(on_gpu(self.ours), contest)}
        return found | dict(self.peers)

    def names(self) -> list[str]:
        """Names of the contenders."""
        plain = [name for each in self.plain for name in (each, f"{each}, compiled")]
        return [*plain, "ours", "ours, graph", *self.peers]


def error(contest: Contest, contender: Contender) -> float:
    """Largest relative error of the contender's results; infinite where one is not finite or of another shape."""
    inputs = contest.make(CHECKED)
    wanted = (contender.expected or contest.expected)(inputs)
    step = contender.prepare(inputs)
    returned = None
    for _ in range(contest.steps):
        returned = step()
    results = contender.results(inputs, returned)
    worst = 0.0
    for result, want in zip(results, wanted, strict=True):
        if result.shape != want.shape:
            return float("inf")
        off = (result.detach().double() - want).norm() / want.norm().clamp(min=1e-30)
        worst = max(worst, float(off)) if isfinite(float(off)) else float("inf")
    return worst


def rotation(contest: Contest, contender: Contender) -> list[Step]:
    """Steps over sets of inputs that together move four times the GPU's L2; one set on a CPU."""
    sets = min(max(ceil(4 * cache_bytes() / contest.moved), 2), ROTATIONS) if GPU else 1
    return [contender.prepare(contest.make(seed)) for seed in range(sets)]


# ---- wrappers -----------------------------------------------------------------------------------------------


def with_backward(function: Callable[[Any], Tensor], about: Callable[[Any], tuple[Tensor, Tensor]]) -> Contender:
    """A function of the inputs; where its result wants a gradient, that too by autograd.

    about: from the inputs, the tensor whose gradient that is, and the gradient of the result.
    """

    def prepare(inputs: Any) -> Step:
        def step() -> list[Tensor]:
            made = function(inputs)
            x, grad = about(inputs)
            return [made, *(torch.autograd.grad(made, x, grad) if made.requires_grad else ())]

        return step

    return Contender(prepare)


def compiled_by(wrap: Callable[..., Contender], function: Callable[..., Any], backend: str) -> Contender:
    """A function's contender under torch.compile."""
    return wrap(compiled(function, backend))


def on_gpu(make: Make) -> Contender:
    """Our kernel; absent where the op would fall back to its reference."""
    if not GPU:
        raise Absent("our kernel needs a CUDA GPU; on a CPU the op is the reference")
    return make()


def graphed(contender: Contender, contest: Contest) -> Contender:
    """The same steps replayed from a CUDA graph: no launch by the CPU is left in the time."""

    def prepare(inputs: Any) -> Step:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles and allocates; on inputs of its own, since steps may change them
            warm = contender.prepare(contest.make(CHECKED + 1))
            for _ in range(3):
                warm()
            step = contender.prepare(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with uploads_after_capture(), torch.cuda.graph(graph):
            returned = step()

        def replay() -> Any:
            graph.replay()
            return returned

        replay.alive = inputs, step  # type: ignore[attr-defined]  # the graph reads and writes their memory
        return replay

    return replace(contender, prepare=prepare)


@cache
def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """torch.compile of a function, once a run."""
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(function, backend=backend)
