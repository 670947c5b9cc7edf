# mypy: disallow-untyped-defs=False
"""Raw bands to augmented, resampled, standardised views, in one launch.

For each output pixel of a view, turn and flip undone:

    out = blur of sum over pixels of weight * f(pixel)  [+ speckle / std]
    f(pixel) = (gain * clip(pixel) + offset - mean) / std               0 where the pixel is invalid

with the weights of antialiased bilinear resampling of a random crop: see sampling.py. The crop, turn, jitter, blur and
speckle are drawn in the kernel from (seed, epoch, sample, view): see draws.py. Standardised last: Grill et al. 2020, B.

Two kernels: views_matrix.py for bf16 and fp16; views_taps.py for float32 and speckle, and a blur after it.

Bytes it must move: each record's pixels inside the crop, once, and the views once: at most 156 MB for 1,024 samples, a
uint16 and a float32 band of 120 px to two bf16 views of 128 px, a floor of 36 us at the 4.3 TB/s that a copy reaches on
an H200. Instructions and the time that follows: `python -m benches.resources --kernels render`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ._dispatch import current, on_gpu
from .blur import blur_views
from .draws import ViewSpec, draw_views
from .philox import check_seed, epoch_tensor
from .records import ALIGN, check_batch, check_records
from .sampling import draw_speckle, sample_bands, speckle_share
from .views_matrix import launch_matrix
from .views_taps import launch_taps

CHUNK = 32  # images that the reference renders at a time, so that its intermediates stay in the cache


def empty_views(records: Tensor, spec: ViewSpec) -> Tensor:
    """(V, B, C, S, S), not filled; with channels_last the memory is (V, B, S, S, C), so that each view is NHWC."""
    b, v, c, _ = records.shape
    if spec.channels_last:
        return records.new_empty((v, b, spec.size, spec.size, c), dtype=spec.dtype).permute(0, 1, 4, 2, 3)
    return records.new_empty((v, b, c, spec.size, spec.size), dtype=spec.dtype)


# ---- reference ----------------------------------------------------------------------------------------------


def render_reference(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> Tensor:
    """render_views in plain PyTorch. Raises ValueError on a record that does not fit."""
    if any(spec.blur):
        sharp = render_reference(
            data, records, samples, table, replace(spec, blur=(), dtype=torch.float32), seed, epoch
        )
        return empty_views(records, spec).copy_(blurred(sharp, samples, spec, seed, epoch))
    check_records(records.cpu(), len(data), table.cpu())
    b, v, c, _ = records.shape
    draws = draw_views(spec, seed, epoch, samples, v, c)
    flat, rows = records.reshape(-1, records.shape[-1]), table[records[..., 4].flatten()]
    box = [part[..., None].expand(b, v, c).flatten() for part in draws[:4]]
    gain, shift = torch.ones_like(rows[:, 0]), torch.zeros_like(rows[:, 0])
    if spec.jitter:
        gain = rows[:, 2] + draws.gain_u.flatten() * (rows[:, 3] - rows[:, 2])
        shift = rows[:, 4] + draws.offset_u.flatten() * (rows[:, 5] - rows[:, 4])
    images = torch.empty((len(flat), spec.size, spec.size), device=data.device)
    who = samples[:, None, None].expand(b, v, c).flatten()
    channel = torch.arange(v * c, device=data.device).repeat(b)  # of the sample: view by view
    for alike in flat[:, 1:4].unique(dim=0):
        for part in (flat[:, 1:4] == alike).all(1).nonzero()[:, 0].split(CHUNK):
            group, row = [side[part] for side in box], rows[part]
            image, valid, down, across = sample_bands(
                data, flat[part], row, group, gain[part], shift[part], spec.size, spec.antialias, spec.nearest
            )
            if spec.speckle:
                noise = draw_speckle(seed, epoch, who[part], channel[part], row[:, 9], spec.size)
                image += noise / row[:, 1, None, None] * speckle_share(valid, down, across)
            images.index_copy_(0, part, image)
    flips, turns = (part[..., None].expand(b, v, c).flatten() for part in (draws.flip, draws.turns))
    for flip, turn in product((False, True), range(4)):
        moved = ((flips == flip) & (turns == turn)).nonzero()[:, 0]
        if len(moved) and (flip or turn):
            image = images.index_select(0, moved)
            images.index_copy_(0, moved, torch.rot90(image.flip(-1) if flip else image, turn, (-2, -1)))
    out = empty_views(records, spec)
    out.copy_(images.view(b, v, c, spec.size, spec.size).transpose(0, 1))
    return out


def blurred(views: Tensor, samples: Tensor, spec: ViewSpec, seed: int, epoch: Tensor) -> Tensor:
    """Views (V, B, C, S, S) with the blur of their spec: a new tensor."""
    return blur_views(views, samples, probability=spec.blur, sigma=spec.sigma, seed=seed, epoch=epoch)


# ---- op -----------------------------------------------------------------------------------------------------


def launch_render(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, seed: int, epoch: Tensor
) -> Tensor:
    """The views by one launch of matrix products where that kernel serves; else tap by tap, with a blur after it."""
    out = empty_views(records, spec)
    data, records, samples, table = (x.contiguous() for x in (data, records, samples, table))
    if spec.dtype != torch.float32 and not spec.speckle:
        launch_matrix(out, data, records, samples, table, spec, seed, epoch)
        return out
    launch_taps(out, data, records, samples, table, spec, seed, epoch)
    return out.copy_(blurred(out, samples, spec, seed, epoch)) if any(spec.blur) else out


def _spec_of(
    size: int, ranges: Sequence[float], switches: Sequence[bool], blur: Sequence[float], dtype: torch.dtype
) -> ViewSpec:
    """The ViewSpec from plain values, the only ones that an op accepts."""
    (low, high, narrow, wide, sharpest, softest), (flip, turn, jitter, channels_last, speckle, antialias, nearest) = (
        ranges, switches
    )  # fmt: skip
    return ViewSpec(
        size, (low, high), (narrow, wide), flip, turn, jitter, dtype, channels_last, speckle, antialias, tuple(blur),
        (sharpest, softest), nearest,
    )  # fmt: skip


@torch.library.custom_op("rsdnet::render_views", mutates_args=())
def _render_views(
    data: Tensor,
    records: Tensor,
    samples: Tensor,
    table: Tensor,
    epoch: Tensor,
    seed: int,
    size: int,
    ranges: Sequence[float],
    switches: Sequence[bool],
    blur: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    spec = _spec_of(size, ranges, switches, blur, dtype)
    if data.data_ptr() % ALIGN:
        raise ValueError(f"data: its address is not a multiple of {ALIGN}; pass a whole buffer, not a slice of it")
    if not on_gpu(data.device):
        return render_reference(data, records, samples, table, spec, seed, epoch)
    with current(data.device):
        return launch_render(data, records, samples, table, spec, seed, epoch)


@_render_views.register_fake
def _(data, records, samples, table, epoch, seed, size, ranges, switches, blur, dtype):
    return empty_views(records, _spec_of(size, ranges, switches, blur, dtype))


def render_views(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, *, seed: int, epoch: int | Tensor
) -> Tensor:
    """Augmented, standardised views of a batch of raw bands: (V, B, C, S, S), spec.dtype, on data's device.

    data: (N,) uint8, the bands' bytes as they lie on disk; starts at a multiple of 16 bytes.
    records: (B, V, C, 5) int64: byte offset (a multiple of 16), dtype code (DTYPE_CODES), height, width, band id.
    samples: (B,) int64, the samples' rows in the catalog. table: (K, 10) float32 by band id, from `band_table`.
    seed: 0 to 2^63 - 1. epoch: int, or an int64 tensor () on data's device: no sync, no recompilation, CUDA graphs.
    The views depend on seed, epoch and sample alone, not on the batch they come in.
    Raises TypeError or ValueError on shapes, types and devices that do not fit; on the CPU also ValueError on a
    record that does not fit. On a GPU such a record reads nothing and gives zeros: `check_records` finds it before.
    """
    check_seed(seed)
    epoch = epoch_tensor(epoch, data.device)
    check_batch(data, records, samples, table, epoch)
    if spec.blur and len(spec.blur) != records.shape[1]:
        raise ValueError(f"blur: {spec.blur}, expected a probability for each of {records.shape[1]} views")
    ranges = [*spec.scale, *spec.ratio, *spec.sigma]
    switches = [spec.flip, spec.turn, spec.jitter, spec.channels_last, spec.speckle, spec.antialias, spec.nearest]
    return _render_views(data, records, samples, table, epoch, seed, spec.size, ranges, switches, spec.blur, spec.dtype)
