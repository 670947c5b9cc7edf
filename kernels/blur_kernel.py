# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The kernel of blur.py: a Gaussian blur in one launch, sigma given or drawn inside.

A thread walks down PX columns. Each row that it loads is added to 2 * radius running sums, one a row of the result in
progress, so a row is complete 2 * radius rows later and the pass along columns needs nothing but registers. The complete
row is then blurred along itself, with what shuffles bring from the neighbouring threads (`blur_row`). A band of BAND
rows reads 2 * radius rows of its neighbours again, from the L2 cache, for the pass along columns alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._triton import tl, triton
from .philox import BLUR, philox4, seed_words, uniform_of
from .window import MIN_SIGMA, at_ends, blur_row, load_row, weights_of

MAX_RADIUS = 26  # of the kernel, whose running sums are in registers: beyond, the reference runs on the GPU
LANES = 64 if torch.version.hip else 32  # threads of a program, one warp: neighbours exchange by shuffles
AHEAD = 4  # rows loaded before they are used

# The draw of a sigma that is not given: samples, epoch, seed, probability of each view, range of sigma.
Draw = tuple[Tensor | None, Tensor | None, int, Sequence[float], float, float]
NO_DRAW: Draw = (None, None, 0, (), 0.0, 0.0)


@triton.jit
def _add(sums, row, weights, RADIUS: tl.constexpr):
    """The running sums, the oldest first, with one more row of the input: now the oldest is complete, and one begins."""
    later = ()
    for t in tl.static_range(2 * RADIUS):
        later += (tl.fma(row, weights[RADIUS - t if t < RADIUS else t - RADIUS], sums[t]),)
    return later + (row * weights[RADIUS],)


@triton.jit(do_not_specialize=["k0", "k1", "samples_count"])
def blur_kernel(
    out,  # as images
    images,  # (planes, HEIGHT, WIDTH, STEP) bf16, fp16 or fp32, contiguous; SHARE planes an image
    sigma,  # (N,) fp32, pixels: 0 or less copies the image; None: drawn, image n is sample n % B of view n // B
    samples,  # (B,) int64
    epoch,  # () int64
    k0,  # seed, low word, int32
    k1,  # seed, high word, int32
    samples_count,  # B
    probability,  # floats, one a view
    low,  # float, pixels: sigma's range
    high,
    SHARE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,  # number of channels in NHWC memory, else 1
    RADIUS: tl.constexpr,  # at least 1
    ADJOINT: tl.constexpr,
    MIN_SIGMA: tl.constexpr,
    STREAM: tl.constexpr,
    PX: tl.constexpr,  # elements of a row in a thread: 4 or 8 if rows divide into such chunks, else 1
    CHUNKS: tl.constexpr,  # threads along a row
    MARGIN: tl.constexpr,  # of them on either side, there for their neighbours alone
    BANDS: tl.constexpr,  # threads along a column
    BAND: tl.constexpr,  # rows of a thread, a multiple of 8
    AHEAD: tl.constexpr,
):
    """One program: BANDS * BAND rows by CHUNKS - 2 * MARGIN chunks of a plane. Grid: planes * such tiles of a plane."""
    LENGTH: tl.constexpr = WIDTH * STEP
    OWN: tl.constexpr = (CHUNKS - 2 * MARGIN) * PX
    ACROSS: tl.constexpr = (LENGTH + OWN - 1) // OWN
    TILES: tl.constexpr = (HEIGHT + BANDS * BAND - 1) // (BANDS * BAND) * ACROSS
    tile, plane = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    top = tile // ACROSS * (BANDS * BAND)
    column = tile % ACROSS * OWN - MARGIN * PX + tl.arange(0, CHUNKS * PX)
    within = (column >= tile % ACROSS * OWN) & (column < tile % ACROSS * OWN + OWN) & (column < LENGTH)
    images += plane.to(tl.int64) * (HEIGHT * LENGTH)
    out += plane.to(tl.int64) * (HEIGHT * LENGTH)

    image = plane // SHARE
    if sigma is None:
        view = image // samples_count
        words = philox4(k0, k1, tl.load(samples + image % samples_count), tl.load(epoch), view, STREAM)
        chance = 0.0
        for v in tl.static_range(len(probability)):
            chance = tl.where(view == v, probability[v], chance)
        spread = tl.where(uniform_of(words[0]) < chance, low + uniform_of(words[1]) * (high - low), 0.0)
    else:
        spread = tl.load(sigma + image)

    if spread > 0:
        weights = weights_of(spread, RADIUS, MIN_SIGMA)
        BEFORE: tl.constexpr = (2 * RADIUS + AHEAD - 1) // AHEAD * AHEAD  # rows until the first is complete
        first = top + tl.arange(0, BANDS) * BAND + RADIUS - BEFORE
        rows, sums = (), ()
        for k in tl.static_range(AHEAD):
            rows += (load_row(images, first + k, column, weights, HEIGHT, WIDTH, STEP, RADIUS, ADJOINT, PX),)
        for _ in tl.static_range(2 * RADIUS):
            sums += (tl.full((BANDS, CHUNKS * PX), 0.0, tl.float32),)
        for y in range(0, BEFORE, AHEAD):
            next_rows = ()
            for k in tl.static_range(AHEAD):
                row, at = rows[k].to(tl.float32), first + y + k
                if ADJOINT and PX > 1:
                    row *= at_ends(2.0, at, column, HEIGHT, WIDTH, STEP)
                sums = _add(sums, row, weights, RADIUS)[1:]
                next_rows += (load_row(images, at + AHEAD, column, weights, HEIGHT, WIDTH, STEP, RADIUS, ADJOINT, PX),)
            rows = next_rows
        for y in range(BEFORE, BEFORE + tl.minimum(BAND, HEIGHT - top), AHEAD):
            next_rows = ()
            for k in tl.static_range(AHEAD):
                row, at = rows[k].to(tl.float32), first + y + k
                if ADJOINT and PX > 1:
                    row *= at_ends(2.0, at, column, HEIGHT, WIDTH, STEP)
                next_rows += (load_row(images, at + AHEAD, column, weights, HEIGHT, WIDTH, STEP, RADIUS, ADJOINT, PX),)
                sums = _add(sums, row, weights, RADIUS)
                done, at = sums[0], at - RADIUS
                sums = sums[1:]
                if PX > 1:
                    done = blur_row(done, column, weights, WIDTH, STEP, RADIUS, PX)
                if ADJOINT:
                    done *= at_ends(0.5, at, column, HEIGHT, WIDTH, STEP)
                to = out + at.to(tl.int64)[:, None] * LENGTH + column[None, :]
                tl.store(to, done.to(out.dtype.element_ty), mask=(at < HEIGHT)[:, None] & within[None, :])
            rows = next_rows
    else:
        for y in range(0, BAND, 8):
            row = top + y * BANDS + tl.arange(0, BANDS * 8)
            at = row.to(tl.int64)[:, None] * LENGTH + column[None, :]
            live = (row < HEIGHT)[:, None] & within[None, :]
            tl.store(out + at, tl.load(images + at, mask=live), mask=live)


def blur_tile(height: int, width: int, step: int, radius: int, itemsize: int, lanes: int = LANES) -> tuple[int, ...]:
    """PX, CHUNKS, MARGIN, BANDS and BAND of blur_kernel."""
    px, margin = 1, 0
    for many in (4, 8):  # of 16 bytes at most, whole chunks, one reflection at most, and all of it in the registers
        whole = many * itemsize <= 16 and width * step % many == 0
        if whole and radius < width and many * radius <= 52 and radius * step <= 28:
            px = many
    chunks = triton.cdiv(width * step, px)
    if px > 1 and chunks > lanes:
        margin = triton.cdiv(radius * step, px)
    chunks = min(triton.next_power_of_2(chunks), lanes)
    bands = lanes // chunks
    band = min(max(16, triton.next_power_of_2(8 * radius)), triton.next_power_of_2(triton.cdiv(height, bands)))
    return px, chunks, margin, bands, max(8, band)


def launch_blur(
    out: Tensor, images: Tensor, sigma: Tensor | None, radius: int, adjoint: bool = False, draw: Draw = NO_DRAW
) -> None:
    """Fills out with one launch. images, out: (N, C, H, W), both contiguous or both channels_last; sigma: (N,)."""
    samples, epoch, seed, probability, low, high = draw
    n, c, height, width = images.shape
    share, step = (c, 1) if images.is_contiguous() else (1, c)
    px, chunks, margin, bands, band = blur_tile(height, width, step, radius, images.element_size())
    tiles = triton.cdiv(width * step, (chunks - 2 * margin) * px) * triton.cdiv(height, bands * band)
    blur_kernel[(n * share * tiles,)](
        out, images, sigma, samples, epoch, *seed_words(seed), n // max(1, len(probability)), tuple(probability),
        low, high, share, height, width, step, radius, adjoint, MIN_SIGMA, BLUR,
        px, chunks, margin, bands, band, AHEAD if px > 1 else 2, num_warps=1,
    )  # fmt: skip
