# mypy: disallow-untyped-defs=False
"""Max pooling of a ResNet's stem: windows of 3 x 3 pixels, stride 2, padding 1, in channels-last memory.

    out[i, j] = max of x[2i - 1 .. 2i + 1, 2j - 1 .. 2j + 1]    for i below H' = (H + 1) // 2, j below W' = (W + 1) // 2

As torch's max_pool2d: of equal maxima the first in the window, row by row, has the gradient, of several NaN the last;
NaN wins over all numbers; padding never does. The forward keeps the position of each maximum in its window, a byte;
x is not needed again. Gradients are added in float32.

Bytes it must move: x in, the maxima and a byte each out; then the maxima's gradients and the bytes in, x's gradient
out: 1.48 GB each way for (2048, 64, 64, 64) in bf16, floors of 0.34 ms at the 4.3 TB/s that a copy reaches on an H200.
pool_kernel.py says how.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d as torch_max_pool2d

from ._dispatch import current, on_gpu
from .pool_kernel import launch_max_pool, launch_max_pool_backward

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NHWC = torch.channels_last

# ---- reference ----------------------------------------------------------------------------------------------


def max_pool2d_reference(x: Tensor) -> Tensor:
    """max_pool2d by torch, differentiable any number of times."""
    return torch_max_pool2d(x, 3, 2, 1)


def max_pool_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (B, C, H', W') and their positions in their windows, uint8. x: (B, C, H, W)."""
    out, index = torch_max_pool2d(x, 3, 2, 1, return_indices=True)
    width = x.shape[3]
    row, column = (torch.arange(side, device=x.device) * 2 - 1 for side in out.shape[2:])
    position = 3 * (index // width - row[:, None]) + index % width - column
    return out, position.to(torch.uint8)


def max_pool_backward_reference(grad: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """Gradient of x, (B, C, height, width), from that of the maxima and their positions, (B, C, H', W')."""
    row, column = (torch.arange(side, device=grad.device) * 2 - 1 for side in grad.shape[2:])
    at = position.long()
    index = (row[:, None] + at // 3) * width + column + at % 3
    wide = torch.promote_types(grad.dtype, torch.float32)
    total = torch.zeros((*grad.shape[:2], height * width), dtype=wide, device=grad.device)
    total.scatter_add_(2, index.flatten(2), grad.to(wide).flatten(2))
    return total.unflatten(2, (height, width)).to(grad.dtype)


# ---- op -----------------------------------------------------------------------------------------------------


def _outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima and positions."""
    b, c, height, width = x.shape
    shape = b, c, (height + 1) // 2, (width + 1) // 2
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=NHWC)
    return out, torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=NHWC)


def _gradient(grad: Tensor, height: int, width: int) -> Tensor:
    """Gradient of x."""
    shape = *grad.shape[:2], height, width
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=NHWC)


def _max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (B, C, H', W') and their positions, uint8, both channels-last. x: (B, C, H, W)."""
    out, position = _outputs(x)
    if not on_gpu(x.device):
        for made, wanted in zip((out, position), max_pool_reference(x), strict=True):
            made.copy_(wanted)
    elif x.numel():
        with current(x.device):
            launch_max_pool(out, position, x.contiguous(memory_format=NHWC))
    return out, position


def _max_pool_backward(grad: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """Gradient of x, (B, C, height, width), channels-last, from that of the maxima, of any strides."""
    total = _gradient(grad, height, width)
    if not on_gpu(grad.device):
        total.copy_(max_pool_backward_reference(grad, position, height, width))
    elif total.numel():
        with current(grad.device):
            launch_max_pool_backward(
                total, grad.contiguous(memory_format=NHWC), position.contiguous(memory_format=NHWC)
            )
    return total


pool_op = torch.library.custom_op("rsdnet::max_pool2d", _max_pool, mutates_args=())
backward_op = torch.library.custom_op("rsdnet::max_pool2d_backward", _max_pool_backward, mutates_args=())


@pool_op.register_fake
def _(x):
    return _outputs(x)


@backward_op.register_fake
def _(grad, position, height, width):
    return _gradient(grad, height, width)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.sides = inputs[0].shape[2:]


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> Tensor | None:
    if torch.is_grad_enabled():  # only so under create_graph=True
        raise RuntimeError("max_pool2d has no second derivative (create_graph=True): use max_pool2d_reference for one")
    return None if grad is None else backward_op(grad, *ctx.saved_tensors, *ctx.sides)


pool_op.register_autograd(_backward, setup_context=_setup_context)


def max_pool2d(x: Tensor) -> Tensor:
    """Maxima of windows of 3 x 3, stride 2, padding 1: (B, C, H', W'), H' = (H + 1) // 2, of x's type.

    x: (B, C, H, W), any sides; gradients flow here, once. As torch.nn.functional.max_pool2d(x, 3, 2, 1), which it is
    unless x is float32, bfloat16 or float16, channels-last and on a GPU; the result is channels-last too, and a
    gradient that is not is copied. Differentiated twice there, RuntimeError.
    """
    taken = on_gpu(x.device) and x.ndim == 4 and x.dtype in DTYPES and x.is_contiguous(memory_format=NHWC)
    return pool_op(x)[0] if taken and x.numel() else max_pool2d_reference(x)
