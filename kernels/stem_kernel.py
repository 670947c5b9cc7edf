# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The kernels of stem.py: a convolution of stride 2 over few channels as a product of matrices, and its gradient.

Images are channels-last and padded, so a line of a window is K * C neighbours in memory. A program reads the lines of
BM windows, each as LINE values, a power of two, by twos; those behind the window meet weights of zero. So a window is a
row of K * LINE values, and the results are the product of such rows and the weights, by tensor cores, with sums in
float32. No pixel is masked.

The gradient of the weights is the product of the results' gradient, transposed, and the same rows. A program adds up
its share of the results, and torch adds the shares, in one order.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ._triton import tl, triton

BK = 64  # values of a row that a product takes; of the gradient's up to DEEP, since each turn over them reads it again
DEEP = 128
FILTERS = 128  # of a program at most
ROWS, BACKWARD_ROWS = 128, 64  # results of a program; of the gradient's in each turn
WARPS = 4
PARTS = 924  # of the gradient's sum at most: seven programs a multiprocessor of an H200

# ---- what the kernels read ----------------------------------------------------------------------------------


def line_of(channels: int, kernel: int) -> int:
    """LINE: values that are read for a line of a window."""
    return max(8, 1 << (kernel * channels - 1).bit_length())


def sides_of(images: Tensor, kernel: int, padding: int) -> tuple[int, int]:
    """Rows and columns of the result for images (B, C, H, W)."""
    _, _, height, width = images.shape
    return (height + 2 * padding - kernel) // 2 + 1, (width + 2 * padding - kernel) // 2 + 1


def padded(images: Tensor, kernel: int, padding: int) -> Tensor:
    """images (B, C, H, W) as (B, H', W', C) with zeros around: all that is read, and nothing else; W' is even."""
    _, channels, height, width = images.shape
    rows, columns = sides_of(images, kernel, padding)
    lower = 2 * (rows - 1) + kernel - padding - height
    read = 2 * (columns - 1) - (-line_of(channels, kernel) // channels)
    right = read + read % 2 - padding - width
    return pad(images.permute(0, 2, 3, 1), (0, 0, padding, right, padding, lower)).contiguous()


def factors_of(weight: Tensor) -> Tensor:
    """weight (O, C, k, k) as (values, O), zeros where a row has no tap of the window; values in steps of BK."""
    filters, channels, kernel, _ = weight.shape
    lines = weight.permute(2, 3, 1, 0).reshape(kernel, kernel * channels, filters)
    rows = pad(lines, (0, 0, 0, line_of(channels, kernel) - kernel * channels)).flatten(0, 1)
    return pad(rows, (0, 0, 0, -len(rows) % BK))


def weight_of(factors: Tensor, channels: int, kernel: int) -> Tensor:
    """The weight (O, C, k, k) of `factors_of`."""
    line = line_of(channels, kernel)
    lines = factors[: kernel * line].unflatten(0, (kernel, line))[:, : kernel * channels]
    return lines.unflatten(1, (kernel, channels)).permute(3, 2, 0, 1)


# ---- kernels ------------------------------------------------------------------------------------------------


@triton.jit
def _windows(
    images, m, k, results, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    C: tl.constexpr, K: tl.constexpr, LINE: tl.constexpr,
):  # fmt: skip
    """Values k of the windows of results m, (m, k)."""
    m = tl.minimum(m, results - 1)
    row, column = m // WIDE, m % WIDE
    corner = ((row // HIGH * HEIGHT + 2 * (row % HIGH)) * WIDTH + 2 * column) * C
    value = tl.minimum(k // LINE, K - 1) * (WIDTH * C) + k % LINE
    return tl.load(images + (corner[:, None] + value[None, :]))


@triton.jit
def stem_kernel(
    out,  # (B, HIGH, WIDE, filters), as images
    images,  # (B, HEIGHT, WIDTH, C) bf16 or fp16, padded
    factors,  # (K * LINE and more, filters), as images
    results,  # B * HIGH * WIDE
    filters,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,  # pixels a side of a window
    LINE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One program: BM results of BN filters. Grid: blocks of results, blocks of filters."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    o = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in tl.static_range(0, K * LINE, BK):
        k = start + tl.arange(0, BK)
        windows = _windows(images, m, k, results, HEIGHT, WIDTH, HIGH, WIDE, C, K, LINE)
        part = tl.load(factors + k[:, None] * filters + o[None, :], mask=(o < filters)[None, :], other=0.0)
        total = tl.dot(windows, part, total)
    at = m.to(tl.int64)[:, None] * filters + o[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(m < results)[:, None] & (o < filters)[None, :])


@triton.jit
def stem_backward_kernel(
    parts,  # (parts, filters, K * LINE and more) fp32 out
    grad,  # (B, HIGH, WIDE, filters), as images
    images,  # (B, HEIGHT, WIDTH, C) bf16 or fp16, padded
    results,  # B * HIGH * WIDE
    filters,
    values,  # of a row
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    LINE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One program: a part of the sum, of BN filters and BK values. Grid: parts, blocks of filters, blocks of values."""
    o = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2) * BK + tl.arange(0, BK)
    total = tl.zeros((BN, BK), tl.float32)
    for turn in range(tl.program_id(0), tl.cdiv(results, BM), tl.num_programs(0)):
        m = turn * BM + tl.arange(0, BM)
        at = m.to(tl.int64)[:, None] * filters + o[None, :]
        slope = tl.load(grad + at, mask=(m < results)[:, None] & (o < filters)[None, :], other=0.0)
        windows = _windows(images, m, k, results, HEIGHT, WIDTH, HIGH, WIDE, C, K, LINE)
        total = tl.dot(tl.trans(slope), windows, total)
    at = (tl.program_id(0) * filters + o[:, None]) * values + k[None, :]
    tl.store(parts + at, total, mask=(o < filters)[:, None] & (k < values)[None, :])


# ---- launches -----------------------------------------------------------------------------------------------


def constants_of(source: Tensor, results: Tensor, kernel: int) -> dict[str, int]:
    """Constants of a launch. source: padded images. results: (B, O, HIGH, WIDE)."""
    _, height, width, channels = source.shape
    _, filters, high, wide = results.shape
    sides = {"HEIGHT": height, "WIDTH": width, "HIGH": high, "WIDE": wide, "C": channels, "K": kernel}
    bn = min(FILTERS, max(16, triton.next_power_of_2(filters)))
    return sides | {"LINE": line_of(channels, kernel), "BN": bn, "num_warps": WARPS}


def launch_stem(out: Tensor, source: Tensor, factors: Tensor, kernel: int) -> None:
    """Fills out, (B, O, HIGH, WIDE) channels-last, with one launch. source: `padded`; factors: `factors_of`, of its
    type."""
    filters, constants = out.shape[1], constants_of(source, out, kernel)
    results = out.numel() // filters
    grid = triton.cdiv(results, ROWS), triton.cdiv(filters, constants["BN"])
    stem_kernel[grid](out, source, factors, results, filters, **constants, BM=ROWS, BK=BK)


def launch_stem_backward(grad: Tensor, source: Tensor, kernel: int) -> Tensor:
    """Gradient of the factors, (O, values) float32. grad: (B, O, HIGH, WIDE) channels-last; source: `padded`."""
    filters, constants = grad.shape[1], constants_of(source, grad, kernel)
    values, results = triton.cdiv(kernel * constants["LINE"], BK) * BK, grad.numel() // filters
    deep = min(DEEP, triton.next_power_of_2(values))
    count = max(1, min(PARTS, triton.cdiv(results, BACKWARD_ROWS)))
    parts = grad.new_empty((count, filters, values), dtype=torch.float32)
    grid = count, triton.cdiv(filters, constants["BN"]), triton.cdiv(values, deep)
    # One stage: in a pipeline of loads, ptxas 12.8 places operands' addresses in one branch only (tests' "astray").
    stem_backward_kernel[grid](
        parts, grad, source, results, filters, values, **constants, BM=BACKWARD_ROWS, BK=deep, num_stages=1
    )  # fmt: skip
    return parts.sum(0)
