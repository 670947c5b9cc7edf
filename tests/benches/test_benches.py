"""The benchmarks run where there is no GPU, give a figure only to what is right, and write only where they are told."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benches import contest, networks
from benches.core.rows import COLUMNS
from rsdnet.model.encoders import ResNet
from rsdnet.model.heads import head
from tests.support.environments import compiling

pytest.importorskip("pytest_benchmark")

REPO = Path(__file__).resolve().parents[2]
GPU = torch.cuda.is_available()
COMMITTED = REPO / "benches" / "results" / "kernels.csv"
QUICK = ("--benchmark-only", "--shapes=tiny", "--backend=eager")


def bench(*words: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks in a process of their own, with `path` first among the modules."""
    # Benchmarks go one after another, whatever runs this test: pytest-xdist tells its workers by PYTEST_XDIST_*.
    environment = {key: value for key, value in compiling().items() if not key.startswith("PYTEST_")}
    folders = [str(REPO), *([str(path)] if path else []), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    command = [sys.executable, "-m", "pytest", "benches", *QUICK, *map(str, words)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)


def told(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], str]:
    """Outcomes in the summary by op and provider."""
    found, op = {}, ""
    summary = done.stdout.partition("contests ===")[2].partition("benchmark '")[0]
    for line in summary.splitlines():
        if line.startswith("  "):
            found[op, line[:28].strip()] = line[28:].strip()
        elif line.strip():
            op = line.split()[0]
    return found


def test_every_op_runs_on_a_cpu_and_rows_hold_no_absolute_time(tmp_path):
    before = COMMITTED.read_bytes() if COMMITTED.exists() else None
    done = bench("-k", "not compiled or byol", f"--rows={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = told(done)
    for op in ("render_views", "gaussian_blur", "select_bands", "byol_loss", "LARS", "update_target_"):
        assert outcomes[op, "reference"].endswith("1 x the reference's speed")
        assert GPU or outcomes[op, "ours"].startswith("absent: our kernel needs a CUDA GPU")
    with open(tmp_path / "kernels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert {(row["op"], row["provider"]) for row in rows} == {
        entry for entry, outcome in outcomes.items() if not outcome.startswith("absent: ")
    }
    for row in rows:
        assert float(row["speedup"]) > 0
        if not GPU:
            assert not any(row[name] for name in ("p20_us", "p50_us", "p80_us", "gb_s", "copy_share", "peak_bytes"))
    assert (COMMITTED.read_bytes() if COMMITTED.exists() else None) == before, "a test run wrote committed rows"


STAND_IN = """
import torch
from itertools import cycle
from benches import clock

clock.GPU, ticks = True, cycle([1e-6, 2e-6, 3e-6, 4e-6, 5e-6])

def timed(step):
    step()
    clock._spent += next(ticks)

clock.DEVICE, clock.timed = "cpu", timed
clock.cache_bytes, clock.copy_bandwidth = lambda: 1 << 16, lambda: 2e9
clock.peak_bytes, clock.launches = lambda step: 4096, lambda step: 2
"""


def test_a_gpus_rows_hold_what_its_clock_told(tmp_path):
    """With a stand-in for the GPU whose steps take 1 to 5 us and whose copies move 2 GB/s."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    chosen = "byol_loss and fp32 and (ours or reference) and not compiled and not graph"
    done = bench("-p", "stand_in", "--shapes=tiny", "-k", chosen, f"--rows={tmp_path}", path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "kernels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["provider"] for row in rows] == ["reference", "ours"]
    for row in rows:
        p20, p50, p80 = (float(row[name]) for name in ("p20_us", "p50_us", "p80_us"))
        assert (p20, p50, p80) == (1.8, 3.0, 4.2)
        moved = 4 * (4 + 2) * 8 * 16  # float32: four inputs and two gradients of (8, 16)
        assert float(row["bytes"]) == moved
        assert float(row["gb_s"]) == round(moved / 3e-6 / 1e9, 1)
        assert float(row["copy_share"]) == pytest.approx(float(row["gb_s"]) / 2, abs=0.05)
        assert (row["peak_bytes"], row["launches"], row["speedup"]) == ("4096", "2", "1")


def test_a_wrong_kernel_fails_and_gets_no_figure(tmp_path):
    lines = (
        "from rsdnet import kernels",
        "right = kernels.byol_loss",
        "kernels.byol_loss = lambda *x: 1.01 * right(*x)",
    )
    (tmp_path / "stand_in.py").write_text("\n".join([STAND_IN, *lines]))
    chosen = "byol_loss and fp32 and (ours or reference) and not compiled and not graph"
    done = bench("-p", "stand_in", "-k", chosen, f"--rows={tmp_path}", path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert told(done)["byol_loss", "ours"] == "WRONG: relative error 0.01, tolerance 1e-05"
    assert "us (" in told(done)["byol_loss", "reference"]
    with open(tmp_path / "kernels.csv", newline="") as file:
        assert [row["provider"] for row in csv.DictReader(file)] == ["reference"]


def test_inputs_are_rotated_beyond_the_cache(monkeypatch):
    monkeypatch.setattr(contest, "GPU", True)
    monkeypatch.setattr(contest, "cache_bytes", lambda: 1000)
    prepared = []
    entrant = contest.Entrant(lambda inputs: prepared.append(inputs) or (lambda: None))
    held = contest.Contest("op", "mode", "shape", "type", 300, lambda seed: seed, lambda inputs: [], 0.0)
    assert len(contest.rotation(held, entrant)) * held.moved >= 4 * 1000
    assert len(set(prepared)) == len(prepared)
    assert contest.CHECKED not in prepared


def test_an_absent_peer_is_named_with_its_reason(tmp_path):
    (tmp_path / "lightly.py").write_text("raise OSError('libcuda.so: cannot open shared object file')\n")
    done = bench("-k", "byol_loss and bf16 and lightly", path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        told(done)["byol_loss", "lightly"]
        == "absent: import lightly.loss: OSError: libcuda.so: cannot open shared object file"
    )


def test_options_that_pytest_would_misread_are_refused():
    done = bench("--rows", REPO / "tests")
    assert done.returncode != 0
    assert "--rows=FOLDER" in done.stdout + done.stderr


def test_the_shapes_are_those_of_the_trainers_network():
    shapes = [tuple(param.shape) for param in ResNet("resnet50", 1).parameters()]
    projector = [tuple(param.shape) for param in head(2048, 4096, 256).parameters()]
    predictor = [tuple(param.shape) for param in head(256, 4096, 256).parameters()]
    assert networks.parameters("full", predictor=False) == shapes + projector
    assert networks.parameters("full") == shapes + projector + predictor
