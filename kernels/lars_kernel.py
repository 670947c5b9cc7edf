# mypy: disallow-untyped-defs=False
"""LARS on all tensors of all groups in two launches: the kernels of lars_step.py. Rule and reference: lars_rule.py.

The first launch sums the squares of p and u over each chunk of the tensors (multi_tensor.py). In the second, each
program adds up the sums of its own tensor, always in the same order, and writes m and p. It walks the chunks backwards,
to find in the L2 cache what the first launch read last.
Bytes it must move: p and g read twice, m read once, m and p written once: 28 an element in float32, less what the L2
cache saves; 26 if p is bf16 with its master and g is bf16. For the 23.5 million parameters of ResNet-50's encoder in
float32 658 MB, a floor of 153 us at the 4.3 TB/s that a copy reaches on an H200.

With a loss scale each program also reads grad_scale and found_inf. It unscales gradients as it loads them, before
anything is squared, and returns at once if found_inf is not 0. Both launches unscale; to write the unscaled gradients
back, as torch's fused optimizers do, would move 4 bytes an element more. The two numbers are arguments of the launches
and not part of the table, since a GradScaler passes new tensors at each step. A CUDA graph reads those of its capture.

The target update is not fused into the second launch. Fusion would save `update_target_` its read of p, 4 of 40 bytes
an element, but tau, the targets and their pairing would move into the optimizer, which would then decide whether a
target moves in a step that found_inf skips; and weights changed between the two would silently diverge. The first
tensors, which are written last, are also the first that `update_target_` reads from the L2 cache.
"""

import struct

import torch
from torch import Tensor

from ._triton import tl, triton
from .multi_tensor import LAUNCH, chunk_of, load_fp32, store_fp32

# number of elements, first chunk, addresses of weight, gradient, momentum and rounded copy (0: none), group, type codes
# of gradient and copy
COLUMNS = 9
GROUP = struct.Struct("q6f")  # address of the learning rate or 0, rate, momentum, weight decay, trust, adapt, unused
REDUCE = 256  # partial sums that a program adds at once

# ---- kernels ------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize_on_alignment=["rules", "owners", "grad_scale", "found_inf"])
def lars_norms_kernel(
    rows,  # (T, COLUMNS) int64: see COLUMNS
    rules,  # (G, 8) fp32: one GROUP a group, the address taking the first two words
    owners,  # (chunks,) int32: row of each chunk
    partial,  # (chunks, 2) fp32 out: sums of squares of weight and u; not written if the group does not adapt
    grad_scale,  # () fp32: factor in the gradients; None: 1
    found_inf,  # () fp32: any value but 0 skips the step; None: never skipped
    GRAD: tl.constexpr,  # type code of all gradients, or -1: see the row
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One program: one chunk of one tensor. Grid: (chunks,)."""
    if found_inf is not None:  # noqa: SIM102 (decided when compiled)
        if tl.load(found_inf) != 0.0:
            return
    chunk = tl.program_id(0)
    row, numel, start = chunk_of(rows, owners, chunk, COLUMNS, CHUNK)
    weight, grad, code = tl.load(row + 2), tl.load(row + 3), tl.load(row + 7)
    rule = rules + tl.load(row + 6) * 8
    decay, unscale = tl.load(rule + 4), unscale_of(grad_scale)
    aligned = (weight | grad) % ALIGN == 0
    if tl.load(rule + 6) != 0.0:
        weight_squares = tl.zeros((BLOCK,), tl.float32)
        update_squares = tl.zeros((BLOCK,), tl.float32)
        for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):
            if aligned & (at + BLOCK <= numel):
                w = load_fp32(weight, 0, at, numel, 0, BLOCK, True)
                u = load_fp32(grad, code, at, numel, GRAD, BLOCK, True) * unscale + decay * w
            else:
                w = load_fp32(weight, 0, at, numel, 0, BLOCK, False)
                u = load_fp32(grad, code, at, numel, GRAD, BLOCK, False) * unscale + decay * w
            weight_squares += w * w
            update_squares += u * u
        tl.store(partial + chunk * 2, tl.sum(weight_squares, axis=0))
        tl.store(partial + chunk * 2 + 1, tl.sum(update_squares, axis=0))


@triton.jit(do_not_specialize_on_alignment=["groups", "rules", "owners", "grad_scale", "found_inf"])
def lars_update_kernel(
    rows,  # (T, COLUMNS) int64: see COLUMNS
    groups,  # (G, 4) int64: address of the fp32 learning rate, or 0: the rule holds it; the rest is the rule
    rules,  # (G, 8) fp32: the same memory
    owners,  # (chunks,) int32: row of each chunk
    partial,  # (chunks, 2) fp32: sums of squares of weight and u
    grad_scale,  # () fp32 or None: as above
    found_inf,  # () fp32 or None: as above
    GRAD: tl.constexpr,  # type code of all gradients, or -1: see the row
    COPY: tl.constexpr,  # type code of all rounded copies, 0: no copies, or -1: see the row
    COLUMNS: tl.constexpr,
    REDUCE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One program: one chunk of one tensor, the last chunk first. Grid: (chunks,)."""
    if found_inf is not None:  # noqa: SIM102 (decided when compiled)
        if tl.load(found_inf) != 0.0:
            return
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)
    row, numel, start = chunk_of(rows, owners, chunk, COLUMNS, CHUNK)
    group = tl.load(row + 6)
    rule = rules + group * 8
    rate, rate_at = tl.load(rule + 2), tl.load(groups + group * 4)
    if rate_at != 0:
        rate = tl.load(rate_at.to(tl.pointer_type(tl.float32)))
    momentum, decay, unscale = tl.load(rule + 3), tl.load(rule + 4), unscale_of(grad_scale)
    factor = 1.0
    if tl.load(rule + 6) != 0.0:
        factor = lars_factor(partial + tl.load(row + 1) * 2, tl.cdiv(numel, CHUNK), tl.load(rule + 5), REDUCE)
    weight, grad, moment, copy = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    code, copy_code = tl.load(row + 7), tl.load(row + 8)
    aligned = (weight | grad | moment | copy) % ALIGN == 0
    for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):
        if aligned & (at + BLOCK <= numel):
            lars_block(weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
                       GRAD, COPY, BLOCK, True)  # fmt: skip
        else:
            lars_block(weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
                       GRAD, COPY, BLOCK, False)  # fmt: skip


@triton.jit
def unscale_of(grad_scale):
    """1 / grad_scale rounded once; 1 for None."""
    if grad_scale is None:
        return 1.0
    else:
        return tl.div_rn(1.0, tl.load(grad_scale))


@triton.jit
def lars_factor(partial, count, trust, REDUCE: tl.constexpr):
    """trust * norm(p) / norm(u) from the `count` partial sums of a tensor; 1 if either norm is 0."""
    lane = tl.arange(0, REDUCE)
    weight_squares = tl.zeros((REDUCE,), tl.float32)
    update_squares = tl.zeros((REDUCE,), tl.float32)
    for first in range(0, count, REDUCE):
        at = first + lane
        weight_squares += tl.load(partial + at * 2, mask=at < count, other=0.0)
        update_squares += tl.load(partial + at * 2 + 1, mask=at < count, other=0.0)
    weight_norm = tl.sqrt_rn(tl.sum(weight_squares, axis=0))
    update_norm = tl.sqrt_rn(tl.sum(update_squares, axis=0))
    return tl.where((weight_norm > 0.0) & (update_norm > 0.0), trust * weight_norm / update_norm, 1.0)


@triton.jit
def lars_block(
    weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
    GRAD: tl.constexpr, COPY: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One step on BLOCK elements of a tensor, from element `at`."""
    w = load_fp32(weight, 0, at, numel, 0, BLOCK, WHOLE)
    g = load_fp32(grad, code, at, numel, GRAD, BLOCK, WHOLE) * unscale
    m = load_fp32(moment, 0, at, numel, 0, BLOCK, WHOLE)
    m = momentum * m + (g + decay * w) * factor
    w = w - rate * m
    store_fp32(moment, 0, m, at, numel, 0, BLOCK, WHOLE)
    store_fp32(weight, 0, w, at, numel, 0, BLOCK, WHOLE)
    if COPY > 0:
        store_fp32(copy, copy_code, w, at, numel, COPY, BLOCK, WHOLE)
    if COPY < 0 and copy_code != 0:
        store_fp32(copy, copy_code, w, at, numel, COPY, BLOCK, WHOLE)


# ---- launch -------------------------------------------------------------------------------------------------


def launch_lars(
    parts: tuple[Tensor, Tensor, Tensor],
    partial: Tensor,
    grad: int,
    copy: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step on the tensors of a table, in two launches.

    parts: rows, groups and owners of the table. partial: (chunks, 2) fp32, not initialised. grad, copy: type codes of
    gradients and rounded copies. grad_scale, found_inf: () fp32, or None.
    """
    rows, groups, owners = parts
    if not len(owners):
        return
    rules, grid = groups.view(torch.float32), (len(owners),)
    scaling = grad_scale, found_inf
    lars_norms_kernel[grid](rows, rules, owners, partial, *scaling, grad, COLUMNS, **LAUNCH)
    lars_update_kernel[grid](rows, groups, rules, owners, partial, *scaling, grad, copy, COLUMNS, REDUCE, **LAUNCH)
