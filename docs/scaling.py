"""Numbers of scaling.md: `python docs/scaling.py`, with a measured step and latency `python docs/scaling.py MS US`.

MS: milliseconds of a step of 1,024 samples on one GPU (`pytest benches/bench_step.py`). US: microseconds of a small
all-reduce over all ranks (nccl-tests, all_reduce_perf -b 8 -e 8). Together they name the bottleneck of each size.
"""

import sys

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from rsdnet.config import Config
from rsdnet.methods.byol import BYOL

SIZES = (1, 8, 64, 256, 1024)
NODE = 8  # GPUs that NVSwitch joins (NVIDIA, HGX H200 data sheet)
NVLINK = 450e9  # bytes a second each way of one H200 (NVIDIA, H200 data sheet: 900 GB/s both ways)
INFINIBAND = 50e9  # bytes a second each way of one 400 Gb/s NDR port, one a GPU (NVIDIA, DGX H200 user guide)
BACKWARD = 0.5  # share of a step's FLOPs: online forward 1, online backward 2, target forward 1
VIEWS = 2  # whose statistics share a message
SMALL = 0.05  # of a step: costs below are called small
# Bytes of a sample at 120 px: a uint16 MS band drawn of four with 120 pixels a side and six with 60, and a float32 SAR
# band of 120 (BigEarthNet's patches, rico-hdl's entries).
SAMPLE = (4 * 120**2 + 6 * 60**2) / 10 * 2 + 120**2 * 4
BATCH, BYOL_BATCH = 1024, 4096  # samples a GPU; in all, Grill et al. 2020, section 3.3


def counted() -> tuple[int, int, int, int]:
    """Trained parameters; messages of BatchNorm forward and backward; their bytes, two float64 a channel and view."""
    with torch.device("meta"):
        byol = BYOL(Config())
    target, online, predictor = (
        [m.num_features for m in module.modules() if isinstance(m, _BatchNorm)]
        for module in (byol.target, byol.online, byol.predictor)
    )
    forward, backward = online + predictor + target, online + predictor
    parameters = sum(p.numel() for p in byol.parameters() if p.requires_grad)
    return parameters, len(forward), len(backward), VIEWS * 2 * 8 * sum(forward + backward)


def all_reduce(size: float, gpus: int) -> float:
    """Seconds for `size` bytes: reduced and scattered in the nodes, each GPU's part all-reduced between the nodes by
    its own port, gathered in the nodes. A ring of n sends 2 (n - 1) / n of its bytes (Patarasuk and Yuan 2009)."""
    inside, between = min(gpus, NODE), -(-gpus // NODE)
    return 2 * (inside - 1) / inside * size / NVLINK + 2 * (between - 1) / between * size / NODE / INFINIBAND


def table() -> str:
    """Costs of each size at the links' speeds, and the steps from which on they are hidden or small, as Markdown."""
    parameters, forward, backward, statistics = counted()
    lines = [
        f"| GPUs | gradient, ms | hidden if a step takes, ms | BatchNorm, ms | below {SMALL:.0%} of a step of, ms | "
        f"samples a GPU of {BYOL_BATCH:,} |",
        "|---" * 6 + "|",
    ]
    for gpus in SIZES:
        gradient, norms = (1e3 * all_reduce(size, gpus) for size in (4 * parameters, statistics))
        messages = (forward + backward) * (gpus > 1)
        lines.append(
            f"| {gpus:,} | {gradient:.2f} | {gradient / BACKWARD:.2f} | {norms:.3f} + {messages} L | "
            f"{norms / SMALL:.2f} + {messages / SMALL:,.0f} L | {BYOL_BATCH / gpus:,.0f} |"
        )
    return "\n".join(lines)


def plan(step: float, latency: float) -> str:
    """Share of one GPU's speed that each GPU keeps, and the largest cost, as Markdown. step, latency: seconds.

    The gradient costs what the backward does not hide; BatchNorm's messages hide nowhere.
    """
    parameters, forward, backward, statistics = counted()
    lines = [
        "| GPUs | samples a step | share of one GPU's speed | bottleneck | reading, GB/s a node |",
        "|---" * 5 + "|",
    ]
    for gpus in SIZES:
        added = {
            "the gradient": max(0.0, all_reduce(4 * parameters, gpus) - BACKWARD * step),
            "BatchNorm's latency": (forward + backward) * latency * (gpus > 1),
            "BatchNorm's bytes": all_reduce(statistics, gpus),
        }
        kept = step / (step + sum(added.values()))
        worst = "the GPU" if kept > 1 - SMALL else max(added, key=lambda name: added[name])
        read = min(gpus, NODE) * BATCH * SAMPLE * kept / step / 1e9
        lines.append(f"| {gpus:,} | {gpus * BATCH:,} | {kept:.1%} | {worst} | {read:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("{:,} trained parameters; {} messages of BatchNorm forward, {} back, {:,} bytes".format(*counted()))
    print(f"a sample is {SAMPLE:,.0f} bytes\n\n{table()}")
    if len(sys.argv) == 3:
        print(f"\n{plan(float(sys.argv[1]) / 1e3, float(sys.argv[2]) / 1e6)}")
