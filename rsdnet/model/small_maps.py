"""Convolutions on maps of few pixels as matrix products: the same sums, on a CPU.

oneDNN 3.12 spends most of a 3x3 convolution on such a map, and of its weight gradient above all, on the padding around
it: 20 ms where the products of the pixels inside take 7 (512 channels, 2 x 2 pixels, batch 64, one thread). The last
stages of a ResNet see such maps, with most of its weights. Nothing else needs to know of this file.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

# Measured on one thread of an Intel Xeon with AMX, over the shapes of ResNet-18 (widths 32 and 64) and ResNet-50.
LARGEST = 4  # pixels a side, up to which products won
DENSE = 2  # up to which every pixel reaches every other within 3 x 3, so that the convolution is one product
WIDE, WIDE_HALF = 256, 128  # channels from which on they won on larger maps, in float32 and in bfloat16


def convolve_small_maps(module: nn.Module) -> None:
    """Let every 3x3 and 1x1 convolution in `module` take products where its map is small; parameters stay its own."""
    for part in module.modules():
        if type(part) is nn.Conv2d and plain(part):
            part.__class__ = SmallMapConv2d


def plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of those that `SmallMapConv2d` is."""
    shape = conv.kernel_size, conv.padding
    zeros = conv.bias is None and conv.padding_mode == "zeros" and shape in (((3, 3), (1, 1)), ((1, 1), (0, 0)))
    return zeros and conv.stride[0] == conv.stride[1] and conv.dilation == (1, 1) and conv.groups == 1


class SmallMapConv2d(nn.Conv2d):
    """3x3 convolution of padding 1, or 1x1 of none; square stride, neither bias nor groups."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if max(height, width) > LARGEST:
            return super().forward(x)
        weight, stride = self.weight, self.stride[0]
        if self.kernel_size == (1, 1):
            pixels = x[:, :, ::stride, ::stride].permute(0, 2, 3, 1)  # (B, H, W, C)
            last = weight.stride(3) > 1  # channels-last: so is the gradient, which DDP asks for
            matrix = weight.permute(0, 2, 3, 1).flatten(1) if last else weight.flatten(1)
            products = nn.functional.linear(pixels.flatten(0, 2), matrix)
            return products.unflatten(0, pixels.shape[:3]).permute(0, 3, 1, 2)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        wide = WIDE if x.dtype is torch.float32 else WIDE_HALF
        if max(height, width) > DENSE and x.shape[1] < wide:
            return super().forward(x)
        return Convolution3x3.apply(x, weight, stride)  # type: ignore[no-untyped-call]


class Convolution3x3(torch.autograd.Function):
    """x (B, C, H, W), weight (O, C, 3, 3) to (B, O, H', W'); padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.stride, matrix = stride, None
        height, width = x.shape[2:]
        if max(height, width) <= DENSE:
            matrix = dense(weight, height, width, stride)
            result = rows_of(x) @ matrix.T
            result = result.view(len(x), -1, (width - 1) // stride + 1, len(weight)).permute(0, 3, 1, 2)
        else:
            result = nn.functional.conv2d(x, weight, None, stride, 1)
        ctx.save_for_backward(x, weight, matrix)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, matrix = ctx.saved_tensors
        wanted, by_input, by_weight = ctx.needs_input_grad, None, None
        if wanted[0] and matrix is not None:
            flat = rows_of(grad) @ matrix
            by_input = flat.view(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        elif wanted[0]:
            by_input = conv2d_input(x.shape, weight, grad, ctx.stride, 1)
        if wanted[1]:
            by_weight = weight_gradient(x, grad, weight, ctx.stride)
        return by_input, by_weight, None


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Gradient as the weight (O, C, 3, 3): for each tap a product over the batch and the pixels that it joins."""
    inputs, outer = (side.permute(2, 3, 0, 1).contiguous() for side in (x, grad))  # (H, W, B, channels)
    result = torch.zeros_like(weight)
    rows, columns = (taps(*pair, stride) for pair in zip(x.shape[2:], grad.shape[2:], strict=True))
    for row, (above, below) in rows.items():
        for column, (left, right) in columns.items():
            a, b = outer[above, left].flatten(0, 2), inputs[below, right].flatten(0, 2)
            torch.mm(a.T, b, out=result[:, :, row, column])
    return result


def taps(inputs: int, outputs: int, stride: int) -> dict[int, tuple[slice, slice]]:
    """Along one axis, by tap of 0 to 2: the outputs and the inputs that it joins; none of those that join nothing."""
    found = {}
    for tap in range(3):
        reached = [n for n in range(outputs) if 0 <= n * stride + tap - 1 < inputs]
        if reached:
            first, last = reached[0], reached[-1]
            pixels = slice(first * stride + tap - 1, last * stride + tap, stride)
            found[tap] = slice(first, last + 1), pixels
    return found


def dense(weight: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The matrix (H' * W' * O, H * W * C) that a convolution is on a map of at most 2 x 2 pixels: each block a tap."""
    taken = weight.permute(2, 3, 0, 1)  # (3, 3, O, C)
    if height == width == 1:
        return taken[1, 1]
    rows, columns = range(0, height, stride), range(0, width, stride)
    result = weight.new_empty(len(rows), len(columns), weight.shape[0], height, width, weight.shape[1])
    for row, y in enumerate(rows):
        for column, x in enumerate(columns):
            block = taken[1 - y : 1 - y + height, 1 - x : 1 - x + width]
            result[row, column] = block.permute(2, 0, 1, 3)
    return result.flatten(3).flatten(0, 2)


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W) as a matrix (B, H * W * C); a view where it is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1)
