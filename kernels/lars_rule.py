"""The rule of LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888) as DeepMind's BYOL uses it, in plain PyTorch.

    u = g + weight_decay * p
    u = u * trust * norm(p) / norm(u)      where both norms are above 0; only where the group adapts
    m = momentum * m + u
    p = p - lr * m

google-deepmind/deepmind-research byol/utils/optimizers.py, `lars` (l. 132: weight decay, then `scale_by_lars`, then the
learning rate) and `lars_adaptation` (l. 90: the norm of u includes the weight decay). Biases and norm parameters get
neither weight decay nor adaptation (`exclude_bias_and_norm`, l. 29), but they get momentum. float32 inside: a bf16 or
fp16 parameter has a float32 master copy, which the step updates and the parameter rounds.

Mixed precision follows the protocol of torch's fused optimizers (torch/amp/grad_scaler.py, `GradScaler.step`):
gradients arrive as g * grad_scale and are unscaled in float32, before anything is squared, by the factor that
`GradScaler.unscale_` uses; a found_inf other than 0 changes nothing. Both are read on the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class Rule(NamedTuple):
    """The hyper-parameters of one parameter group."""

    lr: Tensor | float
    momentum: float
    weight_decay: float
    trust: float
    adapt: bool


class Batch(NamedTuple):
    """The tensors of one step."""

    params: list[Tensor]
    grads: list[Tensor]  # one a parameter
    momenta: list[Tensor]  # one a parameter, float32, or float64 for float64
    masters: list[Tensor]  # float32, one for each bf16 or fp16 parameter, in their order
    groups: list[int]  # one a parameter: the index of its rule
    rules: list[Rule]
    grad_scale: Tensor | None = None  # 0-dim float32 on their device: the factor in the gradients
    found_inf: Tensor | None = None  # 0-dim float32 on their device: any value but 0 skips the step

    def weights(self) -> list[Tensor]:
        """The tensor that the step updates, for each parameter: its master if it has one, else itself."""
        masters = iter(self.masters)
        return [next(masters) if param.dtype in HALF else param for param in self.params]


def lars_reference(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    rule: Rule,
    master: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step on one tensor, in place, without host sync. master: of a bf16 or fp16 parameter."""
    weight = param if master is None else master
    update = decayed(weight, grad, rule, None if grad_scale is None else inverse(grad_scale))
    if rule.adapt:
        update = update * trust_ratio(weight, update, rule.trust)
    moved = rule.momentum * momentum + update
    stepped = weight - rule.lr * moved
    for tensor, value in ((momentum, moved), (weight, stepped), *(() if master is None else ((param, stepped),))):
        value = value.to(tensor.dtype)
        tensor.copy_(value if found_inf is None else torch.where(found_inf != 0, tensor, value))


def step_by_reference(batch: Batch) -> None:
    """One step on a batch, one tensor after the other."""
    tensors = zip(batch.params, batch.weights(), batch.grads, batch.momenta, batch.groups, strict=True)
    for param, weight, grad, momentum, group in tensors:
        master = None if weight is param else weight
        lars_reference(param, grad, momentum, batch.rules[group], master, batch.grad_scale, batch.found_inf)


def decayed(weight: Tensor, grad: Tensor, rule: Rule, scale: Tensor | None) -> Tensor:
    """u before adaptation: g + weight_decay * p, in p's type. scale: a factor on the gradient, or None."""
    grad = grad.to(weight.dtype)
    return torch.add(grad if scale is None else grad * scale, weight, alpha=rule.weight_decay)


def inverse(grad_scale: Tensor) -> Tensor:
    """1 / grad_scale rounded once, 0-dim float32, as `GradScaler.unscale_` computes it."""
    return grad_scale.double().reciprocal().float()


def trust_ratio(weight: Tensor, update: Tensor, trust: float) -> Tensor:
    """(): trust * norm(p) / norm(u), 1 where either norm is 0."""
    weight_norm, update_norm = weight.norm(), update.norm()
    return torch.where((weight_norm > 0) & (update_norm > 0), trust * weight_norm / update_norm, 1.0)


def trust_ratios(batch: Batch, device: torch.device) -> Tensor:
    """(n,) float32 on the device: the ratios of the adapting tensors, in their order."""
    scale = None if batch.grad_scale is None else inverse(batch.grad_scale)
    ratios = [torch.empty(0, device=device)]
    for weight, grad, group in zip(batch.weights(), batch.grads, batch.groups, strict=True):
        if (rule := batch.rules[group]).adapt:
            ratios.append(trust_ratio(weight, decayed(weight, grad, rule, scale), rule.trust).float()[None])
    return torch.cat(ratios)


def check(batch: Batch) -> None:
    """Raises TypeError or ValueError naming the first tensor that does not fit."""
    params, device = batch.params, batch.params[0].device
    halves = [param for param in params if param.dtype in HALF]
    for name, tensors, likes in (("grads", batch.grads, params), ("momenta", batch.momenta, params),
                                 ("masters", batch.masters, halves)):  # fmt: skip
        if len(tensors) != len(likes):
            raise ValueError(f"{name}: {len(tensors)} tensors, expected {len(likes)}")
        for k, (x, like) in enumerate(zip(tensors, likes, strict=True)):
            if x.shape != like.shape or x.device != device:
                raise ValueError(
                    f"{name}[{k}]: {tuple(x.shape)} on {x.device}, expected {tuple(like.shape)} on {device}"
                )
            wanted = state_dtype(like)
            if name != "grads" and x.dtype != wanted:
                raise TypeError(f"{name}[{k}]: {x.dtype}, expected {wanted}")
    for name, tensors in (("params", params), ("grads", batch.grads)):
        for k, x in enumerate(tensors):
            if x.layout != torch.strided or not x.dtype.is_floating_point:
                raise TypeError(f"{name}[{k}]: {x.layout} {x.dtype}, expected a dense floating-point tensor")
            if x.device != device:
                raise ValueError(f"{name}[{k}]: on {x.device}, but params[0] is on {device}: step each device apart")
    check_rates(batch.rules, device)
    check_scaling(batch)


def check_scaling(batch: Batch) -> None:
    """Raises TypeError or ValueError unless grad_scale and found_inf are None or 0-dim float32 on the right device."""
    device = batch.params[0].device
    for name, value in (("grad_scale", batch.grad_scale), ("found_inf", batch.found_inf)):
        if value is None:
            continue
        if value.ndim or value.device != device:
            raise ValueError(f"{name}: {tuple(value.shape)} on {value.device}, expected a 0-dim tensor on {device}")
        if value.dtype != torch.float32:
            raise TypeError(f"{name}: {value.dtype}, expected float32")


def check_rates(rules: Sequence[Rule], device: torch.device) -> None:
    """Raises TypeError or ValueError on an invalid learning rate or one on another device."""
    for rule in rules:
        check_rate(rule.lr)
        if isinstance(rule.lr, Tensor) and rule.lr.device != device:
            raise ValueError(f"lr: on {rule.lr.device}, but the parameters are on {device}")


def check_rate(lr: Tensor | float) -> None:
    """Raises TypeError or ValueError unless lr is a 0-dim float32 tensor or a float of 0 or more."""
    if not isinstance(lr, Tensor):
        if not lr >= 0:
            raise ValueError(f"lr: {lr}, expected 0 or more")
    elif lr.ndim:
        raise ValueError(f"lr: shape {tuple(lr.shape)}, expected a 0-dim tensor or a float")
    elif lr.dtype != torch.float32:
        raise TypeError(f"lr: {lr.dtype}, expected float32")


def state_dtype(param: Tensor) -> torch.dtype:
    """The type of a parameter's momentum and master: float32, or float64 for float64."""
    return torch.float32 if param.dtype in HALF else param.dtype
