"""One step of LARS on a CPU. Rule and reference: lars_rule.py.

Tensors are processed in blocks that fit the caches: p and g are read from memory twice, m once, p and m written once,
28 bytes an element in float32. torch._foreach, whose every operation walks all tensors, moves 68 and takes 1.7 to 2
times as long (ResNet-18 and ResNet-50 with BYOL's heads, 1 and 2 threads); the reference takes 2.1 to 2.8 times.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .lars_rule import HALF, Batch, Rule, decayed, inverse
from .multi_tensor import is_dense, same_layout

BLOCK = 1 << 18  # elements, 1 MB of float32: smaller blocks cost calls, larger ones fall out of the caches


def step_on_cpu(batch: Batch) -> None:
    """One step on a batch, in place; skipped if found_inf is not 0."""
    if batch.found_inf is not None and batch.found_inf != 0:
        return
    scale = None if batch.grad_scale is None else inverse(batch.grad_scale)
    for weight, grad, momentum, group in zip(batch.weights(), batch.grads, batch.momenta, batch.groups, strict=True):
        step_tensor(weight, grad, momentum, batch.rules[group], scale)
    if batch.masters:
        torch._foreach_copy_([param for param in batch.params if param.dtype in HALF], batch.masters)


def step_tensor(weight: Tensor, grad: Tensor, momentum: Tensor, rule: Rule, scale: Tensor | None) -> None:
    """One step on one tensor, in place. scale: a factor on the gradient, or None."""
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
    """The three tensors, block by block; in one piece if their memory layouts differ."""
    tensors = weight, grad, momentum
    if not (is_dense(weight) and same_layout(weight, grad) and same_layout(weight, momentum)):
        yield tensors
        return
    flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
    yield from zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)


def squares(block: Tensor) -> float:
    """The sum of squares of a block."""
    return float(torch.linalg.vector_norm(block)) ** 2
