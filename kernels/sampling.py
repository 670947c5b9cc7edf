# mypy: disallow-untyped-defs=False
"""Resampling of one raw band, standardised, and speckle, in PyTorch: the mathematics of render_views.

For output index i of S along an axis of `pixels`, and a crop from `start`, `length` long (shares of the axis):

    step = length * pixels / S          centre = start * pixels + (i + 1/2) * step          reach = max(step, 1)
    weight of pixel p: max(0, 1 - |p + 1/2 - centre| / reach), divided by the sum of the weights on the axis

Where the crop has no more pixels than the output this is bilinear interpolation (two pixels, the border repeated).
Where it has more, the triangle widens with the step, so that every pixel counts and none aliases: the antialiased
bilinear of torchvision and Pillow (`Image.resize` with a box, which like this one looks past the box into the image).
Without antialias reach is always 1. For nearest, the centre moves to that of its pixel, and reach is 1. Axes are
separable: weights are computed once a row and once a column.

Speckle, if asked for, is a gamma-distributed factor g of mean 1 on the intensity (Goodman 1976), added in dB:

    10 log10(g),  g = max(1 - 1/(9 L) + n / (3 sqrt(L)), 0.01)^3         L looks; Wilson, Hilferty 1931

where n is normal except in its far tails: a sum of eight uniform 16-bit integers, which rounds alike on all devices.
"""

from math import log10, sqrt

import torch
from torch import Tensor

from .philox import SPECKLE, philox_words
from .records import DTYPES

LEAST = 0.01  # lower bound of the cube root of the speckle's factor: -60 dB
HALVES, DEVIATION = 8, 65536 * sqrt(8 / 12)  # of the sum of eight integers uniform below 65536
DECIBEL = 30 * log10(2)  # 10 log10(x^3) = DECIBEL * log2(x)


def axis_weights(
    start: Tensor, length: Tensor, pixels: int, size: int, antialias: bool, nearest: bool = False
) -> Tensor:
    """Weights of one axis: float32 (G, S, pixels), each row's sum 1. start, length: (G,) shares of the axis."""
    step = (length * pixels / size)[:, None]
    grid = torch.arange(size, device=start.device) + 0.5
    centre = grid * step + (start * pixels)[:, None]
    pixel = torch.arange(pixels, device=start.device) + 0.5
    if nearest:
        centre = centre.floor().clamp(max=pixels - 1) + 0.5
    reach = step.clamp(min=1) if antialias and not nearest else torch.ones_like(step)
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
    nearest: bool = False,
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
    down = axis_weights(box[0], box[2], height, size, antialias, nearest)
    across = axis_weights(box[1], box[3], width, size, antialias, nearest)
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
