"""LARS's rule (You, Gitman, Ginsburg 2017, arXiv 1708.03888) as DeepMind's BYOL has it, in plain PyTorch.

    u = g + weight_decay * p
    u = u * trust * norm(p) / norm(u)      where both norms are above 0; only where the group adapts
    m = momentum * m + u
    p = p - lr * m

google-deepmind/deepmind-research byol/utils/optimizers.py, `lars` (l. 132: weight decay, then `scale_by_lars`, then the
learning rate) and `lars_adaptation` (l. 90: the norm of u includes the weight decay). Biases and norm parameters get
neither weight decay nor adaptation (`exclude_bias_and_norm`, l. 29), but momentum all the same. float32 inside: a bf16
or fp16 parameter has a float32 master, in which it is updated.

Mixed precision, by the protocol of torch's fused optimizers (torch/amp/grad_scaler.py, `GradScaler.step`): gradients
that arrive as g * grad_scale are unscaled in float32, before anything is squared, by the factor that
`GradScaler.unscale_` takes; where found_inf is not 0 nothing changes. Both are read on the device.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class Rule(NamedTuple):
    """What a group's tensors share."""

    lr: Tensor | float
    momentum: float
    weight_decay: float
    trust: float
    adapt: bool


class Batch(NamedTuple):
    """Tensors to update in one step."""

    params: list[Tensor]
    grads: list[Tensor]  # of each parameter
    momenta: list[Tensor]  # of each parameter, float32, or float64 for float64
    masters: list[Tensor]  # float32, of the bf16 and fp16 parameters alone, in their order
    groups: list[int]  # of each parameter: its rule
    rules: list[Rule]
    grad_scale: Tensor | None = None  # 0-dim float32 on their device: gradients are so many times too large
    found_inf: Tensor | None = None  # 0-dim float32 on their device: not 0 leaves the step out

    def weights(self) -> list[Tensor]:
        """The tensor in which each parameter is updated: its master where it has one."""
        masters = iter(self.masters)
        return [next(masters) if param.dtype in HALF else param for param in self.params]

    def by_rule(self) -> Iterator[tuple[list[int], Rule]]:
        """Each rule that some tensors follow, and which these are."""
        for number, rule in enumerate(self.rules):
            if members := [k for k, group in enumerate(self.groups) if group == number]:
                yield members, rule


def lars_reference(
    param: Tensor,
    grad: Tensor,
    momentum: Tensor,
    rule: Rule,
    master: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step on one tensor, in place. A bf16 or fp16 parameter is updated in its float32 master, then rounded."""
    weight = param if master is None else master
    grad = grad.to(weight.dtype)
    if grad_scale is not None:
        grad = grad * inverse(grad_scale)
    update = grad + rule.weight_decay * weight
    if rule.adapt:
        weight_norm, update_norm = weight.norm(), update.norm()
        both = (weight_norm > 0) & (update_norm > 0)
        update = update * torch.where(both, rule.trust * weight_norm / update_norm, 1.0)
    moved = rule.momentum * momentum + update
    stepped = weight - rule.lr * moved
    for tensor, value in ((momentum, moved), (weight, stepped), *(() if master is None else ((param, stepped),))):
        value = value.to(tensor.dtype)
        tensor.copy_(value if found_inf is None else torch.where(found_inf != 0, tensor, value))


def inverse(grad_scale: Tensor) -> Tensor:
    """1 / grad_scale rounded once, 0-dim float32: what `GradScaler.unscale_` multiplies by."""
    return grad_scale.double().reciprocal().float()


def lars_foreach(batch: Batch) -> None:
    """One step by torch._foreach, in place: what a GPU runs where the kernels do not reach."""
    if batch.found_inf is None:
        step_foreach(batch)
    else:
        step_and_restore(batch, batch.found_inf)


def step_and_restore(batch: Batch, found_inf: Tensor) -> None:
    """One step, taken back where found_inf is not 0: no host sync, for a copy of all that the step writes."""
    written = [*batch.params, *batch.momenta, *batch.masters]
    before = [tensor.clone() for tensor in written]
    step_foreach(batch)
    for tensor, old in zip(written, before, strict=True):
        tensor.copy_(torch.where(found_inf != 0, old, tensor))


def step_foreach(batch: Batch) -> None:
    """One step by torch._foreach, in place, whatever found_inf says."""
    for members, rule in batch.by_rule():
        own, updates = decayed(batch, members, rule)
        momenta = [batch.momenta[k] for k in members]
        if rule.adapt:
            torch._foreach_mul_(updates, list(factors(own, updates, rule.trust).unbind()))
        torch._foreach_mul_(momenta, rule.momentum)
        torch._foreach_add_(momenta, updates)
        torch._foreach_sub_(own, torch._foreach_mul(momenta, cast(Tensor, rule.lr)))
    if batch.masters:
        torch._foreach_copy_([param for param in batch.params if param.dtype in HALF], batch.masters)


def decayed(batch: Batch, members: list[int], rule: Rule) -> tuple[list[Tensor], list[Tensor]]:
    """Of some of a batch's tensors that share a rule: in what they are updated, and g + weight_decay * p."""
    weights = batch.weights()
    own = [weights[k] for k in members]
    grads = [batch.grads[k].to(weights[k].dtype) for k in members]
    if batch.grad_scale is not None:
        grads = list(torch._foreach_mul(grads, inverse(batch.grad_scale)))
    return own, list(torch._foreach_add(grads, own, alpha=rule.weight_decay))


def factors(weights: list[Tensor], updates: list[Tensor], trust: float) -> Tensor:
    """(n,): trust * norm(p) / norm(u) of each tensor, 1 where either norm is 0."""
    norms, update_norms = torch.stack(torch._foreach_norm(weights)), torch.stack(torch._foreach_norm(updates))
    return torch.where((norms > 0) & (update_norms > 0), trust * norms / update_norms, 1.0)


def trust_ratios(batch: Batch, device: torch.device) -> Tensor:
    """(n,) float32 on the device: the factors of the batch's adapting tensors, by rule."""
    ratios = [torch.empty(0, device=device)]
    for members, rule in batch.by_rule():
        if rule.adapt:
            ratios.append(factors(*decayed(batch, members, rule), rule.trust).float())
    return torch.cat(ratios)


def check(batch: Batch) -> None:
    """Raises TypeError or ValueError, naming the first tensor that does not fit."""
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
    """Raises TypeError or ValueError where grad_scale or found_inf is no 0-dim float32 tensor of the batch's device."""
    device = batch.params[0].device
    for name, value in (("grad_scale", batch.grad_scale), ("found_inf", batch.found_inf)):
        if value is None:
            continue
        if value.ndim or value.device != device:
            raise ValueError(f"{name}: {tuple(value.shape)} on {value.device}, expected a 0-dim tensor on {device}")
        if value.dtype != torch.float32:
            raise TypeError(f"{name}: {value.dtype}, expected float32")


def check_rates(rules: Sequence[Rule], device: torch.device) -> None:
    """Raises TypeError or ValueError on a learning rate that is none, or lies on another device."""
    for rule in rules:
        check_rate(rule.lr)
        if isinstance(rule.lr, Tensor) and rule.lr.device != device:
            raise ValueError(f"lr: on {rule.lr.device}, but the parameters are on {device}")


def check_rate(lr: Tensor | float) -> None:
    """Raises TypeError or ValueError where it is neither a float32 0-dim tensor nor a float of 0 or more."""
    if not isinstance(lr, Tensor):
        if not lr >= 0:
            raise ValueError(f"lr: {lr}, expected 0 or more")
    elif lr.ndim:
        raise ValueError(f"lr: shape {tuple(lr.shape)}, expected a 0-dim tensor or a float")
    elif lr.dtype != torch.float32:
        raise TypeError(f"lr: {lr.dtype}, expected float32")


def state_dtype(param: Tensor) -> torch.dtype:
    """The type of a parameter's momentum and master."""
    return torch.float32 if param.dtype in HALF else param.dtype
