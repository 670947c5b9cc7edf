# mypy: disallow-untyped-defs=False
"""BYOL's loss and the cosine loss that it is made of, each with its gradient in one pass over the inputs.

    cosine_loss(q, z) = mean_i [2 - 2 cos(q_i, z_i)]
    byol_loss(q1, q2, z1, z2) = cosine_loss(q1, z2) + cosine_loss(q2, z1)    Grill et al. 2020, eq. 2
    cos(q, z) = q^ . z^,   x^ = x * r(x),   r(x) = rsqrt(max(sum x^2, 1e-12))

and with respect to q, of one row of B:

    grad = -2/B * r(q) * (z^ - cos * q^)     without the second term where the epsilon makes r(q) a constant

The epsilon: google-deepmind/deepmind-research byol/utils/helpers.py, `l2_normalize`. float32 inside.

Two launches, forward and backward together, and no other work on the GPU:
1. the loss, and for each row the bracket above in q's own type (the slope: a vector of length at most 1) with its
   factor -2/B * r(q) in float32, so that a mean over a large batch does not vanish in float16 before a loss scale can
   save it. Each program writes the sum of its rows; the one that arrives last adds these sums in their order, which is
   the same in every run: the atomic only counts. It leaves the count at 0 for the next launch and for a graph's replay.
2. factor * grad_loss * slope, in q's type, for both predictions.
Where a prediction wants no gradient, nothing is written for it.

Bytes it must move: q1, q2, z1, z2 once and the slopes once; then the slopes once and the gradients once: 12.6 and
8.4 MB for B 4,096, D 256 in bf16, floors of 2.9 and 2.0 us at the 4.3 TB/s that a copy reaches on an H200.
"""

from threading import Lock, Thread
from typing import Any

import torch
from torch import Tensor

from ._dispatch import current, eager, on_gpu
from .loss_kernel import LIFT, cosine_loss_reference, launch_cosine, launch_cosine_backward, partial_shape, unit_rows

MAX_D = 8192  # a row lies in the registers of one program

# ---- reference ----------------------------------------------------------------------------------------------


def cosine_loss_formula(q: Tensor, z: Tensor) -> Tensor:
    """The formula and nothing else, differentiable, in the type of its inputs: the oracle of the tests."""
    return (2 - 2 * (unit_rows(q)[0] * unit_rows(z.detach())[0]).sum(-1)).mean()


def byol_loss_formula(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """The symmetric formula, as cosine_loss_formula."""
    return cosine_loss_formula(q1, z2) + cosine_loss_formula(q2, z1)


def byol_loss_reference(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """Loss () and its gradient with respect to q1 and q2, (2, B, D), float32 (float64 if q1 is)."""
    (loss1, slope1, factor1), (loss2, slope2, factor2) = cosine_loss_reference(q1, z2), cosine_loss_reference(q2, z1)
    return loss1 + loss2, torch.stack([factor1 * slope1, factor2 * slope2])


# ---- the arrival counter ----------------------------------------------------------------

_counts: dict[tuple[torch.device, int], Tensor] = {}  # by device and stream
_unused: dict[torch.device, list[Tensor]] = {}
_lock = Lock()


def arrivals(device: torch.device) -> Tensor:
    """The counter of finished programs, int32 (1,), 0, of a launch on `device`, which is the current one.

    Each stream has one, since its launches run one after the other. A captured launch gets its own for good, since its
    graph may be replayed on any stream. Counters outlive graphs and their memory pools: a separate thread allocates
    them, outside any pool in use by the caller's thread. If the very first launch is captured, or no counter is left,
    the graph clears its own: a third launch.
    """
    captured, stream = torch.cuda.is_current_stream_capturing(), torch.cuda.current_stream(device).cuda_stream
    with _lock:
        if not captured and (device, stream) in _counts:
            return _counts[device, stream]
        if not _unused.get(device):
            if captured:
                return torch.zeros(1, dtype=torch.int32, device=device)
            thread = Thread(target=_add_counts, args=(device,))
            thread.start()
            thread.join()
        count = _unused[device].pop()
        if not captured:
            _counts[device, stream] = count
        return count


def _add_counts(device: torch.device) -> None:
    zeros = torch.zeros(1024, dtype=torch.int32, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # once: any stream may count with them from now on
    _unused[device] = list(zeros.split(1))


# ---- op -----------------------------------------------------------------------------------------------------


def _outputs(q1: Tensor, q2: Tensor | None, grad1: bool, grad2: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (), slopes of q1 and q2, (B, D) or empty where no gradient is wanted, factors (pairs, B) or empty."""
    return (
        q1.new_empty((), dtype=torch.float32),
        q1.new_empty(q1.shape if grad1 else (0,)),
        q1.new_empty((0,)) if q2 is None or not grad2 else q2.new_empty(q2.shape),
        q1.new_empty((1 if q2 is None else 2, q1.shape[0]) if grad1 or grad2 else (0,), dtype=torch.float32),
    )


def cosine_by_reference(
    q1: Tensor, z1: Tensor, q2: Tensor | None, z2: Tensor | None, grad1: bool, grad2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outputs of `cosine_by_kernel`, by the reference."""
    loss, slope1, slope2, factors = _outputs(q1, q2, grad1, grad2)
    loss.zero_()
    for k, (q, z, stored) in enumerate(((q1, z1, slope1), (q2, z2, slope2))):
        if q is not None and z is not None:
            value, slope, factor = cosine_loss_reference(q, z)
            loss += value
            if stored.numel():
                stored.copy_(slope * LIFT)
            if factors.numel():
                factors[k] = factor[:, 0]
    return loss, slope1, slope2, factors


def cosine_by_kernel(
    q1: Tensor, z1: Tensor, q2: Tensor | None, z2: Tensor | None, grad1: bool, grad2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, slopes and factors, of `_outputs`, by the kernel."""
    out = loss, slope1, slope2, factors = _outputs(q1, q2, grad1, grad2)
    partial = loss.new_empty(partial_shape(q1.shape[0], q1.shape[1], 1 if q2 is None else 2))
    # A program reads contiguous rows: other inputs are copied.
    inputs = [x if x.stride(1) == 1 else x.contiguous() for x in (q1, z1, q2, z2) if x is not None]
    launch_cosine(loss, partial, arrivals(q1.device), inputs, slope1, slope2, factors)
    return out


def _cosine_loss(
    q1: Tensor, z1: Tensor, q2: Tensor | None, z2: Tensor | None, grad1: bool, grad2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not on_gpu(q1.device):
        return cosine_by_reference(q1, z1, q2, z2, grad1, grad2)
    with current(q1.device):
        return cosine_by_kernel(q1, z1, q2, z2, grad1, grad2)


def backward_by_reference(
    grad1: Tensor, grad2: Tensor, slope1: Tensor, slope2: Tensor, factors: Tensor, grad_loss: Tensor
) -> None:
    """launch_cosine_backward, by the reference."""
    for k, (grad, slope) in enumerate(((grad1, slope1), (grad2, slope2))):
        if grad.numel():
            grad.copy_((factors[k] * grad_loss)[:, None] * (slope.float() / LIFT))


def _cosine_loss_backward(slope1: Tensor, slope2: Tensor, factors: Tensor, grad_loss: Tensor) -> tuple[Tensor, Tensor]:
    grads = torch.empty_like(slope1), torch.empty_like(slope2)
    if not on_gpu(slope1.device):
        backward_by_reference(*grads, slope1, slope2, factors, grad_loss)
    else:
        with current(slope1.device):
            launch_cosine_backward(*grads, slope1, slope2, factors, grad_loss)
    return grads


cosine_op = torch.library.custom_op("rsdnet::cosine_loss", _cosine_loss, mutates_args=())
backward_op = torch.library.custom_op("rsdnet::cosine_loss_backward", _cosine_loss_backward, mutates_args=())


@cosine_op.register_fake
def _(q1, z1, q2, z2, grad1, grad2):
    return _outputs(q1, q2, grad1, grad2)


@backward_op.register_fake
def _(slope1, slope2, factors, grad_loss):
    return torch.empty_like(slope1), torch.empty_like(slope2)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros would be made, as large as the slopes
    ctx.save_for_backward(*output[1:])
    ctx.wanted = inputs[4:]


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # only so under create_graph=True
        raise RuntimeError("the loss has no second derivative (create_graph=True): use byol_loss_formula for one")
    if grad_loss is None:
        return (None,) * 6
    slope1, slope2, factors = ctx.saved_tensors
    run = _cosine_loss_backward if eager(grad_loss) else backward_op
    grads = run(slope1, slope2, factors, grad_loss)
    grad1, grad2 = (grad if wanted else None for grad, wanted in zip(grads, ctx.wanted, strict=True))
    return grad1, None, grad2, None, None, None


cosine_op.register_autograd(_backward, setup_context=_setup_context)


class _Eager(torch.autograd.Function):
    """The op without the dispatcher, which costs the host more time than both launches cost the GPU."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        loss, *saved = _cosine_loss(*inputs)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)
        ctx.wanted = inputs[4:]
        return loss

    backward = staticmethod(_backward)


def _loss(q1: Tensor, z1: Tensor, q2: Tensor | None = None, z2: Tensor | None = None) -> Tensor:
    wanted = [torch.is_grad_enabled() and q is not None and q.requires_grad for q in (q1, q2)]
    inputs = q1, z1.detach(), q2, None if z2 is None else z2.detach(), *wanted
    return _Eager.apply(*inputs) if eager(q1) else cosine_op(*inputs)[0]


def _check(**inputs: Tensor) -> None:
    """Raises TypeError or ValueError naming the input that does not match the first."""
    first, like = next(iter(inputs.items()))
    for name, x in inputs.items():
        if x.ndim != 2 or x.shape != like.shape:
            raise ValueError(f"{name}: shape {tuple(x.shape)}, expected (B, D), {tuple(like.shape)} as {first}")
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"{name}: {x.dtype}, expected float32, bfloat16 or float16")
        if x.device != like.device:
            raise ValueError(f"{name}: on {x.device}, but {first} is on {like.device}")
    if like.shape[0] < 1 or not 1 <= like.shape[1] <= MAX_D:
        raise ValueError(f"{first}: shape {tuple(like.shape)}, expected B of at least 1 and D of 1 to {MAX_D}")


def cosine_loss(q: Tensor, z: Tensor) -> Tensor:
    """One side of BYOL's loss: mean_i [2 - 2 cos(q_i, z_i)], the squared distance of the normalised rows.

    q: (B, D) predictions, float32, bfloat16 or float16, rows at any stride; gradients flow here.
    z: (B, D) targets, same shape, their type may differ; no gradient.
    Returns a float32 scalar in [0, 4]. SimSiam's loss (Chen and He 2021, eq. 2) is byol_loss / 4 - 1.
    Raises TypeError or ValueError on a shape, type or device that does not match; differentiated twice,
    RuntimeError.
    """
    _check(q=q, z=z)
    return _loss(q, z)


def byol_loss(q1: Tensor, q2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Symmetric BYOL loss, Grill et al. 2020, eq. 2: cosine_loss(q1, z2) + cosine_loss(q2, z1).

    mean_i [2 - 2 cos(q1_i, z2_i)] + [2 - 2 cos(q2_i, z1_i)]

    q1, q2: (B, D) online predictions, float32, bfloat16 or float16, rows at any stride; gradients flow here.
    z1, z2: (B, D) target projections, same shape; no gradient.
    Returns a float32 scalar in [0, 8].
    Raises TypeError or ValueError on a shape, type or device that does not match; differentiated twice,
    RuntimeError.
    """
    _check(q1=q1, q2=q2, z1=z1, z2=z2)
    return _loss(q1, z2, q2, z1)
