# mypy: disallow-untyped-defs=False
"""Bilinear sampling of one raw band, standardised: the innermost step of render_views, in PyTorch and in Triton.

For output index i of S along an axis of `pixels`, and a crop from `start`, `length` long (shares of the axis):

    at = clamp((start + (i + 1/2) / S * length) * pixels - 1/2, 0, pixels - 1)
    taps floor(at) and floor(at) + 1, weights 1 - (at - floor(at)) and at - floor(at)

Axes are separable: coordinates are computed once a row and once a column. Other filters (antialiasing) change the
taps and weights here, and nothing elsewhere.
"""

import torch
from torch import Tensor

from ._triton import tl, triton
from .records import DTYPES

# ---- reference ----------------------------------------------------------------------------------------------


def axis_taps(start: Tensor, length: Tensor, pixels: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """One axis of records (G,): lower and upper tap, int64 (G, S), and the upper's weight, float32 (G, S)."""
    step = length * pixels / size
    grid = torch.arange(size, device=start.device) + 0.5
    at = (grid * step[:, None] + (start * pixels - 0.5)[:, None]).clamp(min=0).minimum(pixels[:, None] - 1.0)
    low = at.long()
    return low, torch.minimum(low + 1, pixels[:, None] - 1), at - low


def sample_bands(
    data: Tensor, records: Tensor, rows: Tensor, box: list[Tensor], gain: Tensor, shift: Tensor, size: int
) -> Tensor:
    """Crops of records of one dtype, float32 (G, S, S).

    records: (G, 5). rows: (G, 9), each record's row of the table. box: top, left, height and width, each (G,), as
    shares of the patch. gain, shift: (G,), drawn jitter.
    """
    dtype = DTYPES[int(records[0, 1])]
    # torch cannot index uint16: read it as int16; the mask in tap undoes the sign
    stored = torch.int16 if dtype == torch.uint16 else dtype
    pixels = data[: len(data) // dtype.itemsize * dtype.itemsize].view(stored)
    top, left, height, width = box
    y0, y1, fy = axis_taps(top, height, records[:, 2], size)
    x0, x1, fx = axis_taps(left, width, records[:, 3], size)
    mean, std, clip_lo, clip_hi, nodata = (rows[:, k, None, None] for k in (0, 1, 6, 7, 8))
    gain, shift = gain[:, None, None], shift[:, None, None]
    first, pitch = records[:, 0, None] // dtype.itemsize, records[:, 3, None]

    def tap(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        index = (first + y * pitch)[:, :, None] + x[:, None, :]
        raw = pixels.index_select(0, index.flatten()).view(index.shape)
        value = (raw.int() & 0xFFFF if dtype == torch.uint16 else raw).float()
        valid = (value.abs() < torch.inf) & (value != nodata)
        value = ((value.clamp(clip_lo, clip_hi) * gain + shift) - mean) / std
        return torch.where(valid, value, 0.0) * weight

    gy, gx = (1 - fy)[:, :, None], (1 - fx)[:, None, :]
    fy, fx = fy[:, :, None], fx[:, None, :]
    return (tap(y0, x0, gx) + tap(y0, x1, fx)) * gy + (tap(y1, x0, gx) + tap(y1, x1, fx)) * fy


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit
def taps_of(index, start, length, pixels, SIZE: tl.constexpr):
    """One axis: lower and upper tap, int32, and the upper's weight, for output indices (TILE,), as `axis_taps`."""
    step = tl.div_rn(length * pixels, SIZE * 1.0)  # rounded as PyTorch's: a whole patch at its own size stays itself
    at = (index.to(tl.float32) + 0.5) * step + (start * pixels - 0.5)
    at = tl.minimum(tl.maximum(at, 0.0), pixels - 1.0)
    low = at.to(tl.int32)
    return low, tl.minimum(low + 1, pixels.to(tl.int32) - 1), at - low.to(tl.float32)


@triton.jit
def _tap(pixels, ok, row, scale, shift):
    """Standardised float32 values of one tap, (TILE, TILE); 0 where the record is bad or the pixel invalid."""
    x = tl.load(pixels, mask=ok, other=0).to(tl.float32)
    valid = ok & (tl.abs(x) < float("inf")) & (x != tl.load(row + 8))
    x = tl.minimum(tl.maximum(x, tl.load(row + 6)), tl.load(row + 7))
    return tl.where(valid, x * scale + shift, 0.0)


@triton.jit
def bilinear(pixels, pitch, y0, y1, fy, x0, x1, fx, ok, row, scale, shift):
    """Values, float32 (TILE, TILE), of one band in `pixels`: rows y and columns x are (TILE,), pitch is the width."""
    upper = pixels + (y0.to(tl.int64) * pitch)[:, None]
    lower = pixels + (y1.to(tl.int64) * pitch)[:, None]
    above = _tap(upper + x0[None, :], ok, row, scale, shift) * (1.0 - fx)[None, :]
    above += _tap(upper + x1[None, :], ok, row, scale, shift) * fx[None, :]
    below = _tap(lower + x0[None, :], ok, row, scale, shift) * (1.0 - fx)[None, :]
    below += _tap(lower + x1[None, :], ok, row, scale, shift) * fx[None, :]
    return above * (1.0 - fy)[:, None] + below * fy[:, None]
