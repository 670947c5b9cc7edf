"""Metrics of a run's steps, written to metrics.jsonl and TensorBoard and handed to display and health checks."""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from rich.console import Console
from torch import Tensor

from rsdnet.distributed import ALONE, Ranks
from rsdnet.errors import DataError
from rsdnet.health import Watch, intervals
from rsdnet.monitor import flops, projections
from rsdnet.monitor.display import Display
from rsdnet.runfolder import METRICS

if TYPE_CHECKING:
    from rsdnet.training.step import StepOutput

TRUST = ("trust_min", "trust_median", "trust_max")


class Step(NamedTuple):
    """A step that has been logged and not yet written."""

    step: int
    loss: Tensor
    notes: dict[str, float]


class Monitor:
    """Gathers the losses of steps on the device and reads them every `every` steps, never in between.

    folder: of the run. steps: of the whole schedule; start: those already done. batch: samples a step, of all ranks.
    flops: of a sample (flops.step_flops); peak: FLOP/s of a device (flops.matmul_peak); None: not shown.
    max_skipped: steps that may be skipped in a row; 0: any number.
    ranks: every rank makes one and makes the same calls, which are collective; only the main one writes and shows.
    """

    def __init__(
        self, folder: Path, *, start: int, steps: int, batch: int, every: int, console: Console, tensorboard: bool,
        flops: int | None = None, peak: float | None = None, max_skipped: int = 0, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.steps, self.batch, self.every, self.max_skipped = steps, batch, every, max_skipped
        self.flops, self.peak, self.ranks = flops, peak, ranks
        self._pending: list[Step] = []
        self._notes: dict[str, float] = {}
        self._last: tuple[StepOutput, Callable[[], Tensor] | None, dict[str, float]] | None = None
        self._began, self._read = time.perf_counter(), dict[str, Any]()
        self._watch = Watch()
        self._shown = Display(console, steps, start) if ranks.main else None
        self._files = _Files(folder, tensorboard) if ranks.main else None
        for line in intervals(written(folder / METRICS)) if ranks.main and start else ():
            self._watch.look(line)  # its warnings were given then

    def __enter__(self) -> Self:
        if self._shown is not None:
            self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.stop()
        if self._files is not None:
            self._files.close()

    def log(
        self, step: int, output: "StepOutput", trust: Callable[[], Tensor] | None,
        reading: Callable[[], dict[str, Any]], **knobs: float,
    ) -> None:  # fmt: skip
        """Note a step; every `every` steps, and where a value is noted with it, `flush` all that were noted.

        trust: gives LARS's trust ratios (P,) of the step; None: there are none. reading: the loader's `stats`.
        knobs: learning rate, tau, epoch.
        """
        self._pending.append(Step(step, output.loss.detach().clone(), self._notes))  # a graph writes its loss in place
        noted, self._notes, self._last = bool(self._notes), {}, (output, trust, knobs)
        if self._shown is not None:
            self._shown.advance_to(step + 1)
        if noted or (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.flush(reading())

    def note(self, **values: float) -> None:
        """Add values, such as knn_f1, to the line of the next step that is logged."""
        self._notes |= values

    def flush(self, read: dict[str, Any]) -> None:
        """Read, check, write and show the pending steps. read: the loader's `stats` now.

        Raises DataError after `max_skipped` skipped steps in a row, and where the metrics cannot be written.
        """
        if not self._pending or self._last is None:
            return
        output, trust, knobs = self._last
        losses, numbers = self._numbers(output, trust)
        now = time.perf_counter()
        in_a_row = int(numbers.pop("in_a_row"))
        if self._files is not None and self._shown is not None:
            shared = numbers | self._rates(max(now - self._began, 1e-9), read) | knobs
            self._files.write(self._lines(losses, shared))
            noted = {name: value for line in self._pending for name, value in line.notes.items()}
            last = {"step": self._pending[-1].step} | shared | noted
            self._shown.show(last, losses, left=(self.steps - last["step"] - 1) * self.batch / last["samples_per_s"])
            finite = [loss for loss in losses if math.isfinite(loss)]
            self._shown.warn(self._watch.look(last | ({"loss": statistics.fmean(finite)} if finite else {})))
        if 0 < self.max_skipped <= in_a_row:
            raise DataError(
                f"the gradient was not finite {in_a_row} steps in a row, up to step {self._pending[-1].step + 1}: "
                "lower --lr, or train in --precision fp32; the last checkpoint is untouched"
            )
        self._pending.clear()
        self._began, self._read = now, read

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time inside, of a checkpoint or an evaluation, out of the rates."""
        self._wait()
        left = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self._began += time.perf_counter() - left

    def _wait(self) -> None:
        """Synchronise with the GPU, so that a time is that of the steps so far."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)

    def _numbers(
        self, output: "StepOutput", trust: Callable[[], Tensor] | None
    ) -> tuple[list[float], dict[str, float]]:
        """Losses of the pending steps, averaged over the ranks, and the other numbers on the device, in one read.

        Projections are those of all ranks' last micro-batches, so that a run resumed on another number of ranks has the
        same measures.
        """
        losses = torch.stack([step.loss for step in self._pending]).double()
        losses = self.ranks.sum_(losses) / self.ranks.world
        named = {"grad_norm": output.norm, "skipped": output.skipped, "in_a_row": output.in_a_row}
        z1, z2 = (torch.cat(self.ranks.gather(z.float())) for z in (output.z1, output.z2))
        if self.ranks.main:
            named |= projections.measures(z1, z2)
            ratios = None if trust is None else trust().float()
            if ratios is not None and len(ratios):
                named |= dict(zip(TRUST, (ratios.min(), ratios.median(), ratios.max()), strict=True))
        read = torch.cat((losses, torch.stack([value.detach().double() for value in named.values()]))).tolist()
        numbers = dict(zip(named, read[len(losses) :], strict=True))
        return read[: len(losses)], numbers | {"skipped": int(numbers["skipped"])}

    def _rates(self, elapsed: float, read: dict[str, Any]) -> dict[str, float]:
        """Throughput, waiting, reading and memory of the pending steps. elapsed: the seconds they took."""
        rate = len(self._pending) * self.batch / elapsed
        return {
            "samples_per_s": rate,
            "wait": (read["waited"] - self._read.get("waited", 0)) / elapsed,
            "read_mb_per_s": (read["bytes"] - self._read.get("bytes", 0)) / elapsed / 1e6,
            "ready": read["ready"],
            "left_out": read["left_out"] + read["stand_ins"],
            "memory_bytes": flops.peak_memory(self.ranks.device),
            **self._efficiency(rate),
        }

    def _efficiency(self, samples_per_s: float) -> dict[str, float]:
        """Model TFLOP/s of all ranks, and their share of the devices' matrix-product peak (MFU)."""
        if self.flops is None:
            return {}
        flops = samples_per_s * self.flops
        return {"tflops": flops / 1e12} | ({"mfu": flops / self.ranks.world / self.peak} if self.peak else {})

    def _lines(self, losses: list[float], shared: dict[str, float]) -> list[dict[str, Any]]:
        """A record a step; a number that is not finite, as of a step that was skipped, is None."""
        records = [
            {"step": step, "loss": loss} | shared | notes
            for (step, _, notes), loss in zip(self._pending, losses, strict=True)
        ]
        return [{name: value if math.isfinite(value) else None for name, value in line.items()} for line in records]


def written(path: Path) -> Iterator[dict[str, float]]:
    """The numbers of the lines of metrics.jsonl, without those that are not finite."""
    with open(path) as file:  # checkpoint.truncate_metrics has left sound lines only
        for line in file:
            yield {name: value for name, value in json.loads(line).items() if value is not None}


class _Files:
    """metrics.jsonl, a line a step, and TensorBoard's events where asked for."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self.path = folder / METRICS
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 -- closed by `close`
        except OSError as error:
            raise self._error(error) from None
        self._board = _summary_writer(folder) if tensorboard else None

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append the records. Raises DataError where they cannot be written."""
        text = memoryview("".join(json.dumps(record) + "\n" for record in records).encode())
        try:
            while text:
                text = text[self._file.write(text) :]
        except OSError as error:
            raise self._error(error) from None
        if self._board is not None:
            for record in records:
                self._events(record, self._board)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _error(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be written ({error.strerror}): make room or name another --run; the checkpoints are "
            "whole, so --resume goes on from the last one"
        )

    @staticmethod
    def _events(record: dict[str, Any], board: Any) -> None:
        for name, value in record.items():
            if name != "step" and value is not None:
                board.add_scalar(name, value, record["step"])


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DataError("--tensorboard needs the package tensorboard: pip install 'rsdnet[tensorboard]'") from None
    return SummaryWriter(folder / "tensorboard")
