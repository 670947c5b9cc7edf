"""LARS and the target's moving average by torch's own multi-tensor functions."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTUM, TRUST = 0.9, 1e-3  # google-deepmind/deepmind-research, byol/configs/byol.py and byol/utils/optimizers.py


class LARS(Optimizer):
    """LARS as BYOL uses it: u = g + wd p; u *= trust |p| / |u|; m = 0.9 m + u; p -= lr m.

    A group with adapt=False takes neither weight decay nor adaptation: biases and norm parameters.
    """

    def __init__(self, groups: Iterable[Any], lr: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            updates: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
            if group["adapt"]:
                updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
                torch._foreach_mul_(updates, ratios(params, updates))
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
            torch._foreach_mul_(momenta, MOMENTUM)
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])


def ratios(params: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """trust * |p| / |u| of each tensor, a tensor (); 1 where either norm is 0. Never waits for a device."""
    sizes, lengths = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, updates))
    one = torch.ones_like(sizes)
    return list(torch.where((sizes > 0) & (lengths > 0), TRUST * sizes / lengths, one).unbind())


def optimizer_of(kind: str, trained: Sequence[nn.Module], weight_decay: float, on_gpu: bool) -> Optimizer:
    """LARS, or torch's SGD or AdamW, over the modules; the learning rate is set at each step."""
    params = [p for module in trained for p in module.parameters()]
    weights, rest = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    plain: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if kind == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=MOMENTUM)
    if kind == "adamw":
        return torch.optim.AdamW(plain, lr=0.0, fused=True)
    return LARS([plain[0] | {"adapt": True}, plain[1] | {"adapt": False}])


@torch.no_grad()
def move_target(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target += (1 - tau) (online - target), parameters alone (Grill et al. 2020, eq. 1)."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - tau)
