"""A function of one tensor replayed from a CUDA graph, where that is faster."""

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rsdnet.kernels import uploads_after_capture

# Calls before a capture: torch.compile, cuDNN's choice of algorithms and the allocator settle, states are made.
WARM = 4
TIMED = 3  # calls whose launches are timed then
# Share of a call's time that the host takes to launch it, above which the GPU may run idle.
BOUND = 0.7


class Timing(NamedTuple):
    """One call: seconds until the host was through, and until the GPU was."""

    host: float
    whole: float


class Graph:
    """Calls `function`; after a few calls, from a CUDA graph where that is faster.

    mode: "on", "off", or "auto": where the host takes most of a call's time to launch it. Every call does its work
    once, also those that warm up; the capture itself does none. The function must read and write the same addresses at
    each call and wait for nothing; what it returns is valid until the next call.
    """

    def __init__(self, function: Callable[[Tensor], Any], mode: str, device: torch.device) -> None:
        self.function, self.mode, self.device = function, mode if device.type == "cuda" else "off", device
        self.calls = 0
        self.timings: list[Timing] = []
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, views: Tensor) -> Any:
        if self.mode == "off":
            return self.function(views)
        if self.graph is None:
            self.calls += 1
            if self.calls <= WARM:
                return self.function(views)
            if self.calls <= WARM + TIMED:
                return self._timed(views)
            if not self._wins() or not self._capture(views):
                self.mode = "off"
                return self.function(views)
        assert self.graph is not None
        self.input.copy_(views)
        self.graph.replay()
        return self.output

    def _timed(self, views: Tensor) -> Any:
        torch.cuda.synchronize(self.device)
        began = time.perf_counter()
        output = self.function(views)
        host = time.perf_counter() - began
        torch.cuda.synchronize(self.device)
        self.timings.append(Timing(host, time.perf_counter() - began))
        return output

    def _wins(self) -> bool:
        """Whether to capture: asked for, or the host bounds the median call."""
        shares = sorted(timing.host / timing.whole for timing in self.timings)
        return self.mode == "on" or shares[len(shares) // 2] > BOUND

    def _capture(self, views: Tensor) -> bool:
        """Record one call, which does nothing yet. Whether it could be recorded."""
        static = views.clone(memory_format=torch.preserve_format)
        graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
        # The stream is entered outside as well: torch.cuda.graph does not leave it where a capture was invalidated.
        # "thread_local", since a thread that writes a checkpoint waits for its copies meanwhile.
        recording = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        try:
            with uploads_after_capture(), torch.cuda.stream(stream), recording:
                output = self.function(static)
        except (RuntimeError, AssertionError) as error:
            self._abandon(stream.device_index, pool)
            if self.mode == "on":
                raise
            cause = error.__context__ or error  # the capture's end fails too, and says less
            why = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            warnings.warn(f"a step cannot be captured in a CUDA graph here ({why}): it goes on without", stacklevel=2)
            return False
        self.graph, self.input, self.output = graph, static, output
        return True

    def _abandon(self, index: int, pool: tuple[int, int]) -> None:
        """Undo the rest of a capture: where it was invalidated, torch's own end stops halfway (ATen/cuda/CUDAGraph.cpp,
        `capture_end`). The allocator would take the capture as still under way and free no more, the generator too."""
        torch.cuda.synchronize(self.device)
        with contextlib.suppress(RuntimeError):  # it ended in order
            torch._C._cuda_endAllocateToPool(index, pool)
            torch._C._cuda_releasePool(index, pool)
            generator = torch.cuda.default_generators[index]
            generator.graphsafe_set_state(generator.clone_state())
        torch.cuda.empty_cache()
