"""`--profile`: phases by a clock that is known, what a trace adds, and a run that it does not change."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file

from rsdnet import config, runfolder
from rsdnet.config import Config
from rsdnet.distributed import ALONE
from rsdnet.monitor import profiler
from rsdnet.monitor.profiler import PHASES, WARM, Profile
from rsdnet.train import train
from tests.support.torchrun import torchrun

SMALL = (
    "--size=20", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu",
    "--precision=fp32", "--threads=1", "--log-every=1",
)  # fmt: skip


class Watch:
    """A clock in ms that only moves when told."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def ms(self, began: float, ended: float) -> float:
        return ended - began


def fake(mode: str = "auto") -> Any:
    """As much of an engine as a profile asks for."""
    return SimpleNamespace(device=torch.device("cpu"), phase=profiler.untimed, graph=SimpleNamespace(mode=mode))


def quiet() -> Console:
    return Console(quiet=True)


def by_phase(found: dict[str, Any], key: str) -> dict[str, float]:
    return {row["phase"]: row[key] for row in found["phases"]}


def test_shares_by_a_clock_that_is_known(tmp_path: Path) -> None:
    """Two micro-batches a step; the middle one of three steps counts, and none before. Waiting is the host's time."""
    watch, host, engine = Watch(), Watch(), fake("on")
    profiled = Profile(engine, tmp_path, 3, quiet(), clock=watch, host=host)

    def take(name: str, ms: float) -> None:
        with (engine.phase if name not in ("read", "render") else profiled.phase)(name):
            watch.time += ms
            host.time += ms / 2

    def batches() -> Iterator[int]:
        for step in range(WARM + 5):
            take("read", 2 * speed(step))
            take("render", 3 * speed(step))
            yield step

    def speed(step: int) -> float:
        return {WARM: 1, WARM + 1: 10, WARM + 2: 2}.get(step, 1000)

    seen, modes = [], set()
    for step in profiled.over(batches()):
        seen.append(step)
        modes.add((engine.graph.mode, step < WARM + 3))
        for _ in range(2):
            take("forward", 10 * speed(step))
            take("backward", 20 * speed(step))
        take("optimiser", 4 * speed(step))
        take("target", speed(step))
        watch.time += 5 * speed(step)
    assert seen == list(range(WARM + 5))
    assert modes == {("off", True), ("on", False)}
    assert engine.phase is profiler.untimed
    found = json.loads((tmp_path / runfolder.PROFILE).read_text())
    expected = {"read": 2, "copy": 0, "render": 6, "forward": 40, "loss": 0, "backward": 80, "optimiser": 8,
                "target": 2, "rest": 12}  # fmt: skip
    assert (found["steps"], found["step_ms"]) == (3, 150)
    assert by_phase(found, "ms") == expected
    assert by_phase(found, "share") == pytest.approx({name: ms / 150 for name, ms in expected.items()})


TIMED = ("read", "render", "forward", "backward", "optimiser", "target")


@given(
    st.lists(st.fixed_dictionaries({name: st.floats(1, 100) for name in (*TIMED, "host")}), min_size=1),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_phases_make_up_the_step(times: list[dict[str, float]], loss: float, copy: float, gpu: bool) -> None:
    """What goes on beside it apart; host: what no phase holds."""
    beside = profiler.BESIDE if gpu else frozenset()
    copy = copy if gpu else 0.0
    steps = [each | {"step": sum(ms for name, ms in each.items() if name not in beside)} for each in times]
    found = profiler.summary(steps[:1], copy, loss, 2 * loss, beside)
    ms = by_phase(found, "ms")
    assert list(ms) == list(PHASES)
    assert {row["phase"] for row in found["phases"] if row["beside"]} == beside
    assert sum(row["share"] for row in found["phases"] if not row["beside"]) == pytest.approx(1)
    assert ms["rest"] == pytest.approx(times[0]["host"])
    assert (ms["loss"], ms["copy"]) == pytest.approx((3 * loss, copy))
    assert ms["backward"] == pytest.approx(times[0]["backward"] - 2 * loss)
    assert all(row["ms"] >= 0 for row in profiler.summary(steps, copy, loss, 2 * loss, beside)["phases"])


def event(kind: str, name: str, microseconds: float) -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": 0.0, "dur": microseconds}


def test_what_a_trace_tells() -> None:
    """Two steps of two micro-batches: medians, four times, over two steps; in ms."""
    events: list[dict[str, Any]] = [{"ph": "M", "name": "process_name"}]
    for took in (100, 200, 300, 1000):
        events += [event("cpu_op", "_Eager", took), event("cpu_op", "_EagerBackward", 2 * took)]
        events += [event("cpu_op", "autograd::engine::evaluate_function: _EagerBackward", 7 * took)]
        events += [event("kernel", "cosine_kernel", 3 * took), event("kernel", "cosine_backward_kernel", 4 * took)]
        events += [event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 9 * took), event("kernel", "gemm", 5 * took)]
    events += [event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 600) for _ in range(2)]
    assert profiler.from_trace(events, 2, cuda=False)[1:] == pytest.approx((0.5, 1.0))
    assert profiler.from_trace(events, 2, cuda=True) == pytest.approx((0.6, 1.5, 2.0))
    assert profiler.from_trace([], 2, cuda=True) == (0, 0, 0)


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
    names = [each["name"] for each in events if each.get("cat") == "user_annotation"]
    assert [names.count(name) for name in ("read", "render", "forward", "backward", "optimiser", "target")] == [
        3, 3, 6, 6, 3, 3,
    ]  # fmt: skip


def test_of_several_ranks_the_first_is_profiled(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, *SMALL, f"--steps={WARM + 2}", "--profile=2")
    said = torchrun(2, "rsdnet.train", *argv, "--out", tmp_path).stdout
    assert said.count("optimiser") == 1
    assert by_phase(json.loads((tmp_path / runfolder.PROFILE).read_text()), "ms")["backward"] > 0


def test_a_run_that_ends_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, left in ((WARM, set()), (WARM - 2, set()), (WARM + 2, {runfolder.PROFILE, runfolder.TRACE})):
        engine = fake()
        assert list(Profile(engine, tmp_path, 5, Console()).over(range(count))) == list(range(count))
        assert {path.name for path in tmp_path.iterdir()} == left
        assert ("no profile: the run ended within" in " ".join(capsys.readouterr().out.split())) == (not left)
    assert json.loads((tmp_path / runfolder.PROFILE).read_text())["steps"] == 2


def test_a_run_that_is_left_in_the_middle(tmp_path: Path) -> None:
    engine = fake("on")
    profiled = Profile(engine, tmp_path, 5, quiet()).over(range(100))
    assert [next(profiled) for _ in range(WARM + 2)][-1] == WARM + 1
    profiled.close()  # type: ignore[attr-defined]
    assert (engine.phase, engine.graph.mode) == (profiler.untimed, "on")
    assert not list(tmp_path.iterdir())
    with torch.profiler.profile():  # the tracer is free again
        pass


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    assert len(list(Profile(fake(), gone, 1, Console()).over(range(WARM + 3)))) == WARM + 3
    assert "cannot be written" in " ".join(capsys.readouterr().out.split())


def test_nothing_is_asked_for_nothing_is_done(tmp_path: Path) -> None:
    engine = fake("on")
    profiled = Profile(engine, tmp_path, 0, quiet())
    for _ in profiled.over(range(WARM + 3)):
        assert (engine.phase, engine.graph.mode) == (profiler.untimed, "on")
        assert profiled.phase("read") is profiler.untimed("read")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_work(tmp_path: Path) -> None:
    """The host is through long before: what counts is the stream."""
    engine = SimpleNamespace(device=torch.device("cuda"), phase=profiler.untimed, graph=SimpleNamespace(mode="off"))
    a = torch.randn(4096, 4096, device="cuda")
    for _ in Profile(engine, tmp_path, 3, quiet()).over(range(WARM + 3)):
        with engine.phase("forward"):
            a @ a
        with engine.phase("backward"):
            for _ in range(10):
                a @ a
    ms = by_phase(json.loads((tmp_path / runfolder.PROFILE).read_text()), "ms")
    assert 5 < ms["backward"] / ms["forward"] < 20
