"""`--profile`: phases phases against the trace, and a run that it does not change."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from torch.autograd import DeviceType

from rsdnet import config, runfolder
from rsdnet.config import Config
from rsdnet.distributed import ALONE
from rsdnet.monitor import profiler
from rsdnet.monitor.profiler import PHASES, WARM, Profile
from rsdnet.phases import untimed
from rsdnet.train import train
from tests.support.torchrun import torchrun

SMALL = (
    "--size=20", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu",
    "--precision=fp32", "--threads=1", "--log-every=1",
)  # fmt: skip


def fake(mode: str = "auto") -> Any:
    """As much of a training step as a profile asks for."""
    return SimpleNamespace(device=torch.device("cpu"), phase=untimed, graph=SimpleNamespace(mode=mode))


def quiet() -> Console:
    return Console(quiet=True)


def by_phase(found: dict[str, Any], key: str) -> dict[str, float]:
    return {row["phase"]: row[key] for row in found["phases"]}


def test_the_graph_is_off_and_phases_are_timed_until_the_profile_is_done(tmp_path: Path) -> None:
    step = fake("on")
    profiled = Profile(step, tmp_path, 3, quiet())
    modes = [(step.graph.mode, profiled.phase("read") is untimed("read")) for _ in profiled.over(range(WARM + 5))]
    assert modes == [("off", True)] * WARM + [("off", False)] * 3 + [("on", True)] * 2
    assert step.phase is untimed
    assert json.loads((tmp_path / runfolder.PROFILE).read_text())["steps"] == 3


TIMED = ("read", "render", "forward", "backward", "optimiser", "target")


@given(
    st.fixed_dictionaries({name: st.floats(1, 100) for name in (*TIMED, "host")}),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_phases_make_up_the_step(taken: dict[str, float], loss: float, copy: float, gpu: bool) -> None:
    """What goes on beside it apart; host: what no phase holds."""
    beside = profiler.BESIDE if gpu else frozenset()
    copy = copy if gpu else 0.0
    whole = sum(ms for name, ms in taken.items() if name not in beside)
    times = {name: 2 * taken[name] for name in TIMED}
    found = profiler.summary(
        times | {"step": 2 * whole, "copy": 2 * copy, "loss forward": 2 * loss, "loss backward": 4 * loss}, 2, beside
    )
    ms = by_phase(found, "ms")
    assert list(ms) == list(PHASES)
    assert {row["phase"] for row in found["phases"] if row["beside"]} == beside
    assert sum(row["share"] for row in found["phases"] if not row["beside"]) == pytest.approx(1)
    assert ms["rest"] == pytest.approx(taken["host"])
    assert (ms["loss"], ms["copy"]) == pytest.approx((3 * loss, copy))
    assert ms["backward"] == pytest.approx(taken["backward"] - 2 * loss)


def row(device: DeviceType, key: str, microseconds: float) -> Any:
    host = device == DeviceType.CPU
    return SimpleNamespace(
        key=key, device_type=device, cpu_time_total=microseconds if host else 0.0,
        self_device_time_total=0.0 if host else microseconds,
    )  # fmt: skip


def test_what_the_averages_tell_of_copies_and_the_loss() -> None:
    rows = [
        row(DeviceType.CPU, "forward", 9000), row(DeviceType.CUDA, "forward", 100),
        row(DeviceType.CPU, "_Eager", 500), row(DeviceType.CPU, "_EagerBackward", 600),
        row(DeviceType.CPU, "autograd::engine::evaluate_function: _EagerBackward", 700),
        row(DeviceType.CUDA, "cosine_kernel", 30), row(DeviceType.CUDA, "cosine_backward_kernel", 40),
        row(DeviceType.CUDA, "Memcpy HtoD (Pinned -> Device)", 50), row(DeviceType.CUDA, "Memcpy DtoH", 60),
    ]  # fmt: skip
    names = ("forward", "copy", "loss forward", "loss backward", "target")
    for cuda, expected in ((False, (9, 0.05, 0.5, 0.6, 0)), (True, (9, 0.05, 0.03, 0.04, 0))):
        found = profiler.from_averages(rows, cuda)
        assert [found[name] for name in names] == pytest.approx(expected)


def configured(db: Path, run: Path, *options: str) -> Config:
    argv = ["--data", str(db), "--run", str(run), *SMALL, *options]
    return config.parse(argv, Config(), "python -m rsdnet.train", "")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_profiled_run(tiny_db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It learns the same, to the bit, and leaves a table and a trace."""
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    steps = f"--steps={WARM + 5}"
    assert train(configured(tiny_db, plain, steps, "--accumulate=2"), quiet(), ALONE) == 0
    assert train(configured(tiny_db, profiled, steps, "--accumulate=2", "--profile=3"), Console(), ALONE) == 0
    said = capsys.readouterr().out
    assert "CUDA graph" not in said
    assert [line["loss"] for line in lines(profiled)] == [line["loss"] for line in lines(plain)]
    assert [line["grad_norm"] for line in lines(profiled)] == [line["grad_norm"] for line in lines(plain)]
    encoders = [load_file(run / "encoder.safetensors") for run in (plain, profiled)]
    assert all(torch.equal(tensor, encoders[1][name]) for name, tensor in encoders[0].items())
    assert not (plain / runfolder.PROFILE).exists()
    assert not (plain / runfolder.TRACE).exists()

    found = json.loads((profiled / runfolder.PROFILE).read_text())
    ms = by_phase(found, "ms")
    assert (found["steps"], list(ms)) == (3, list(PHASES))
    assert [name for name, taken in ms.items() if not taken > 0] == ["copy"]
    assert sum(ms.values()) == pytest.approx(found["step_ms"])
    assert max(ms, key=ms.__getitem__) in ("forward", "backward")
    shown = re.findall(r"│ (\w+) +│ +([\d.]+) │ +([\d.]+) % │", said)
    assert [(name, float(taken)) for name, taken, _ in shown] == [(name, round(ms[name], 2)) for name in PHASES]
    assert sum(float(share) for *_, share in shown) == pytest.approx(100, abs=0.5)

    events = json.loads((profiled / runfolder.TRACE).read_text())["traceEvents"]
    took: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "user_annotation":
            took.setdefault(event["name"], []).append(event["dur"] / 1e3)
    counts = {"read": 3, "render": 3, "forward": 6, "backward": 6, "optimiser": 3, "target": 3}
    assert {name: len(took[name]) for name in counts} == counts
    for name in ("read", "render", "optimiser", "target"):
        assert ms[name] == pytest.approx(sum(took[name]) / 3, rel=1e-3)
    assert ms["forward"] + ms["loss"] + ms["backward"] == pytest.approx(
        (sum(took["forward"]) + sum(took["backward"])) / 3, rel=1e-3
    )


def test_of_several_ranks_the_first_is_profiled(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, *SMALL, f"--steps={WARM + 2}", "--profile=2")
    said = torchrun(2, "rsdnet.train", *argv, "--out", tmp_path).stdout
    assert said.count("optimiser") == 1
    assert by_phase(json.loads((tmp_path / runfolder.PROFILE).read_text()), "ms")["backward"] > 0


def test_a_run_that_ends_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, left in ((WARM, set()), (WARM - 2, set()), (WARM + 2, {runfolder.PROFILE, runfolder.TRACE})):
        step = fake()
        assert list(Profile(step, tmp_path, 5, Console()).over(range(count))) == list(range(count))
        assert {path.name for path in tmp_path.iterdir()} == left
        assert ("no profile: the run ended within" in " ".join(capsys.readouterr().out.split())) == (not left)
    assert json.loads((tmp_path / runfolder.PROFILE).read_text())["steps"] == 2


def test_a_run_that_is_left_in_the_middle(tmp_path: Path) -> None:
    step = fake("on")
    profiled = Profile(step, tmp_path, 5, quiet()).over(range(100))
    assert [next(profiled) for _ in range(WARM + 2)][-1] == WARM + 1
    profiled.close()  # type: ignore[attr-defined]
    assert (step.phase, step.graph.mode) == (untimed, "on")
    assert not list(tmp_path.iterdir())
    with torch.profiler.profile():  # the tracer is free again
        pass


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    assert len(list(Profile(fake(), gone, 1, Console()).over(range(WARM + 3)))) == WARM + 3
    assert "cannot be written" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_asked_for_nothing_is_done(tmp_path: Path) -> None:
    step = fake("on")
    profiled = Profile(step, tmp_path, 0, quiet())
    for _ in profiled.over(range(WARM + 3)):
        assert (step.phase, step.graph.mode) == (untimed, "on")
        assert profiled.phase("read") is untimed("read")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_work(tmp_path: Path) -> None:
    """The host is through long before: what counts is the stream."""
    step = SimpleNamespace(device=torch.device("cuda"), phase=untimed, graph=SimpleNamespace(mode="off"))
    a = torch.randn(4096, 4096, device="cuda")
    for _ in Profile(step, tmp_path, 3, quiet()).over(range(WARM + 3)):
        with step.phase("forward"):
            a @ a
        with step.phase("backward"):
            for _ in range(10):
                a @ a
    ms = by_phase(json.loads((tmp_path / runfolder.PROFILE).read_text()), "ms")
    assert 5 < ms["backward"] / ms["forward"] < 20
