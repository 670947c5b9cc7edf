"""Every op: our kernel beside its reference and the public peers. `pytest benches/ --benchmark-only`.

    --rows=FOLDER     append the rows to FOLDER/kernels.csv; without it nothing is written
    --shapes=NAME     tiny, small or full (the trainer's); full on a GPU, small on a CPU
    --backend=NAME    of torch.compile, "inductor" unless told; "eager" compiles nothing and is quick

A row's ratio is the contender's speed over the reference's, medians of one run. Times, GB/s and shares of the copy
bandwidth stand in the rows of a GPU alone.
"""

import statistics
from collections.abc import Callable
from functools import cache
from itertools import cycle
from typing import Any

import pytest

from benches.core import clock
from benches.core.peers import Absent
from benches.core.rows import Results, joined
from benches.core.turns import Ratio, quantiles
from benches.ops import blur, lars, loss, pool, select, stem, target, views
from benches.ops.contest import Contest, Op, error, rotation

OPS = tuple(module.OP for module in (views, blur, select, loss, stem, pool, lars, target))
BUDGET = {"tiny": 0.01, "small": 0.3, "full": 0.5}  # seconds of timing a contender
ROUNDS = {"tiny": (3, 5), "small": (7, 100), "full": (10, 200)}  # at least and at most
MEDIANS: dict[str, float] = {}  # seconds of the reference by contest
ENTRIES = [(op, kind, name) for op in OPS for kind in op.kinds for name in op.names()]


@pytest.fixture(scope="session")
def copy_bandwidth() -> float | None:
    """Bytes a second of a copy on the GPU."""
    return clock.copy_bandwidth()


@pytest.mark.parametrize(("op", "kind", "contender"), ENTRIES, ids=["-".join((o.name, k, c)) for o, k, c in ENTRIES])
def bench_op(
    benchmark: Any, pytestconfig: pytest.Config, results: Callable[..., Results], copy_bandwidth: float | None,
    op: Op, kind: str, contender: str,
) -> None:  # fmt: skip
    """One contender of one contest: check, time, row."""
    shapes, backend = pytestconfig.getoption("shapes"), pytestconfig.getoption("backend")
    contest = op.contest(shapes, kind)
    setting = {"shape": contest.shape, "type": contest.dtype}
    what, kept = f"{contest.op} {contest.mode}", results("kernels", ("triton",))
    benchmark.group, benchmark.skipped = f"{what} ({joined(setting)})", True  # unless it is timed
    try:
        entered = op.contenders(contest, backend)[contender]()
        off = error(contest, entered)
    except Absent as reason:
        kept.show(benchmark.group, contender, f"absent: {reason}")
        pytest.skip(str(reason))
    except Exception as failure:
        first = (str(failure).splitlines() or [""])[0][:200]
        kept.show(benchmark.group, contender, f"FAILED: {type(failure).__name__}: {first}")
        raise
    if not off <= contest.tolerance:
        wrong = f"relative error {off:.2g}, tolerance {contest.tolerance:.2g}"
        kept.show(benchmark.group, contender, f"WRONG: {wrong}")
        pytest.fail(f"{contender}: {wrong}: no figure")
    benchmark.skipped = False
    steps = rotation(contest, entered)
    times = measured(benchmark, steps, shapes)
    if not times:  # --benchmark-disable
        kept.show(benchmark.group, contender, f"right: relative error {off:.2g}; not timed")
        return
    if contender == "reference":
        MEDIANS[benchmark.group] = times.p50
    reference = MEDIANS.get(benchmark.group)
    also = {"error": f"{off:.2g}", "bytes": contest.moved}
    if copy_bandwidth:
        also |= figures(times, contest, copy_bandwidth, equal_copy(contest.moved))
        also |= {"launches": clock.launches(steps[0])}
        if "graph" not in contender:  # a graph has a memory pool of its own
            also["peak bytes"] = clock.peak_bytes(steps[0])
    version = backend if "compiled" in contender else entered.version
    kept.tell(
        setting, what, f"{contender} {version}".strip(), reference and reference / times.p50, "x the reference's speed",
        note="" if reference else "the reference was not run", also=also,
    )  # fmt: skip


def measured(benchmark: Any, steps: list[Callable[[], Any]], shapes: str) -> Ratio | None:
    """Quantiles of a step's seconds; None where pytest-benchmark is disabled."""
    for step in (steps * 3)[: max(3, len(steps))]:
        step()
    lead = clock.lead(steps[0])
    once = statistics.median(clock.took(step, lead) for step in (steps * 3)[:3])
    least, most = ROUNDS[shapes]
    rounds = max(least, min(most, int(BUDGET[shapes] / max(once, 1e-7))))
    turn = cycle(steps)
    benchmark.pedantic(lambda: clock.timed(next(turn), lead), rounds=rounds, iterations=1)
    return None if benchmark.stats is None else quantiles(benchmark.stats.stats.data)


equal_copy = cache(clock.equal_copy)


def figures(times: Ratio, contest: Contest, copy_bandwidth: float, copy: float) -> dict[str, Any]:
    """A GPU's numbers: microseconds (20th, 50th and 80th percentile), GB/s, share of the bandwidth of a large copy, and
    of the speed of a copy of as many bytes, which takes `copy` seconds."""
    speed = contest.moved / times.p50
    found: dict[str, Any] = {f"{name} us": f"{1e6 * seconds:.2f}" for name, seconds in times._asdict().items()}
    shares = {"of the copy": round(speed / copy_bandwidth, 3), "of an equal copy": round(copy / times.p50, 3)}
    return found | {"GB/s": round(speed / 1e9, 1)} | shares
