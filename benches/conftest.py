"""`pytest benches/ --benchmark-only`: every op, our kernel beside its reference and the public peers, in one run.

    --rows=FOLDER     append what was measured to FOLDER/kernels.csv; without it nothing is written
    --shapes=NAME     tiny, small or full (the trainer's); full on a GPU, small on a CPU
    --backend=NAME    of torch.compile, "inductor" unless told; "eager" compiles nothing and is quick

A summary ends the run: each provider's time or ratio, why it is absent, or by how much it is wrong (which fails).
"""

import datetime
import statistics
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from benches import clock, rows
from benches.ops.contest import Contest, Entrant, Hold, error, rotation
from benches.core.peers import Absent
from benches.core.provenance import commit, machine

BUDGET = {"tiny": 0.01, "small": 0.3, "full": 0.5}  # seconds a provider is timed
ROUNDS = {"tiny": (3, 5), "small": (7, 100), "full": (10, 200)}  # at least and at most


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, metavar="FOLDER", help="append the rows to FOLDER/kernels.csv")
    parser.addoption(
        "--shapes", choices=tuple(BUDGET), default="full" if clock.GPU else "small", help="size of the ops"
    )
    parser.addoption("--backend", default="inductor", help="of torch.compile")
    parser.addoption("--pairs", type=int, default=20_000, help="bench_reader: pairs of patches in its database")
    parser.addoption("--folder", type=Path, help="bench_reader: where its databases are made and found again")


def pytest_configure(config: pytest.Config) -> None:
    # pytest looks for it above each path that it is given, and takes the FOLDER of `--rows FOLDER` for one
    own = Path(__file__).with_name("pytest.ini")
    if config.inipath != own:
        raise pytest.UsageError(f"run as `pytest benches/ --benchmark-only --rows=FOLDER`: {own} was not read")
    config.told = []  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, for each provider


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.benchmark(timer=clock.seconds))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What torch.compile takes minutes over comes last: a run that is cut short has all the rest."""
    items.sort(key=lambda item: "compiled" in item.name)


@pytest.fixture(scope="session")
def shapes(pytestconfig: pytest.Config) -> str:
    """Name of the shapes: tiny, small or full."""
    return pytestconfig.getoption("shapes")


@pytest.fixture(scope="session")
def backend(pytestconfig: pytest.Config) -> str:
    """torch.compile's."""
    return pytestconfig.getoption("backend")


@pytest.fixture(scope="session")
def run() -> dict[str, Any]:
    """What all rows of a run share."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = ""
    bandwidth = clock.copy_bandwidth()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "device": machine(),
        "torch": torch.__version__,
        "triton": triton,
        "copy_gb_s": bandwidth and round(bandwidth / 1e9, 1),
    }


@pytest.fixture(scope="session")
def references() -> dict[tuple[str, ...], float]:
    """Median seconds of the reference by contest."""
    return {}


@pytest.fixture
def hold(
    benchmark: Any,
    pytestconfig: pytest.Config,
    shapes: str,
    backend: str,
    run: dict[str, Any],
    references: dict[tuple[str, ...], float],
) -> Hold:
    """Let a provider enter a contest: check, time, keep the row."""

    def enter(provider: str, contest: Contest, entrant: Callable[[], Entrant]) -> None:
        named = (contest.op, contest.mode, contest.shape, contest.dtype)
        benchmark.group = " ".join(named)
        benchmark.skipped = True  # unless it is timed: pytest-benchmark else warns

        def tell(outcome: str) -> None:
            pytestconfig.told.append((*named, provider, outcome))  # type: ignore[attr-defined]

        try:
            entered = entrant()
            off = error(contest, entered)
        except Absent as reason:
            tell(f"absent: {reason}")
            pytest.skip(str(reason))
        except Exception as failure:
            tell(f"FAILED: {type(failure).__name__}: {(str(failure).splitlines() or [''])[0][:200]}")
            raise
        if not off <= contest.tolerance:
            wrong = f"relative error {off:.2g}, tolerance {contest.tolerance:.2g}"
            tell(f"WRONG: {wrong}")
            pytest.fail(f"{provider}: {wrong}: no figure")
        benchmark.skipped = False
        steps = rotation(contest, entered)
        times = quantiles(benchmark, steps, shapes)
        if not times:  # --benchmark-disable
            tell(f"right: relative error {off:.2g}; not timed")
            return
        if provider == "reference":
            references[named] = times[1]
        reference = references.get(named)
        row = run | dict(zip(("op", "mode", "shape", "type"), named, strict=True))
        row |= {"provider": provider, "version": backend if "compiled" in provider else entered.version}
        row |= {"error": f"{off:.2g}", "bytes": contest.moved, "speedup": reference and f"{reference / times[1]:.3g}"}
        if clock.GPU:
            row |= figures(times, contest.moved, run["copy_gb_s"]) | {"launches": clock.launches(steps[0])}
            row["peak_bytes"] = None if "graph" in provider else clock.peak_bytes(steps[0])  # a graph has its own pool
        benchmark.extra_info.update(row)
        tell(line(row))
        if folder := pytestconfig.getoption("rows"):
            rows.append(folder / "kernels.csv", rows.COLUMNS, [row])

    return enter


def quantiles(benchmark: Any, steps: list[Callable[[], Any]], shapes: str) -> tuple[float, float, float] | None:
    """p20, p50 and p80 of a step, seconds; None where pytest-benchmark is disabled."""
    for step in (steps * 3)[: max(3, len(steps))]:
        step()
    once = statistics.median(clock.took(step) for step in (steps * 3)[:3])
    least, most = ROUNDS[shapes]
    rounds = max(least, min(most, int(BUDGET[shapes] / max(once, 1e-7))))
    turn = cycle(steps)
    benchmark.pedantic(lambda: clock.timed(next(turn)), rounds=rounds, iterations=1)
    if benchmark.stats is None:
        return None
    fifths = statistics.quantiles(benchmark.stats.stats.data, n=5, method="inclusive")
    return fifths[0], statistics.median(benchmark.stats.stats.data), fifths[3]


def figures(times: tuple[float, float, float], moved: int, copy_gb_s: float) -> dict[str, Any]:
    """Columns of a GPU's row."""
    gb_s = moved / times[1] / 1e9
    p20, p50, p80 = (f"{1e6 * seconds:.2f}" for seconds in times)
    share = round(gb_s / copy_gb_s, 3)
    return {"p20_us": p20, "p50_us": p50, "p80_us": p80, "gb_s": round(gb_s, 1), "copy_share": share}


def line(row: dict[str, Any]) -> str:
    """A provider's outcome in the summary."""
    speedup = f"{row['speedup']} x the reference's speed" if row["speedup"] else "no reference beside it"
    if "p50_us" not in row:
        return speedup
    moved = f"{row['gb_s']} GB/s, {row['copy_share']:.0%} of the copy's"
    return f"{row['p50_us']} us ({row['p20_us']} to {row['p80_us']}), {moved}; {speedup}; {row['launches']} launches"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Every provider that was asked for, a line each: none is left out in silence."""
    told = config.told  # type: ignore[attr-defined]
    if not told:
        return
    terminalreporter.section("contests")
    terminalreporter.write_line(f"{machine()}, torch {torch.__version__}, shapes {config.getoption('shapes')}")
    contests: dict[tuple[str, ...], list[str]] = {}
    for *named, provider, outcome in told:
        contests.setdefault(tuple(named), []).append(f"  {provider:<26} {outcome}")
    for named, lines in contests.items():
        terminalreporter.write_line("")
        for text in (" ".join(named), *lines):
            terminalreporter.write_line(text)
