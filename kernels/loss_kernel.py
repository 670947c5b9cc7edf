# mypy: disallow-untyped-defs=False
"""The cosine loss of pairs of rows and its slopes, in one pass: the kernels of `byol_loss` and `cosine_loss`.

    loss = sum over pairs of mean_i [2 - 2 cos(q_i, z_i)],   cos(q, z) = q^ . z^
    x^ = x * r(x),   r(x) = rsqrt(max(sum x^2, 1e-12))

and the gradient with respect to q, of one row of B, is factor * slope with

    factor = -2/B * r(q),   slope = z^ - cos * q^     without the second term where the epsilon makes r(q) a constant

The epsilon: google-deepmind/deepmind-research byol/utils/helpers.py, `l2_normalize`. float32 inside; a row whose
squares could overflow there is multiplied by a power of two first, so that rows of any size follow the formula.

Bytes they must move: forward each q and z once and each slope once, in q's type; backward the slopes and the gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._triton import tl, triton

EPSILON = 1e-12
HUGE, SHRINK = 2.0**56, 2.0**-74  # rows with an element beyond HUGE are shrunk: their squares then sum to 2^-36..2^121
LIFT = 2.0**14  # slopes, of length at most 1, are stored times this: small elements stay normal numbers in float16
BLOCK = 2048  # elements that a program processes at once, unless a row is longer: on an H200 8 % faster than half of it
PROGRAMS = 1024  # of one pair at most, so that the last program has few sums to add
BACKWARD_BLOCK = 2048  # elements of a program of the backward kernel

# ---- reference ----------------------------------------------------------------------------------------------


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x^ (B, D), r(x) (B, 1) and, bool (B, 1), whether r(x) depends on x; in x's type. x: (B, D)."""
    huge = x.detach().abs().amax(-1, keepdim=True) > HUGE
    x = torch.where(huge, x * SHRINK, x)
    squares = x.square().sum(-1, keepdim=True)
    scale = squares.clamp(min=EPSILON).rsqrt()
    return x * scale, torch.where(huge, scale * SHRINK, scale), ~(squares < EPSILON)


def cosine_loss_reference(q: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (), slope (B, D) and factor (B, 1), float32 (float64 if q is): the gradient of q is factor * slope."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q_unit, q_scale, varies = unit_rows(q.to(wide))
    z_unit, _, _ = unit_rows(z.to(wide))
    cosine = (q_unit * z_unit).sum(-1, keepdim=True)
    slope = z_unit - torch.where(varies, cosine, 0.0) * q_unit
    return (2 - 2 * cosine).sum() / len(q), slope, (-2 / len(q)) * q_scale


# ---- kernels ------------------------------------------------------------------------------------------------


@triton.jit
def unit_rows_kernel(x, EPSILON: tl.constexpr, HUGE: tl.constexpr, SHRINK: tl.constexpr):
    """As `unit_rows`, of float32 (ROWS, BLOCK_D). Comparisons, not tl.maximum: a NaN must stay one."""
    shrink = tl.where(tl.max(tl.abs(x), axis=1) > HUGE, SHRINK, 1.0)
    x = x * shrink[:, None]
    squares = tl.sum(x * x, axis=1)
    scale = tl.rsqrt(tl.where(squares < EPSILON, EPSILON, squares))
    return x * scale[:, None], scale * shrink, squares < EPSILON


@triton.jit(do_not_specialize=["rows"])
def cosine_kernel(
    loss,  # () fp32 out
    partial,  # (pairs, programs) fp32 out: each program's sum of 2 - 2 cos over its rows
    arrived,  # (1,) int32: 0 before and after
    q1,  # (B, D) bf16, fp16 or fp32: the first pair's prediction; rows q1_stride elements apart
    z1,  # (B, D) bf16, fp16 or fp32: its target
    q2,  # (B, D) as q1: the second pair's
    z2,  # (B, D) as z1
    slope1,  # (B, D) out, q1's type, contiguous: times LIFT; not touched unless GRAD1
    slope2,  # (B, D) out, q2's type
    factors,  # (pairs, B) fp32 out: not touched unless GRAD1 or GRAD2
    q1_stride,
    z1_stride,
    q2_stride,
    z2_stride,
    rows,  # B
    D: tl.constexpr,
    GRAD1: tl.constexpr,
    GRAD2: tl.constexpr,
    ROWS: tl.constexpr,  # of one iteration
    BLOCK_D: tl.constexpr,  # power of two, at least D
    PARTIALS: tl.constexpr,  # power of two, at least pairs * programs
    EPSILON: tl.constexpr,
    HUGE: tl.constexpr,
    SHRINK: tl.constexpr,
    LIFT: tl.constexpr,
):
    """One program: a grid-stride loop over one pair's rows. Grid: (programs, pairs)."""
    program, pair, programs = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(0)
    column = tl.arange(0, BLOCK_D)[None, :]
    total = tl.zeros((ROWS,), tl.float32)
    for turn in range(program, tl.cdiv(rows, ROWS), programs):
        row = (turn * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        at, live = row[:, None], (row < rows)[:, None] & (column < D)
        if pair == 0:
            q = tl.load(q1 + at * q1_stride + column, mask=live, other=0.0).to(tl.float32)
            z = tl.load(z1 + at * z1_stride + column, mask=live, other=0.0).to(tl.float32)
        else:
            q = tl.load(q2 + at * q2_stride + column, mask=live, other=0.0).to(tl.float32)
            z = tl.load(z2 + at * z2_stride + column, mask=live, other=0.0).to(tl.float32)
        q, scale, constant = unit_rows_kernel(q, EPSILON, HUGE, SHRINK)
        z, _, _ = unit_rows_kernel(z, EPSILON, HUGE, SHRINK)
        cosine = tl.sum(q * z, axis=1)
        total += tl.where(row < rows, 2.0 - 2.0 * cosine, 0.0)
        if GRAD1 or GRAD2:
            slope = (z - tl.where(constant, 0.0, cosine)[:, None] * q) * LIFT
            tl.store(factors + pair * rows + row, (-2.0 / rows) * scale, mask=row < rows)
            if pair == 0:
                if GRAD1:
                    tl.store(slope1 + at * D + column, slope.to(slope1.dtype.element_ty), mask=live)
            else:
                if GRAD2:
                    tl.store(slope2 + at * D + column, slope.to(slope2.dtype.element_ty), mask=live)
    tl.store(partial + pair * programs + program, tl.sum(total, axis=0))
    tl.debug_barrier()  # the sum is written before the arrival counts
    last = programs * tl.num_programs(1) - 1
    if tl.atomic_add(arrived, 1, sem="acq_rel") == last:
        k = tl.arange(0, PARTIALS)
        sums = tl.load(partial + k, mask=k <= last, other=0.0, cache_modifier=".cg")  # not from this core's own cache
        tl.store(loss, tl.sum(sums, axis=0) / rows)
        tl.store(arrived, 0)


@triton.jit(do_not_specialize=["rows"])
def cosine_backward_kernel(
    grad1,  # (B, D) out, contiguous
    grad2,
    slope1,  # (B, D), grad1's type, contiguous
    slope2,
    factors,  # (pairs, B) fp32
    grad_loss,  # () fp32
    rows,  # B
    D: tl.constexpr,
    FIRST: tl.constexpr,  # 1 where only the second prediction wants its gradient, else 0
    LIFT: tl.constexpr,
    RUN: tl.constexpr,  # elements of one row that are processed with one factor: a power of two that divides D
    BLOCK: tl.constexpr,
):
    """One program: BLOCK elements of one gradient. Grid: (programs, gradients)."""
    pair = tl.program_id(1) + FIRST
    start = tl.program_id(0).to(tl.int64) * BLOCK
    run = tl.arange(0, BLOCK // RUN)[:, None] * RUN
    at = start + run + tl.arange(0, RUN)[None, :]
    row = start // D + ((start % D).to(tl.int32) + run) // D
    factor = tl.load(factors + pair * rows + row, mask=row < rows, other=0.0) * tl.load(grad_loss)
    live = at < rows.to(tl.int64) * D
    if pair == 0:
        grad = factor * (tl.load(slope1 + at, mask=live, other=0.0).to(tl.float32) * (1.0 / LIFT))
        tl.store(grad1 + at, grad.to(grad1.dtype.element_ty), mask=live)
    else:
        grad = factor * (tl.load(slope2 + at, mask=live, other=0.0).to(tl.float32) * (1.0 / LIFT))
        tl.store(grad2 + at, grad.to(grad2.dtype.element_ty), mask=live)


# ---- launches -----------------------------------------------------------------------------------------------


def loss_block(d: int) -> tuple[int, int]:
    """Rows of one iteration of a program, and the power of two that holds a row."""
    block_d = 1 << (d - 1).bit_length()
    return max(1, BLOCK // block_d), block_d


def loss_warps(d: int) -> int:
    """Warps of a program, so that a thread holds at most 16 elements of each row."""
    return 4 if d <= 2048 else 16


def launch_cosine(
    loss: Tensor,
    partial: Tensor,
    arrived: Tensor,
    inputs: Sequence[Tensor],
    slope1: Tensor,
    slope2: Tensor,
    factors: Tensor,
) -> None:
    """Fills loss, partial (of `partial_shape`) and the slopes and factors that are not empty, with one launch.

    inputs: q1, z1, q2, z2, or the first two alone; each (B, D), rows at any stride, their elements side by side.
    """
    q1, z1, q2, z2 = inputs if len(inputs) == 4 else (*inputs, *inputs)
    b, d = q1.shape
    rows, block_d = loss_block(d)
    cosine_kernel[partial.shape[::-1]](
        loss, partial, arrived, q1, z1, q2, z2, slope1, slope2, factors,
        q1.stride(0), z1.stride(0), q2.stride(0), z2.stride(0), b, d, slope1.numel() > 0, slope2.numel() > 0,
        rows, block_d, 2 * PROGRAMS, EPSILON, HUGE, SHRINK, LIFT, num_warps=loss_warps(d),
    )  # fmt: skip


def partial_shape(b: int, d: int, pairs: int) -> tuple[int, int]:
    """(pairs, programs) of the partial sums. Depends on the shape alone, so the sum is the same on every device."""
    return pairs, min(PROGRAMS, triton.cdiv(b, loss_block(d)[0]))


def row_run(d: int) -> int:
    """RUN of the backward kernel: the largest power of two that divides d, 8 at most."""
    return min(d & -d, 8)


def launch_cosine_backward(
    grad1: Tensor, grad2: Tensor, slope1: Tensor, slope2: Tensor, factors: Tensor, grad_loss: Tensor
) -> None:
    """Fills the gradients that are not empty, with one launch."""
    wanted = [k for k, grad in enumerate((grad1, grad2)) if grad.numel()]
    if wanted:
        b, d = (grad1, grad2)[wanted[0]].shape
        cosine_backward_kernel[(triton.cdiv(b * d, BACKWARD_BLOCK), len(wanted))](
            grad1, grad2, slope1, slope2, factors, grad_loss, b,
            d, wanted[0], LIFT, row_run(d), BACKWARD_BLOCK, num_warps=4,
        )  # fmt: skip
