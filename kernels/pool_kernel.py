# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The kernels of pool.py: maxima of 3 x 3 windows at stride 2 in channels-last memory, and their gradient.

A program walks down a few rows of windows, over a stretch of columns and channels; a thread holds 16 bytes of
neighbouring channels of one column. What two rows of windows share stays in registers: forward the maxima along the
row of pixels between them, backward the gradients and positions of the windows above. What two columns share comes from
the L1 cache. So a program of ROWS rows of windows reads one row of pixels more than 2 * ROWS, or one row of windows
more than ROWS, mostly from the L2 cache. A row's address is a 64-bit number, one a program; inside a row 32 bits do.

Backward, the windows (i, j), (i, j + 1), (i + 1, j) and (i + 1, j + 1) are all that reach the four pixels (2i, 2j) to
(2i + 1, 2j + 1). So every pixel is written once: neither atomics nor zeros before.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import tl, triton

LANES = 64 if torch.version.hip else 32  # threads of a warp
VECTOR = 16  # bytes of a thread's accesses
CHANNELS = 128  # of a program at most


class Launch(NamedTuple):
    """warps: of a program, at most. rows: of windows that it walks down."""

    warps: int
    rows: int


FORWARD = Launch(warps=4, rows=4)  # of 1 to 8 rows and 4 or 8 warps among the fastest on an H200
BACKWARD = Launch(warps=4, rows=4)


@triton.jit
def _place(high, wide, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of a program: its image, int64, its first row of windows, its columns and its channels."""
    blocks, across, bands = tl.cdiv(C, BLOCK_C), tl.cdiv(wide, COLUMNS), tl.cdiv(high, ROWS)
    program, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    stretch, image, first = program % across, program // across // bands, program // across % bands * ROWS
    column = (stretch * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    return image.to(tl.int64), first, column, (block * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]


@triton.jit
def _row_max(row, at, C: tl.constexpr, live, left, right, edge):
    """Maximum of the pixels 2j - 1, 2j and 2j + 1 of a row, fp32, and which it is, 0 to 2: the first, or the last NaN.

    at: offsets of pixels 2j. live, left, right: whether the three are there. edge: j is 0, where the first is not.
    """
    before = tl.load(row + (at - C), mask=left, other=float("-inf")).to(tl.float32)
    middle = tl.load(row + at, mask=live, other=float("-inf")).to(tl.float32)
    after = tl.load(row + (at + C), mask=right, other=float("-inf")).to(tl.float32)
    take = (middle > before) | (middle != middle) | edge
    best, place = tl.where(take, middle, before), tl.where(take, 1, 0)
    take = (after > best) | (after != after)
    return tl.where(take, after, best), tl.where(take, 2, place)


@triton.jit(do_not_specialize=["height", "width"])
def max_pool_kernel(
    out,  # (B, H', W', C) as x
    position,  # (B, H', W', C) uint8 out: of the maximum in its window, row by row, 0 to 8
    x,  # (B, H, W, C) bf16, fp16 or fp32, contiguous
    height,  # H
    width,  # W
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # power of two
    BLOCK_C: tl.constexpr,  # power of two
):
    """One program: ROWS x COLUMNS windows of BLOCK_C channels. Grid: B * bands * stretches * blocks of channels."""
    high, wide = (height + 1) // 2, (width + 1) // 2
    image, first, column, channel = _place(high, wide, C, ROWS, COLUMNS, BLOCK_C)
    live, edge = (column < wide) & (channel < C), column == 0
    left, right = live & (column > 0), live & (2 * column + 1 < width)
    at, to = 2 * column * C + channel, column * C + channel

    row = x + (image * height + 2 * first) * (width * C)
    results = (image * high + first) * (wide * C)
    inside = first + 0 * column > 0  # of the mask's shape: triton 3.9 interprets no mask that a scalar joins
    top, top_place = _row_max(row - width * C, at, C, live & inside, left & inside, right & inside, edge)
    for i in range(first, tl.minimum(first + ROWS, high)):
        best, place = _row_max(row, at, C, live, left, right, edge)
        inside = 2 * i + 1 + 0 * column < height
        low, low_place = _row_max(row + width * C, at, C, live & inside, left & inside, right & inside, edge)
        take = (best > top) | (best != best) | (i == 0)
        best, place = tl.where(take, best, top), tl.where(take, 3 + place, top_place)
        take = (low > best) | (low != low)
        best, place = tl.where(take, low, best), tl.where(take, 6 + low_place, place)
        tl.store(out + results + to, best.to(out.dtype.element_ty), mask=live)
        tl.store(position + results + to, place.to(tl.uint8), mask=live)
        top, top_place = low, low_place
        row += 2 * width * C
        results += wide * C


@triton.jit
def _windows(grad, position, row, at, mask):
    """Gradients, fp32, and positions, int32, of the windows of a row; 0 where there is none."""
    slope = tl.load(grad + row + at, mask=mask, other=0.0).to(tl.float32)
    return slope, tl.load(position + row + at, mask=mask, other=0).to(tl.int32)


@triton.jit(do_not_specialize=["height", "width"])
def max_pool_backward_kernel(
    total,  # (B, H, W, C) out, as grad: the gradient of x
    grad,  # (B, H', W', C) bf16, fp16 or fp32, contiguous
    position,  # (B, H', W', C) uint8, contiguous
    height,  # H
    width,  # W
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # power of two
    BLOCK_C: tl.constexpr,  # power of two
):
    """One program: the pixels of ROWS x COLUMNS blocks of 2 x 2, of BLOCK_C channels. Grid: as max_pool_kernel."""
    high, wide = (height + 1) // 2, (width + 1) // 2
    image, first, column, channel = _place(high, wide, C, ROWS, COLUMNS, BLOCK_C)
    live = (column < wide) & (channel < C)
    beside, odd = live & (column + 1 < wide), live & (2 * column + 1 < width)
    at, to = column * C + channel, 2 * column * C + channel

    row = total + (image * height + 2 * first) * (width * C)
    windows = (image * high + first) * (wide * C)
    here, here_place = _windows(grad, position, windows, at, live)
    side, side_place = _windows(grad, position, windows, at + C, beside)
    for i in range(first, tl.minimum(first + ROWS, high)):
        windows += wide * C
        inside = i + 1 + 0 * column < high
        below, below_place = _windows(grad, position, windows, at, live & inside)
        far, far_place = _windows(grad, position, windows, at + C, beside & inside)
        pixel = tl.where(here_place == 4, here, 0.0)
        right = tl.where(here_place == 5, here, 0.0) + tl.where(side_place == 3, side, 0.0)
        under = tl.where(here_place == 7, here, 0.0) + tl.where(below_place == 1, below, 0.0)
        last = tl.where(here_place == 8, here, 0.0) + tl.where(side_place == 6, side, 0.0)
        last += tl.where(below_place == 2, below, 0.0) + tl.where(far_place == 0, far, 0.0)
        tl.store(row + to, pixel.to(total.dtype.element_ty), mask=live)
        tl.store(row + (to + C), right.to(total.dtype.element_ty), mask=odd)
        inside = 2 * i + 1 + 0 * column < height
        tl.store(row + (to + width * C), under.to(total.dtype.element_ty), mask=live & inside)
        tl.store(row + (to + width * C + C), last.to(total.dtype.element_ty), mask=odd & inside)
        here, here_place, side, side_place = below, below_place, far, far_place
        row += 2 * width * C


def pool_tile(channels: int, wide: int, itemsize: int, warps: int) -> tuple[int, int, int]:
    """COLUMNS, BLOCK_C and warps of a program, so that a thread holds 16 bytes, or fewer where the image is small."""
    block = min(triton.next_power_of_2(channels), CHANNELS)
    chunk = LANES * VECTOR // itemsize  # elements of a warp
    columns = min(triton.next_power_of_2(wide), max(1, warps * chunk // block))
    return columns, block, min(max(1, columns * block // chunk), warps)


def launch_max_pool(out: Tensor, position: Tensor, x: Tensor) -> None:
    """Fills out and position, (B, C, H', W'), with one launch. x: (B, C, H, W); all channels-last."""
    grid, sizes, warps = launched(x, FORWARD)
    max_pool_kernel[grid](out, position, x, *sizes, num_warps=warps)


def launch_max_pool_backward(total: Tensor, grad: Tensor, position: Tensor) -> None:
    """Fills total, (B, C, H, W), with one launch. grad, position: (B, C, H', W'); all channels-last."""
    grid, sizes, warps = launched(total, BACKWARD)
    max_pool_backward_kernel[grid](total, grad, position, *sizes, num_warps=warps)


def launched(pixels: Tensor, how: Launch) -> tuple[tuple[int], tuple[int, ...], int]:
    """Grid, the arguments after the tensors, and warps, for the pixels' shape (B, C, H, W) and type."""
    b, c, height, width = pixels.shape
    high, wide = (height + 1) // 2, (width + 1) // 2
    columns, block, warps = pool_tile(c, wide, pixels.element_size(), how.warps)
    programs = b * triton.cdiv(high, how.rows) * triton.cdiv(wide, columns) * triton.cdiv(c, block)
    return (programs,), (height, width, c, how.rows, columns, block), warps
