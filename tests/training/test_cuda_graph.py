"""When a step is captured, and that every call does its work once; on a GPU, that a replay is the step."""

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rsdnet.kernels import multi_tensor
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
    """A step that takes `host` seconds to launch and `device` to run, on a clock of its own.

    fails: the step raises while it is recorded. invalid: the capture's end raises, too. postpones: tables that a
    recorded step reads are uploaded after the capture.
    """

    def __init__(self, host: float, device: float) -> None:
        self.host, self.device, self.now, self.done = host, device, 0.0, 0
        self.fails = self.invalid = self.postpones = False
        self.streams: list[Any] = []  # current at each call

    def __call__(self, views: Tensor) -> tuple[Tensor]:
        self.streams.append(torch.cuda.current_stream())
        if FakeGraph.recording:
            self.postpones = bool(multi_tensor._POSTPONED)
            if self.fails:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
            return (views,)
        self.now += self.host
        self.done += 1
        return (views,)

    def synchronize(self, device: Any = None) -> None:
        self.now += self.device


class Cuda:
    """As much of torch.cuda as a capture uses, and as torch 2.11 does it: streams as a stack, the allocator's open
    pools, the generator that a capture holds."""

    def __init__(self, work: Work) -> None:
        self.work, self.current = work, ["default"]
        self.modes: list[str] = []
        self.pools: set[object] = set()
        self.released: list[object] = []
        self.held = False

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before = list(self.current)
        self.current.append(stream)
        try:
            yield
        finally:
            self.current[:] = before

    @contextlib.contextmanager
    def graph(self, made: FakeGraph, pool: object, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.modes.append(capture_error_mode)
        self.current.append(stream)
        FakeGraph.recording.append(made)
        self.pools.add(pool)
        self.held = True
        try:
            yield
        finally:
            FakeGraph.recording.clear()
            if self.work.invalid:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.current.pop()
            self.pools.remove(pool)
            self.held = False

    def end_pool(self, index: int, pool: object) -> None:
        if pool not in self.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.pools.remove(pool)

    def clone_state(self) -> str:
        return "new"

    def graphsafe_set_state(self, state: str) -> None:
        self.held = self.held and state != "new"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(work: Work) -> Work:
        cuda = work.cuda = Cuda(work)  # type: ignore[attr-defined]
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device_index=0))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: cuda.current[-1])
        monkeypatch.setattr(torch.cuda, "default_generators", (cuda,))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "synchronize", work.synchronize)
        for name in ("stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", cuda.end_pool, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda index, pool: cuda.released.append(pool), raising=False
        )
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


@pytest.mark.parametrize("invalid", [False, True])
def test_what_cannot_be_captured_goes_on_without(invalid: bool, fakes: Any) -> None:
    """On its own stream, with an allocator and a generator that no capture holds, and told the step's own error."""
    work = fakes(Work(host=0.9, device=0.1))
    work.fails, work.invalid = True, invalid
    made = Graph(work, "auto", CUDA)
    with pytest.warns(UserWarning, match=r"\(operation not permitted\): it goes on without"):
        calls(made, 10)
    assert (work.done, made.graph) == (10, None)
    assert (set(work.streams[-2:]), work.cuda.current) == ({"default"}, ["default"])
    assert (work.cuda.pools, len(work.cuda.released), work.cuda.held) == (set(), int(invalid), False)


def test_asked_for_a_capture_that_fails_is_an_error_on_the_stream_of_before(fakes: Any) -> None:
    work = fakes(Work(host=0.9, device=0.1))
    work.fails = work.invalid = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        calls(Graph(work, "on", CUDA), 10)
    assert (work.cuda.current, work.cuda.pools) == (["default"], set())


def test_a_capture_minds_its_own_thread_alone_and_has_a_stream_of_its_own(fakes: Any) -> None:
    work = fakes(Work(host=0.9, device=0.1))
    calls(Graph(work, "auto", CUDA), WARM + TIMED + 1)
    assert (work.cuda.modes, work.postpones) == (["thread_local"], True)
    assert [stream == "default" for stream in work.streams] == [True] * (WARM + TIMED) + [False]


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_capture_that_a_gpu_refuses_leaves_nothing_behind() -> None:
    """Afterwards the stream is that of before, memory is freed again, and random numbers are drawn."""
    weights, before = torch.ones(1 << 20, device=CUDA), torch.cuda.current_stream()
    made = Graph(lambda views: (weights * views).sum().item(), "auto", CUDA)
    made.timings, made.calls = [cuda_graph.Timing(1.0, 1.0)] * TIMED, WARM + TIMED
    with pytest.warns(UserWarning, match="it goes on without"):
        assert made(torch.ones(1 << 20, device=CUDA)) == 1 << 20
    assert torch.cuda.current_stream() == before
    torch.randn(8, device=CUDA)
    torch.cuda.empty_cache()
    reserved, side = torch.cuda.memory_reserved(), torch.cuda.Stream()
    for _ in range(3):
        block = torch.empty(1 << 30, dtype=torch.uint8, device=CUDA)
        block.record_stream(side)  # freed by an event, which a capture under way would put off
        del block
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_thread_that_copies_to_the_host_does_not_stop_a_capture() -> None:
    """As a checkpoint's does."""
    over, weights = threading.Event(), torch.ones(1 << 20, device=CUDA)

    def copy() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            while not over.is_set():
                assert float(weights.clone().cpu()[0]) == 1

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for _ in range(5):
            made = Graph(lambda views: (weights * views).sum(), "on", CUDA)
            made.timings, made.calls = [cuda_graph.Timing(1.0, 1.0)] * TIMED, WARM + TIMED
            assert float(made(torch.ones(1 << 20, device=CUDA))) == 1 << 20
    finally:
        over.set()
        thread.join()
