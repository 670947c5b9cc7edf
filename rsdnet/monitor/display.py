"""A run's display: a bar with the latest metrics on a terminal, plain lines elsewhere."""

import math
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rsdnet.console import duration, percent, size


class Display(Progress):
    """A bar with two lines below it on a terminal; plain lines elsewhere. Both fit 120 columns."""

    def __init__(self, console: Console, steps: int, start: int) -> None:
        self.lines: tuple[str, ...] = ()
        super().__init__(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task, self.steps = self.add_task("", total=steps, completed=start), steps

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then the lines."""
        yield from super().get_renderables()
        yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines)

    def advance_to(self, done: int) -> None:
        """Move the bar to `done` steps."""
        self.update(self.task, completed=done)

    def show(self, numbers: dict[str, float], losses: list[float], left: float) -> None:
        """Show a line of metrics.jsonl in two groups: learning and cost.

        losses: of the steps since the last call; their mean is shown. left: seconds to the end.
        """
        finite = [loss for loss in losses if math.isfinite(loss)]
        loss = sum(finite) / len(finite) if finite else math.nan
        self.lines = learning(loss, numbers), costs(numbers)
        if self.disable:
            print(f"step {numbers['step'] + 1}/{self.steps}  {self.lines[0]}")
            print(f"  {self.lines[1]}  {duration(left)} left", flush=True)

    def warn(self, warnings: list[str]) -> None:
        """Print warnings above the bar."""
        for warning in warnings:
            self.console.print(warning, style="yellow", soft_wrap=True, highlight=False)


def learning(loss: float, numbers: dict[str, float]) -> str:
    """The first group: loss, measures of the projections, schedule."""
    parts = [
        f"loss {loss:.4f}", f"spread {numbers['spread']:.2f}", f"rank {numbers['effective_rank']:.1f}",
        f"norm {numbers['grad_norm']:.3g}", f"lr {numbers['lr']:.4g}",
    ]  # fmt: skip
    if "tau" in numbers:  # BYOL's
        parts.append(f"tau {numbers['tau']:.4f}")
    if "knn_f1" in numbers:
        parts.append(f"kNN F1 {numbers['knn_f1']:.3f}")
    if numbers["skipped"]:
        parts.append(f"{numbers['skipped']:,} skipped")
    return "  ".join(parts)


def costs(numbers: dict[str, float]) -> str:
    """The second group: throughput, waiting, memory."""
    parts = [f"{numbers['samples_per_s']:,.0f} samples/s", f"wait {percent(numbers['wait'])}"]
    if "tflops" in numbers:
        share = f" ({percent(numbers['mfu'])} of peak)" if "mfu" in numbers else ""
        rate = numbers["tflops"]
        parts.append(f"{rate:,.0f} TFLOP/s{share}" if rate >= 1000 else f"{rate:.3g} TFLOP/s{share}")
    parts += [size(numbers["memory_bytes"], binary=True), f"{numbers['read_mb_per_s']:,.0f} MB/s"]
    parts.append(f"{numbers['ready']} ready")
    if numbers["left_out"]:
        parts.append(f"{numbers['left_out']} left out")
    return "  ".join(parts)
