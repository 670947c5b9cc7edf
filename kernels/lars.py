"""LARS as DeepMind's BYOL uses it (You, Gitman, Ginsburg 2017, arXiv 1708.03888).

    u = g + weight_decay * p
    u = u * trust * norm(p) / norm(u)      where both norms are above 0; only where the group adapts
    m = momentum * m + u
    p = p - lr * m

The rule: google-deepmind/deepmind-research byol/utils/optimizers.py, `lars` (l. 132: weight decay, then
`scale_by_lars`, then the learning rate) and `lars_adaptation` (l. 90: the norm of u includes the weight
decay). Biases and norm parameters get neither weight decay nor adaptation (`exclude_bias_and_norm`, l. 29),
but momentum all the same: see `lars_groups`.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn


def lars_(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    lr: Tensor | float,
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
    adapt: bool,
) -> None:
    """One step on lists of tensors, in place, with no host sync. lr: 0-dim tensor, or a float."""
    if not params:
        return
    updates = torch._foreach_add(grads, params, alpha=weight_decay)
    if adapt:
        param_norms, update_norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(updates))
        both = (param_norms > 0) & (update_norms > 0)
        factors = torch.where(both, trust * param_norms / update_norms, 1.0)
        torch._foreach_mul_(updates, list(factors.unbind()))
    torch._foreach_mul_(momenta, momentum)
    torch._foreach_add_(momenta, updates)
    torch._foreach_sub_(params, torch._foreach_mul(momenta, cast(Tensor, lr)))


class LARS(torch.optim.Optimizer):
    """LARS with DeepMind's rule.

    params: parameters, or groups; a group with adapt=False takes no adaptation: see `lars_groups`.
    lr: float, or a 0-dim tensor on the parameters' device. The tensor is kept by reference: fill it to change
    the rate, with no sync and no recompilation; loading a state fills it too. momentum, weight_decay, trust:
    as in the formula.
    Raises ValueError on a negative value.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        adapt: bool = True,
    ) -> None:
        for name, value in (("momentum", momentum), ("weight_decay", weight_decay), ("trust", trust)):
            if not value >= 0:
                raise ValueError(f"{name}: {value}, expected 0 or more")
        if isinstance(lr, Tensor):
            if lr.ndim:
                raise ValueError(f"lr: shape {tuple(lr.shape)}, expected a 0-dim tensor or a float")
        elif not lr >= 0:
            raise ValueError(f"lr: {lr}, expected 0 or more")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update from the parameters' .grad; parameters without one are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            for param in params:
                if not self.state[param]:
                    self.state[param]["momentum"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            lars_(
                params,
                [param.grad for param in params],
                [self.state[param]["momentum"] for param in params],
                group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                trust=group["trust"],
                adapt=group["adapt"],
            )
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim.Optimizer, but a learning rate held in a tensor stays in that tensor."""
        kept = [group["lr"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, lr in zip(self.param_groups, kept, strict=True):
            if isinstance(lr, Tensor):
                group["lr"] = lr.fill_(group["lr"])


def lars_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A module's trainable parameters in two groups: weights, then biases and norm parameters (ndim <= 1)."""
    params = [param for param in module.parameters() if param.requires_grad]
    weights, others = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]
