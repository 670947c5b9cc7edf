# mypy: disallow-untyped-defs=False
"""Gaussian blur with one sigma an image, given or drawn in the kernel: BYOL's blur, in one launch.

    out[y, x] = sum over i and j in -radius..radius of w(i) w(j) images[reflect(y + i), reflect(x + j)]
    w(t) = exp(-t^2 / (2 sigma^2)) / sum of the same over t

Separable; float32 inside. Grill et al. 2020, appendix B: sigma uniform in 0.1..2, a window of a tenth of the side,
probability 1.0 for the first view and 0.1 for the second. google-deepmind/deepmind-research
byol/utils/augmentations.py: radius = int((side // 10) / 2), weights as above. Border: reflected, as torchvision's
gaussian_blur; where the radius passes the side, which torchvision refuses, reflected again. (DeepMind pads zeros.)

Bytes it must move: the images once, the result once: 67 MB for 1,024 bf16 images of 128 px, a floor of 16 us at the
4.3 TB/s that a copy reaches on an H200. blur_kernel.py says how, and how long that takes.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from ._dispatch import current, eager, on_gpu
from .blur_kernel import MAX_RADIUS, NO_DRAW, launch_blur
from .philox import BLUR, check_seed, epoch_tensor, philox_words, uniform
from .window import blur_weights, reflected

CHUNK = 8  # images the CPU blurs at a time: the intermediates stay in the cache
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# ---- reference ----------------------------------------------------------------------------------------------


def gaussian_blur_reference(images: Tensor, sigma: Tensor, radius: int, adjoint: bool = False) -> Tensor:
    """gaussian_blur in plain PyTorch; with `adjoint` its transpose, which maps gradients of the result to gradients of
    the images.

    The outermost rows and columns occur once in the period of the reflection, all others twice. With the outermost
    doubled before and halved after the blur, the blur is its own transpose.
    """
    weights = blur_weights(sigma, radius)[:, :, None, None, None]
    out = images.float()
    for dim in (-2, -1):
        side = images.shape[dim]
        index = torch.arange(-radius, side + radius, device=images.device)
        ends = torch.where(index[radius : radius + side] % max(side - 1, 1) == 0, 2.0, 1.0)
        ends = ends[:, None] if dim == -2 else ends
        padded = (out * ends if adjoint else out).index_select(dim, reflected(index, side))
        out = padded.narrow(dim, 0, side) * weights[:, 0]
        for tap in range(1, 2 * radius + 1):
            out = torch.addcmul(out, padded.narrow(dim, tap, side), weights[:, tap])
        out = out / ends if adjoint else out
    return torch.where((sigma > 0)[:, None, None, None], out.to(images.dtype), images)


def draw_sigma(
    samples: Tensor,
    *,
    probability: Sequence[float],
    sigma: tuple[float, float] = (0.1, 2.0),
    seed: int,
    epoch: int | Tensor,
) -> Tensor:
    """Sigma of each view as blur_views draws it, 0 for no blur: (V, B) float32, on samples' device.

    samples: (B,) int64. probability: of a blur, one a view. sigma: range of the uniform draw, pixels.
    """
    view = torch.arange(len(probability), device=samples.device)[:, None]
    decide, size, _, _ = philox_words(seed, samples, epoch, view, BLUR)
    chance = torch.tensor(probability, dtype=torch.float32, device=samples.device)[:, None]
    return torch.where(uniform(decide) < chance, sigma[0] + uniform(size) * (sigma[1] - sigma[0]), 0.0)


# ---- op -----------------------------------------------------------------------------------------------------


def _dense(images: Tensor) -> Tensor:
    """images, or a copy if their memory is neither NCHW nor NHWC without gaps."""
    laid = images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)
    return images if laid else images.contiguous()


def _blur(
    images: Tensor,
    sigma: Tensor | None,
    samples: Tensor | None,
    epoch: Tensor | None,
    seed: int,
    probability: Sequence[float],
    low: float,
    high: float,
    radius: int,
    adjoint: bool,
) -> Tensor:
    """images: (N, C, H, W). sigma: (N,), or None and drawn: see Draw; then image n is sample n % B of view n // B."""
    images = _dense(images)
    out = torch.empty_like(images)
    if on_gpu(images.device) and radius <= MAX_RADIUS:
        if images.numel():
            with current(images.device):
                launch_blur(out, images, sigma, radius, adjoint, (samples, epoch, seed, probability, low, high))
        return out
    if samples is not None and epoch is not None:
        sigma = draw_sigma(samples, probability=probability, sigma=(low, high), seed=seed, epoch=epoch).flatten()
    assert sigma is not None
    if images.device.type != "cpu":
        return out.copy_(gaussian_blur_reference(images, sigma, radius, adjoint))
    out.copy_(images)
    for part in (sigma > 0).nonzero()[:, 0].split(CHUNK):
        out[part] = gaussian_blur_reference(images[part], sigma[part], radius, adjoint)
    return out


blur_op = torch.library.custom_op("rsdnet::gaussian_blur", _blur, mutates_args=())


@blur_op.register_fake
def _(images, sigma, samples, epoch, seed, probability, low, high, radius, adjoint):
    return torch.empty_like(_dense(images))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])
    ctx.others = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *others, adjoint = ctx.others
    return blur_op(grad, *ctx.saved_tensors, *others, not adjoint), *(None,) * 9


blur_op.register_autograd(_backward, setup_context=_setup_context)


def _run(images: Tensor) -> Callable[..., Tensor]:
    """The op, or its body if the call needs neither autograd nor tracing."""
    return _blur if eager(images) and not (images.requires_grad and torch.is_grad_enabled()) else blur_op


def _check(images: Tensor, name: str, radius: int) -> None:
    if 0 in images.shape[-3:]:
        raise ValueError(f"{name}: shape {tuple(images.shape)}, expected at least one channel, row and column")
    if images.dtype not in DTYPES:
        raise TypeError(f"{name}: {images.dtype}, expected float32, bfloat16 or float16")
    if radius < 0:
        raise ValueError(f"radius: {radius} pixels, expected 0 or more")


def gaussian_blur(images: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Each image blurred with its own sigma: a new tensor (B, C, H, W), of images' type and memory format.

    images: (B, C, H, W) float32, bfloat16 or float16, any sides; gradients flow here, of any order. Copied first if
    neither contiguous nor channels_last. sigma: (B,) float32, pixels; an image whose sigma is not above 0 is copied
    bit for bit; no gradient. radius: pixels; the window is 2 * radius + 1 wide, and 0 copies.
    Border: reflected, as torchvision's gaussian_blur; any radius.
    Raises TypeError or ValueError on a shape, type or device that does not match.
    """
    if images.ndim != 4:
        raise ValueError(f"images: shape {tuple(images.shape)}, expected (B, C, H, W)")
    _check(images, "images", radius)
    if sigma.dtype != torch.float32:
        raise TypeError(f"sigma: {sigma.dtype}, expected float32")
    if sigma.shape != images.shape[:1]:
        raise ValueError(f"sigma: shape {tuple(sigma.shape)}, expected (B,), {tuple(images.shape[:1])}")
    if sigma.device != images.device:
        raise ValueError(f"sigma: on {sigma.device}, but images is on {images.device}")
    if radius == 0:
        return images.clone()
    return _run(images)(images, sigma.detach().contiguous(), *NO_DRAW, radius, False)


def blur_views(
    views: Tensor,
    samples: Tensor,
    *,
    probability: float | Sequence[float],
    sigma: tuple[float, float] = (0.1, 2.0),
    radius: int | None = None,
    seed: int,
    epoch: int | Tensor,
) -> Tensor:
    """Views blurred at random, as BYOL does: a new tensor (V, B, C, S, S), of views' type and memory layout.

    views: (V, B, C, S, S), as render_views returns them. samples: (B,) int64, the samples' rows in the catalog.
    probability: of a blur, one for all views or one a view; BYOL: (1.0, 0.1). sigma: range of the uniform draw, pixels.
    radius: pixels; by default BYOL's S // 10 // 2: for S below 20 that is 0, which copies, and no view is blurred.
    seed: 0 to 2^63 - 1. epoch: int, or an int64 tensor () on views' device: no sync, no recompilation, CUDA graphs.
    The blur depends on seed, epoch, sample and view alone: see `draw_sigma`.
    Raises TypeError or ValueError on a shape, type, device or range that does not fit.
    """
    if views.ndim != 5:
        raise ValueError(f"views: shape {tuple(views.shape)}, expected (V, B, C, S, S)")
    v, b = views.shape[:2]
    radius = views.shape[-1] // 10 // 2 if radius is None else radius
    _check(views, "views", radius)
    chances = [float(probability)] * v if isinstance(probability, int | float) else list(probability)
    if len(chances) != v or not all(0 <= chance <= 1 for chance in chances):
        raise ValueError(f"probability: {probability}, expected 0 to 1, one for all or one for each of {v} views")
    if not 0 <= sigma[0] <= sigma[1] < inf:
        raise ValueError(f"sigma: {tuple(sigma)}, expected 0 <= lo <= hi")
    check_seed(seed)
    epoch = epoch_tensor(epoch, views.device)
    for name, tensor, shape in (("samples", samples, (b,)), ("epoch", epoch, ())):
        if tensor.dtype != torch.int64:
            raise TypeError(f"{name}: {tensor.dtype}, expected int64")
        if tensor.shape != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.device != views.device:
            raise ValueError(f"{name}: on {tensor.device}, but views is on {views.device}")
    if radius == 0:
        return views.clone()
    images, draw = views.flatten(0, 1), (samples.contiguous(), epoch, seed, chances, *sigma)
    return _run(images)(images, None, *draw, radius, False).unflatten(0, (v, b))
