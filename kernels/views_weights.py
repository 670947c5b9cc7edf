# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""The weights of views_matrix.py: matrices for the tensor cores, made where they are needed.

`tl.arange` alone spreads a matrix over threads one element wide, and 2-byte stores then take it to shared memory. The
result of a product lies as the next product takes it: so the one vector that fills a whole weight matrix, the centres,
is spread by a product with ones.
"""

from ._triton import tl, triton
from .window import weights_of

# ---- matrices -----------------------------------------------------------------------------------------------


@triton.jit
def halved(x, HALVES: tl.constexpr):
    """float32 x as the sum of HALVES fp16 tensors."""
    parts = ()
    for k in tl.static_range(HALVES):
        half = x.to(tl.float16)
        parts += (half,)
        if k + 1 < HALVES:
            x -= half.to(tl.float32)
    return parts


@triton.jit
def product(a, b, total):
    """total + a @ b, float32, of matrices from `halved`."""
    if len(a) > 1:
        total = tl.dot(a[1], b[0], total)
        total = tl.dot(a[0], b[1], total)
    return tl.dot(a[0], b[0], total)


@triton.jit
def spread(x, MANY: tl.constexpr):
    """x (T,) in each of MANY columns, exactly: float32 in three halves, times ones."""
    high, middle, low = halved(x, 3)
    k = tl.arange(0, 16)[None, :]
    thirds = tl.where(k == 0, high[:, None], tl.where(k == 1, middle[:, None], tl.where(k == 2, low[:, None], 0.0)))
    ones = tl.where(tl.arange(0, 16)[:, None] + tl.zeros((1, MANY), tl.int32) < 3, 1.0, 0.0)
    return tl.dot(thirds.to(tl.float16), ones.to(tl.float16))


@triton.jit
def turned(halves):
    """The transpose of a matrix from `halved`."""
    parts = ()
    for k in tl.static_range(len(halves)):
        parts += (tl.trans(halves[k]),)
    return parts


# ---- weights ------------------------------------------------------------------------------------------------


@triton.jit
def axis_of(start, length, pixels, backwards, SIZE: tl.constexpr, ANTIALIAS: tl.constexpr):
    """An axis of the crop, scalars: origin and step (pixels), reach, pixels, whether it runs backwards."""
    pixels = pixels.to(tl.float32)
    step = tl.div_rn(length * pixels, SIZE * 1.0)  # rounded as PyTorch's: a whole patch at its own size stays itself
    reach = tl.maximum(step, 1.0) if ANTIALIAS else step * 0.0 + 1.0
    return start * pixels, step, reach, pixels, backwards


@triton.jit
def centre_of(index, axis):
    """Position of output pixels, in pixels of the patch from its border."""
    origin, step, _, _, _ = axis
    return (index.to(tl.float32) + 0.5) * step + origin


@triton.jit
def window_of(base, halo, axis, SIZE: tl.constexpr, TILE: tl.constexpr):
    """First pixel and end of those that weigh in output pixels base..base + TILE, with a halo to either side."""
    _, _, reach, pixels, backwards = axis
    low, high = tl.maximum(base - halo, 0), tl.minimum(base + (TILE - 1) + halo, SIZE - 1)
    first = tl.where(backwards, SIZE - 1 - high, low)
    last = tl.where(backwards, SIZE - 1 - low, high)
    first = tl.floor(centre_of(first, axis) - reach - 0.5)
    end = tl.ceil(centre_of(last, axis) + reach + 0.5)
    return tl.maximum(first, 0.0).to(tl.int32), tl.minimum(end, pixels).to(tl.int32)


@triton.jit
def triangles_of(index, axis, first, SIZE: tl.constexpr, LEVEL: tl.constexpr, MANY: tl.constexpr):
    """The triangles of output pixels `index` (T,), reflected at the border, for `weights`: (first - centre) * slope,
    (T, MANY); slope and height, (T,); pixels of the axis from `first`, the first of them that is looked at."""
    _, _, reach, pixels, backwards = axis
    last: tl.constexpr = SIZE - 1
    index = tl.abs(index)
    index = tl.minimum(tl.minimum(index, tl.abs(2 * last - index)), last)
    index = tl.where(backwards, last - index, index)
    centre = centre_of(index, axis) - 0.5
    inverse = tl.div_rn(1.0, reach)
    nearest = tl.ceil(centre - reach)
    total = centre * 0.0
    for k in range(0, tl.ceil(2.0 * reach).to(tl.int32)):
        pixel = nearest + k
        weight = tl.maximum(1.0 - tl.abs(pixel - centre) * inverse, 0.0)
        total += tl.where((pixel >= 0.0) & (pixel < pixels), weight, 0.0)
    height = LEVEL / total
    slope = inverse * height
    return spread((first - centre) * slope, MANY), slope, height, pixels.to(tl.int32) - first


@triton.jit
def weights(triangles, start, MANY: tl.constexpr):
    """(T, MANY) float32: what pixels start..start + MANY weigh, counted from `first`."""
    at, slope, height, end = triangles
    pixel = start + tl.arange(0, MANY)
    pixel = tl.where(pixel < end, pixel.to(tl.float32), 1e6)  # a pixel beyond the border weighs nothing
    pixel, slope = tl.broadcast_to(pixel[None, :], at.shape), tl.broadcast_to(slope[:, None], at.shape)
    return tl.maximum(height[:, None] - tl.abs(tl.fma(pixel, slope, at)), 0.0)


@triton.jit
def bell_of(sigma, START: tl.constexpr, RADIUS: tl.constexpr, TILE: tl.constexpr, MANY: tl.constexpr):
    """(TILE, MANY) of the blur's Toeplitz matrix: w(START + column - RADIUS - row), as `blur_weights`."""
    peak = tl.log2(weights_of(sigma, RADIUS, 0.0)[0])
    rate = -0.7213475204444817 / sigma / sigma  # log2(e) / 2
    away = spread((START - RADIUS - tl.arange(0, TILE)).to(tl.float32), MANY)
    away += tl.arange(0, MANY).to(tl.float32)[None, :]
    return tl.where(tl.abs(away) <= RADIUS, tl.exp2(away * away * rate + peak), 0.0)


@triton.jit
def both_of(base, axis, first, SIZE: tl.constexpr, LEVEL: tl.constexpr, MANY: tl.constexpr, TILE: tl.constexpr,
            RADIUS: tl.constexpr, HALO: tl.constexpr):  # fmt: skip
    """Triangles of output pixels base..base + TILE and, with a blur, of those that it adds to them."""
    near = triangles_of(base - RADIUS + tl.arange(0, TILE), axis, first, SIZE, LEVEL, MANY)
    far = near
    if RADIUS:
        far = triangles_of(base - RADIUS + TILE + tl.arange(0, HALO), axis, first, SIZE, LEVEL, MANY)
    return near, far


@triton.jit
def blurred_weights(both, bells, start, MANY: tl.constexpr, RADIUS: tl.constexpr, HALVES: tl.constexpr):
    """`weights`, each column blurred where RADIUS is not 0."""
    weight = weights(both[0], start, MANY)
    if RADIUS:
        total = product(bells[0], halved(weight, HALVES), tl.zeros_like(weight))
        weight = product(bells[1], halved(weights(both[1], start, MANY), HALVES), total)
    return halved(weight, HALVES)
