"""When a step is captured, and that every call does its work once; on a GPU, that a replay is the step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rsdnet.training import cuda_graph
from rsdnet.training.cuda_graph import TIMED, WARM, Graph

CUDA = torch.device("cuda")


class FakeGraph:
    """Instead of torch.cuda.CUDAGraph: what runs while it records does nothing, a replay runs it."""

    recording: list["FakeGraph"] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class Work:
    """A step that takes `host` seconds to launch and `device` to run, on a clock of its own."""

    def __init__(self, host: float, device: float) -> None:
        self.host, self.device, self.now, self.done = host, device, 0.0, 0
        self.fails = False

    def __call__(self, views: Tensor) -> tuple[Tensor]:
        if FakeGraph.recording:
            if self.fails:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
            return (views,)
        self.now += self.host
        self.done += 1
        return (views,)

    def synchronize(self, device: Any = None) -> None:
        self.now += self.device


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    @contextlib.contextmanager
    def record(made: FakeGraph) -> Iterator[None]:
        FakeGraph.recording.append(made)
        try:
            yield
        finally:
            FakeGraph.recording.clear()

    def install(work: Work) -> Work:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "graph", record)
        monkeypatch.setattr(torch.cuda, "synchronize", work.synchronize)
        monkeypatch.setattr(cuda_graph.time, "perf_counter", lambda: work.now)
        return work

    return install


def calls(made: Graph, count: int) -> None:
    for _ in range(count):
        made(torch.zeros(2))


def test_where_the_host_is_the_bound_a_step_is_captured(fakes: Any) -> None:
    work = fakes(Work(host=0.9, device=0.1))
    made = Graph(work, "auto", CUDA)
    calls(made, WARM + TIMED)
    assert made.graph is None
    calls(made, 3)
    assert work.done == WARM + TIMED  # the capture itself does no work
    assert made.graph.replays == 3


def test_where_the_gpu_is_the_bound_it_is_not(fakes: Any) -> None:
    work = fakes(Work(host=0.1, device=0.9))
    made = Graph(work, "auto", CUDA)
    calls(made, 20)
    assert made.graph is None
    assert work.done == 20


def test_asked_for_it_is_captured_all_the_same(fakes: Any) -> None:
    work = fakes(Work(host=0.1, device=0.9))
    made = Graph(work, "on", CUDA)
    calls(made, WARM + TIMED + 1)
    assert made.graph.replays == 1


def test_what_cannot_be_captured_goes_on_without(fakes: Any) -> None:
    work = fakes(Work(host=0.9, device=0.1))
    work.fails = True
    made = Graph(work, "auto", CUDA)
    with pytest.warns(UserWarning, match=r"\(operation not permitted\): it goes on without"):
        calls(made, 10)
    assert (work.done, made.graph) == (10, None)


def test_on_a_cpu_there_is_none() -> None:
    seen = []
    made = Graph(seen.append, "on", torch.device("cpu"))
    calls(made, 12)
    assert len(seen) == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_replayed_steps_are_the_steps(optimizer: str, compile: bool) -> None:
    import dataclasses

    from rsdnet.training.step import TrainStep
    from tests.training.test_step import config, views

    losses = {}
    for mode in ("off", "on"):
        torch.manual_seed(0)
        cfg = config(optimizer=optimizer)
        cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, cuda_graph=mode))
        made = TrainStep(cfg, CUDA, compile=compile, dtype=torch.bfloat16)
        losses[mode] = []
        for step in range(WARM + TIMED + 6):
            made.set(lr=0.01 * step, tau=0.9 + 0.005 * step)
            batch = views(step).cuda()
            if step == WARM + TIMED + 2:
                batch[0, 0] = torch.inf
            losses[mode].append(float(made.step(batch).loss))
        assert (made.graph.graph is not None) == (mode == "on")
        assert int(made.skipped) == 1
    torch.testing.assert_close(losses["on"], losses["off"], rtol=0.05, atol=0.02, equal_nan=True)
