# mypy: disallow-untyped-defs=False
"""BYOL's loss and its gradient, in one pass over the inputs.

    loss = mean_i [2 - 2 cos(q1_i, z2_i)] + [2 - 2 cos(q2_i, z1_i)]          Grill et al. 2020, eq. 2
    cos(q, z) = q^ . z^,   x^ = x * r(x),   r(x) = rsqrt(max(sum x^2, 1e-12))

and with respect to q, of one row of B:

    grad = -2/B * r(q) * (z^ - cos * q^)     without the second term where the epsilon makes r(q) a constant

The epsilon: google-deepmind/deepmind-research byol/utils/helpers.py, `l2_normalize`. float32 inside.
Bytes it must move: q1, q2, z1, z2 once, and the gradients once: in float32, since means over a large batch
vanish in float16 before a loss scale can save them.
"""

from typing import Any

import torch
from torch import Tensor

from ._triton import tl, triton

EPSILON = 1e-12
MAX_D = 8192  # a row lies in the registers of one program
BLOCK = 1024  # elements of a program's rows together, where D is small

# ---- reference ----------------------------------------------------------------------------------------------


def byol_loss_formula(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """The formula and nothing else, differentiable, in the type of its inputs: the oracle of the tests."""

    def unit(x: Tensor) -> Tensor:
        return x * x.square().sum(-1, keepdim=True).clamp(min=EPSILON).rsqrt()

    def one_side(q: Tensor, z: Tensor) -> Tensor:
        return (2 - 2 * (unit(q) * unit(z.detach())).sum(-1)).mean()

    return one_side(q1, z2) + one_side(q2, z1)


def byol_loss_reference(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, float32 (), and its gradient with respect to q1 and q2, float32 (2, B, D)."""
    q, z = torch.stack([q1, q2]).float(), torch.stack([z2, z1]).float()
    q_squares, z_squares = q.square().sum(-1, keepdim=True), z.square().sum(-1, keepdim=True)
    q_scale, z_scale = q_squares.clamp(min=EPSILON).rsqrt(), z_squares.clamp(min=EPSILON).rsqrt()
    q_unit, z_unit = q * q_scale, z * z_scale
    cosine = (q_unit * z_unit).sum(-1, keepdim=True)
    loss = (2 - 2 * cosine).sum() / q.shape[1]
    along = torch.where(q_squares >= EPSILON, cosine, 0.0)
    return loss, (-2 / q.shape[1]) * q_scale * (z_unit - along * q_unit)


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows"])
def byol_loss_kernel(
    q1,  # (B, D) bf16, fp16 or fp32: online predictions; rows q1_stride elements apart
    q2,  # (B, D) as q1
    z1,  # (B, D) bf16, fp16 or fp32: target projections
    z2,  # (B, D) as z1
    partial,  # (2, programs) fp32 out: each program's sum of 2 - 2 cos over its rows
    grads,  # (2, B, D) fp32 out, contiguous: with respect to q1 and q2; not touched unless GRAD
    q1_stride,
    q2_stride,
    z1_stride,
    z2_stride,
    rows,  # B
    D: tl.constexpr,
    EPSILON: tl.constexpr,
    GRAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two, at least D
):
    """One program: ROWS rows of one of the two pairs. Grid: (programs, 2)."""
    pair = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK_D)
    live = (row < rows)[:, None] & (column < D)[None, :]
    at = row.to(tl.int64)[:, None]
    if pair == 0:
        q = tl.load(q1 + at * q1_stride + column[None, :], mask=live, other=0.0).to(tl.float32)
        z = tl.load(z2 + at * z2_stride + column[None, :], mask=live, other=0.0).to(tl.float32)
    else:
        q = tl.load(q2 + at * q2_stride + column[None, :], mask=live, other=0.0).to(tl.float32)
        z = tl.load(z1 + at * z1_stride + column[None, :], mask=live, other=0.0).to(tl.float32)
    q_squares = tl.sum(q * q, axis=1)
    q_scale = tl.rsqrt(tl.maximum(q_squares, EPSILON))
    q = q * q_scale[:, None]
    z = z * tl.rsqrt(tl.maximum(tl.sum(z * z, axis=1), EPSILON))[:, None]
    cosine = tl.sum(q * z, axis=1)
    loss = tl.where(row < rows, 2.0 - 2.0 * cosine, 0.0)
    tl.store(partial + pair * tl.num_programs(0) + tl.program_id(0), tl.sum(loss, axis=0))
    if GRAD:
        along = tl.where(q_squares >= EPSILON, cosine, 0.0)
        grad = (-2.0 / rows) * q_scale[:, None] * (z - along[:, None] * q)
        tl.store(grads + (pair.to(tl.int64) * rows + at) * D + column[None, :], grad, mask=live)


def launch_byol_loss(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor, partial: Tensor, grads: Tensor) -> None:
    """Fills partial and, unless it is empty, grads; `loss_shape` says how large partial is."""
    b, d = q1.shape
    rows, block_d = loss_block(d)
    byol_loss_kernel[(partial.shape[1], 2)](
        q1, q2, z1, z2, partial, grads, q1.stride(0), q2.stride(0), z1.stride(0), z2.stride(0), b,
        d, EPSILON, grads.numel() > 0, rows, block_d, num_warps=loss_warps(d),
    )  # fmt: skip


def loss_block(d: int) -> tuple[int, int]:
    """Rows of a program, and the power of two that holds a row."""
    block_d = 1 << (d - 1).bit_length()
    return max(1, BLOCK // block_d), block_d


def loss_warps(d: int) -> int:
    """Warps of a program, so that a thread holds at most 16 elements of each row."""
    return 4 if d <= 2048 else 16


# ---- op -----------------------------------------------------------------------------------------------------


def _empty_grads(q1: Tensor, with_grad: bool) -> Tensor:
    return q1.new_empty((2, *q1.shape) if with_grad else (0,), dtype=torch.float32)


@torch.library.custom_op("rsdnet::byol_loss", mutates_args=())
def _byol_loss(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    if q1.device.type == "cpu":
        loss, grads = byol_loss_reference(q1, q2, z1, z2)
        return loss, grads if with_grad else _empty_grads(q1, False)
    # A program reads whole rows; where a row's elements are not side by side, copy.
    q1, q2, z1, z2 = (x if x.stride(1) == 1 else x.contiguous() for x in (q1, q2, z1, z2))
    b, d = q1.shape
    partial = q1.new_empty((2, triton.cdiv(b, loss_block(d)[0])), dtype=torch.float32)
    grads = _empty_grads(q1, with_grad)
    with torch.cuda.device(q1.device):
        launch_byol_loss(q1, q2, z1, z2, partial, grads)
    return partial.sum() / b, grads  # no atomics: the sum's order is always the same


@_byol_loss.register_fake
def _(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor, with_grad: bool) -> tuple[Tensor, Tensor]:
    return q1.new_empty((), dtype=torch.float32), _empty_grads(q1, with_grad)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.dtypes = inputs[0].dtype, inputs[1].dtype


def _backward(ctx: Any, grad_loss: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # only so under create_graph=True
        raise RuntimeError("byol_loss has no second derivative (create_graph=True): use byol_loss_formula for one")
    (grads,) = ctx.saved_tensors
    grad1, grad2 = (grads * grad_loss).unbind(0)
    return grad1.to(ctx.dtypes[0]), grad2.to(ctx.dtypes[1]), None, None, None


torch.library.register_autograd("rsdnet::byol_loss", _backward, setup_context=_setup_context)


def byol_loss(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Symmetric BYOL loss, Grill et al. 2020, eq. 2.

    mean_i [2 - 2 cos(q1_i, z2_i)] + [2 - 2 cos(q2_i, z1_i)]

    q1, q2: (B, D) online predictions, float32, bfloat16 or float16, rows at any stride; gradients flow here.
    z1, z2: (B, D) target projections, same shape; no gradient.
    Returns a float32 scalar in [0, 8].
    Raises TypeError or ValueError on a shape, type or device that does not match; differentiated twice,
    RuntimeError.
    """
    for name, x in (("q1", q1), ("q2", q2), ("z1", z1), ("z2", z2)):
        if x.ndim != 2 or x.shape != q1.shape:
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected (B, D), {tuple(q1.shape)} as q1")
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"{name}: {x.dtype}, expected float32, bfloat16 or float16")
        if x.device != q1.device:
            raise ValueError(f"{name}: on {x.device}, but q1 is on {q1.device}")
    if q1.shape[0] < 1 or not 1 <= q1.shape[1] <= MAX_D:
        raise ValueError(f"q1: shape {tuple(q1.shape)}, expected B of at least 1 and D of 1 to {MAX_D}")
    with_grad = torch.is_grad_enabled() and (q1.requires_grad or q2.requires_grad)
    return _byol_loss(q1, q2, z1.detach(), z2.detach(), with_grad)[0]
