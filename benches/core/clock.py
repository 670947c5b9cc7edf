"""Time and memory of a call: on a GPU by events and the caching allocator, on a CPU by the clock alone.

On a GPU the stream is first held busy by a kernel that touches no memory, so that a step's launches are queued by the
time it starts, as they are in a training loop; a step whose launches take longer than that is timed as it is.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LEAD = 200_000  # cycles, about 0.1 ms
COPIED = 1 << 30  # bytes

_spent = 0.0


def seconds() -> float:
    """The timer that pytest-benchmark reads: on a GPU, seconds between the events of all steps so far."""
    return _spent if GPU else time.perf_counter()


def timed(step: Callable[[], Any]) -> None:
    """Run a step; on a GPU, add the time between its events to the timer."""
    global _spent
    if not GPU:
        step()
        return
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(LEAD)
    start.record()
    step()
    end.record()
    end.synchronize()
    _spent += start.elapsed_time(end) / 1e3


def took(step: Callable[[], Any]) -> float:
    """Seconds of one step."""
    begin = seconds()
    timed(step)
    return seconds() - begin


def cache_bytes() -> int:
    """The GPU's L2; inputs are rotated so that no step finds its own there. 0 on a CPU."""
    return torch.cuda.get_device_properties(0).L2_cache_size if GPU else 0


def copy_bandwidth() -> float | None:
    """Bytes a second, read plus written, of a copy on the device: what no kernel passes. None on a CPU."""
    if not GPU:
        return None
    source = torch.randint(0, 255, (COPIED,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    for _ in range(200):  # 0.1 s, for the clocks to rise
        target.copy_(source)
    times = sorted(took(lambda: target.copy_(source)) for _ in range(50))
    return 2 * COPIED / times[len(times) // 2]


def peak_bytes(step: Callable[[], Any]) -> int | None:
    """Bytes that a step allocates at its peak beyond what stood before it. None on a CPU."""
    if not GPU:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(step: Callable[[], Any]) -> int | None:
    """Kernels, copies and fills that a step gives the GPU, counted by the profiler. None where it cannot tell."""
    if not GPU:
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=activities) as profile:
            step()
            torch.cuda.synchronize()
    except RuntimeError:  # some drivers let nobody count
        return None
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events()) or None
