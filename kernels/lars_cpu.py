"""One step of LARS on a CPU. The rule, and the reference: lars_rule.py.

A tensor is taken in blocks that stay in the caches: p and g are read from memory twice, m once, p and m written once,
28 bytes an element in float32. By torch._foreach, whose every operation walks all tensors, it is 68.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .lars_rule import HALF, Batch, Rule, inverse
from .multi_tensor import is_dense, same_layout

BLOCK = 1 << 18  # elements: 1 MB of float32; smaller ones cost calls, larger ones leave the caches


def step_on_cpu(batch: Batch) -> None:
    """One step, in place; none where found_inf is not 0."""
    if batch.found_inf is not None and batch.found_inf != 0:
        return
    scale = None if batch.grad_scale is None else inverse(batch.grad_scale)
    for weight, grad, momentum, group in zip(batch.weights(), batch.grads, batch.momenta, batch.groups, strict=True):
        step_tensor(weight, grad, momentum, batch.rules[group], scale)
    if batch.masters:
        torch._foreach_copy_([param for param in batch.params if param.dtype in HALF], batch.masters)


def step_tensor(weight: Tensor, grad: Tensor, momentum: Tensor, rule: Rule, scale: Tensor | None) -> None:
    """One step on one tensor, in place. scale: what its gradient is multiplied by first."""
    factor = 1.0
    if rule.adapt:
        weight_squares = update_squares = 0.0
        for w, g, _ in blocks(weight, grad, momentum):
            weight_squares += squares(w)
            update_squares += squares(decayed(w, g, rule, scale))
        if weight_squares > 0 and update_squares > 0:
            factor = rule.trust * (weight_squares / update_squares) ** 0.5
    for w, g, m in blocks(weight, grad, momentum):
        m.mul_(rule.momentum).add_(decayed(w, g, rule, scale), alpha=factor)
        w.sub_(m, alpha=float(rule.lr))


def blocks(weight: Tensor, grad: Tensor, momentum: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The three tensors in blocks of the same elements; whole where their memory is not laid out alike."""
    tensors = weight, grad, momentum
    if not (is_dense(weight) and same_layout(weight, grad) and same_layout(weight, momentum)):
        yield tensors
        return
    flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
    yield from zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)


def decayed(weight: Tensor, grad: Tensor, rule: Rule, scale: Tensor | None) -> Tensor:
    """g + weight_decay * p, in p's type."""
    grad = grad.to(weight.dtype)
    return torch.add(grad if scale is None else grad * scale, weight, alpha=rule.weight_decay)


def squares(block: Tensor) -> float:
    """The sum of its squares."""
    return float(torch.linalg.vector_norm(block)) ** 2
