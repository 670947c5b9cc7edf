# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The kernel of blur.py: a Gaussian blur in one launch, sigma given or drawn inside.

A thread walks down PX columns. Each row that it loads is added to 2 * radius running sums, one a row of the result in
progress; 2 * radius rows later the pass along columns is complete, in registers alone. The row is then blurred along
itself, with what shuffles bring from the neighbouring threads. So a band of rows loads 2 * radius more rows than it
makes, from the L2 cache, and only adds those up. Rows that do not divide into chunks of PX are blurred along themselves
as they are loaded, tap by tap.

Instructions count as much as bytes: 35.5 a pixel at radius 6 in bf16 on an H100 or H200, of which 26 are the sums
(`python -m benches.resources --kernels blur`, triton 3.6 and 3.7): 18 us for 1,024 images of 128 px, at 1.05e12 warp
instructions a second, where the bytes take 16. Measured on an H200: 32 us, half of a copy's bandwidth.

Matrix products would gain nothing: of a 32 px tile's 48 rows of a Toeplitz matrix 13 count, and more than 8 bits take
two products in the first pass and three in the second, so the tensor cores would be busy for as long.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._triton import tl, triton
from .philox import BLUR, seed_words
from .window import MIN_SIGMA, at_ends, blur_row, load_row, sigma_of, weights_of

MAX_RADIUS = 26  # of the kernel, whose running sums are in registers: beyond, the reference runs on the GPU
LANES = 64 if torch.version.hip else 32  # threads of a program, one warp: neighbours exchange by shuffles
# Rows loaded before they are used, by radius % 2: they divide 2 * radius. On an H200 four take less time than two:
# 4 % in bf16, 10 % in fp32.
AHEAD = (4, 2)
# Programs of a launch, at least, about one for each of an H200's 528 schedulers: of 256 images of 128 px in bf16, tiles
# of half the rows take a third less time there; of 1,024, which are enough as they are, 7 % more.
PROGRAMS = 512

# The draw of a sigma that is not given: samples, epoch, seed, probability of each view, range of sigma.
Draw = tuple[Tensor | None, Tensor | None, int, Sequence[float], float, float]
NO_DRAW: Draw = (None, None, 0, (), 0.0, 0.0)


@triton.jit
def _add(sums, row, weights, RADIUS: tl.constexpr):
    """The running sums, the oldest first, with one more row of the input: the oldest is complete, and one begins."""
    later = ()
    for t in tl.static_range(2 * RADIUS):
        later += (tl.fma(row, weights[RADIUS - t if t < RADIUS else t - RADIUS], sums[t]),)
    later += (row * weights[RADIUS],)
    return later


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
    AHEAD: tl.constexpr,  # divides 2 * RADIUS and BAND
):
    """One program: a tile of BANDS * BAND rows by CHUNKS chunks, less margins. Grid: planes * tiles of a plane."""
    LENGTH: tl.constexpr = WIDTH * STEP
    TOTAL: tl.constexpr = (LENGTH + PX - 1) // PX
    OWN: tl.constexpr = CHUNKS - 2 * MARGIN
    ACROSS: tl.constexpr = (TOTAL - 2 * MARGIN + OWN - 1) // OWN
    TILES: tl.constexpr = (HEIGHT + BANDS * BAND - 1) // (BANDS * BAND) * ACROSS
    tile, plane = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    top, left, element = tile // ACROSS * (BANDS * BAND), tile % ACROSS * OWN, tl.arange(0, CHUNKS * PX)
    column = left * PX + element
    within = column < LENGTH
    if MARGIN > 0:  # none at a border, where the window is reflected
        within &= (element >= MARGIN * PX) | (left == 0)
        within &= (element < (CHUNKS - MARGIN) * PX) | (left >= TOTAL - CHUNKS)
    images += plane.to(tl.int64) * (HEIGHT * LENGTH)
    out += plane.to(tl.int64) * (HEIGHT * LENGTH)

    image = plane // SHARE
    if sigma is None:
        sample, view = tl.load(samples + image % samples_count), image // samples_count
        spread = sigma_of(k0, k1, sample, tl.load(epoch), view, probability, low, high, STREAM)
    else:
        spread = tl.load(sigma + image)

    if spread > 0:
        weights = weights_of(spread, RADIUS, MIN_SIGMA)
        first = top + tl.arange(0, BANDS) * BAND - RADIUS
        rows, sums = (), ()
        for k in tl.static_range(AHEAD):
            rows += (load_row(images, first + k, column, weights, HEIGHT, WIDTH, STEP, RADIUS, ADJOINT, PX),)
        for _ in tl.static_range(2 * RADIUS):
            sums += (tl.full((BANDS, CHUNKS * PX), 0.0, tl.float32),)
        for y in range(0, 2 * RADIUS + tl.minimum(BAND, HEIGHT - top), AHEAD):
            current, following, complete = (), (), ()
            for k in tl.static_range(AHEAD):
                current += (rows[k].to(tl.float32),)
            for k in tl.static_range(AHEAD):  # all before the first store, across which no load moves up
                at = first + y + AHEAD + k
                following += (load_row(images, at, column, weights, HEIGHT, WIDTH, STEP, RADIUS, ADJOINT, PX),)
            rows = following
            for k in tl.static_range(AHEAD):
                row = current[k]
                if ADJOINT and PX > 1:
                    row *= at_ends(2.0, first + y + k, column, HEIGHT, WIDTH, STEP)
                sums = _add(sums, row, weights, RADIUS)
                complete += (sums[0],)
                sums = sums[1:]
            if y >= 2 * RADIUS:
                for k in tl.static_range(AHEAD):
                    row, at = complete[k], first + y + k - RADIUS
                    if PX > 1:
                        row = blur_row(row, left, weights, WIDTH, STEP, RADIUS, PX)
                    if ADJOINT:
                        row *= at_ends(0.5, at, column, HEIGHT, WIDTH, STEP)
                    to = out + at.to(tl.int64)[:, None] * LENGTH + column[None, :]
                    tl.store(to, row.to(out.dtype.element_ty), mask=(at < HEIGHT)[:, None] & within[None, :])
    else:
        for y in range(0, BAND, 8):
            row = top + y * BANDS + tl.arange(0, BANDS * 8)
            at = row.to(tl.int64)[:, None] * LENGTH + column[None, :]
            live = (row < HEIGHT)[:, None] & within[None, :]
            tl.store(out + at, tl.load(images + at, mask=live), mask=live)


def blur_tile(
    planes: int, height: int, width: int, step: int, radius: int, itemsize: int, lanes: int = LANES
) -> tuple[int, ...]:
    """PX, CHUNKS, MARGIN, BANDS and BAND of blur_kernel, and its programs."""
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
    across = triton.cdiv(triton.cdiv(width * step, px) - 2 * margin, chunks - 2 * margin)
    parts = triton.cdiv(height, bands * max(16, 12 * radius))  # a sixth of the rows again, for the neighbours' sake
    parts = max(parts, min(triton.cdiv(PROGRAMS, planes * across), triton.cdiv(height, bands * 16)))
    band = triton.cdiv(triton.cdiv(height, bands * parts), 8) * 8
    return px, chunks, margin, bands, band, planes * across * triton.cdiv(height, bands * band)


def launch_blur(
    out: Tensor, images: Tensor, sigma: Tensor | None, radius: int, adjoint: bool = False, draw: Draw = NO_DRAW
) -> None:
    """Fills out with one launch. images, out: (N, C, H, W), both contiguous or both channels_last; sigma: (N,)."""
    samples, epoch, seed, probability, low, high = draw
    n, c, height, width = images.shape
    share, step = (c, 1) if images.is_contiguous() else (1, c)
    *tile, programs = blur_tile(n * share, height, width, step, radius, images.element_size())
    blur_kernel[(programs,)](
        out, images, sigma, samples, epoch, *seed_words(seed), n // max(1, len(probability)), tuple(probability),
        low, high, share, height, width, step, radius, adjoint, MIN_SIGMA, BLUR,
        *tile, AHEAD[radius % 2], num_warps=1,
    )  # fmt: skip
