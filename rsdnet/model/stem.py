"""The first convolution of an encoder, of stride 2 over few channels, for tensor cores.

cuDNN takes tensor cores where the channels come in eights. Over one band it multiplies on ordinary cores, which took
7 % of a ResNet-50's step at 128 px on an H200 for 0.7 % of its work. So blocks of pixels, two rows by two or four
columns, become channels, over which the same sums are a convolution of stride 1. From four columns it gives two columns
of the result at once, which then lie side by side in channels-last memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

WIDE = 8  # channels that tensor cores take at a time, in half precision


def fold_stem(module: nn.Module) -> None:
    """Let every convolution of stride 2 over few channels in `module` fold pixels into channels; parameters stay."""
    for part in module.modules():
        if type(part) is nn.Conv2d and plain(part):
            part.__class__ = FoldedConv2d


def plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of those that `FoldedConv2d` is, and has fewer channels than tensor cores take."""
    square = conv.stride == (2, 2) and conv.dilation == (1, 1) and len({*conv.kernel_size}) == len({*conv.padding}) == 1
    zeros = conv.bias is None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return square and zeros and conv.groups == 1 and conv.in_channels < WIDE


class FoldedConv2d(nn.Conv2d):
    """Square kernel, stride 2; neither bias, dilation nor groups."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, padding = self.kernel_size[0], int(self.padding[0])
        return folded_conv2d(x, self.weight, padding) if folds(x, kernel, padding) else super().forward(x)


def folds(x: Tensor, kernel: int, padding: int) -> bool:
    """Whether images (B, C, H, W) divide into the blocks that `folded_conv2d` takes."""
    height, width = ((side + 2 * padding - kernel) // 2 + 1 for side in x.shape[2:])
    return height > 0 and width > 0 and width % columns_of(x.shape[1]) == 0


def columns_of(channels: int) -> int:
    """Columns of the result that one position gives: 2 where it takes four columns of pixels to have channels in
    eights."""
    return 1 if 4 * channels % WIDE == 0 else 2


class Axis(NamedTuple):
    """Blocks of pixels along an axis.

    shift: of the kernel inside its first block. before, after: pixels of padding. taps: blocks that the kernel takes.
    """

    shift: int
    before: int
    after: int
    taps: int


def axis_of(side: int, kernel: int, padding: int, block: int) -> Axis:
    """Of `block` pixels, which give `block` / 2 pixels of the result, or a pixel from 2."""
    before = -(-padding // block) * block
    shift = before - padding
    taps = -(-(kernel + block - 2 + shift) // block)
    results = (side + 2 * padding - kernel) // 2 + 1
    blocks = -(-results * 2 // block) + taps - 1
    return Axis(shift, before, blocks * block - before - side, taps)


def folded_conv2d(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    """conv2d(x, weight, stride=2, padding=padding): (B, O, H', W'). x: (B, C, H, W), of which `folds`; weight:
    (O, C, k, k)."""
    channels, height, width = x.shape[1:]
    outputs, _, kernel, _ = weight.shape
    many = columns_of(channels)
    block = 2 * many
    rows, columns = axis_of(height, kernel, padding, 2), axis_of(width, kernel, padding, block)
    padded = pad(x, (columns.before, columns.after, rows.before, rows.after))
    kernels = [
        pad(weight, (start, columns.taps * block - kernel - start, rows.shift, rows.taps * 2 - kernel - rows.shift))
        for start in range(columns.shift, columns.shift + block, 2)
    ]
    result = conv2d(folded(padded, block), folded(torch.cat(kernels), block))
    result = result.permute(0, 2, 3, 1).unflatten(3, (many, outputs))  # (B, H', W' / many, many, O)
    return result.flatten(2, 3).permute(0, 3, 1, 2)


def folded(x: Tensor, block: int) -> Tensor:
    """(B, C, H, W) as (B, C * 2 * block, H / 2, W / block), channels-last."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // block, block).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h // 2, w // block, c * 2 * block).permute(0, 3, 1, 2)
