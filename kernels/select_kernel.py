# mypy: disallow-untyped-defs=False, disable-error-code="assignment,misc,var-annotated"
"""Bands of dense images, given or drawn in the kernel, standardised: the kernels of select.py.

    out[b, c] = (images[b, bands[b, c]] - mean[bands[b, c]]) / std[bands[b, c]]    0 where the pixel is invalid

and the gradient with respect to images, gathered by band, hence without atomics and deterministic:

    total[b, n] = sum over c with bands[b, c] = n of grad[b, c] / std[n]           0 where the pixel is invalid

float32 inside. A pixel is invalid where it is NaN, infinite or nodata.

Bytes they must move: forward each drawn plane once in, once out; backward the gradient and the drawn planes in (to
find invalid pixels), all N planes of the images' gradient out. A program loads all its pixels before it uses the first,
and divides only then: a division's slow path is a branch, across which no load moves up.
"""

import torch
from torch import Tensor

from ._triton import tl, triton
from .philox import BAND, philox4, seed_words

WARPS = 8  # of a program, at most
BLOCK = 4096  # elements of a program, at most
# Elements of a thread, twice as many for several channels: all are loaded before the first is used. On an H200, 64 (and
# a BLOCK of 16,384) take as long for planes of 120 px and 28 % longer for those of 60; 8 take 15 to 20 % longer.
LANE = 32
SCALAR_LANE = (
    16  # where loads are not vectors: with 32, addresses spill; also of the gradient, whose sums take registers
)

# The draw of bands that are not given: samples (B,), epoch (a tensor or an int), seed, view.
Draw = tuple[Tensor, Tensor | int, int, int]

# ---- reference ----------------------------------------------------------------------------------------------


def _valid(values: Tensor, nodata: float) -> Tensor:
    return (values.abs() < torch.inf) & (values != nodata)


def _values(images: Tensor) -> Tensor:
    """images as float32. torch has no arithmetic for uint16: read as int16, and a mask removes the sign."""
    return (images.view(torch.int16).int() & 0xFFFF if images.dtype == torch.uint16 else images).float()


def select_bands_reference(images: Tensor, mean: Tensor, std: Tensor, bands: Tensor, nodata: float) -> Tensor:
    """take_bands in plain PyTorch: float32 (B, C, H, W)."""
    stored = images.view(torch.int16) if images.dtype == torch.uint16 else images  # nor can torch index uint16
    raw = _values(stored[torch.arange(len(bands), device=bands.device)[:, None], bands].view(images.dtype))
    mean, scale = (part[bands][:, :, None, None] for part in (mean, 1 / std))
    return torch.where(_valid(raw, nodata), (raw - mean) * scale, 0.0)


def select_bands_backward_reference(grad: Tensor, images: Tensor, std: Tensor, bands: Tensor, nodata: float) -> Tensor:
    """The gradient of images, float32 (B, N, H, W), from that of the result."""
    total = torch.zeros(images.shape, device=images.device)
    for channel, band in enumerate(bands.unbind(1)):
        total[torch.arange(len(band), device=band.device), band] += grad[:, channel].float()
    return torch.where(_valid(_values(images), nodata), total * (1 / std)[:, None, None], 0.0)


# ---- kernels ------------------------------------------------------------------------------------------------


@triton.jit
def _before(position, word, j, c, POOL: tl.constexpr):
    """One step, j going down to 0, from channel c's rank among the bands not drawn yet to its position in the pool: a
    rank after the draw of channel j becomes one before it. Drawn again, all of them, once the pool is used up."""
    rank = tl.umulhi(word, (POOL - j % POOL).to(tl.uint32)).to(tl.int32)  # as `pick`
    position = tl.where(j == c, rank, position)
    same_round = (j < c) & (j >= c - c % POOL)
    return position + (same_round & (position >= rank)).to(tl.int32)


@triton.jit
def band_of(k0, k1, sample, epoch, view, c, POOL: tl.constexpr, CHANNELS: tl.constexpr, STREAM: tl.constexpr):
    """Band of channel c, int32, as `draw_bands` draws it from POOL bands for a view of CHANNELS channels."""
    j = c * 0
    position = j
    for block in tl.static_range((CHANNELS + 3) // 4 - 1, -1, -1):
        w0, w1, w2, w3 = philox4(k0, k1, sample, epoch, view, STREAM + block)
        position = _before(position, w3, j + (4 * block + 3), c, POOL)
        position = _before(position, w2, j + (4 * block + 2), c, POOL)
        position = _before(position, w1, j + (4 * block + 1), c, POOL)
        position = _before(position, w0, j + 4 * block, c, POOL)
    return position


@triton.jit
def _plane(
    bands, mean, std, k0, k1, sample, now, view, b, c, first, band_stride,
    POOL: tl.constexpr, CHANNELS: tl.constexpr, DRAW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Of channel c of image b: where in it its band begins, int32, and the band's mean and std, 0 for an index outside
    the pool, which gives band 0. `first` programs write the band they draw."""
    if DRAW:
        band = band_of(k0, k1, sample, now, view, c, POOL, CHANNELS, STREAM).to(tl.int64)
        tl.store(bands + b * CHANNELS + c, band, mask=first)
    else:
        band = tl.load(bands + b * CHANNELS + c)
    ok = (band >= 0) & (band < POOL)
    band = tl.where(ok, band, 0)
    width = tl.where(ok, tl.load(std + band), 0.0)
    return (band * band_stride).to(tl.int32), tl.load(mean + band), width


@triton.jit
def _scale(centre, width):
    """mean and 1 / std; 0 and 0 for a band without statistics. To be called once all loads are under way."""
    ok = (tl.abs(centre) < float("inf")) & (width > 0)
    return tl.where(ok, centre, 0.0), tl.where(ok, tl.div_rn(1.0, width), 0.0)


@triton.jit
def _keeps(x, nodata):
    return (tl.abs(x) < float("inf")) & (x != nodata)


@triton.jit(do_not_specialize=["epoch", "k0", "k1", "view"])
def select_bands_kernel(
    out,  # (B, C, H, W) bf16, fp16 or fp32; memory (B, H, W, C) if NHWC
    images,  # (B, N, H, W) uint8, int16, uint16, bf16, fp16 or fp32; strides in elements
    mean,  # (N,) fp32, in the images' unit
    std,  # (N,) fp32
    bands,  # (B, C) int64: written if DRAW, else read
    samples,  # (B,) int64
    epoch,  # () int64, or an integer
    k0,  # seed, low word, int32
    k1,  # seed, high word, int32
    view,  # integer
    nodata,  # float
    image_stride,
    band_stride,
    pixel_stride,
    pixels,  # H * W
    chunks,  # programs of an image if NHWC, else of a channel of it
    POOL: tl.constexpr,  # N
    CHANNELS: tl.constexpr,  # C
    DRAW: tl.constexpr,
    NHWC: tl.constexpr,
    BLOCK: tl.constexpr,
    STREAM: tl.constexpr,
):
    """One program: BLOCK pixels of one channel of an image, of all channels if NHWC. Grid: all such."""
    EACH: tl.constexpr = CHANNELS if NHWC else 1
    chunk, part = tl.program_id(0) % chunks, (tl.program_id(0) // chunks).to(tl.int64)
    b, c = part * EACH // CHANNELS, (part * EACH % CHANNELS).to(tl.int32)
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    sample = tl.load(samples + b) if DRAW else b
    now = tl.load(epoch) if epoch.dtype.is_ptr() else epoch
    means, widths, planes = (), (), ()
    for k in tl.static_range(EACH):
        start, centre, width = _plane(
            bands, mean, std, k0, k1, sample, now, view, b, c + k, chunk == 0, band_stride,
            POOL, CHANNELS, DRAW, STREAM,
        )  # fmt: skip
        means += (centre,)
        widths += (width,)
        planes += (tl.load(images + b * image_stride + (start + at * pixel_stride), mask=at < pixels),)
    for k in tl.static_range(EACH):
        centre, scale = _scale(means[k], widths[k])
        x = planes[k].to(tl.float32)
        value = tl.where(_keeps(x, nodata), (x - centre) * scale, 0.0)
        tl.store(out + part * EACH * pixels + at * EACH + k, value.to(out.dtype.element_ty), mask=at < pixels)


@triton.jit
def select_bands_backward_kernel(
    total,  # (B, N, H, W) out, the images' type, contiguous
    grad,  # (B, C, H, W) bf16, fp16 or fp32
    images,  # (B, N, H, W) bf16, fp16 or fp32: to find invalid pixels
    std,  # (N,) fp32
    bands,  # (B, C) int64
    nodata,  # float
    image_stride,
    band_stride,
    pixel_stride,
    grad_image_stride,
    grad_channel_stride,
    grad_pixel_stride,
    pixels,  # H * W
    chunks,  # programs of a plane
    POOL: tl.constexpr,  # N
    CHANNELS: tl.constexpr,  # C
    SLOTS: tl.constexpr,  # a power of two, at least C
    BLOCK: tl.constexpr,
):
    """One program: BLOCK pixels of one band of one image. Grid: B * N * chunks."""
    chunk, plane = tl.program_id(0) % chunks, (tl.program_id(0) // chunks).to(tl.int64)
    b, band = plane // POOL, plane % POOL
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    value = tl.zeros((BLOCK,), tl.float32)
    c = tl.arange(0, SLOTS)
    hits = tl.load(bands + b * CHANNELS + c, mask=c < CHANNELS, other=-1) == band
    width = tl.load(std + band)
    if (tl.max(hits.to(tl.int32), 0) > 0) & (width > 0):
        x = tl.load(images + (b * image_stride + band * band_stride) + at * pixel_stride, mask=at < pixels)
        for k in range(CHANNELS):
            if tl.load(bands + b * CHANNELS + k) == band:
                here = grad + (b * grad_image_stride + k * grad_channel_stride) + at * grad_pixel_stride
                value += tl.load(here, mask=at < pixels).to(tl.float32)
        value = tl.where(_keeps(x.to(tl.float32), nodata), value * tl.div_rn(1.0, width), 0.0)
    tl.store(total + plane * pixels + at, value.to(total.dtype.element_ty), mask=at < pixels)


# ---- launches -----------------------------------------------------------------------------------------------


def even(x: Tensor) -> tuple[Tensor, int]:
    """x (B, N, H, W), or a copy, with one stride between all pixels of a plane, and that stride: 1 in NCHW, N in NHWC
    memory. An image spans less than 2^31 elements, for 32-bit indices."""
    height, width = x.shape[2:]
    step = x.stride(3) if width > 1 else x.stride(2)
    spans = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    if spans >= 2**31 or (height > 1 and width > 1 and x.stride(2) != width * step):
        return x.contiguous(), 1
    return x, step


def blocks_of(elements: int, channels: int, vectors: bool) -> tuple[int, int]:
    """Elements of a program, and its warps: the smallest that cover a plane, or as many as threads can hold of each of
    its channels. vectors: whether loads are."""
    shared = triton.next_power_of_2(channels)
    lane = max(1, min(LANE, 2 * LANE // shared) if vectors else SCALAR_LANE // shared)
    block = min(BLOCK, WARPS * 32 * lane, triton.next_power_of_2(elements))
    return block, max(1, block // (32 * lane))


def empty_bands(images: Tensor, channels: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """(B, C, H, W), not filled, in the memory format asked for."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    shape = images.shape[0], channels, *images.shape[2:]
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=form)


def launch_select_bands(
    out: Tensor, images: Tensor, mean: Tensor, std: Tensor, bands: Tensor, nodata: float, draw: Draw | None = None
) -> None:
    """Fills out, made by `empty_bands`, and, with a draw, bands, in one launch."""
    b, channels, height, width = out.shape
    if not b:
        return
    images, step = even(images)
    samples, epoch, seed, view = draw or (bands, 0, 0, 0)
    each, pixels = 1 if out.is_contiguous() else channels, height * width
    vectors = step == 1 and not any(n % 16 for n in (pixels, *images.stride()[:2], images.data_ptr()))
    block, warps = blocks_of(pixels, each, vectors)
    chunks = triton.cdiv(pixels, block)
    select_bands_kernel[(b * channels // each * chunks,)](
        out, images, mean, std, bands, samples, epoch, *seed_words(seed), view, rounded(nodata, images.dtype),
        images.stride(0), images.stride(1), step, pixels, chunks,
        images.shape[1], channels, draw is not None, each > 1, block, BAND, num_warps=warps,
    )  # fmt: skip


def launch_select_bands_backward(
    total: Tensor, grad: Tensor, images: Tensor, std: Tensor, bands: Tensor, nodata: float
) -> None:
    """Fills total, the contiguous gradient of images, with one launch."""
    b, pool, height, width = total.shape
    if not b:
        return
    (images, step), (grad, grad_step) = even(images), even(grad)
    block, warps = blocks_of(height * width, 1, vectors=False)
    chunks = triton.cdiv(height * width, block)
    select_bands_backward_kernel[(b * pool * chunks,)](
        total, grad, images, std, bands, rounded(nodata, images.dtype),
        images.stride(0), images.stride(1), step, grad.stride(0), grad.stride(1), grad_step, height * width, chunks,
        pool, bands.shape[1], triton.next_power_of_2(bands.shape[1]), block, num_warps=warps,
    )  # fmt: skip


def rounded(nodata: float, dtype: torch.dtype) -> float:
    """nodata rounded to the images' type if that is floating: -9999 is -9984 in bfloat16."""
    value = torch.tensor(nodata, dtype=torch.float64, device="cpu")
    return value.to(dtype).item() if dtype.is_floating_point else nodata
