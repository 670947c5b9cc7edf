"""Optimizers, and learning rate and tau by step, as in google-deepmind/deepmind-research, byol/utils/schedules.py."""

import math

import torch
from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.kernels import LARS, lars_groups
from rsdnet.methods.byol import BYOL

SGD_MOMENTUM = 0.9


def learning_rate(step: int, steps: int, base: float, batch: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps to base * batch / 256, then a cosine to 0 at `steps` (learning_schedule)."""
    peak = base * batch / 256
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def tau(step: int, steps: int, base: float) -> float:
    """Target's momentum at `step` of `steps`: 1 - (1 - base) * (cos(pi * step / steps) + 1) / 2 (target_ema)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2


def optimizer_of(cfg: Config, byol: BYOL, lr: Tensor) -> torch.optim.Optimizer:
    """The optimizer over the online network and the predictor; no weight decay on biases and norm parameters."""
    trained = nn.ModuleList([byol.online, byol.predictor])
    groups = lars_groups(trained, cfg.optim.weight_decay)
    if cfg.optim.optimizer == "lars":
        return LARS(groups, lr=lr)
    plain = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    if cfg.optim.optimizer == "adamw":
        return torch.optim.AdamW(plain, lr=lr, fused=True, capturable=lr.is_cuda)
    optimizer = torch.optim.SGD(plain, lr=lr, momentum=SGD_MOMENTUM, fused=True)
    for param in trained.parameters():  # else the first step makes them, and leaves them unwritten if it is skipped
        optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return optimizer
