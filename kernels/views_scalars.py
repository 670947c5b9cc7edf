# mypy: disallow-untyped-defs=False
"""Both kernels of render_views: what a program works out before its first pixel, from its record and its draws."""

from ._triton import tl, triton
from .philox import philox4, uniform_of


@triton.jit
def record_of(records, table, image, nbytes, bands, MAX_SIDE: tl.constexpr, ALIGN: tl.constexpr):
    """A record and its row of the table: ok, byte offset, dtype code, height, width (int32), pointer to the row.

    The record is not trusted: ok is false where it does not fit the buffer or the table; then offset and band are 0 and
    height and width 1.
    """
    record = records + image.to(tl.int64) * 5
    offset, code = tl.load(record), tl.load(record + 1)
    height, width, band = tl.load(record + 2), tl.load(record + 3), tl.load(record + 4)
    ok = (code >= 0) & (code <= 4) & (height > 0) & (height <= MAX_SIDE) & (width > 0) & (width <= MAX_SIDE)
    ok = ok & (offset >= 0) & (offset % ALIGN == 0) & (offset <= nbytes) & (band >= 0) & (band < bands)
    itemsize = tl.where(code == 0, 1, tl.where(code == 4, 4, 2))
    height, width = tl.where(ok, height, 1), tl.where(ok, width, 1)
    offset, band = tl.where(ok, offset, 0), tl.where(ok, band, 0)
    ok = ok & (height * width * itemsize <= nbytes - offset)
    row = table + band * 10
    ok = ok & (tl.load(row + 1) > 0)  # a band without statistics has std nan
    height, width = tl.where(ok, height, 1), tl.where(ok, width, 1)  # again: they bound the loops
    return ok, offset, code, height.to(tl.int32), width.to(tl.int32), row


@triton.jit
def crop_of(
    k0, k1, sample, epoch, view, STREAM: tl.constexpr,
    AREA: tl.constexpr, AREA_SPAN: tl.constexpr, LOG_RATIO: tl.constexpr, LOG_RATIO_SPAN: tl.constexpr,
):  # fmt: skip
    """Top, left, height and width of the crop, shares of the patch, as `draw_views`."""
    area_w, ratio_w, top_w, left_w = philox4(k0, k1, sample, epoch, view, STREAM)
    area = AREA + uniform_of(area_w) * AREA_SPAN
    log_ratio = LOG_RATIO + uniform_of(ratio_w) * LOG_RATIO_SPAN
    height = tl.minimum(tl.sqrt_rn(area * tl.exp(-log_ratio)), 1.0)
    width = tl.minimum(tl.sqrt_rn(area * tl.exp(log_ratio)), 1.0)
    return uniform_of(top_w) * (1.0 - height), uniform_of(left_w) * (1.0 - width), height, width


@triton.jit
def turn_of(k0, k1, sample, epoch, view, STREAM: tl.constexpr, FLIP: tl.constexpr, TURN: tl.constexpr):
    """Whether rows and columns are swapped, and whether the crop's rows and columns run backwards, as `draw_views`."""
    word, _, _, _ = philox4(k0, k1, sample, epoch, view, STREAM)
    flip = ((word & 1) == 1) & FLIP
    turns = tl.where(TURN, (word >> 1) & 3, 0).to(tl.int32)
    return (turns & 1) == 1, turns >= 2, ((turns == 1) | (turns == 2)) != flip


@triton.jit
def scale_of(k0, k1, sample, epoch, view, row, STREAM, JITTER: tl.constexpr):
    """Factor and summand that jitter and standardise a clipped pixel."""
    gain, shift = 1.0, 0.0
    if JITTER:
        gain_w, shift_w, _, _ = philox4(k0, k1, sample, epoch, view, STREAM)
        gain = tl.load(row + 2) + uniform_of(gain_w) * (tl.load(row + 3) - tl.load(row + 2))
        shift = tl.load(row + 4) + uniform_of(shift_w) * (tl.load(row + 5) - tl.load(row + 4))
    return gain / tl.load(row + 1), (shift - tl.load(row)) / tl.load(row + 1)
