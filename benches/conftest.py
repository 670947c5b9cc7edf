"""Options and summary of the benchmarks that pytest runs: bench_ops.py, bench_reader.py, bench_step.py.

The summary names every contender: its figure, the reason of its absence, or its error (which fails the run).
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from benches.core import clock
from benches.core.rows import Results, machine

SHAPES = ("tiny", "small", "full")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, metavar="FOLDER", help="append the rows to CSVs in FOLDER")
    parser.addoption("--shapes", choices=SHAPES, default="full" if clock.GPU else "small", help="size of ops and steps")
    parser.addoption("--backend", default="inductor", help="of torch.compile")
    parser.addoption("--seconds", type=float, default=inf, help="bench_step: time of a setting, warm-up included")
    parser.addoption("--pairs", type=int, default=20_000, help="bench_reader: pairs of patches in its database")
    parser.addoption("--folder", type=Path, help="bench_reader: where its databases are made and found again")


def pytest_configure(config: pytest.Config) -> None:
    # pytest looks for it above each path that it is given, and takes the FOLDER of `--rows FOLDER` for one
    own = Path(__file__).with_name("pytest.ini")
    if config.inipath != own:
        raise pytest.UsageError(f"run as `pytest benches/ --benchmark-only --rows=FOLDER`: {own} was not read")
    config.told = []  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, for each contender


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.benchmark(timer=clock.seconds))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Contenders that torch.compile takes minutes over come last, and the slowest of these at the very end: a run that
    is cut short has all the rest."""
    items.sort(key=lambda item: ("compiled" in item.name, "compiled" in item.name and "render_views" in item.name))


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Callable[..., Results]:
    """Rows of a CSV by its name and the packages whose versions count: shown in the summary, appended under --rows."""

    def show(*told: str) -> None:
        pytestconfig.told.append(told)  # type: ignore[attr-defined]

    return lambda name, packages: Results(name, pytestconfig.getoption("rows"), show, packages)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Every contender that was asked for, a line each."""
    told = config.told  # type: ignore[attr-defined]
    if not told:
        return
    terminalreporter.section("contests")
    terminalreporter.write_line(f"{machine()}, torch {torch.__version__}, shapes {config.getoption('shapes')}")
    contests: dict[str, list[str]] = {}
    for title, contender, outcome in told:
        contests.setdefault(title, []).append(f"  {contender:<26} {outcome}")
    for title, lines in contests.items():
        terminalreporter.write_line("\n".join(["", title, *lines]))
