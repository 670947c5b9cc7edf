"""A GPU's clock, with stand-ins for the GPU: what is counted as a launch, and how long it is busy before a step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benches.core import clock


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU whose profiler sees `events`; `slept`: cycles it was busy; `now`: the host's clock."""
    found = SimpleNamespace(events=[], slept=[], now=0.0)

    class Profile:
        def __init__(self, activities: Any) -> None: ...
        def __enter__(self) -> "Profile":
            return self

        def __exit__(self, *_: object) -> None: ...
        def events(self) -> list[FunctionEvent]:
            return found.events

    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 0.25)
    monkeypatch.setattr(clock, "GPU", True)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "_sleep", found.slept.append)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: found.now)
    return found


def seen(name: str, device: DeviceType, annotation: bool = False) -> FunctionEvent:
    return FunctionEvent(
        id=0, name=name, thread=0, start_us=0, end_us=7, device_type=device, is_user_annotation=annotation
    )


def test_kernels_copies_and_fills_are_launches_and_what_is_marked_is_none(gpu: Any) -> None:
    gpu.events = [
        seen("Optimizer.step#LARS.step", DeviceType.CPU, annotation=True),
        seen("Optimizer.step#LARS.step", DeviceType.CUDA, annotation=True),  # as torch 2.11's profiler gives it
        seen("aten::fill_", DeviceType.CPU),
        seen("lars_norms_kernel", DeviceType.CUDA), seen("lars_update_kernel", DeviceType.CUDA),
        seen("Memcpy HtoD (Pinned -> Device)", DeviceType.CUDA),
    ]  # fmt: skip
    assert clock.launches(lambda: None) == 3
    assert [name for name, _ in clock.profiled(lambda: None) or ()][:2] == ["lars_norms_kernel", "lars_update_kernel"]
    gpu.events = gpu.events[:3]
    assert clock.launches(lambda: None) is None


@pytest.mark.parametrize("host", [0.0, 100e-6, 256e-6, 5e-3])
def test_the_gpu_is_busy_for_longer_than_the_host_needs(host: float, gpu: Any) -> None:
    """256 us: LARS over ResNet-50. A GPU does at most 2e9 cycles a second."""

    def step() -> None:
        gpu.now += host

    assert clock.took(step, clock.lead(step)) == pytest.approx(0.25e-3)
    assert gpu.slept[0] / clock.CYCLES >= max(3 * host, 1e-3)
    assert gpu.slept[0] / clock.CYCLES <= max(3.1 * host, 1e-3)


def test_a_step_of_many_launches_is_not_waited_for_at_length(gpu: Any) -> None:
    """A reference that takes the host a second: no queue holds that much."""

    def step() -> None:
        gpu.now += 1.0

    assert clock.lead(step) == clock.LONGEST


def test_on_a_cpu_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "GPU", False)
    calls: list[int] = []
    step: Callable[[], None] = lambda: calls.append(1)  # noqa: E731
    assert (clock.lead(step), clock.launches(step), calls) == (0, None, [])


def test_an_equal_copy_rotates_beyond_the_cache_and_leaves_the_first_round_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first round takes 9 s a copy, the later ones 2 s."""
    copied: list[tuple[int, int]] = []  # address and bytes of each target

    def took(copy: Any) -> float:
        target = copy()
        copied.append((target.data_ptr(), target.nbytes))
        return 9.0 if len(copied) <= 14 else 2.0

    monkeypatch.setattr(clock, "DEVICE", "cpu")
    monkeypatch.setattr(clock, "cache_bytes", lambda: 1000)
    monkeypatch.setattr(clock, "took", took)
    assert clock.equal_copy(300) == 2.0
    assert len(set(copied)) == 14  # of 300 bytes: 4,000 and more in all
    assert {size for _, size in copied} == {150}
    assert len(copied) >= 60
