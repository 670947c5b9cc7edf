"""Time and memory of a call: on a GPU by events and the caching allocator, on a CPU by the clock alone.

On a GPU the stream is first held busy by a kernel that touches no memory, so that a step's launches are queued by the
time it starts, as they are in a training loop: `lead` says for how long.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LEAD, LONGEST = 2_000_000, 60_000_000  # cycles: about 1 ms, more than most steps need; 30 ms
CYCLES = 2e9  # a second, at most: an H100 and an H200 boost to 1.98 GHz
COPIED = 1 << 30  # bytes

_spent = 0.0


def seconds() -> float:
    """The timer that pytest-benchmark reads: on a GPU, seconds between the events of all steps so far."""
    return _spent if GPU else time.perf_counter()


def lead(step: Callable[[], Any]) -> int:
    """Cycles that a GPU is held busy before a step: LEAD, or three times what the host takes for it, once warm.

    At most LONGEST: a GPU queues about a thousand launches. Of a step with more, and of one that waits for the GPU, the
    rest is timed as the host gives it.
    """
    if not GPU:
        return 0
    taken = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    torch.cuda.synchronize()
    return min(max(LEAD, int(3 * statistics.median(taken) * CYCLES)), LONGEST)


def timed(step: Callable[[], Any], lead: int = LEAD) -> None:
    """Run a step; on a GPU, add the time between its events to the timer. lead: cycles that the GPU is busy before."""
    global _spent
    if not GPU:
        step()
        return
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(lead)
    start.record()
    step()
    end.record()
    end.synchronize()
    _spent += start.elapsed_time(end) / 1e3


def took(step: Callable[[], Any], lead: int = LEAD) -> float:
    """Seconds of one step."""
    begin = seconds()
    timed(step, lead)
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


def equal_copy(moved: int) -> float:
    """Seconds of a copy on the GPU that moves so many bytes, read plus written, its launch included, which counts where
    they are few. Over buffers that together are four times the L2."""
    count = max(2, -(-4 * cache_bytes() // moved))
    pairs = [[torch.empty(moved // 2, dtype=torch.uint8, device=DEVICE) for _ in range(2)] for _ in range(count)]
    copies = [partial(to.copy_, source) for to, source in pairs]
    times = [took(copy) for copy in copies * -(-60 // count)]
    return statistics.median(times[count:])


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
    """Kernels, copies and fills that a step gives the GPU. None where the profiler cannot tell."""
    return len(profiled(step) or ()) or None


def profiled(step: Callable[[], Any]) -> list[tuple[str, float]] | None:
    """Name and seconds of each kernel, copy and fill of a step. None on a CPU, and where the profiler sees none."""
    if not GPU:
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=activities) as profile:
            step()
            torch.cuda.synchronize()
    except RuntimeError:  # some drivers let nobody count
        return None
    # A span that is marked, as each step of an optimizer is by torch, stands among the GPU's events, too.
    kind = torch.autograd.DeviceType.CUDA
    events = [event for event in profile.events() if event.device_type == kind and not event.is_user_annotation]
    return [(event.name, event.device_time_total / 1e6) for event in events] or None
