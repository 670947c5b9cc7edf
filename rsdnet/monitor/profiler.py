"""`--profile N`: where the time of a step goes, by phase, and a trace of N steps for chrome://tracing or Perfetto.

On a CPU a phase takes what the clock says. On a GPU it takes what the work took on its stream, whenever the host
enqueued it; reading, copying and rendering the next batch go on beside the step there, so that they are no part of it.
The profiler itself slows the host down: shares are what to look at, and samples/s without it.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, record_function

from rsdnet.files import aside
from rsdnet.phases import Phase
from rsdnet.runfolder import PROFILE, TRACE

T = TypeVar("T")
Pause = Callable[[], contextlib.AbstractContextManager[None]]

PHASES = ("read", "copy", "render", "forward", "loss", "backward", "optimiser", "target", "rest")
BESIDE = frozenset(("read", "copy", "render"))  # on a GPU
WARM = 8  # steps before: torch.compile, cuDNN's choice of algorithms and the allocator settle
MICRO = 1e-3  # ms; a trace is in microseconds
# How a trace calls the loss, in forward and in backward: the op or its short cut (kernels/loss.py), and its kernels.
LOSS_OPS = ("rsdnet::cosine_loss", "_Eager"), ("rsdnet::cosine_loss_backward", "_EagerBackward")
LOSS_KERNELS = ("cosine_kernel",), ("cosine_backward_kernel",)
COPY = "Memcpy HtoD"


class Clock(Protocol):
    """Marks moments, and tells afterwards how many ms lie between two of them."""

    def now(self) -> Any: ...
    def ms(self, began: Any, ended: Any) -> float: ...


class HostClock:
    """Time as it passes here."""

    def now(self) -> float:
        return time.perf_counter()

    def ms(self, began: float, ended: float) -> float:
        return 1e3 * (ended - began)


class StreamClock:
    """Time as it passes on the current CUDA stream; wait for the device before `ms`."""

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> float:
        return began.elapsed_time(ended)


class Lap(NamedTuple):
    """One phase of one step."""

    step: int
    phase: str
    clock: Clock
    began: Any
    ended: Any


class Replayed(Protocol):
    """What may replay a step without its phases (rsdnet/training/cuda_graph.py)."""

    mode: str


class Profiled(Protocol):
    """What an engine has for its profile (rsdnet/training/step.py)."""

    device: torch.device
    phase: Phase

    @property
    def graph(self) -> Replayed: ...


class Profile:
    """Profiles `steps` steps of `engine` after WARM others, writes PROFILE and TRACE into `folder` and shows a table.

    steps: 0 for none. Until then the engine replays no CUDA graph, in which there are no phases.
    """

    def __init__(
        self, engine: Profiled, folder: Path, steps: int, console: Console,
        clock: Clock | None = None, host: Clock | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.folder, self.steps, self.console = engine, folder, steps, console
        self.cuda = engine.device.type == "cuda"
        self.host = host or HostClock()
        self.clock = clock or (StreamClock() if self.cuda else self.host)
        self.marks: list[Any] = []  # of the clock, where a step ends and the next begins
        self.laps: list[Lap] = []
        self._tracer: torch.profiler.profile | None = None

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Time the part of a step inside, if this one is profiled."""
        return contextlib.nullcontext() if self._tracer is None else self._timed(name)

    def over(self, batches: Iterable[T], pause: Pause = contextlib.nullcontext) -> Iterator[T]:
        """The batches; from one to the next is a step. pause: entered for what is no training (Monitor.pause)."""
        if not self.steps:
            yield from batches
            return
        before = self.engine.phase, self.engine.graph.mode
        self.engine.phase, self.engine.graph.mode = self.phase, "off"
        if before[1] != "off":
            self.console.print("profile: no CUDA graph until it is done")
        coming = iter(batches)
        try:
            yield from self._warm(coming)
            yield from self._recorded(coming, pause)
        finally:
            self.engine.phase, self.engine.graph.mode = before
            if self._tracer is not None:  # left in the middle
                self._stop()
        yield from coming

    def _warm(self, batches: Iterator[T]) -> Iterator[T]:
        for _, batch in zip(range(WARM), batches, strict=False):
            yield batch

    def _recorded(self, batches: Iterator[T], pause: Pause) -> Iterator[T]:
        """The batches to profile, then the report."""
        with pause():
            self._start()
        for _ in range(self.steps):
            batch = next(batches, None)
            if batch is None:
                break
            yield batch
            self.marks.append(self.clock.now())
        with pause():
            self._report(self._stop())

    def _start(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the tracer tells on stderr when it starts and stops
        self._wait()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        self._tracer = torch.profiler.profile(activities=activities)
        self._tracer.start()
        self.marks.append(self.clock.now())

    def _stop(self) -> torch.profiler.profile:
        assert self._tracer is not None
        self._wait()
        tracer, self._tracer = self._tracer, None
        tracer.stop()
        return tracer

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.engine.device)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        clock = self.host if name == "read" else self.clock  # a batch is waited for here
        step = len(self.marks) - 1
        with record_function(name):
            began = clock.now()
            yield
            self.laps.append(Lap(step, name, clock, began, clock.now()))

    def _report(self, tracer: torch.profiler.profile) -> None:
        """Write and show what was found; a full disk is told and ends nothing."""
        steps = self._times()
        if not steps:
            self.console.print(f"no profile: the run ended within {WARM} steps, which warm it up", style="yellow")
            return
        try:
            with aside(self.folder / TRACE) as temporary:
                tracer.export_chrome_trace(str(temporary))
                events = json.loads(temporary.read_text())["traceEvents"]
            found = summary(steps, *from_trace(events, len(steps), self.cuda), BESIDE if self.cuda else frozenset())
            with aside(self.folder / PROFILE) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            self.console.print(f"no profile: {self.folder} cannot be written ({error.strerror})", style="yellow")
            return
        self.console.print(table(found))

    def _times(self) -> list[dict[str, float]]:
        """Of each whole step, ms by phase, and "step" for all of it."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        steps = [{"step": self.clock.ms(began, ended)} for began, ended in pairs]
        for step, phase, clock, began, ended in self.laps:
            if step < len(steps):
                steps[step][phase] = steps[step].get(phase, 0.0) + clock.ms(began, ended)
        return steps


def from_trace(events: list[dict[str, Any]], steps: int, cuda: bool) -> tuple[float, float, float]:
    """What only a trace of `steps` steps tells: ms a step of the copy, of the loss's forward and of its backward."""

    def ms(kind: str, told: Callable[[str], bool]) -> float:
        found = [event["dur"] for event in events if event.get("cat") == kind and told(event["name"])]
        return MICRO * statistics.median(found) * len(found) / steps if found else 0.0

    kind, loss = ("kernel", LOSS_KERNELS) if cuda else ("cpu_op", LOSS_OPS)
    forward, backward = (ms(kind, names.__contains__) for names in loss)
    return ms("gpu_memcpy", lambda name: name.startswith(COPY)), forward, backward


def summary(
    steps: list[dict[str, float]], copy: float, forward: float, backward: float, beside: frozenset[str]
) -> dict[str, Any]:
    """What PROFILE holds: {"steps", "step_ms", "phases": [{"phase", "ms", "share", "beside"}]}, medians over the steps.

    steps: of each one ms by phase, and "step"; forward, backward: ms of them that are the loss's.
    beside: phases that go on beside the step; the rest is what the others leave of it: host, monitor, waiting.
    """
    whole = statistics.median(step["step"] for step in steps)
    ms = {phase: statistics.median(step.get(phase, 0.0) for step in steps) for phase in PHASES}
    ms |= {"copy": copy, "loss": forward + backward}
    ms |= {"forward": ms["forward"] - forward, "backward": ms["backward"] - backward}
    ms["rest"] = max(whole - sum(ms[phase] for phase in PHASES[:-1] if phase not in beside), 0.0)
    rows = [{"phase": name, "ms": ms[name], "share": ms[name] / whole, "beside": name in beside} for name in PHASES]
    return {"steps": len(steps), "step_ms": whole, "phases": rows}


def table(found: dict[str, Any]) -> Table:
    """`summary`'s phases, to print."""
    shown = Table(title=f"a step: {found['step_ms']:.2f} ms, median of {found['steps']}", title_justify="left")
    shown.add_column("phase")
    shown.add_column("ms", justify="right")
    shown.add_column("share", justify="right")
    for row in found["phases"]:
        where = " (beside the step)" if row["beside"] else ""
        shown.add_row(row["phase"] + where, f"{row['ms']:.2f}", f"{100 * row['share']:.1f} %")
    return shown
