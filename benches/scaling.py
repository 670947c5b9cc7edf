"""Many GPUs on paper: what a step sends, counted, over the links' speeds: `python -m benches.scaling`.

    --step-ms X      a step's time on one GPU, measured (`pytest benches/bench_step.py`): names the bottleneck by size
    --latency-us X   of a small all-reduce over all ranks, measured (nccl-tests, all_reduce_perf -b 8 -e 8); one or one
                     a size
    --rows FILE      take the step's time from a training.csv instead

Without them the table holds what can be counted, and the step from which on each cost is hidden or small.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import nn

from benches.report import rows_of
from rsdnet.config import Config
from rsdnet.errors import DataError, command
from rsdnet.methods.byol import BYOL

SIZES = (1, 8, 64, 256, 1024)
NODE = 8  # GPUs that NVSwitch joins (NVIDIA, HGX H200 data sheet)
NVLINK = 450e9  # bytes a second each way of one H200 (NVIDIA, H200 data sheet: 900 GB/s both ways)
INFINIBAND = 50e9  # bytes a second each way of one 400 Gb/s NDR port, one a GPU (NVIDIA, DGX H200 user guide)
GRADIENT = 4  # bytes of a gradient's element: float32
STATISTICS = 2 * 8  # bytes a channel that a BatchNorm's message holds: two float64 (rsdnet/model/sync_batchnorm.py)
# Online forward 1, online backward 2, target forward 1: the share of a step's FLOPs that the backward has.
BACKWARD = 0.5
SMALL = 0.05  # of a step: costs below are called small
# A sample's bytes at 120 px: a uint16 MS band drawn of four with 120 pixels a side and six with 60, and a float32 SAR
# band of 120 (BigEarthNet's patches, rico-hdl's entries).
SAMPLE = (4 * 120**2 + 6 * 60**2) / 10 * 2 + 120**2 * 4
BYOL_BATCH = 4096  # Grill et al. 2020, section 3.3


class Counts(NamedTuple):
    """What ranks share, counted over the model."""

    parameters: int  # that are trained
    forward: int  # BatchNorms that a step passes forward: both views, online and target
    backward: int  # and back
    forward_channels: int
    backward_channels: int

    @property
    def gradient(self) -> int:
        """Bytes, all-reduced once a step."""
        return GRADIENT * self.parameters

    @property
    def messages(self) -> int:
        """Of BatchNorm in a step, one after the other."""
        return self.forward + self.backward

    @property
    def statistics(self) -> int:
        """Bytes that they hold in all."""
        return STATISTICS * (self.forward_channels + self.backward_channels)


class Costs(NamedTuple):
    """Of a step on n GPUs, seconds at the links' speeds."""

    gpus: int
    gradient: float
    norms: float  # what BatchNorm's messages hold; their latency comes on top


def counted(config: Config) -> Counts:
    """Count parameters and norms over the model, on the device "meta"."""
    with torch.device("meta"):
        byol = BYOL(config)
    target = norms_of(byol.target)
    online = [*norms_of(byol.online), *norms_of(byol.predictor)]
    parameters = sum(p.numel() for p in byol.parameters() if p.requires_grad)
    views = 2
    both = views * (len(online) + len(target)), views * len(online)
    return Counts(parameters, *both, views * (sum(online) + sum(target)), views * sum(online))


def norms_of(module: nn.Module) -> list[int]:
    """Channels of every BatchNorm in it."""
    return [m.num_features for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def costs(counts: Counts, gpus: int) -> Costs:
    """The least that sharing takes on `gpus` GPUs."""
    return Costs(gpus, all_reduce(counts.gradient, gpus), all_reduce(counts.statistics, gpus))


def all_reduce(size: float, gpus: int) -> float:
    """Seconds for `size` bytes: reduced and scattered in the nodes, each GPU's part all-reduced between the nodes by
    its own port, gathered in the nodes."""
    return ring(min(gpus, NODE)) * size / NVLINK + ring(-(-gpus // NODE)) * size / NODE / INFINIBAND


def ring(members: int) -> float:
    """Times its own bytes that a link carries in an all-reduce among so many (Patarasuk and Yuan 2009)."""
    return 2 * (members - 1) / members


def bottleneck(cost: Costs, counts: Counts, step: float, latency: float) -> tuple[str, float]:
    """What costs most beside the step itself, and the share of one GPU's speed that each keeps.

    step, latency: seconds. The gradient costs what the backward does not hide; BatchNorm's messages hide nowhere.
    """
    if cost.gpus == 1:
        return "the GPU", 1.0
    added = {
        "the gradient": max(0.0, cost.gradient - BACKWARD * step),
        "BatchNorm's latency": counts.messages * latency,
        "BatchNorm's bytes": cost.norms,
    }
    kept = step / (step + sum(added.values()))
    worst = max(added, key=lambda name: added[name])
    return ("the GPU" if kept > 1 - SMALL else worst), kept


def table(counts: Counts) -> str:
    """What is counted, and the steps from which on a cost is hidden or small, as Markdown."""
    titles = (
        "GPUs", "gradient, ms", "hidden if a step takes, ms", "BatchNorm, ms", f"below {SMALL:.0%} of a step of, ms",
        f"samples a GPU of {BYOL_BATCH:,}",
    )  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for gpus in SIZES:
        cost = costs(counts, gpus)
        messages = counts.messages if gpus > 1 else 0
        cells = [
            f"{gpus:,}", f"{1e3 * cost.gradient:.2f}", f"{1e3 * cost.gradient / BACKWARD:.2f}",
            f"{1e3 * cost.norms:.3f} + {messages} L", f"{1e3 * cost.norms / SMALL:.2f} + {messages / SMALL:,.0f} L",
            f"{BYOL_BATCH / gpus:,.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def planned(counts: Counts, step: float, latencies: Sequence[float], batch: int) -> str:
    """The plan for a measured step of `batch` samples a GPU, as Markdown. step, latencies (one a size): seconds."""
    titles = ("GPUs", "samples a step", "share of one GPU's speed", "bottleneck", "reading, GB/s a node")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for gpus, latency in zip(SIZES, latencies, strict=True):
        name, kept = bottleneck(costs(counts, gpus), counts, step, latency)
        read = min(gpus, NODE) * batch * SAMPLE * kept / step / 1e9
        lines.append(f"| {gpus:,} | {gpus * batch:,} | {kept:.1%} | {name} | {read:.2f} |")
    return "\n".join(lines)


def measured_step(path: Path, batch: int) -> float:
    """Seconds of the last ResNet-50 step alone of that batch in a training.csv. Raises DataError without one."""
    rows = [
        row for row in rows_of(path)
        if row["what"] == "step alone" and row["samples_per_s"] and row["shape"].startswith("ResNet-50")
        and int(row["batch"]) == batch
    ]  # fmt: skip
    if not rows:
        raise DataError(f"{path} has no step of ResNet-50 with a batch of {batch} on a GPU: give --step-ms")
    return batch / float(rows[-1]["samples_per_s"])


@dataclasses.dataclass(frozen=True)
class Options:
    """Many GPUs on paper."""

    step_ms: float | None = None
    """Measured time of a step on one GPU."""
    latency_us: tuple[float, ...] = ()
    """Measured time of a small all-reduce, of each number of GPUs above 1, or one for all: BatchNorm waits for each."""
    rows: Path | None = None
    """training.csv to take the step from, instead of --step-ms."""
    batch: int = 1024
    """Samples a GPU in a step."""


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m benches.scaling", description=__doc__)
    counts = counted(Config())
    print(
        f"ResNet-50, 1 channel: {counts.parameters:,} parameters are trained, {counts.gradient / 1e6:.1f} MB of "
        f"gradient; BatchNorm sends {counts.forward} messages forward and {counts.backward} back, "
        f"{counts.statistics / 1e6:.1f} MB in all; a sample is {SAMPLE:,.0f} bytes\n"
    )
    print(table(counts))
    if options.rows is None and options.step_ms is None:
        return
    if len(options.latency_us) not in (1, len(SIZES) - 1):
        several = ", ".join(f"{size:,}" for size in SIZES[1:])
        raise DataError(
            f"--latency-us: give what a small all-reduce takes, one number, or one for each of {several} GPUs"
        )
    latencies = [us / 1e6 for us in options.latency_us] * (len(SIZES) - 1 if len(options.latency_us) == 1 else 1)
    step = options.step_ms / 1e3 if options.step_ms else measured_step(options.rows or Path(), options.batch)
    print(f"\nA step of {1e3 * step:.1f} ms for {options.batch:,} samples:\n")
    print(planned(counts, step, [0.0, *latencies], options.batch))


if __name__ == "__main__":
    command(main)
