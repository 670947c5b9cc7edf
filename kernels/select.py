# mypy: disallow-untyped-defs=False
"""Bands drawn at random from a dense batch on the device, standardised, in one launch.

    out[b, c] = (images[b, band] - mean[band]) / std[band]    with band = bands[b, c]    0 where the pixel is invalid

The kernel draws the band of each channel from (seed, epoch, sample, view) exactly as `draw_bands` of draws.py draws it
from a pool of the N bands; `take_bands` is the same with bands given. Floating images get a gradient.

Bytes it must move: each drawn plane once in, once out; 59 MB for one 120 px band of 1,024 images from uint16 to bf16, a
floor of 14 us at the 4.3 TB/s that a copy reaches on an H200. Predicted beside it: 5.8 us to issue 13 instructions an
element (`python -m benches.resources --kernels select`).
"""

from math import nan
from typing import Any

import torch
from torch import Tensor

from ._dispatch import current, eager, on_gpu
from .draws import OUT_DTYPES, band_words, draw_positions
from .philox import check_seed
from .select_kernel import (
    BLOCK,
    empty_bands,
    launch_select_bands,
    launch_select_bands_backward,
    rounded,
    select_bands_backward_reference,
    select_bands_reference,
)

DTYPES = (torch.uint8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.float32)
MAX_CHANNELS = 64
MAX_ELEMENTS = 2**31 - BLOCK  # of an image, and of its channels: indices inside them are 32 bits

# ---- ops ----------------------------------------------------------------------------------------------------


def _check_on_host(mean: Tensor, std: Tensor, bands: Tensor) -> None:
    """Raises ValueError on statistics or bands that the kernel renders as zeros."""
    bad = ~(mean.isfinite() & std.isfinite() & (std > 0))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"mean and std: {mean[first]:g} and {std[first]:g} of band {first}, expected finite and std > 0"
        )
    if bands.numel() and not (bands.min() >= 0 and bands.max() < len(mean)):
        raise ValueError(f"bands: {int(bands.min())} to {int(bands.max())}, expected 0 to {len(mean) - 1}")


def _take(
    images: Tensor, mean: Tensor, std: Tensor, bands: Tensor, nodata: float, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    out = empty_bands(images, bands.shape[1], dtype, channels_last)
    if not on_gpu(images.device):
        _check_on_host(mean, std, bands)
        return out.copy_(select_bands_reference(images, mean, std, bands, rounded(nodata, images.dtype)))
    with current(images.device):
        launch_select_bands(out, images, mean.contiguous(), std.contiguous(), bands.contiguous(), nodata)
    return out


def _select(
    images: Tensor, mean: Tensor, std: Tensor, samples: Tensor, epoch: Tensor | None, epoch_number: int, seed: int,
    view: int, channels: int, nodata: float, dtype: torch.dtype, channels_last: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    now = epoch_number if epoch is None else epoch
    if not on_gpu(images.device):
        bands = draw_positions(band_words(seed, samples, now, view, channels), images.shape[1])
        return _take(images, mean, std, bands, nodata, dtype, channels_last), bands
    out = empty_bands(images, channels, dtype, channels_last)
    bands = samples.new_empty((len(samples), channels))
    with current(images.device):
        draw = samples.contiguous(), now, seed, view
        launch_select_bands(out, images, mean.contiguous(), std.contiguous(), bands, nodata, draw)
    return out, bands


def _take_backward(grad: Tensor, images: Tensor, std: Tensor, bands: Tensor, nodata: float) -> Tensor:
    total = images.new_empty(images.shape)
    if not on_gpu(images.device):
        nodata = rounded(nodata, images.dtype)
        return total.copy_(select_bands_backward_reference(grad, images, std, bands, nodata))
    with current(images.device):
        launch_select_bands_backward(total, grad, images, std.contiguous(), bands.contiguous(), nodata)
    return total


take_op = torch.library.custom_op("rsdnet::take_bands", _take, mutates_args=())
select_op = torch.library.custom_op("rsdnet::select_bands", _select, mutates_args=())
backward_op = torch.library.custom_op("rsdnet::take_bands_backward", _take_backward, mutates_args=())


@take_op.register_fake
def _(images, mean, std, bands, nodata, dtype, channels_last):
    return empty_bands(images, bands.shape[1], dtype, channels_last)


@select_op.register_fake
def _(
    images, mean, std, samples, epoch, epoch_number, seed, view, channels, nodata, dtype, channels_last
):  # fmt: skip
    bands = samples.new_empty((samples.shape[0], channels))
    return empty_bands(images, channels, dtype, channels_last), bands


@backward_op.register_fake
def _(grad, images, std, bands, nodata):
    return images.new_empty(images.shape)


def _setup_take(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, _, std, bands, ctx.nodata, *_ = inputs
    ctx.save_for_backward(images, std, bands)


def _setup_select(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.nodata = inputs[9]
    ctx.save_for_backward(inputs[0], inputs[2], output[1])


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    images, std, bands = ctx.saved_tensors
    wanted = grad is not None and ctx.needs_input_grad[0]
    total = backward_op(grad, images, std, bands, ctx.nodata) if wanted else None
    return total, *([None] * (len(ctx.needs_input_grad) - 1))


take_op.register_autograd(_backward, setup_context=_setup_take)
select_op.register_autograd(_backward, setup_context=_setup_select)

# ---- functions ----------------------------------------------------------------------------------------------


def _check(images: Tensor, channels: int, **others: tuple[Tensor, torch.dtype, tuple[int, ...]]) -> None:
    """Raises TypeError or ValueError naming the argument that does not match. Reads no value: no sync."""
    if images.dtype not in DTYPES:
        raise TypeError(f"images: {images.dtype}, expected one of {', '.join(str(dtype) for dtype in DTYPES)}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images: shape {tuple(images.shape)}, expected (B, N, H, W), none of N, H and W 0")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels: {channels}, expected 1 to {MAX_CHANNELS}")
    if max(images.shape[1], channels) * images.shape[2] * images.shape[3] > MAX_ELEMENTS:
        raise ValueError(f"images: shape {tuple(images.shape)}, expected an image of at most {MAX_ELEMENTS} elements")
    for name, (tensor, dtype, shape) in others.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: {tensor.dtype}, expected {dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape} with images {tuple(images.shape)}")
        if tensor.device != images.device:
            raise ValueError(f"{name}: on {tensor.device}, but images is on {images.device}")


def _out_dtype(dtype: torch.dtype | None, images: Tensor) -> torch.dtype:
    """dtype; if None, autocast's type under autocast, else float32."""
    if dtype is None:
        kind = images.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    if dtype not in OUT_DTYPES:
        raise ValueError(f"dtype: {dtype}, expected one of {OUT_DTYPES}")
    return dtype


def take_bands(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    bands: Tensor,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    nodata: float = nan,
) -> Tensor:
    """The given bands of each image, standardised: (B, C, H, W) on images' device.

    images: (B, N, H, W) uint8, uint16, int16, float16, bfloat16 or float32, in NCHW or NHWC memory, or any other with
    one stride between all pixels of a plane (else it is copied); floating images get a gradient, NCHW, of their type.
    mean, std: (N,) float32, by band, in the images' unit; no gradient.
    bands: (B, C) int64, C of 1 to 64, in any order and any number of times.
    dtype: float32, bfloat16 or float16; None: autocast's where autocast is on, else float32. channels_last: NHWC
    memory, same shape. nodata: value of an invalid pixel, nan for none; NaN and infinite pixels are always invalid. An
    invalid pixel becomes 0, the band's mean, and gets no gradient.
    Raises TypeError or ValueError on shapes, types and devices that do not fit; on the CPU also ValueError on an index
    outside 0 to N - 1 and on a mean not finite or a std not positive. On a GPU these give zeros: no value is checked
    on the host and nothing outside images is read.
    """
    if bands.ndim != 2:
        raise ValueError(f"bands: shape {tuple(bands.shape)}, expected (B, C)")
    by_band = torch.float32, (images.shape[1],) if images.ndim == 4 else ()
    shape = images.shape[0], bands.shape[1]
    _check(images, bands.shape[1], mean=(mean, *by_band), std=(std, *by_band), bands=(bands, torch.int64, shape))
    run = _take if eager(images) and not images.requires_grad else take_op
    return run(images, mean.detach(), std.detach(), bands, nodata, _out_dtype(dtype, images), channels_last)


def select_bands(
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    samples: Tensor,
    *,
    channels: int = 1,
    seed: int,
    epoch: int | Tensor,
    view: int = 0,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    nodata: float = nan,
) -> Tensor:
    """Bands of each image drawn at random, standardised: (B, C, H, W). Without replacement until all N are drawn.

    samples: (B,) int64, identity of each image: its bands depend on seed, epoch, sample and view alone, not on the
    batch. channels: C, 1 to 64. seed: 0 to 2^63 - 1. view: 0 to 2^31 - 1, one for each draw from an image.
    epoch: int, or an int64 tensor () on images' device, for CUDA graphs.
    All else as take_bands, errors included. The bands are
    draw_bands(seed, epoch, samples, view + 1, channels, {"ms": range(N)}, "ms")[:, view], (B, C).
    """
    check_seed(seed)
    if not 0 <= view < 1 << 31:
        raise ValueError(f"view: {view}, expected 0 to 2^31 - 1")
    by_band = torch.float32, (images.shape[1],) if images.ndim == 4 else ()
    others = {"mean": (mean, *by_band), "std": (std, *by_band), "samples": (samples, torch.int64, images.shape[:1])}
    now, number = (epoch, 0) if isinstance(epoch, Tensor) else (None, epoch)
    if now is not None:
        others["epoch"] = now, torch.int64, ()
    _check(images, channels, **others)
    run = _select if eager(images) and not images.requires_grad else select_op
    return run(
        images, mean.detach(), std.detach(), samples, now, number, seed, view, channels, nodata,
        _out_dtype(dtype, images), channels_last,
    )[0]  # fmt: skip
