# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The window of a blur: its weights, its border and the pass along rows, in PyTorch and in Triton.

    w(t) = exp(-t^2 / (2 sigma^2)) / sum of the same over -radius..radius
    reflect(i) = i reflected at the first and the last pixel, as often as needed, without repeating the border pixel

The pass along columns is the running sums in blur_kernel.py.
"""

import torch
from torch import Tensor

from ._triton import tl, triton
from .philox import philox4, uniform_of

MIN_SIGMA = 1e-6  # pixels; below it the neighbours' weights are 0 in float32

# ---- reference ----------------------------------------------------------------------------------------------


def blur_weights(sigma: Tensor, radius: int) -> Tensor:
    """(B, 2 * radius + 1) float32, left to right, each row adding up to 1. sigma: (B,) float32, pixels."""
    steps = torch.arange(-radius, radius + 1, device=sigma.device) / sigma.clamp(min=MIN_SIGMA)[:, None]
    weights = torch.exp(-0.5 * steps * steps)
    return weights / weights.sum(1, keepdim=True)


def reflected(index: Tensor, side: int) -> Tensor:
    """Pixels 0..side-1 of int64 positions, reflected at the border."""
    period = max(2 * (side - 1), 1)
    index = index.abs() % period
    return torch.minimum(index, period - index)


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit
def sigma_of(k0, k1, sample, epoch, view, probability, low, high, STREAM: tl.constexpr):
    """Sigma of a view as `draw_sigma` draws it, 0 for no blur. probability: floats, one a view."""
    decide, size, _, _ = philox4(k0, k1, sample, epoch, view, STREAM)
    chance = 0.0
    for k in tl.static_range(len(probability)):
        chance = tl.where(view == k, probability[k], chance)
    return tl.where(uniform_of(decide) < chance, low + uniform_of(size) * (high - low), 0.0)


@triton.jit
def weights_of(sigma, RADIUS: tl.constexpr, MIN_SIGMA: tl.constexpr):
    """As `blur_weights`, of one float32 sigma, from the centre outwards: RADIUS + 1 scalars."""
    sigma = tl.maximum(sigma, MIN_SIGMA)
    bells, total = (), -1.0  # the centre counts once, the others twice
    for t in tl.static_range(RADIUS + 1):
        bell = tl.exp(-0.5 * (t / sigma) * (t / sigma))
        bells += (bell,)
        total += 2.0 * bell
    weights = ()
    for t in tl.static_range(RADIUS + 1):
        weights += (bells[t] / total,)
    return weights


@triton.jit
def at_ends(factor, row, column, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr):
    """(rows, columns) float32: `factor` in the outermost rows and columns of a plane, its square in corners, else 1.
    row: any, reflected here. column: elements of a row."""
    pixel = column // STEP
    end_y, end_x = row % max(HEIGHT - 1, 1) == 0, (pixel == 0) | (pixel == WIDTH - 1)
    return tl.where(end_y, factor, 1.0)[:, None] * tl.where(end_x, factor, 1.0)[None, :]


@triton.jit
def load_row(
    plane,  # (HEIGHT, WIDTH, STEP) bf16, fp16 or fp32
    row,  # (BANDS,) int32: any row of each band, reflected here
    column,  # (CHUNKS * PX,) int32: elements of a row; with PX > 1, also beyond its end
    weights,  # from weights_of
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    RADIUS: tl.constexpr,
    ADJOINT: tl.constexpr,
    PX: tl.constexpr,
):
    """One row of each band, (BANDS, CHUNKS * PX). PX > 1: as stored. PX = 1: float32, blurred along itself already,
    from as many loads as the window is wide."""
    if RADIUS < HEIGHT:  # one reflection; rows that are further away count nowhere
        row = tl.minimum(tl.abs(row), tl.maximum(2 * (HEIGHT - 1) - row, 0))
    else:
        PERIOD_Y: tl.constexpr = 2 * (HEIGHT - 1) if HEIGHT > 1 else 1
        row = tl.abs(row) % PERIOD_Y
        row = tl.minimum(row, PERIOD_Y - row)
    plane += row.to(tl.int64)[:, None] * (WIDTH * STEP)
    if PX > 1:
        loaded = tl.load(plane + column[None, :], mask=(column < WIDTH * STEP)[None, :], other=0)
    else:
        PERIOD_X: tl.constexpr = 2 * (WIDTH - 1) if WIDTH > 1 else 1
        loaded = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
        for k in tl.static_range(-RADIUS, RADIUS + 1):
            pixel = tl.abs(column // STEP + k) % PERIOD_X
            pixel = tl.minimum(pixel, PERIOD_X - pixel)
            at = pixel * STEP + column % STEP
            tap = tl.load(plane + at[None, :]).to(tl.float32)
            if ADJOINT:
                tap *= at_ends(2.0, row, at, HEIGHT, WIDTH, STEP)
            loaded = tl.fma(tap, weights[k if k > 0 else -k], loaded)
    return loaded


@triton.jit
def blur_row(
    row,  # (BANDS, CHUNKS * PX) float32, PX > 1: a thread holds the PX elements of a chunk
    left,  # the first of the chunks
    weights,  # from weights_of
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    RADIUS: tl.constexpr,
    PX: tl.constexpr,
):
    """The pass along rows, for the chunks whose window lies in the tile or across a border: as row."""
    LAST: tl.constexpr = WIDTH * STEP // PX - 1
    CHUNKS: tl.constexpr = row.shape[1] // PX
    LEVELS: tl.constexpr = (PX > 1) + (PX > 2) + (PX > 4)
    REACH: tl.constexpr = RADIUS * STEP  # elements to either side
    lane = tl.arange(0, CHUNKS)[None, :]
    chunk = left + lane
    parts = (row,)
    for _ in tl.static_range(LEVELS):  # a chunk becomes PX tensors (BANDS, CHUNKS): registers get names, no more
        even, odd = (), ()
        for i in tl.static_range(len(parts)):
            a, b = tl.split(tl.reshape(parts[i], (parts[i].shape[0], parts[i].shape[1] // 2, 2)))
            even += (a,)
            odd += (b,)
        parts = even + odd
    elements, taps = (), ()  # from left to right
    for e in tl.static_range(-REACH, REACH + PX):
        element = parts[e % PX]
        if e // PX != 0:  # of a neighbour; beyond the tile's last, any
            source = tl.minimum(tl.maximum(lane + e // PX, 0), CHUNKS - 1)
            element = tl.gather(element, tl.broadcast_to(source, element.shape), 1)
        elements += (element,)
    for e in tl.static_range(-REACH, REACH + PX):
        tap = elements[REACH + e]
        for k in tl.static_range((REACH + PX - 1) // PX):  # the k-th chunk from a border: beyond, what is reflected
            if k * PX + e < 0:
                tap = tl.where(chunk == k, elements[REACH + e - (k * PX + e) // STEP * 2 * STEP], tap)
            if e - (k + 1) * PX >= 0:
                tap = tl.where(
                    chunk == LAST - k, elements[REACH + e - (e - (k + 1) * PX + STEP) // STEP * 2 * STEP], tap
                )
        taps += (tap,)
    sums = ()
    for p in tl.static_range(REACH, REACH + PX):
        total = taps[p] * weights[0]
        for t in tl.static_range(1, RADIUS + 1):
            total = tl.fma(taps[p - t * STEP] + taps[p + t * STEP], weights[t], total)
        sums += (total,)
    for _ in tl.static_range(LEVELS):  # and back
        joined = ()
        for i in tl.static_range(len(sums) // 2):
            pairs = tl.join(sums[i], sums[i + len(sums) // 2])
            joined += (tl.reshape(pairs, (pairs.shape[0], pairs.shape[1] * 2)),)
        sums = joined
    return sums[0]
