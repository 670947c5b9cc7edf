"""`--profile N`: the time of a step by phase, and a trace of N steps for chrome://tracing or Perfetto.

On a CPU a phase takes the host's time, on a GPU the time on its stream; reading, copying and rendering the next batch
go on beside the step there, so they are no part of it. The profiler slows the host down: look at its shares, and at
samples/s without it.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function, schedule

from rsdnet.console import percent
from rsdnet.files import aside
from rsdnet.phases import Phase, untimed
from rsdnet.runfolder import PROFILE, TRACE

T = TypeVar("T")
Pause = Callable[[], contextlib.AbstractContextManager[None]]

STEP = "step"
PHASES = ("read", "copy", "render", "forward", "loss", "backward", "optimiser", "target", "rest")
BESIDE = frozenset(("read", "copy", "render"))  # on a GPU
WARM = 8  # steps before: torch.compile, cuDNN's choice of algorithms and the allocator settle
# The loss in `key_averages`, forward and backward: the op or its short cut (kernels/loss.py), and its kernels.
LOSS_OPS = ("rsdnet::cosine_loss", "_Eager"), ("rsdnet::cosine_loss_backward", "_EagerBackward")
LOSS_KERNELS = ("cosine_kernel",), ("cosine_backward_kernel",)
COPY = "Memcpy HtoD"


class Replayed(Protocol):
    """A CUDA graph, which replays a step without its phases (rsdnet/training/cuda_graph.py)."""

    mode: str


class Profiled(Protocol):
    """The training step as its profile sees it (rsdnet/training/step.py)."""

    device: torch.device
    phase: Phase

    @property
    def graph(self) -> Replayed: ...


class Row(Protocol):
    """A row of `torch.profiler.profile.key_averages`; times in microseconds."""

    key: str
    device_type: DeviceType
    cpu_time_total: float
    self_device_time_total: float


class Profile:
    """Profiles `steps` steps after WARM others, writes PROFILE and TRACE into `folder` and prints a table.

    steps: 0 for none. Until then no CUDA graph is replayed, since a graph has no phases.
    """

    def __init__(self, train_step: Profiled, folder: Path, steps: int, console: Console) -> None:
        self.train_step, self.folder, self.steps, self.console = train_step, folder, steps, console
        self.cuda = train_step.device.type == "cuda"
        self._recording = False
        self._recorded = 0
        # A range's device time in `key_averages` lacks the kernels that autograd's thread launches, and Triton's
        # outside of an op; so on a GPU a phase is timed by events on the current stream.
        self._events = defaultdict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]](list)

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Time the part of a step inside, while steps are recorded."""
        return self._timed(name) if self._recording else untimed(name)

    def over(self, batches: Iterable[T], pause: Pause = contextlib.nullcontext) -> Iterator[T]:
        """The batches; each step lasts from one to the next. pause: entered outside training (Monitor.pause)."""
        if not self.steps:
            yield from batches
            return
        before = self.train_step.phase, self.train_step.graph.mode
        self.train_step.phase, self.train_step.graph.mode = self.phase, "off"
        if before[1] != "off":
            self.console.print("profile: no CUDA graph until it is done")
        coming = iter(batches)
        tracer = self._tracer()
        tracer.start()
        try:
            yield from self._traced(coming, tracer, pause)
        except BaseException:
            tracer.on_trace_ready = None
            raise
        finally:
            self.train_step.phase, self.train_step.graph.mode = before
            self._recording = False
            tracer.stop()
        if not self._recorded:
            self.console.print(f"no profile: the run ended within {WARM} steps, which warm it up", style="yellow")
        yield from coming

    def _tracer(self) -> torch.profiler.profile:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the tracer tells on stderr when it starts and stops
        return torch.profiler.profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])],
            schedule=schedule(skip_first=WARM - 1, wait=0, warmup=1, active=self.steps, repeat=1),
            on_trace_ready=self._report,
        )

    def _traced(self, batches: Iterator[T], tracer: torch.profiler.profile, pause: Pause) -> Iterator[T]:
        """The batches of the steps that warm up and of those that are recorded."""
        edges = (WARM - 2, WARM - 1, WARM + self.steps - 1)  # the tracer is made ready, begins, ends
        for number in range(WARM + self.steps):
            with self.phase(STEP):
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch
            self._recorded += self._recording
            with pause() if number in edges else contextlib.nullcontext():
                if self.cuda and number in edges:
                    torch.cuda.synchronize(self.train_step.device)
                tracer.step()
            self._recording = number >= WARM - 1

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        with record_function(name):
            if not self.cuda:
                yield
                return
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            yield
            ended.record()
            self._events[name].append((began, ended))

    def _report(self, tracer: torch.profiler.profile) -> None:
        """Write and show the profile; a full disk is a warning."""
        if not self._recorded:
            return
        if self.cuda:
            torch.cuda.synchronize(self.train_step.device)
        found = summary(self._times(tracer.key_averages()), self._recorded, BESIDE if self.cuda else frozenset())
        try:
            with aside(self.folder / TRACE) as temporary:
                tracer.export_chrome_trace(str(temporary))
            with aside(self.folder / PROFILE) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            self.console.print(f"no profile: {self.folder} cannot be written ({error.strerror})", style="yellow")
            return
        self.console.print(table(found))

    def _times(self, rows: Iterable[Row]) -> dict[str, float]:
        """ms of all recorded steps, by phase; "read", for which the host waits, is the host's on a GPU, too."""
        found = from_averages(rows, self.cuda)
        for name, pairs in self._events.items():
            if name != "read":
                found[name] = sum(began.elapsed_time(ended) for began, ended in pairs)
        return found


def from_averages(rows: Iterable[Row], cuda: bool) -> dict[str, float]:
    """ms by phase that `key_averages` knows: ranges on the host, and the device's copies and loss on a GPU."""
    rows = list(rows)
    host = {row.key: row.cpu_time_total / 1e3 for row in rows if row.device_type == DeviceType.CPU}
    device = {row.key: row.self_device_time_total / 1e3 for row in rows if row.device_type == DeviceType.CUDA}
    ranges = {name: host.get(name, 0.0) for name in (STEP, *PHASES)}
    times, (forward, backward) = (device, LOSS_KERNELS) if cuda else (host, LOSS_OPS)
    return ranges | {
        "copy": sum(ms for name, ms in device.items() if name.startswith(COPY)),
        "loss forward": sum(times.get(name, 0.0) for name in forward),
        "loss backward": sum(times.get(name, 0.0) for name in backward),
    }


def summary(times: dict[str, float], steps: int, beside: frozenset[str]) -> dict[str, Any]:
    """Content of profile.json: {"steps", "step_ms", "phases": [{"phase", "ms", "share", "beside"}]}, means over steps.

    times: ms of all steps, by phase; those of forward and backward contain the loss's. beside: phases beside the step;
    "rest" is what the others leave of it: host, monitor, waiting.
    """
    ms = {name: value / steps for name, value in times.items()}
    ms["loss"] = ms["loss forward"] + ms["loss backward"]
    ms["forward"] -= ms["loss forward"]
    ms["backward"] -= ms["loss backward"]
    ms["rest"] = max(ms[STEP] - sum(ms[name] for name in PHASES[:-1] if name not in beside), 0.0)
    rows = [{"phase": name, "ms": ms[name], "share": ms[name] / ms[STEP], "beside": name in beside} for name in PHASES]
    return {"steps": steps, "step_ms": ms[STEP], "phases": rows}


def table(found: dict[str, Any]) -> Table:
    """`summary`'s phases, to print."""
    shown = Table(title=f"a step: {found['step_ms']:.2f} ms, mean of {found['steps']}", title_justify="left")
    shown.add_column("phase")
    shown.add_column("ms", justify="right")
    shown.add_column("share", justify="right")
    for row in found["phases"]:
        where = " (beside the step)" if row["beside"] else ""
        shown.add_row(row["phase"] + where, f"{row['ms']:.2f}", percent(row["share"], 1))
    return shown
