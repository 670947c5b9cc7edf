"""A function of one tensor replayed from a CUDA graph, where that is faster."""

import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
        self.input = views.clone(memory_format=torch.preserve_format)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.output = self.function(self.input)
        except (RuntimeError, AssertionError) as error:
            if self.mode == "on":
                raise
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"a step cannot be captured in a CUDA graph here ({why}): it goes on without", stacklevel=2)
            torch.cuda.synchronize(self.device)
            return False
        self.graph = graph
        return True
