"""Many GPUs on paper: what a step sends, counted, over the links' speeds: `python -m benches.scaling`.

    --step-ms X      a step's time on one GPU, measured (`pytest benches/bench_step.py`): names the bottleneck by size
    --latency-us X   of a small all-reduce over all ranks, measured (nccl-tests, all_reduce_perf -b 8 -e 8)
    --rows FILE      take the step's time from a training.csv instead

Without them the table holds what can be counted, and the step from which on each cost is hidden or small.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import nn

from benches.report import rows_of
from rsdnet.config import Config
from rsdnet.errors import DataError, command
from rsdnet.model import BYOL

SIZES = (1, 8, 64, 256, 1024)
NODE = 8  # GPUs that NVSwitch joins (NVIDIA, HGX H200 data sheet)
NVLINK = 450e9  # bytes a second each way of one H200 (NVIDIA, H200 data sheet: 900 GB/s both ways)
INFINIBAND = 50e9  # bytes a second each way of one 400 Gb/s NDR port, one a GPU (NVIDIA, DGX H200 user guide)
FLOAT = 4  # bytes of a gradient's element, and of a norm's statistic
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
        """Bytes."""
        return FLOAT * self.parameters

    @property
    def messages(self) -> int:
        """Of BatchNorm in a step, one after the other."""
        return self.forward + self.backward


class Costs(NamedTuple):
    """Of a step on n GPUs, seconds but for the names that say otherwise."""

    gpus: int
    gradient: float  # all-reduce, at the links' speed
    norm_bytes: int  # that a rank receives for BatchNorm's statistics and their gradients
    norms: float  # those bytes at the links' speed, without latency


def counted(config: Config) -> Counts:
    """Count parameters and norms over the model, on the device "meta"."""
    with torch.device("meta"):
        byol = BYOL(config.views.channels, config.model)
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
    """The least that sharing takes on `gpus` GPUs.

    BatchNorm (rsdnet/norm.py) gathers 2 statistics a channel of every rank forward, and all-reduces n times 2 numbers a
    channel backward.
    """
    each, summed = 2 * FLOAT * counts.forward_channels, gpus * 2 * FLOAT * counts.backward_channels
    received = (gpus - 1) * each + ring(gpus) * summed
    norms = all_gather(each, gpus) + all_reduce(summed, gpus)
    return Costs(gpus, all_reduce(counts.gradient, gpus), round(received), norms)


def all_reduce(size: float, gpus: int) -> float:
    """Seconds for `size` bytes: reduced and scattered in the nodes, each GPU's part all-reduced between the nodes by
    its own port, gathered in the nodes."""
    return ring(min(gpus, NODE)) * size / NVLINK + ring(-(-gpus // NODE)) * size / NODE / INFINIBAND


def all_gather(size: float, gpus: int) -> float:
    """Seconds for `size` bytes of each: from other nodes each port brings in its share, NVLink hands all around."""
    return (gpus - 1) * size / NVLINK + max(0, gpus - NODE) / NODE * size / INFINIBAND


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
        "GPUs", "gradient, ms", "hidden if a step takes, ms", "BatchNorm: messages", "MB a rank", "ms a step for them",
        f"below {SMALL:.0%} of a step of, ms", f"samples a GPU of {BYOL_BATCH:,}",
    )  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for gpus in SIZES:
        cost = costs(counts, gpus)
        messages = counts.messages if gpus > 1 else 0
        norms = f"{1e3 * cost.norms:.3g} + {messages} L" if messages else "0"
        share = f"{1e3 * cost.norms / SMALL:.3g} + {messages / SMALL:,.0f} L" if messages else "0"
        cells = [
            f"{gpus:,}", f"{1e3 * cost.gradient:.2f}", f"{1e3 * cost.gradient / BACKWARD:.2f}", f"{messages}",
            f"{cost.norm_bytes / 1e6:,.1f}", norms, share, f"{BYOL_BATCH / gpus:,.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def planned(counts: Counts, step: float, latency: float, batch: int) -> str:
    """The plan for a measured step of `batch` samples a GPU, as Markdown. step, latency: seconds."""
    titles = ("GPUs", "samples a step", "share of one GPU's speed", "bottleneck", "reading, GB/s a node")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for gpus in SIZES:
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
    latency_us: float | None = None
    """Measured time of a small all-reduce over all ranks; BatchNorm waits for so many in turn."""
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
        f"gradient; BatchNorm is passed {counts.forward} times forward and {counts.backward} back; a sample is "
        f"{SAMPLE:,.0f} bytes\n"
    )
    print(table(counts))
    if options.rows is None and options.step_ms is None:
        return
    if options.latency_us is None:
        raise DataError("--latency-us is missing: what a small all-reduce over all ranks takes, measured")
    step = options.step_ms / 1e3 if options.step_ms else measured_step(options.rows or Path(), options.batch)
    print(f"\nA step of {1e3 * step:.1f} ms for {options.batch:,} samples, {options.latency_us:g} us a message:\n")
    print(planned(counts, step, options.latency_us / 1e6, options.batch))


if __name__ == "__main__":
    command(main)
