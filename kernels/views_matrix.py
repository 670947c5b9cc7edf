# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""render_views in half precision: resampling and blur as two matrix products a strip of an image.

    strip = (blur . rows) @ pixels @ (blur . columns)^T

rows and columns hold the weights of antialiased bilinear resampling, one output pixel a row (sampling.py); blur is the
Toeplitz matrix of BYOL's Gaussian with its reflected border (window.py). Both are made in views_weights.py. Folded
into the weights, a blur takes no pass of its own. pixels are clipped, jittered and standardised in float32; rows of the
patch are loaded as aligned vectors.

A matrix enters the tensor cores as HALVES numbers of fp16; their products are added up in float32:
    1: one product. The result is exact to 2^-10 of the largest pixel that it averages: a quarter of a unit in the last
       place of bf16.
    2: three products, all but that of the lower halves: to 2^-20, and to 2.1e-5 as Hopper's tensor cores add up.
Pixels go in divided by LEVEL, and weights of columns multiplied by it: up to 65,504 * LEVEL standard deviations are
represented, beyond they saturate.

Instructions count more than bytes: 33 a pixel of a bf16 view of 128 px, 55 of a blurred one, where single taps take
213 (`python -m benches.resources --kernels render`). Latency bounds it before either: the 2,048 views of 1,024 samples
take 90 us on an H200, where the instructions take 33 and the bytes 25, as twelve warps of a multiprocessor wait for
their own products.
"""

from math import log

import torch
from torch import Tensor

from ._triton import tl, triton
from .draws import ViewSpec
from .philox import BLUR, CROP, JITTER, TURN, seed_words
from .records import ALIGN, MAX_SIDE
from .views_scalars import crop_of, record_of, scale_of, turn_of
from .views_weights import axis_of, bell_of, blurred_weights, both_of, halved, product, turned, window_of
from .window import MIN_SIGMA, sigma_of

STRETCH = 128  # columns of a program
WIDE = 128  # columns of the patch that a product takes
DEEP = 16  # rows of the patch that are loaded at a time
LEVEL = 32.0
WARPS = 4
# Registers a thread may use: of 168, a multiprocessor holds three programs. A blur's weights take more.
REGISTERS = 168


@triton.jit
def load_any(at, code, pixel, live):
    """Pixels of any type and alignment as float32: element by element."""
    raw = tl.zeros(pixel.shape, tl.float32)
    if code == 0:
        raw = tl.load(at + pixel, mask=live, other=0).to(tl.float32)
    elif code == 1:
        raw = tl.load(at.to(tl.pointer_type(tl.int16)) + pixel, mask=live, other=0).to(tl.float32)
    elif code == 2:
        raw = tl.load(at.to(tl.pointer_type(tl.uint16)) + pixel, mask=live, other=0).to(tl.float32)
    elif code == 3:
        raw = tl.load(at.to(tl.pointer_type(tl.float16)) + pixel, mask=live, other=0).to(tl.float32)
    elif code == 4:
        raw = tl.load(at.to(tl.pointer_type(tl.float32)) + pixel, mask=live, other=0).to(tl.float32)
    return raw


@triton.jit
def standardise(raw, values, MAYBE_INFINITE: tl.constexpr):
    """float32 pixels clipped, jittered, standardised and divided by LEVEL; 0 where invalid."""
    low, high, nodata, scale, shift = values
    valid = raw != nodata
    if MAYBE_INFINITE:
        valid &= tl.abs(raw) < float("inf")
    return tl.where(valid, tl.minimum(tl.maximum(raw, low), high) * scale + shift, 0.0)


@triton.jit
def store_part(out, total, i, j, odd, SIZE: tl.constexpr, STEP: tl.constexpr):
    """Rows i and columns j of the crop to where the turn takes them, along the rows of the view either way."""
    if odd:
        to = out + (j[:, None] * SIZE + i[None, :]) * STEP
        tl.store(to, tl.trans(total), mask=(j < SIZE)[:, None] & (i < SIZE)[None, :])
    else:
        to = out + (i[:, None] * SIZE + j[None, :]) * STEP
        tl.store(to, total, mask=(i < SIZE)[:, None] & (j < SIZE)[None, :])


@triton.jit
def columns_of(base, axis, first, bells, SIZE: tl.constexpr, RADIUS: tl.constexpr, HALO: tl.constexpr,
               HALVES: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr,
               LEVEL: tl.constexpr):  # fmt: skip
    """The weights of each part's columns, (TILE, WIDE), of pixels from `first` on."""
    parts = ()
    for part in tl.static_range(PARTS):
        both = both_of(base + part * TILE, axis, first, SIZE, LEVEL, WIDE, TILE, RADIUS, HALO)
        parts += (blurred_weights(both, bells, 0, WIDE, RADIUS, HALVES),)
    return parts


@triton.jit
def strip_of(at, code, width, both, y_first, y_end, x, live_x, values, bells, RADIUS: tl.constexpr,
             HALVES: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
             ANY: tl.constexpr):  # fmt: skip
    """Rows of the crop, columns of the patch: (TILE, WIDE) from `halved`."""
    strip = tl.zeros((TILE, WIDE), tl.float32)
    for start in range(0, y_end - y_first, DEEP):
        y = y_first + start + tl.arange(0, DEEP)
        pixel, live = (y * width)[:, None] + x[None, :], (y < y_end)[:, None] & live_x[None, :]
        if ANY:
            value = standardise(load_any(at, code, pixel, live), values, True)
        else:
            raw = tl.load(at + pixel, mask=live, other=0)
            value = standardise(raw.to(tl.float32), values, raw.dtype.is_floating())
        down = blurred_weights(both, bells, start, DEEP, RADIUS, HALVES)
        strip = product(down, halved(value, HALVES), strip)
    return halved(strip, HALVES)


@triton.jit
def render_fast(out, at, width, rows, columns, base, x_first, values, bells, odd, SIZE: tl.constexpr,
                STEP: tl.constexpr, RADIUS: tl.constexpr, HALO: tl.constexpr, HALVES: tl.constexpr,
                TILE: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
                LEVEL: tl.constexpr):  # fmt: skip
    """Rows of a multiple of four pixels, of which the columns take WIDE at most: weights of columns are built once."""
    across = columns_of(base, columns, x_first, bells, SIZE, RADIUS, HALO, HALVES, TILE, PARTS, WIDE, LEVEL)
    x = x_first + tl.arange(0, WIDE)
    for top in range(0, SIZE, TILE):
        y_first, y_end = window_of(top, RADIUS, rows, SIZE, TILE)
        both = both_of(top, rows, y_first, SIZE, 1.0, DEEP, TILE, RADIUS, HALO)
        strip = strip_of(at, 0, width, both, y_first, y_end, x, x < width, values, bells, RADIUS, HALVES, TILE, WIDE,
                         DEEP, False)  # fmt: skip
        for part in tl.static_range(PARTS):
            total = product(strip, turned(across[part]), tl.zeros((TILE, TILE), tl.float32))
            j = base + part * TILE + tl.arange(0, TILE)
            store_part(out, total.to(out.dtype.element_ty), top + tl.arange(0, TILE), j, odd, SIZE, STEP)


@triton.jit
def render_any(out, at, code, width, rows, columns, base, values, bells, odd, SIZE: tl.constexpr,
               STEP: tl.constexpr, RADIUS: tl.constexpr, HALO: tl.constexpr, HALVES: tl.constexpr,
               TILE: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
               LEVEL: tl.constexpr):  # fmt: skip
    """Rows of any length, WIDE of their pixels at a time: weights of columns are built for each strip anew."""
    TILES: tl.constexpr = (SIZE + TILE - 1) // TILE
    for tile in range(0, TILES * PARTS):
        top, left = tile // PARTS * TILE, base + tile % PARTS * TILE
        y_first, y_end = window_of(top, RADIUS, rows, SIZE, TILE)
        x_first, x_end = window_of(left, RADIUS, columns, SIZE, TILE)
        down = both_of(top, rows, y_first, SIZE, 1.0, DEEP, TILE, RADIUS, HALO)
        across = both_of(left, columns, x_first, SIZE, LEVEL, WIDE, TILE, RADIUS, HALO)
        total = tl.zeros((TILE, TILE), tl.float32)
        for start in range(0, x_end - x_first, WIDE):
            x = x_first + start + tl.arange(0, WIDE)
            strip = strip_of(at, code, width, down, y_first, y_end, x, x < width, values, bells, RADIUS, HALVES, TILE,
                             WIDE, DEEP, True)  # fmt: skip
            total = product(strip, turned(blurred_weights(across, bells, start, WIDE, RADIUS, HALVES)), total)
        store_part(out, total.to(out.dtype.element_ty), top + tl.arange(0, TILE), left + tl.arange(0, TILE), odd, SIZE,
                   STEP)  # fmt: skip


@triton.jit
def render(out, at, record, ok, code, width, rows, columns, base, values, sigma, odd, SIZE: tl.constexpr,
           STEP: tl.constexpr, RADIUS: tl.constexpr, MIN_SIGMA: tl.constexpr, HALVES: tl.constexpr,
           HALO: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
           LEVEL: tl.constexpr):  # fmt: skip
    """All of a program's pixels, blurred where RADIUS is not 0."""
    bells = ()
    if RADIUS:
        sigma = tl.maximum(sigma, MIN_SIGMA)
        bells = (halved(bell_of(sigma, 0, RADIUS, TILE, TILE), HALVES),
                 halved(bell_of(sigma, TILE, RADIUS, TILE, HALO), HALVES))  # fmt: skip
    x_first, x_end = window_of(base, RADIUS, columns, SIZE, TILE * PARTS)
    eighth = tl.multiple_of(x_first // 8 * 8, 8)
    wide = tl.multiple_of(width // 4 * 4, 4)  # bands of 60 px too
    kind = tl.where(ok & (wide == width) & (x_end - eighth <= WIDE), code, -1)
    if kind == 2:
        render_fast(out, at.to(tl.pointer_type(tl.uint16)), wide, rows, columns, base, eighth, values, bells, odd,
                    SIZE, STEP, RADIUS, HALO, HALVES, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip
    elif kind == 4:
        render_fast(out, at.to(tl.pointer_type(tl.float32)), wide, rows, columns, base, eighth, values, bells, odd,
                    SIZE, STEP, RADIUS, HALO, HALVES, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip
    elif kind == 0:
        render_fast(out, at, wide, rows, columns, base, eighth, values, bells, odd,
                    SIZE, STEP, RADIUS, HALO, HALVES, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip
    else:
        width = tl.where(ok, width, 0)  # nothing is read for a record that does not fit
        render_any(out, at, tl.load(record + 1), width, rows, columns, base, values, bells, odd,
                   SIZE, STEP, RADIUS, HALO, HALVES, TILE, PARTS, WIDE // 2, 16, LEVEL)  # fmt: skip


@triton.jit(do_not_specialize=["nbytes", "samples_count", "k0", "k1", "bands"])
def render_matrix_kernel(
    out,  # (V, B, C, S, S) bf16 or fp16; memory (V, B, S, S, C) if NHWC
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
    probability,  # of a blur: floats, one a view
    sigma_low,  # float, pixels: range of the blur's sigma
    sigma_high,
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
    ANTIALIAS: tl.constexpr,
    NHWC: tl.constexpr,
    RADIUS: tl.constexpr,  # of the blur, 0 for none
    MAX_SIDE: tl.constexpr,
    ALIGN: tl.constexpr,
    STREAM_CROP: tl.constexpr,
    STREAM_TURN: tl.constexpr,
    STREAM_JITTER: tl.constexpr,
    STREAM_BLUR: tl.constexpr,
    MIN_SIGMA: tl.constexpr,
    HALVES: tl.constexpr,
    HALO: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDE: tl.constexpr,
    DEEP: tl.constexpr,
    LEVEL: tl.constexpr,
):
    """One program: PARTS * TILE columns of one channel of one view. Grid: B * V * C * such stretches of columns."""
    ACROSS: tl.constexpr = (SIZE + TILE * PARTS - 1) // (TILE * PARTS)
    STEP: tl.constexpr = CHANNELS if NHWC else 1
    base = tl.program_id(0) % ACROSS * (TILE * PARTS)
    image = tl.program_id(0) // ACROSS  # (b, v, c), row major
    c, v, b = image % CHANNELS, image // CHANNELS % VIEWS, image // (CHANNELS * VIEWS)
    ok, offset, code, height, width, row = record_of(records, table, image, nbytes, bands, MAX_SIDE, ALIGN)
    sample, now = tl.load(samples + b), tl.load(epoch)
    top, left, h, w = crop_of(k0, k1, sample, now, v, STREAM_CROP, AREA, AREA_SPAN, LOG_RATIO, LOG_RATIO_SPAN)
    odd, up, mirrored = turn_of(k0, k1, sample, now, v, STREAM_TURN, FLIP, TURN)
    rows = axis_of(top, h, height, up, SIZE, ANTIALIAS)
    columns = axis_of(left, w, width, mirrored, SIZE, ANTIALIAS)

    scale, shift = scale_of(k0, k1, sample, now, v, row, STREAM_JITTER + c, JITTER)
    scale, shift = tl.where(ok, scale / LEVEL, 0.0), tl.where(ok, shift / LEVEL, 0.0)
    end, other_end = (65504.0 - shift) / scale, (-65504.0 - shift) / scale  # of what fp16 represents
    low = tl.where(ok, tl.maximum(tl.load(row + 6), tl.minimum(end, other_end)), 0.0)
    high = tl.where(ok, tl.minimum(tl.load(row + 7), tl.maximum(end, other_end)), 0.0)
    values = low, high, tl.load(row + 8), scale, shift

    out += (v.to(tl.int64) * samples_count + b) * (CHANNELS * SIZE * SIZE) + (c if NHWC else c * (SIZE * SIZE))
    at = data + offset // ALIGN * ALIGN  # so that the compiler knows
    # Views with a blur and without share no code. Where products stood in an `if` of their own, ptxas 12.8 computed the
    # address of a later product's operand inside the `if` alone: without a blur, that product read somewhere else.
    sigma, record = 0.0, records + image.to(tl.int64) * 5
    if RADIUS:
        sigma = sigma_of(k0, k1, sample, now, v, probability, sigma_low, sigma_high, STREAM_BLUR)
        if sigma > 0.0:
            render(out, at, record, ok, code, width, rows, columns, base, values, sigma, odd, SIZE, STEP, RADIUS,
                   MIN_SIGMA, HALVES, HALO, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip
        else:
            render(out, at, record, ok, code, width, rows, columns, base, values, sigma, odd, SIZE, STEP, 0,
                   MIN_SIGMA, HALVES, HALO, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip
    else:
        render(out, at, record, ok, code, width, rows, columns, base, values, sigma, odd, SIZE, STEP, 0,
               MIN_SIGMA, HALVES, HALO, TILE, PARTS, WIDE, DEEP, LEVEL)  # fmt: skip


def tile_of(device: torch.device) -> int:
    """TILE, rows of a strip and columns of a part of it: 64 for Hopper, whose products take so many rows. Others take
    fewer, and triton 3.7 fails to compile Blackwell's own products of 64 rows in this kernel (HoistTMEMAlloc)."""
    hopper = device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device)[0] == 9
    return 64 if hopper else 32


def halves_of(dtype: torch.dtype) -> int:
    """HALVES of views of a type: one half of a number has more digits than bf16, two more than fp16."""
    return 1 if dtype == torch.bfloat16 else 2


def launch_matrix(
    out: Tensor, data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> None:
    """Fills out, made by `empty_views`, with one launch. Everything is contiguous and on one device."""
    b, v, c, _ = records.shape
    if b * v * c == 0:
        return
    tile = max(16, min(tile_of(out.device), triton.next_power_of_2(spec.size)))
    parts = min(STRETCH // tile, triton.cdiv(spec.size, tile))
    radius = spec.radius if any(spec.blur) else 0
    halo = max(16, triton.next_power_of_2(2 * radius))
    (area, area_end), (ratio, ratio_end) = spec.scale, (log(end) for end in spec.ratio)
    light = not (torch.version.hip or radius or halves_of(out.dtype) > 1 or (spec.channels_last and c > 1))
    options = {"maxnreg": REGISTERS} if light else {}
    render_matrix_kernel[(b * v * c * triton.cdiv(spec.size, tile * parts),)](
        out, data, records, samples, epoch, table, *seed_words(seed), len(data), b, len(table),
        tuple(spec.blur), *spec.sigma, v, c, spec.size, area, area_end - area, ratio, ratio_end - ratio,
        spec.flip, spec.turn, spec.jitter, spec.antialias, spec.channels_last, radius, MAX_SIDE, ALIGN,
        CROP, TURN, JITTER, BLUR, MIN_SIGMA, halves_of(out.dtype), halo, tile, parts, WIDE, DEEP, LEVEL,
        num_warps=WARPS, num_stages=1, **options,
    )  # fmt: skip
