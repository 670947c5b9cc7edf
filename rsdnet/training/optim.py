"""Optimizers and learning rate schedules: each is one function and one line of its registry."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsdnet.config import Config, number
from rsdnet.errors import DataError
from rsdnet.kernels import LARS, lars_groups
from rsdnet.registry import Registry

SGD_MOMENTUM = 0.9
Groups = list[dict[str, Any]]

# ---- optimizers: (parameter groups, learning rate in a () float32 tensor on their device) -> optimizer --------------


def adamw(groups: Groups, lr: Tensor) -> torch.optim.Optimizer:
    """torch's AdamW."""
    return torch.optim.AdamW(groups, lr=lr, fused=True, capturable=lr.is_cuda)


def sgd(groups: Groups, lr: Tensor) -> torch.optim.Optimizer:
    """torch's SGD with momentum 0.9."""
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=SGD_MOMENTUM, fused=True)
    for group in groups:  # else the first step makes the state, and leaves it unwritten if that step is skipped
        for param in group["params"]:
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return optimizer


OPTIMIZERS: Registry[Callable[[Groups, Tensor], torch.optim.Optimizer]] = Registry(
    "optimizer", {"lars": LARS, "sgd": sgd, "adamw": adamw}
)


def optimizer_of(cfg: Config, method: nn.Module, lr: Tensor) -> torch.optim.Optimizer:
    """The optimizer over a method's trainable parameters; no weight decay on biases and norm parameters.

    Raises DataError on an optimizer that cannot skip a step on the device (torch's can with fused=True).
    """
    optimizer = OPTIMIZERS.find(cfg.optim.optimizer)(lars_groups(method, number(cfg.optim.weight_decay)), lr)
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise DataError(
            f"optimizer {cfg.optim.optimizer} does not take found_inf, by which a step is skipped on the device: make "
            "it with fused=True, or read found_inf and grad_scale as torch's fused ones do"
        )
    return optimizer


# ---- schedules: (step, steps, peak, warm-up steps) -> learning rate -------------------------------------------------


def cosine(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, then a cosine to 0 at `steps`: google-deepmind/deepmind-research,
    byol/utils/schedules.py, learning_schedule."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def constant(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up to `peak`, which then stays."""
    return peak * min(step / warmup, 1.0) if warmup else peak


SCHEDULES: Registry[Callable[[int, int, float, int], float]] = Registry(
    "schedule", {"cosine": cosine, "constant": constant}
)


def peak_of(cfg: Config) -> float:
    """The learning rate that the warm-up ends at: lr * batch / 256 (byol/configs/byol.py)."""
    return number(cfg.optim.lr) * cfg.optim.batch / 256


class Length(NamedTuple):
    """A run's steps: in an epoch, in all, and of the warm-up."""

    epoch: int
    steps: int
    warmup: int


def length_of(cfg: Config, samples: int) -> Length:
    """The length of a run with so many samples in an epoch."""
    epoch = samples // cfg.optim.batch
    steps = cfg.optim.steps or cfg.optim.epochs * epoch
    return Length(epoch, steps, min(round(number(cfg.optim.warmup_epochs) * epoch), steps // 10))
