"""Benchmarks in processes of their own, and rows that are kept in memory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benches.core import rows
from tests.support.environments import compiling

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def bench() -> Run:
    """`python -m MODULE WORDS` with nothing compiled; `path` first among the modules."""

    def run(module: str, *words: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        # Benchmarks run one after another; pytest-xdist tells its workers otherwise by PYTEST_XDIST_*.
        environment = {key: value for key, value in compiling().items() if not key.startswith("PYTEST_")}
        folders = [str(REPO), *([str(path)] if path else []), environment.get("PYTHONPATH", "")]
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", module, *map(str, words)]
        return subprocess.run(
            command, cwd=REPO, env=environment | {"TORCHDYNAMO_DISABLE": "1"}, capture_output=True, text=True
        )

    return run


class Kept(rows.Results):
    """Rows in memory, and each shown outcome."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, str]] = []
        super().__init__("kept", None, lambda *told: self.shown.append(told))


@pytest.fixture
def kept() -> Kept:
    return Kept()
