# mypy: disallow-untyped-defs=False
"""Resampling of one raw band, standardised: the innermost step of render_views, in PyTorch and in Triton.

For output index i of S along an axis of `pixels`, and a crop from `start`, `length` long (shares of the axis):

    step = length * pixels / S          centre = start * pixels + (i + 1/2) * step          reach = max(step, 1)
    weight of pixel p: max(0, 1 - |p + 1/2 - centre| / reach), divided by the sum of the weights on the axis

Where the crop has no more pixels than the output this is bilinear interpolation (two pixels, the border repeated).
Where it has more, the triangle widens with the step, so that every pixel counts and none aliases: the antialiased
bilinear of torchvision and Pillow (`Image.resize` with a box, which like this one looks past the box into the image).
Without antialias reach is always 1. Axes are separable: weights are computed once a row and once a column.

Speckle, if asked for, is a gamma-distributed factor g of mean 1 on the intensity (Goodman 1976), added in dB:

    10 log10(g),  g = max(1 - 1/(9 L) + n / (3 sqrt(L)), 0.01)^3         L looks; Wilson, Hilferty 1931

where n is normal except in its far tails: a sum of eight uniform 16-bit integers, which rounds alike on all devices.
"""

from math import log10, sqrt

import torch
from torch import Tensor

from ._triton import tl, triton
from .philox import SPECKLE, philox4, philox_words
from .records import DTYPES

LEAST = 0.01  # lower bound of the cube root of the speckle's factor: -60 dB
HALVES, DEVIATION = 8, 65536 * sqrt(8 / 12)  # of the sum of eight integers uniform below 65536
DECIBEL = 30 * log10(2)  # 10 log10(x^3) = DECIBEL * log2(x)

# ---- reference ----------------------------------------------------------------------------------------------


def axis_weights(start: Tensor, length: Tensor, pixels: int, size: int, antialias: bool) -> Tensor:
    """Weights of one axis: float32 (G, S, pixels), each row's sum 1. start, length: (G,) shares of the axis."""
    step = (length * pixels / size)[:, None]
    grid = torch.arange(size, device=start.device) + 0.5
    centre = grid * step + (start * pixels)[:, None]
    pixel = torch.arange(pixels, device=start.device) + 0.5
    reach = step.clamp(min=1) if antialias else torch.ones_like(step)
    weight = (1 - (pixel - centre[..., None]).abs() * (1 / reach)[..., None]).clamp(min=0)
    return weight / weight.sum(-1, keepdim=True)


def sample_bands(
    data: Tensor,
    records: Tensor,
    rows: Tensor,
    box: list[Tensor],
    gain: Tensor,
    shift: Tensor,
    size: int,
    antialias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crops of records alike in dtype, height and width: float32 (G, S, S).

    records: (G, 5). rows: (G, 10), each record's row of the table. box: top, left, height and width, each (G,), as
    shares of the patch. gain, shift: (G,), drawn jitter. Also returns, for `speckle_share`, the valid pixels (G, H, W)
    and the weights of rows and of columns.
    """
    dtype, (height, width) = DTYPES[int(records[0, 1])], records[0, 2:4].tolist()
    # torch cannot index uint16: read as int16, and a mask removes the sign
    stored = torch.int16 if dtype == torch.uint16 else dtype
    pixels = data[: len(data) // dtype.itemsize * dtype.itemsize].view(stored)
    inside = torch.arange(height * width, device=data.device)
    raw = pixels[(records[:, :1] // dtype.itemsize) + inside].view(-1, height, width)
    value = (raw.int() & 0xFFFF if dtype == torch.uint16 else raw).float()
    mean, std, clip_lo, clip_hi, nodata = (rows[:, k, None, None] for k in (0, 1, 6, 7, 8))
    valid = (value.abs() < torch.inf) & (value != nodata)
    value = ((value.clamp(clip_lo, clip_hi) * gain[:, None, None] + shift[:, None, None]) - mean) / std
    value = torch.where(valid, value, 0.0)
    down = axis_weights(box[0], box[2], height, size, antialias)
    across = axis_weights(box[1], box[3], width, size, antialias)
    return down @ value @ across.mT, valid, down, across


def speckle_share(valid: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Share of each output pixel that comes from valid pixels, float32 (G, S, S)."""
    return down @ valid.float() @ across.mT


def draw_speckle(seed: int, epoch: int | Tensor, sample: Tensor, view: Tensor, looks: Tensor, size: int) -> Tensor:
    """Speckle in dB, float32 (..., S, S), in the orientation of the source: before flip and turn.

    sample, view, looks: (...). One counter a pixel: stream SPECKLE + its row-major index.
    """
    pixel = torch.arange(size * size, device=sample.device).view(size, size)
    words = philox_words(seed, sample[..., None, None], epoch, view[..., None, None], SPECKLE + pixel)
    total = torch.stack([part for word in words for part in (word >> 16, word & 0xFFFF)]).sum(0)
    normal = (total - HALVES * 65535 // 2).float() / DEVIATION
    looks = looks[..., None, None]
    root = (1 - 1 / (9 * looks) + normal / (3 * looks.sqrt())).clamp(min=LEAST)
    return DECIBEL * torch.log2(root)


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit
def axis_of(index, start, length, pixels, SIZE: tl.constexpr, ANTIALIAS: tl.constexpr):
    """One axis for output indices (TILE,): centre, first pixel and sum of weights; 1/reach and number of pixels."""
    step = tl.div_rn(length * pixels, SIZE * 1.0)  # rounded as PyTorch's: a whole patch at its own size stays itself
    reach = tl.maximum(step, 1.0) if ANTIALIAS else step * 0.0 + 1.0
    inverse = tl.div_rn(1.0, reach)
    centre = (index.to(tl.float32) + 0.5) * step + start * pixels
    first = tl.ceil(centre - reach - 0.5).to(tl.int32)
    count = tl.ceil(2.0 * reach).to(tl.int32)
    total = tl.zeros_like(centre)
    for k in range(0, count):
        total += weight_of(first + k, centre, inverse, pixels)
    return centre, first, total, inverse, count


@triton.jit
def weight_of(pixel, centre, inverse, pixels):
    """Weights, not yet divided by their sum, of pixel numbers (TILE,); 0 outside the axis."""
    weight = tl.maximum(1.0 - tl.abs(pixel.to(tl.float32) + 0.5 - centre) * inverse, 0.0)
    return tl.where((pixel >= 0) & (pixel < pixels), weight, 0.0)


@triton.jit
def resample(pixels, height, width, rows, columns, ok, row, scale, shift, SPECKLE: tl.constexpr):
    """Weighted means, float32 (TILE, TILE), over one band in `pixels`: of standardised values, and of valid pixels.

    rows, columns: from `axis_of`. Two pixels of a row an iteration: bilinear interpolation takes two.
    """
    y, first_y, total_y, inverse_y, count_y = rows
    x, first_x, total_x, inverse_x, count_x = columns
    value = tl.zeros((y.shape[0], x.shape[0]), tl.float32)
    share = tl.zeros((y.shape[0], x.shape[0]), tl.float32)
    for j in range(0, count_y):
        for i in range(0, count_x, 2):
            for k in tl.static_range(2):
                down, across = first_y + j, first_x + (i + k)
                weight = weight_of(down, y, inverse_y, height)[:, None]
                weight = weight * weight_of(across, x, inverse_x, width)[None, :]
                down = tl.minimum(tl.maximum(down, 0), height - 1)
                across = tl.minimum(tl.maximum(across, 0), width - 1)
                at = pixels + ((down * width)[:, None] + across[None, :])
                live = tl.where(ok, weight > 0.0, False)
                raw = tl.load(at, mask=live, other=0).to(tl.float32)
                valid = live & (tl.abs(raw) < float("inf")) & (raw != tl.load(row + 8))
                raw = tl.minimum(tl.maximum(raw, tl.load(row + 6)), tl.load(row + 7))
                value += weight * tl.where(valid, raw * scale + shift, 0.0)
                if SPECKLE:
                    share += tl.where(valid, weight, 0.0)
    total = total_y[:, None] * total_x[None, :]
    return value / total, share / total


@triton.jit
def speckle_of(k0, k1, sample, epoch, view, looks, pixel, STREAM: tl.constexpr, LEAST: tl.constexpr):
    """Speckle in dB of pixel numbers, as `draw_speckle`."""
    a, b, c, d = philox4(k0, k1, sample + tl.zeros_like(pixel), epoch, view, STREAM + pixel)
    total = (a >> 16) + (a & 0xFFFF) + (b >> 16) + (b & 0xFFFF) + (c >> 16) + (c & 0xFFFF) + (d >> 16) + (d & 0xFFFF)
    normal = (total.to(tl.int32) - 262140).to(tl.float32) / 53510.09  # HALVES * 65535 / 2, DEVIATION
    root = tl.maximum(1.0 - 1.0 / (9.0 * looks) + normal / (3.0 * tl.sqrt_rn(looks)), LEAST)
    return 9.030899869919436 * tl.log2(root)  # DECIBEL
