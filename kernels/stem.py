# mypy: disallow-untyped-defs=False
"""The first convolution of an encoder, of stride 2 over few bands, on tensor cores, and the gradient of its weights.

    out[b, o, i, j] = sum over c, y, x of weight[o, c, y, x] images[b, c, 2i + y - padding, 2j + x - padding]

cuDNN takes tensor cores where the channels come in eights. Over one band it multiplies on ordinary cores, which took
7 % of a ResNet-50's step at 128 px on an H200 for 0.7 % of its work. Products are of the images' type, sums float32;
the gradient of the weights is float32 throughout. Images get no gradient.

Bytes it must move: the images once, the results once: 1.1 GB for 2,048 bf16 images of one band of 128 px and 64
filters, a floor of 0.27 ms at the 4.3 TB/s that a copy reaches on an H200. stem_kernel.py says how.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_weight

from ._dispatch import current, on_gpu
from .stem_kernel import factors_of, launch_stem, launch_stem_backward, line_of, padded, sides_of, weight_of

DTYPES = (torch.bfloat16, torch.float16)
CHANNELS = 7  # of more, cuDNN takes tensor cores
ELEMENTS = 2**31 - 1  # of the padded images, and of the results: indices are 32 bits

# ---- reference ----------------------------------------------------------------------------------------------


def stem_conv2d_reference(images: Tensor, weight: Tensor, padding: int) -> Tensor:
    """stem_conv2d by torch."""
    return conv2d(images, weight.to(images.dtype), None, 2, padding)


def _read(source: Tensor, kernel: int, high: int, wide: int) -> Tensor:
    """The pixels (B, C, ...) of padded images that windows cover, float32."""
    return source.permute(0, 3, 1, 2)[:, :, : 2 * high + kernel - 2, : 2 * wide + kernel - 2].float()


# ---- op -----------------------------------------------------------------------------------------------------


def _result(source: Tensor, factors: Tensor, high: int, wide: int) -> Tensor:
    shape = len(source), factors.shape[1], high, wide
    return torch.empty(shape, dtype=source.dtype, device=source.device, memory_format=torch.channels_last)


def _stem(source: Tensor, factors: Tensor, kernel: int, high: int, wide: int) -> Tensor:
    """Results (B, O, high, wide) channels-last, of source's type. source, factors: see launch_stem."""
    out, factors = _result(source, factors, high, wide), factors.to(source.dtype)
    if not on_gpu(source.device):
        weight = weight_of(factors.float(), source.shape[3], kernel)
        return out.copy_(conv2d(_read(source, kernel, high, wide), weight, None, 2))
    with current(source.device):
        launch_stem(out, source, factors, kernel)
    return out


def _stem_backward(grad: Tensor, source: Tensor, factors: Tensor, kernel: int) -> Tensor:
    """Gradient of the factors, in their type."""
    if not on_gpu(source.device):
        images, shape = _read(source, kernel, *grad.shape[2:]), (grad.shape[1], source.shape[3], kernel, kernel)
        return factors_of(conv2d_weight(images, shape, grad.float(), 2)).to(factors.dtype)
    with current(source.device):
        rows = launch_stem_backward(grad.contiguous(memory_format=torch.channels_last), source, kernel)
    return rows.T.to(factors.dtype).contiguous()


stem_op = torch.library.custom_op("rsdnet::stem_conv2d", _stem, mutates_args=())
backward_op = torch.library.custom_op("rsdnet::stem_conv2d_backward", _stem_backward, mutates_args=())


@stem_op.register_fake
def _(source, factors, kernel, high, wide):
    return _result(source, factors, high, wide)


@backward_op.register_fake
def _(grad, source, factors, kernel):
    return torch.empty_like(factors, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int], output: Tensor) -> None:
    source, factors, ctx.kernel, *_ = inputs
    ctx.save_for_backward(source, factors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # only so under create_graph=True
        raise RuntimeError("stem_conv2d has no second derivative: use stem_conv2d_reference for one")
    factors = backward_op(grad, *ctx.saved_tensors, ctx.kernel) if ctx.needs_input_grad[1] else None
    return None, factors, None, None, None


stem_op.register_autograd(_backward, setup_context=_setup_context)


def stem_conv2d(images: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    """Convolution of stride 2: (B, O, H', W'), H' = (H + 2 * padding - k) // 2 + 1, of images' type.

    images: (B, C, H, W). weight: (O, C, k, k), in float32 or images' type; gradients flow here, once. As
    torch.nn.functional.conv2d(images, weight, stride=2, padding=padding), which it is unless images are bfloat16 or
    float16 of at most CHANNELS channels on a GPU and want no gradient; the result is channels-last then. A pixel that
    is not finite spoils a few results beside its own, too, along its row.
    """
    if not takes(images, weight, padding):
        return stem_conv2d_reference(images, weight, padding)
    kernel = weight.shape[2]
    high, wide = sides_of(images, kernel, padding)
    # Outside the op: torch.compile makes them once for all networks that see the same images.
    return stem_op(padded(images, kernel, padding), factors_of(weight), kernel, high, wide)


def takes(images: Tensor, weight: Tensor, padding: int) -> bool:
    """Whether the kernels do this convolution."""
    if not on_gpu(images.device) or images.ndim != 4 or images.dtype not in DTYPES or images.requires_grad:
        return False
    filters, channels, kernel, other = weight.shape
    high, wide = sides_of(images, kernel, padding)
    read = (2 * high + kernel) * (2 * wide + line_of(channels, kernel)) * channels
    small = len(images) * max(read, high * wide) <= ELEMENTS
    some = min(len(images), filters, high, wide) > 0
    return images.shape[1] == channels <= CHANNELS and kernel == other and small and some
