"""Op benchmarks run without a GPU, give a figure only to right results, and write only where they are told."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benches import conftest
from benches.core import rows
from benches.ops import contest, loss
from tests.benches.conftest import REPO, Run

pytest.importorskip("pytest_benchmark")

GPU = torch.cuda.is_available()
QUICK = ("benches/bench_ops.py", "--benchmark-only", "--shapes=tiny", "--backend=eager")


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], str]:
    """The summary: outcomes by op and contender."""
    found, op = {}, ""
    for line in done.stdout.partition("contests ===")[2].partition("benchmark '")[0].splitlines():
        if line.startswith("  "):
            told = line[28:].strip()
            if not told.startswith("absent: ") or (op, line[:28].strip()) not in found:  # absent from one mode alone
                found[op, line[:28].strip()] = told
        elif line.strip():
            op = line.split()[0]
    return found


def test_every_op_runs_on_a_cpu_and_rows_hold_no_absolute_time(tmp_path: Path, bench: Run) -> None:
    committed = sorted((REPO / "benches" / "results").glob("*.csv"))
    before = [path.read_bytes() for path in committed]
    done = bench("pytest", *QUICK, "-k", "not compiled or byol", f"--rows={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    told = outcomes(done)
    for op in (
        "render_views",
        "gaussian_blur",
        "select_bands",
        "byol_loss",
        "stem_conv2d",
        "max_pool2d",
        "LARS",
        "update_target_",
    ):
        assert told[op, "reference"].startswith("1 x the reference's speed")
        assert GPU or told[op, "ours"].startswith("absent: our kernel needs a CUDA GPU")
    found = rows.read(tmp_path / "kernels.csv")
    measured = {key for key, outcome in told.items() if not outcome.startswith("absent: ")}
    assert {(row["what"].split()[0], row["contender"]) for row in found} == measured
    for row in found:
        assert float(row["p50"]) > 0
        assert GPU or rows.split(row["also"]).keys() == {"error", "bytes"}
    assert [path.read_bytes() for path in committed] == before, "a test run wrote committed rows"


STAND_IN = """
from itertools import cycle
from benches.core import clock
from rsdnet import kernels

clock.GPU, ticks = True, cycle([1e-6, 2e-6, 3e-6, 4e-6, 5e-6])

def timed(step, lead):
    assert lead == 123
    step()
    clock._spent += next(ticks)

clock.DEVICE, clock.timed = "cpu", timed
clock.cache_bytes, clock.copy_bandwidth, clock.equal_copy = lambda: 1 << 16, lambda: 2e9, lambda moved: 6e-6
clock.peak_bytes, clock.launches, clock.lead = lambda step: 4096, lambda step: 2, lambda step: 123

right = kernels.update_target_
kernels.update_target_ = lambda targets, onlines, tau: right(targets, onlines, tau * 1.01)
"""


def test_a_wrong_kernel_gets_no_row_and_a_right_one_its_clocks(tmp_path: Path, bench: Run) -> None:
    """With a stand-in for the GPU whose steps take 1 to 5 us and whose copies move 2 GB/s; update_target_ is wrong, and
    lightly cannot be imported."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "lightly.py").write_text("raise OSError('libcuda.so: cannot open shared object file')\n")
    chosen = "fp32 and (byol_loss or update_target_) and (ours or reference or lightly) and not compiled and not graph"
    done = bench("pytest", "-p", "stand_in", *QUICK, "-k", chosen, f"--rows={tmp_path}", path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    told = outcomes(done)
    assert told["update_target_", "ours"].startswith("WRONG: relative error 0.084")
    assert told["byol_loss", "lightly"] == (
        "absent: import lightly.loss: OSError: libcuda.so: cannot open shared object file"
    )
    found = rows.read(tmp_path / "kernels.csv")
    assert [(row["what"].split()[0], row["contender"]) for row in found] == [
        ("byol_loss", "reference"), ("byol_loss", "ours"), ("update_target_", "reference"),
    ]  # fmt: skip
    also = rows.split(found[1]["also"])
    assert [also[f"{name} us"] for name in ("p20", "p50", "p80")] == ["1.80", "3.00", "4.20"]
    moved = 4 * (4 + 2) * 8 * 16  # float32: four inputs and two gradients of (8, 16)
    assert (also["bytes"], float(also["GB/s"])) == (str(moved), round(moved / 3e-6 / 1e9, 1))
    assert float(also["of the copy"]) == pytest.approx(moved / 3e-6 / 2e9, abs=1e-3)
    assert also["of an equal copy"] == "2.0"  # it takes 6 us
    assert (also["peak bytes"], also["launches"], found[1]["p50"]) == ("4096", "2", "1")


def test_what_compiles_comes_last_and_the_slowest_at_the_end() -> None:
    names = ["render_views-reference, compiled", "loss-ours", "loss-reference, compiled", "render_views-ours"]
    items = [SimpleNamespace(name=name) for name in names]
    conftest.pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.name for item in items] == [names[at] for at in (1, 3, 2, 0)]


def test_inputs_are_rotated_beyond_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "GPU", True)
    monkeypatch.setattr(contest, "cache_bytes", lambda: 1000)
    prepared: list[int] = []
    contender = contest.Contender(lambda inputs: prepared.append(inputs) or (lambda: None))  # type: ignore[func-returns-value]
    held = contest.Contest("op", "mode", "shape", "type", 300, lambda seed: seed, lambda inputs: [], 0.0)
    assert len(contest.rotation(held, contender)) * held.moved >= 4 * 1000
    assert len(set(prepared)) == len(prepared)
    assert contest.CHECKED not in prepared


def test_a_loss_gets_no_kernel_that_is_not_its_own() -> None:
    """autograd fills a gradient of 1 for a loss that is given none."""
    contested = loss.contest("tiny", "fp32")
    contender = loss.OP.contenders(contested, "eager")["autograd"]()
    step = contender.prepare(contested.make(0))
    with Operations() as operations:
        step()
    assert not [name for name in operations.names if name.startswith(("aten.ones", "aten.full", "aten.fill"))]


class Operations(TorchDispatchMode):
    """Names of the operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_options_that_pytest_would_misread_are_refused(bench: Run) -> None:
    done = bench("pytest", *QUICK, "--rows", REPO / "tests")
    assert done.returncode != 0
    assert "--rows=FOLDER" in done.stdout + done.stderr
