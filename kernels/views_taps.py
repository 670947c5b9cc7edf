# mypy: disallow-untyped-defs=False
"""render_views pixel by pixel, in float32: each output pixel's taps, weighed and added up; speckle.

For views in float32 and for speckle; bf16 and fp16 are rendered several times faster by views_matrix.py.
"""

from math import log

import torch
from torch import Tensor

from ._triton import tl, triton
from .draws import ViewSpec
from .philox import CROP, JITTER, SPECKLE, TURN, philox4, seed_words
from .records import ALIGN, MAX_SIDE
from .sampling import LEAST
from .views_scalars import crop_of, record_of, scale_of, turn_of

TILE = 32  # pixels a side of a program's square: 64 bytes of bf16 a row, turned or not
WARPS = 4  # of a program: 8 pixels a thread
# Registers a thread may use. By default ptxas aims for fewer, and spills. AMD has no such option.
OPTIONS = {} if torch.version.hip else {"maxnreg": 128}


@triton.jit
def axis_of(index, start, length, pixels, SIZE: tl.constexpr, ANTIALIAS: tl.constexpr, NEAREST: tl.constexpr):
    """One axis for output indices (TILE,): centre, first pixel and sum of weights; 1/reach and number of pixels."""
    step = tl.div_rn(length * pixels, SIZE * 1.0)  # rounded as PyTorch's: a whole patch at its own size stays itself
    reach = tl.maximum(step, 1.0) if ANTIALIAS else step * 0.0 + 1.0
    inverse = tl.div_rn(1.0, reach)
    centre = (index.to(tl.float32) + 0.5) * step + start * pixels
    if NEAREST:
        centre = tl.minimum(tl.floor(centre), pixels - 1.0) + 0.5
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


@triton.jit(do_not_specialize=["nbytes", "samples_count", "k0", "k1", "bands"])
def render_taps_kernel(
    out,  # (V, B, C, S, S) bf16, fp16 or fp32; memory (V, B, S, S, C) if NHWC
    data,  # (N,) uint8, 16-byte aligned
    records,  # (B, V, C, 5) int64: byte offset, dtype code, height, width, band id
    samples,  # (B,) int64
    epoch,  # () int64
    table,  # (K, 10) float32, by band id: see records.py
    k0,  # seed, low word, int32
    k1,  # seed, high word, int32
    nbytes,  # N
    samples_count,  # B
    bands,  # K
    VIEWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SIZE: tl.constexpr,  # S
    AREA: tl.constexpr,  # lower end of the crop's area
    AREA_SPAN: tl.constexpr,
    LOG_RATIO: tl.constexpr,  # lower end of the log of the crop's width / height
    LOG_RATIO_SPAN: tl.constexpr,
    FLIP: tl.constexpr,
    TURN: tl.constexpr,
    JITTER: tl.constexpr,
    SPECKLE: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    NEAREST: tl.constexpr,
    NHWC: tl.constexpr,
    MAX_SIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    STREAM_CROP: tl.constexpr,
    STREAM_TURN: tl.constexpr,
    STREAM_JITTER: tl.constexpr,
    STREAM_SPECKLE: tl.constexpr,
    LEAST: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program: one TILE x TILE square of one channel of one view. Grid: B * V * C * squares."""
    SIDE: tl.constexpr = (SIZE + TILE - 1) // TILE
    square = tl.program_id(0) % (SIDE * SIDE)
    image = tl.program_id(0) // (SIDE * SIDE)  # (b, v, c), row major
    c, v, b = image % CHANNELS, image // CHANNELS % VIEWS, image // (CHANNELS * VIEWS)

    ok, offset, code, height, width, row = record_of(records, table, image, nbytes, bands, MAX_SIDE, ALIGN)
    sample, now = tl.load(samples + b), tl.load(epoch)
    top, left, h, w = crop_of(k0, k1, sample, now, v, STREAM_CROP, AREA, AREA_SPAN, LOG_RATIO, LOG_RATIO_SPAN)
    odd, up, mirrored = turn_of(k0, k1, sample, now, v, STREAM_TURN, FLIP, TURN)
    scale, shift = scale_of(k0, k1, sample, now, v, row, STREAM_JITTER + c, JITTER)

    # Output rows i and columns j. An odd number of quarter turns swaps rows and columns: transposed at the end.
    i = square // SIDE * TILE + tl.arange(0, TILE)
    j = square % SIDE * TILE + tl.arange(0, TILE)
    p, q = tl.where(odd, j, i), tl.where(odd, i, j)
    p = tl.where(up, SIZE - 1 - p, p)
    q = tl.where(mirrored, SIZE - 1 - q, q)
    rows = axis_of(p, top, h, height.to(tl.float32), SIZE, ANTIALIAS, NEAREST)
    columns = axis_of(q, left, w, width.to(tl.float32), SIZE, ANTIALIAS, NEAREST)

    value = tl.zeros((TILE, TILE), tl.float32)
    share = tl.zeros((TILE, TILE), tl.float32)
    at = data + offset
    if code == 0:
        value, share = resample(at, height, width, rows, columns, ok, row, scale, shift, SPECKLE)
    elif code == 1:
        at_int16 = at.to(tl.pointer_type(tl.int16))
        value, share = resample(at_int16, height, width, rows, columns, ok, row, scale, shift, SPECKLE)
    elif code == 2:
        at_uint16 = at.to(tl.pointer_type(tl.uint16))
        value, share = resample(at_uint16, height, width, rows, columns, ok, row, scale, shift, SPECKLE)
    elif code == 3:
        at_float16 = at.to(tl.pointer_type(tl.float16))
        value, share = resample(at_float16, height, width, rows, columns, ok, row, scale, shift, SPECKLE)
    elif code == 4:
        at_float32 = at.to(tl.pointer_type(tl.float32))
        value, share = resample(at_float32, height, width, rows, columns, ok, row, scale, shift, SPECKLE)
    if SPECKLE:
        pixel = p[:, None] * SIZE + q[None, :]
        looks = tl.load(row + 9)
        noise = speckle_of(k0, k1, sample, now, v * CHANNELS + c, looks, pixel, STREAM_SPECKLE, LEAST)
        value += noise / tl.load(row + 1) * share
    if odd:
        value = tl.trans(value)

    view = (v.to(tl.int64) * samples_count + b) * (CHANNELS * SIZE * SIZE)
    if NHWC:
        to = out + view + c + (i * SIZE)[:, None] * CHANNELS + j[None, :] * CHANNELS
    else:
        to = out + view + c * (SIZE * SIZE) + (i * SIZE)[:, None] + j[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=(i < SIZE)[:, None] & (j < SIZE)[None, :])


def launch_taps(
    out: Tensor, data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> None:
    """Fills out, made by `empty_views`, with one launch. Everything is contiguous and on one device."""
    b, v, c, _ = records.shape
    tile = min(TILE, triton.next_power_of_2(spec.size))
    squares = triton.cdiv(spec.size, tile) ** 2
    if b * v * c == 0:
        return
    (area, area_end), (ratio, ratio_end) = spec.scale, (log(end) for end in spec.ratio)
    render_taps_kernel[(b * v * c * squares,)](
        out, data, records, samples, epoch, table, *seed_words(seed), len(data), b, len(table),
        v, c, spec.size, area, area_end - area, ratio, ratio_end - ratio, spec.flip, spec.turn, spec.jitter,
        spec.speckle, spec.antialias and not spec.nearest, spec.nearest, spec.channels_last, MAX_SIDE, ALIGN,
        CROP, TURN, JITTER, SPECKLE, LEAST, tile,
        num_warps=WARPS, **OPTIONS,
    )  # fmt: skip
