# mypy: disallow-untyped-defs=False
"""Raw bands to augmented, resampled, standardised views, in one launch.

For each output pixel of a view, turn and flip undone:

    out = sum over pixels of weight * f(pixel)  [+ speckle / std]
    f(pixel) = (gain * clip(pixel) + offset - mean) / std               0 where the pixel is invalid

with the weights of antialiased bilinear resampling of a random crop: see sampling.py. The crop, turn, jitter and
speckle are drawn in the kernel from (seed, epoch, sample, view): see draws.py. Standardised last: Grill et al. 2020, B.

Bytes it must move: each record's pixels inside the crop, once, and the views once: at most 156 MB for 1,024 samples, a
uint16 and a float32 band of 120 px to two bf16 views of 128 px, a floor of 36 us at the 4.3 TB/s that a copy reaches on
an H200.
"""

from collections.abc import Sequence
from itertools import product
from math import log

import torch
from torch import Tensor

from ._dispatch import current, on_gpu
from ._triton import tl, triton
from .draws import ViewSpec, draw_views
from .philox import CROP, JITTER, SPECKLE, TURN, check_seed, epoch_tensor, philox4, seed_words, uniform_of
from .records import ALIGN, MAX_SIDE, check_batch, check_records
from .sampling import LEAST, axis_of, draw_speckle, resample, sample_bands, speckle_of, speckle_share

TILE = 32  # pixels a side of a program's square: 64 bytes of bf16 a row, turned or not
WARPS = 4  # of a program: 8 pixels a thread
# Registers a thread may use. By default ptxas aims for fewer, and spills. AMD has no such option.
OPTIONS = {} if torch.version.hip else {"maxnreg": 128}
CHUNK = 32  # images that the reference renders at a time, so that its intermediates stay in the cache


def empty_views(records: Tensor, spec: ViewSpec) -> Tensor:
    """(V, B, C, S, S), not filled; with channels_last the memory is (V, B, S, S, C), so that each view is NHWC."""
    b, v, c, _ = records.shape
    if spec.channels_last:
        return records.new_empty((v, b, spec.size, spec.size, c), dtype=spec.dtype).permute(0, 1, 4, 2, 3)
    return records.new_empty((v, b, c, spec.size, spec.size), dtype=spec.dtype)


# ---- reference ----------------------------------------------------------------------------------------------


def render_reference(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> Tensor:
    """render_views in plain PyTorch. Raises ValueError on a record that does not fit."""
    check_records(records.cpu(), len(data), table.cpu())
    b, v, c, _ = records.shape
    draws = draw_views(spec, seed, epoch, samples, v, c)
    flat, rows = records.reshape(-1, records.shape[-1]), table[records[..., 4].flatten()]
    box = [part[..., None].expand(b, v, c).flatten() for part in draws[:4]]
    gain, shift = torch.ones_like(rows[:, 0]), torch.zeros_like(rows[:, 0])
    if spec.jitter:
        gain = rows[:, 2] + draws.gain_u.flatten() * (rows[:, 3] - rows[:, 2])
        shift = rows[:, 4] + draws.offset_u.flatten() * (rows[:, 5] - rows[:, 4])
    images = torch.empty((len(flat), spec.size, spec.size), device=data.device)
    who = samples[:, None, None].expand(b, v, c).flatten()
    channel = torch.arange(v * c, device=data.device).repeat(b)  # of the sample: view by view
    for alike in flat[:, 1:4].unique(dim=0):
        for part in (flat[:, 1:4] == alike).all(1).nonzero()[:, 0].split(CHUNK):
            group, row = [side[part] for side in box], rows[part]
            image, valid, down, across = sample_bands(
                data, flat[part], row, group, gain[part], shift[part], spec.size, spec.antialias
            )
            if spec.speckle:
                noise = draw_speckle(seed, epoch, who[part], channel[part], row[:, 9], spec.size)
                image += noise / row[:, 1, None, None] * speckle_share(valid, down, across)
            images.index_copy_(0, part, image)
    flips, turns = (part[..., None].expand(b, v, c).flatten() for part in (draws.flip, draws.turns))
    for flip, turn in product((False, True), range(4)):
        moved = ((flips == flip) & (turns == turn)).nonzero()[:, 0]
        if len(moved) and (flip or turn):
            image = images.index_select(0, moved)
            images.index_copy_(0, moved, torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1)))
    out = empty_views(records, spec)
    out.copy_(images.view(b, v, c, spec.size, spec.size).transpose(0, 1))
    return out


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["nbytes", "samples_count", "k0", "k1", "bands"])
def render_kernel(
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

    # The record is not trusted: ok is false if it does not fit the buffer or the table.
    record = records + image.to(tl.int64) * 5
    offset, code = tl.load(record), tl.load(record + 1)
    height, width, band = tl.load(record + 2), tl.load(record + 3), tl.load(record + 4)
    ok = (code >= 0) & (code <= 4) & (height > 0) & (height <= MAX_SIDE) & (width > 0) & (width <= MAX_SIDE)
    ok = ok & (offset >= 0) & (offset % ALIGN == 0) & (offset <= nbytes) & (band >= 0) & (band < bands)
    itemsize = tl.where(code == 0, 1, tl.where(code == 4, 4, 2))
    height, width = tl.where(ok, height, 1), tl.where(ok, width, 1)
    offset, band = tl.where(ok, offset, 0), tl.where(ok, band, 0)
    ok = ok & (height * width * itemsize <= nbytes - offset)
    height, width = tl.where(ok, height, 1), tl.where(ok, width, 1)  # again: they bound the loops
    row = table + band * 10
    ok = ok & (tl.load(row + 1) > 0)  # a band without statistics has std nan

    # The draws, as in draws.py.
    sample, now = tl.load(samples + b), tl.load(epoch)
    area_w, ratio_w, top_w, left_w = philox4(k0, k1, sample, now, v, STREAM_CROP)
    area = AREA + uniform_of(area_w) * AREA_SPAN
    log_ratio = LOG_RATIO + uniform_of(ratio_w) * LOG_RATIO_SPAN
    h = tl.minimum(tl.sqrt_rn(area * tl.exp(-log_ratio)), 1.0)
    w = tl.minimum(tl.sqrt_rn(area * tl.exp(log_ratio)), 1.0)
    top, left = uniform_of(top_w) * (1.0 - h), uniform_of(left_w) * (1.0 - w)
    turn_w, _, _, _ = philox4(k0, k1, sample, now, v, STREAM_TURN)
    flip = ((turn_w & 1) == 1) & FLIP
    turns = tl.where(TURN, (turn_w >> 1) & 3, 0).to(tl.int32)
    gain, shift = 1.0, 0.0
    if JITTER:
        gain_w, shift_w, _, _ = philox4(k0, k1, sample, now, v, STREAM_JITTER + c)
        gain = tl.load(row + 2) + uniform_of(gain_w) * (tl.load(row + 3) - tl.load(row + 2))
        shift = tl.load(row + 4) + uniform_of(shift_w) * (tl.load(row + 5) - tl.load(row + 4))
    scale = gain / tl.load(row + 1)
    shift = (shift - tl.load(row)) / tl.load(row + 1)

    # Output rows i and columns j. An odd number of quarter turns swaps rows and columns: transposed at the end.
    i = square // SIDE * TILE + tl.arange(0, TILE)
    j = square % SIDE * TILE + tl.arange(0, TILE)
    odd = (turns & 1) == 1
    p, q = tl.where(odd, j, i), tl.where(odd, i, j)
    p = tl.where(turns >= 2, SIZE - 1 - p, p)
    q = tl.where(((turns == 1) | (turns == 2)) != flip, SIZE - 1 - q, q)
    height_f, width_f = height.to(tl.float32), width.to(tl.float32)
    height, width = height.to(tl.int32), width.to(tl.int32)
    rows = axis_of(p, top, h, height_f, SIZE, ANTIALIAS)
    columns = axis_of(q, left, w, width_f, SIZE, ANTIALIAS)

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


def launch_render(
    out: Tensor, data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> None:
    """Fills out, made by `empty_views`, with one launch. Everything is contiguous and on one device."""
    b, v, c, _ = records.shape
    tile = min(TILE, triton.next_power_of_2(spec.size))
    squares = triton.cdiv(spec.size, tile) ** 2
    if b * v * c == 0:
        return
    (area, area_end), (ratio, ratio_end) = spec.scale, (log(end) for end in spec.ratio)
    render_kernel[(b * v * c * squares,)](
        out, data, records, samples, epoch, table, *seed_words(seed), len(data), b, len(table),
        v, c, spec.size, area, area_end - area, ratio, ratio_end - ratio, spec.flip, spec.turn, spec.jitter,
        spec.speckle, spec.antialias, spec.channels_last, MAX_SIDE, ALIGN, CROP, TURN, JITTER, SPECKLE, LEAST, tile,
        num_warps=WARPS, **OPTIONS,
    )  # fmt: skip


# ---- op -----------------------------------------------------------------------------------------------------


def _spec_of(size: int, ranges: Sequence[float], switches: Sequence[bool], dtype: torch.dtype) -> ViewSpec:
    """The ViewSpec from plain values, the only ones that an op accepts."""
    (low, high, narrow, wide), (flip, turn, jitter, channels_last, speckle, antialias) = ranges, switches
    return ViewSpec(size, (low, high), (narrow, wide), flip, turn, jitter, dtype, channels_last, speckle, antialias)


@torch.library.custom_op("rsdnet::render_views", mutates_args=())
def _render_views(
    data: Tensor,
    records: Tensor,
    samples: Tensor,
    table: Tensor,
    epoch: Tensor,
    seed: int,
    size: int,
    ranges: Sequence[float],
    switches: Sequence[bool],
    dtype: torch.dtype,
) -> Tensor:
    spec = _spec_of(size, ranges, switches, dtype)
    if data.data_ptr() % ALIGN:
        raise ValueError(f"data: its address is not a multiple of {ALIGN}; pass a whole buffer, not a slice of it")
    if not on_gpu(data.device):
        return render_reference(data, records, samples, table, spec, seed, epoch)
    out = empty_views(records, spec)
    with current(data.device):
        launch_render(
            out, data.contiguous(), records.contiguous(), samples.contiguous(), table.contiguous(), spec, seed, epoch
        )
    return out


@_render_views.register_fake
def _(data, records, samples, table, epoch, seed, size, ranges, switches, dtype):
    return empty_views(records, _spec_of(size, ranges, switches, dtype))


def render_views(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, *, seed: int, epoch: int | Tensor
) -> Tensor:
    """Augmented, standardised views of a batch of raw bands: (V, B, C, S, S), spec.dtype, on data's device.

    data: (N,) uint8, the bands' bytes as they lie on disk; starts at a multiple of 16 bytes.
    records: (B, V, C, 5) int64: byte offset (a multiple of 16), dtype code (DTYPE_CODES), height, width, band id.
    samples: (B,) int64, the samples' rows in the catalog. table: (K, 10) float32 by band id, from `band_table`.
    seed: 0 to 2^63 - 1. epoch: int, or an int64 tensor () on data's device: no sync, no recompilation, CUDA graphs.
    The views depend on seed, epoch and sample alone, not on the batch they come in.
    Raises TypeError or ValueError on shapes, types and devices that do not fit; on the CPU also ValueError on a
    record that does not fit. On a GPU such a record reads nothing and gives zeros: `check_records` finds it before.
    """
    check_seed(seed)
    epoch = epoch_tensor(epoch, data.device)
    check_batch(data, records, samples, table, epoch)
    ranges = [*spec.scale, *spec.ratio]
    switches = [spec.flip, spec.turn, spec.jitter, spec.channels_last, spec.speckle, spec.antialias]
    return _render_views(data, records, samples, table, epoch, seed, spec.size, ranges, switches, spec.dtype)
