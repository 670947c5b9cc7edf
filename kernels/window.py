# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The window of a blur: its weights, its border and the pass along rows, in PyTorch and in Triton.

    w(t) = exp(-t^2 / (2 sigma^2)) / sum of the same over -radius..radius
    reflect(i) = i reflected at the first and the last pixel, as often as needed, without repeating the border pixel

The pass along columns is the running sums in blur.py.
"""

import torch
from torch import Tensor

from ._triton import tl, triton

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
def load_row(
    plane,  # (HEIGHT, WIDTH, STEP) bf16, fp16 or fp32
    row,  # (BANDS,) int32: any row of each band, reflected here
    column,  # (CHUNKS * PX,) int32: elements of a row
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    RADIUS: tl.constexpr,
    ADJOINT: tl.constexpr,
    PX: tl.constexpr,
):
    """The input of blur_row from one row of each band: a tuple of (BANDS, CHUNKS * PX) float32, from left to right.

    PX > 1: a thread's own chunk of PX elements and its neighbours to either side, 0 beyond the border. PX = 1: each
    of the 2 * RADIUS + 1 taps apart, reflected. ADJOINT doubles the outermost rows and columns.
    """
    REACH: tl.constexpr = (RADIUS * STEP + PX - 1) // PX if PX > 1 else RADIUS
    PERIOD_Y: tl.constexpr = 2 * (HEIGHT - 1) if HEIGHT > 1 else 1
    PERIOD_X: tl.constexpr = 2 * (WIDTH - 1) if WIDTH > 1 else 1
    row = tl.abs(row) % PERIOD_Y
    row = tl.minimum(row, PERIOD_Y - row)
    plane += row.to(tl.int64)[:, None] * (WIDTH * STEP)
    loaded = ()
    for k in tl.static_range(-REACH, REACH + 1):
        if PX > 1:
            at = column + k * PX
            pixel = at // STEP
            x = tl.load(plane + at[None, :], mask=((at >= 0) & (at < WIDTH * STEP))[None, :], other=0).to(tl.float32)
        else:
            pixel = tl.abs(column // STEP + k) % PERIOD_X
            pixel = tl.minimum(pixel, PERIOD_X - pixel)
            x = tl.load(plane + (pixel * STEP + column % STEP)[None, :]).to(tl.float32)
        if ADJOINT:
            end_y, end_x = (row == 0) | (row == HEIGHT - 1), (pixel == 0) | (pixel == WIDTH - 1)
            x *= tl.where(end_y, 2.0, 1.0)[:, None] * tl.where(end_x, 2.0, 1.0)[None, :]
        loaded += (x,)
    return loaded


@triton.jit
def blur_row(
    row,  # from load_row
    weights,  # from weights_of
    chunk,  # (CHUNKS,) int32: of a row's chunks of PX elements
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    RADIUS: tl.constexpr,
    PX: tl.constexpr,
):
    """The pass along rows: (BANDS, CHUNKS * PX) float32. A thread holds all its taps: no exchange between threads."""
    REACH: tl.constexpr = len(row) // 2
    LAST: tl.constexpr = WIDTH * STEP // PX - 1
    SPAN: tl.constexpr = STEP if PX > 1 else 1  # from a tap to the next
    LEVELS: tl.constexpr = (PX > 1) + (PX > 2) + (PX > 4)
    parts = row
    for _ in tl.static_range(LEVELS):  # a chunk becomes PX tensors (BANDS, CHUNKS): registers get names, no more
        even, odd = (), ()
        for i in tl.static_range(len(parts)):
            a, b = tl.split(tl.reshape(parts[i], (parts[i].shape[0], parts[i].shape[1] // 2, 2)))
            even += (a,)
            odd += (b,)
        parts = even + odd
    elements, taps = (), ()  # from left to right
    for e in tl.static_range(len(parts)):
        elements += (parts[e % PX * len(row) + e // PX],)
    for e in tl.static_range(-RADIUS * SPAN, RADIUS * SPAN + PX):
        tap = elements[REACH * PX + e]
        if PX > 1:
            for k in tl.static_range(REACH):  # the k-th chunk from a border: what is beyond, reflected, is at hand too
                if k * PX + e < 0:
                    before = elements[REACH * PX + e - (k * PX + e) // STEP * 2 * STEP]
                    tap = tl.where(chunk == k, before, tap)
                if e - (k + 1) * PX >= 0:
                    behind = elements[REACH * PX + e - (e - (k + 1) * PX + STEP) // STEP * 2 * STEP]
                    tap = tl.where(chunk == LAST - k, behind, tap)
        taps += (tap,)
    sums = ()
    for p in tl.static_range(RADIUS * SPAN, RADIUS * SPAN + PX):
        total = taps[p] * weights[0]
        for t in tl.static_range(1, RADIUS + 1):
            total = tl.fma(taps[p - t * SPAN] + taps[p + t * SPAN], weights[t], total)
        sums += (total,)
    for _ in tl.static_range(LEVELS):  # and back
        joined = ()
        for i in tl.static_range(len(sums) // 2):
            pairs = tl.join(sums[i], sums[i + len(sums) // 2])
            joined += (tl.reshape(pairs, (pairs.shape[0], pairs.shape[1] * 2)),)
        sums = joined
    return sums[0]
