"""How far a run's learning rates can move the weights, in norms of a weight tensor: known before the first step."""

import math
import statistics
from collections.abc import Iterable

from torch import Tensor

from rsdnet.config import Config, number
from rsdnet.training.optim import SCHEDULES, length_of, peak_of

TRUST, MOMENTUM = 1e-3, 0.9  # of LARS (rsdnet/kernels/lars.py)
LEAST_REACH = 3.0  # norms; docs/results.md, grid "remedies"
# The highest rates of a step: DeepMind's of 4,096 samples (byol/configs/byol.py); of AdamW our choice.
MOST = {"lars": 0.45 * 4096 / 256, "adamw": 3e-3}
TAKEN = 10_000  # steps of a longer schedule that are summed up


def total(cfg: Config, samples: int) -> float:
    """Sum of a run's learning rates over its steps, in units of the peak. samples: of an epoch."""
    schedule, (_, steps, warmup) = SCHEDULES.find(cfg.optim.schedule), length_of(cfg, samples)
    taken = range(0, steps, max(steps // TAKEN, 1))
    return steps / len(taken) * math.fsum(schedule(step, steps, 1.0, warmup) for step in taken)


def lars_reach(rates: float) -> float:
    """Norms by which LARS moves a weight tensor at most, by the sum of its learning rates.

    A step's update is lr * trust of the tensor's norm long, and momentum repeats it 1 / (1 - momentum) times in all
    (rsdnet/kernels/lars_rule.py).
    """
    return rates * TRUST / (1 - MOMENTUM)


def adamw_reach(rates: float, weights: Iterable[Tensor]) -> float:
    """Norms by which AdamW moves a weight tensor at most, the median of `weights` of more than one dimension.

    A step moves each weight by about lr (Kingma and Ba 2015, section 2.1).
    """
    sizes = [weight.detach().float().square().mean().sqrt().item() for weight in weights if weight.ndim > 1]
    return rates / statistics.median(sizes)


def reach_of(cfg: Config, samples: int, weights: Iterable[Tensor]) -> float | None:
    """Norms by which a run moves its weights at most; None: unknown for its optimizer. weights: those at the start."""
    rates = peak_of(cfg) * total(cfg, samples)
    if cfg.optim.optimizer == "lars":
        return lars_reach(rates)
    return adamw_reach(rates, weights) if cfg.optim.optimizer == "adamw" else None


def warning(cfg: Config, samples: int, weights: Iterable[Tensor]) -> str:
    """A line on a run whose weights cannot move far enough, with the rate or length that would do; else empty."""
    reach = reach_of(cfg, samples, weights)
    if reach is None or not 0 < reach < LEAST_REACH:
        return ""
    steps, more = length_of(cfg, samples).steps, LEAST_REACH / reach
    ways = [f"--steps {rounded_up(steps * more):.0f}"]
    if peak_of(cfg) * more <= MOST[cfg.optim.optimizer]:
        named = f"--optimizer {cfg.optim.optimizer} " if "optimizer" in cfg.optim.chosen else ""
        ways.append(f"{named}--lr {rounded_up(number(cfg.optim.lr) * more):g}")
    return (
        f"{steps:,} steps at these learning rates move the weights by {reach:.2g} times their size at most; below "
        f"{LEAST_REACH:g} the encoder stays near its random start: use {' or '.join(ways)}"
    )


def rounded_up(value: float) -> float:
    """`value` with two digits that count, not below it."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
