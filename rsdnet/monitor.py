"""What a run shows and keeps: a live line on a terminal or plain lines elsewhere, metrics.jsonl, TensorBoard."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rsdnet.errors import DataError

METRICS = "metrics.jsonl"
# Below this share of an even spread the projections of a batch have all but fallen into one point.
COLLAPSED = 0.05


class Monitor:
    """Gathers the losses of steps on the device and reads them every `every` steps, never in between.

    folder: of the run. steps: of the whole schedule; start: those already done. batch: samples a step.
    """

    def __init__(
        self, folder: Path, *, start: int, steps: int, batch: int, every: int, console: Console, tensorboard: bool
    ) -> None:
        self.steps, self.batch, self.every, self.console = steps, batch, every, console
        self._file = open(folder / METRICS, "a", buffering=1)  # noqa: SIM115 -- closed by __exit__
        self._pending: list[tuple[int, Tensor, Tensor]] = []
        self._began, self._read = time.perf_counter(), dict[str, Any]()
        self._board = _summary_writer(folder) if tensorboard else None
        self._progress = Progress(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps, completed=start, line="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def log(
        self, step: int, loss: Tensor, spread: Tensor, reading: Callable[[], dict[str, Any]], **knobs: float
    ) -> None:
        """Note a step's loss and spread (device tensors); every so often read, check, write and show them.

        reading: the stream's `stats`. knobs: learning rate, tau, epoch.
        Raises DataError on a loss that is not finite.
        """
        self._pending.append((step, loss.detach(), spread))
        self._progress.update(self._task, completed=step + 1)
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.flush(reading(), **knobs)

    def flush(self, read: dict[str, Any], **knobs: float) -> None:
        """Read, check, write and show what is pending. Raises DataError on a loss that is not finite."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _ in self._pending]).tolist()
        spread = float(self._pending[-1][2])
        now = time.perf_counter()
        elapsed = max(now - self._began, 1e-9)
        shared = {
            "spread": spread,
            "samples_per_s": len(losses) * self.batch / elapsed,
            "wait": (read["waited"] - self._read.get("waited", 0)) / elapsed,
            "read_mb_per_s": (read["bytes"] - self._read.get("bytes", 0)) / elapsed / 1e6,
            "ready": read["ready"],
            "left_out": read["left_out"] + read["stand_ins"],
            **knobs,
        }
        for (step, _, _), loss in zip(self._pending, losses, strict=True):
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss is {loss} at step {step}: lower --lr, or train in --precision fp32; "
                    "the last checkpoint is untouched"
                )
            self._write({"step": step, "loss": loss} | shared)
        self._show(self._pending[-1][0], sum(losses) / len(losses), shared)
        self._pending.clear()
        self._began, self._read = now, read

    def skip_time(self) -> None:
        """Leave what happened since the last log out of the next rate: a checkpoint, a compilation."""
        self._began = time.perf_counter()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def _show(self, step: int, loss: float, shared: dict[str, float]) -> None:
        line = (
            f"loss {loss:.4f}  spread {shared['spread']:.2f}  lr {shared['lr']:.4g}  tau {shared['tau']:.4f}  "
            f"{shared['samples_per_s']:,.0f} samples/s  {shared['read_mb_per_s']:,.0f} MB/s  "
            f"wait {100 * shared['wait']:.0f} %  {shared['ready']} ready"
        )
        if shared["left_out"]:
            line += f"  {shared['left_out']} left out"
        if self.console.is_terminal:
            self._progress.update(self._task, line=line)
        else:
            left = (self.steps - step - 1) * self.batch / shared["samples_per_s"]
            print(f"step {step + 1}/{self.steps}  {line}  {_duration(left)} left", flush=True)
        if shared["spread"] < COLLAPSED and step > 1:
            self.console.print(
                f"step {step + 1}: the projections have almost collapsed to one point (spread {shared['spread']:.3f}); "
                "a lower --lr or a higher --tau helps",
                style="yellow",
            )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DataError("--tensorboard needs the package tensorboard: pip install 'rsdnet[tensorboard]'") from None
    return SummaryWriter(folder / "tensorboard")
