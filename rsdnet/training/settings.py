"""Settings that fit the run: values of the options of [optim] that are auto, by the run's samples, batch and steps."""

import dataclasses
import math
from collections.abc import Callable

from rsdnet.config import Config, OptimConfig
from rsdnet.errors import DataError
from rsdnet.training.optim import OPTIMIZERS, length_of
from rsdnet.training.reach import MOST, lars_reach, total

OURS = ("lars", "adamw", "sgd")

# LARS is for large batches (You et al. 2017), long runs: DeepMind's shortest preset has 31,000 steps of 4,096 samples.
# AdamW is even with it at 128 samples a step, behind at 32 by one seed: docs/results.md, grids "optimizers" and "lars".
LARS_BATCH, LARS_STEPS = 1024, 10_000  # our choice
# DeepMind's presets (byol/configs/byol.py) of 100, 300 and 1,000 epochs: 31,000, 94,000 and 312,000 steps.
SHORT, MIDDLE = 60_000, 200_000  # steps up to which a preset counts: about halfway to the next  # our choice
LARS_LR = {SHORT: 0.45, MIDDLE: 0.3, math.inf: 0.2}
LARS_DECAY = {MIDDLE: 1e-6, math.inf: 1.5e-6}
REACH = 10.0  # norms that LARS must be able to move the weights by; docs/results.md, grid "optimizers"
LARS_PEAK = 1.0  # of a step in a short run, at least; docs/results.md, grid "lars", one seed
ADAMW_PEAK, ADAMW_BATCH, ADAMW_DECAY = 1.5e-3, 128, 0.05  # our choice
SGD_LR, SGD_DECAY = 0.05, 1e-4  # Chen and He 2021, section 3
WARMUP_EPOCHS = 10.0  # byol/configs/byol.py
FEW = 4_999  # steps; our choice
TAU = {FEW: 0.98, MIDDLE: 0.99, math.inf: 0.996}  # the last two are DeepMind's

Choice = tuple[str | float, str]  # a value and its reason


def check(optim: OptimConfig) -> None:
    """Raise DataError on an unknown optimizer, and on an optimizer and a learning rate that do not name each other."""
    if optim.optimizer != "auto":
        OPTIMIZERS.find(optim.optimizer)
    if optim.optimizer == "auto" and optim.lr != "auto":
        raise DataError(
            f"--lr {optim.lr:g} without --optimizer: LARS's rates are a hundred times those of AdamW; add --optimizer "
            "lars, adamw or sgd, or leave --lr out"
        )
    if optim.lr == "auto" and optim.optimizer not in ("auto", *OURS):
        raise DataError(f"--optimizer {optim.optimizer} has no learning rate of its own: add --lr")


def fitted(cfg: Config, samples: int) -> Config:
    """`cfg` with a value for each option of [optim] that is auto, and its reason in `chosen`. samples: of an epoch.

    Raises DataError as `check` does.
    """
    check(cfg.optim)
    for name, choose in CHOICES.items():
        if getattr(cfg.optim, name) == "auto":
            value, reason = choose(cfg, samples)
            optim = dataclasses.replace(cfg.optim, **{name: value}, chosen=cfg.optim.chosen | {name: reason})  # type: ignore[arg-type]
            cfg = dataclasses.replace(cfg, optim=optim)
    return cfg


def told(cfg: Config, samples: int) -> str:
    """A line on the settings of a fitted `cfg` that were chosen; empty without one."""
    _, steps, warmup = length_of(cfg, samples)
    optim, words = cfg.optim, {"optimizer": cfg.optim.optimizer, "lr": f"lr {cfg.optim.lr:.3g}"}
    words |= {"warmup_epochs": f"warm-up {warmup:,} steps", "tau": f"tau {optim.tau:g}"}
    words |= {"weight_decay": f"weight decay {optim.weight_decay:g}"}
    found = [word for name, word in words.items() if name in optim.chosen]
    return f"settings for {steps:,} steps of {optim.batch:,} samples: {', '.join(found)} (auto)" if found else ""


# ---- the rule: of each option (configuration, samples of an epoch) -> its value and the reason -----------------------


def warmup_epochs(cfg: Config, samples: int) -> Choice:
    """Epochs of the warm-up."""
    return WARMUP_EPOCHS, "DeepMind's; at most a tenth of the run"


def optimizer(cfg: Config, samples: int) -> Choice:
    """LARS where batch and run are its own, else AdamW."""
    steps, batch = length_of(cfg, samples).steps, cfg.optim.batch
    name = "lars" if batch >= LARS_BATCH and steps >= LARS_STEPS else "adamw"
    return name, f"{steps:,} steps of {batch:,} samples; lars from {LARS_STEPS:,} of {LARS_BATCH:,}"


def lr(cfg: Config, samples: int) -> Choice:
    """Base learning rate of an optimizer of ours; a step uses lr * batch / 256."""
    if cfg.optim.optimizer == "sgd":
        return SGD_LR, "SimSiam's"
    scale = cfg.optim.batch / 256
    if cfg.optim.optimizer == "adamw":
        peak = min(ADAMW_PEAK * math.sqrt(cfg.optim.batch / ADAMW_BATCH), MOST["adamw"])
        return rounded(peak / scale), f"a peak of {peak:.3g}: by the root of the batch, at most {MOST['adamw']:g}"
    steps = length_of(cfg, samples).steps
    preset, most = of(LARS_LR, steps), MOST["lars"] / scale
    rates = total(cfg, samples) * scale
    needed = REACH / lars_reach(rates) if rates > 0 else math.inf
    least = LARS_PEAK / scale if steps <= SHORT else 0.0
    reasons = {
        least: f"a peak of {LARS_PEAK:g}, at least, up to {SHORT:,} steps",
        most: f"the highest rate of a step, {MOST['lars']:g}",
        needed: f"moves the weights by {REACH:g} times their size in {steps:,} steps",
        preset: f"DeepMind's for {steps:,} steps",
    }
    value = min(max(preset, needed, least), most)
    return rounded(value), reasons[value]


def weight_decay(cfg: Config, samples: int) -> Choice:
    """Weight decay of an optimizer of ours; none for others, whose rule is unknown."""
    steps = length_of(cfg, samples).steps
    decays = {"lars": of(LARS_DECAY, steps), "adamw": ADAMW_DECAY, "sgd": SGD_DECAY}
    return decays.get(cfg.optim.optimizer, 0.0), f"for {cfg.optim.optimizer}"


def tau(cfg: Config, samples: int) -> Choice:
    """The target's momentum at the first step: nearer to 1 in a longer run."""
    steps = length_of(cfg, samples).steps
    return of(TAU, steps), f"for {steps:,} steps"


CHOICES: dict[str, Callable[[Config, int], Choice]] = {  # in this order: the later ones look at those before
    "warmup_epochs": warmup_epochs, "optimizer": optimizer, "lr": lr, "weight_decay": weight_decay, "tau": tau,
}  # fmt: skip


def of(table: dict[float, float], steps: int) -> float:
    """The value in a table by the most steps that it is for."""
    return next(value for most, value in table.items() if steps <= most)


def rounded(value: float) -> float:
    """`value` with three digits that count."""
    return float(f"{value:.3g}")
