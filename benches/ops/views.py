"""render_views, an optical and a radar view of each sample, beside its reference, its kernel of single taps,
grid_sample, kornia and torchvision; also with BYOL's blur, for which peers have no counterpart of one sigma an image.

The peers get the draws, and each kind of band as one dense tensor, for nothing. What stays is the work on the pixels:
to float32, clip, jitter, standardise, crop, resample, turn, to bf16, into the order of the samples.
"""

from collections.abc import Callable
from typing import Any

import torch
from rsdnet.kernels import ViewSpec, draw_sigma, render_views
from rsdnet.kernels.views import blurred as blur_of_spec
from rsdnet.kernels.views import empty_views, render_reference
from rsdnet.kernels.views_taps import launch_taps
from torch import Tensor

from benches.core.clock import DEVICE
from benches.core.peers import Absent, peer, peer_version
from benches.ops.batches import SEED, Batch, Kind, by_grid_sample, make_batch, moved_bytes, source_affine, standardised
from benches.ops.contest import Contender, Contest, Op, on_gpu

SHAPES = {"tiny": (4, 8, 16), "small": (32, 60, 64), "full": (1024, 120, 128)}  # B, pixels a side of a patch, S
TOLERANCE = 3e-3  # half a unit in the last place of bf16, and a little
WHOLE = (1.0, 1.0)
MODES: dict[str, dict[str, Any]] = {
    "augmented": {}, "whole patch": {"scale": WHOLE, "ratio": WHOLE}, "augmented, blurred": {"blur": (1.0, 0.1)},
}  # fmt: skip


def contest(shapes: str, mode: str) -> Contest:
    """Views in bf16, NHWC. Must move: the pixels inside the crops, and the views."""
    b, side, size = SHAPES[shapes]
    spec = ViewSpec(size, channels_last=True, **MODES[mode])

    def make(seed: int) -> Batch:
        return make_batch(seed, b, side, spec)

    def expected(batch: Batch) -> list[Tensor]:
        sharp = torch.empty(2 * b, 1, size, size, device=DEVICE).double()
        return [blurred(by_grid_sample(batch.kinds, sharp, torch.float64), batch)]

    shape = f"B={b} {side} px to S={size}"
    return Contest("render_views", mode, shape, "bf16", moved_bytes(make(0)), make, expected, TOLERANCE)


def blurred(images: Tensor, batch: Batch) -> Tensor:
    """float64 images (V * B, 1, S, S), each with the sigma that is drawn for it."""
    spec = batch.spec
    if not spec.blur:
        return images
    sigma = draw_sigma(batch.samples, probability=spec.blur, sigma=spec.sigma, seed=SEED, epoch=batch.epoch)
    taps = torch.arange(-spec.radius, spec.radius + 1, device=images.device) / sigma.double().flatten()[:, None]
    weights = torch.exp(-0.5 * taps * taps)
    weights = (weights / weights.sum(1, keepdim=True))[:, None, None, :, None]
    out = images
    for _ in range(2):  # along rows, then along columns
        padded = torch.nn.functional.pad(out, (spec.radius, spec.radius, 0, 0), "reflect")
        out = (padded.unfold(-1, 2 * spec.radius + 1, 1) @ weights).squeeze(-1).mT
    return torch.where((sigma.flatten() > 0)[:, None, None, None], out, images)


def taps() -> Contender:
    """The kernel that serves float32 and speckle, and the blur as a kernel of its own."""

    def prepare(batch: Batch) -> Callable[[], Tensor]:
        arguments = batch.data, batch.records, batch.samples, batch.table, batch.spec, SEED, batch.epoch

        def render() -> Tensor:
            launch_taps(out := empty_views(batch.records, batch.spec), *arguments)
            return blur_of_spec(out, batch.samples, batch.spec, SEED, batch.epoch) if batch.spec.blur else out

        return render

    return Contender(prepare, flat)


def flat(_: Batch, views: Tensor) -> list[Tensor]:
    """(V, B, C, S, S) as (V * B, C, S, S)."""
    return [views.reshape(-1, *views.shape[-3:])]


def rendering(function: Callable[..., Tensor]) -> Contender:
    """render_views."""
    return Contender(
        lambda x: lambda: function(x.data, x.records, x.samples, x.table, x.spec, seed=SEED, epoch=x.epoch), flat
    )


def reference(function: Callable[..., Tensor]) -> Contender:
    return Contender(lambda x: lambda: function(x.data, x.records, x.samples, x.table, x.spec, SEED, x.epoch), flat)


def dense(function: Callable[[tuple[Kind, ...], Tensor], Tensor], version: str = "", **others: Any) -> Contender:
    """A function of dense tensors that fills the views (V * B, 1, S, S)."""

    def prepare(batch: Batch) -> Callable[[], Tensor]:
        if batch.spec.blur:
            raise Absent("it has no blur of one sigma an image")
        b, v, _, _ = batch.records.shape
        shape = (v * b, 1, batch.spec.size, batch.spec.size)
        return lambda: function(batch.kinds, torch.empty(shape, dtype=batch.spec.dtype, device=DEVICE))

    return Contender(prepare, lambda _, views: [views], version, **others)


def kornia_views() -> Contender:
    """One warp_affine a kind of band: crop, flip and turn at once."""
    warp_affine = peer("kornia.geometry.transform").warp_affine

    def render(kinds: tuple[Kind, ...], out: Tensor) -> Tensor:
        size = out.shape[-1]
        for kind in kinds:
            affine = source_affine(kind, size)
            square = torch.cat([affine, affine.new_tensor([[[0.0, 0.0, 1.0]]]).expand(len(affine), 1, 3)], 1)
            to_view = torch.linalg.inv(square)[:, :2]
            image = warp_affine(standardised(kind), to_view, (size, size), padding_mode="border", align_corners=True)
            out[kind.to] = image.to(out.dtype)
        return out

    return dense(render, peer_version("kornia"))


def torchvision_views() -> Contender:
    """resized_crop, flip and turn image by image, as its transforms draw one crop for all images that they are given.

    Its boxes are whole pixels and its resize does not look past them: it is compared with just that, in float64.
    """
    functional = peer("torchvision.transforms.v2.functional")

    def render(kinds: tuple[Kind, ...], out: Tensor, dtype: torch.dtype = torch.float32, crop: Any = None) -> Tensor:
        size = out.shape[-1]
        for kind in kinds:
            images = standardised(kind, dtype)
            for image, to, box, flip, turns in zip(images, *whole(kind), strict=True):
                made = (crop or functional.resized_crop)(image, *box, [size, size])
                made = functional.horizontal_flip(made) if flip else made
                out[to] = torch.rot90(made, turns, (-2, -1))
        return out

    def crop64(image: Tensor, top: int, left: int, height: int, width: int, size: list[int]) -> Tensor:
        part = image[None, :, top : top + height, left : left + width]
        return torch.nn.functional.interpolate(part, size, mode="bilinear", antialias=True)[0]

    def expected(batch: Batch) -> list[Tensor]:
        b, v, _, _ = batch.records.shape
        out = torch.empty(v * b, 1, batch.spec.size, batch.spec.size, device=DEVICE, dtype=torch.float64)
        return [render(batch.kinds, out, torch.float64, crop64)]

    return dense(render, peer_version("torchvision"), expected=expected)


def whole(kind: Kind) -> tuple[list[Any], ...]:
    """Rows, boxes in whole pixels, flips and turns on the host, where torchvision takes them."""
    pixels = kind.raw.shape[-1]
    size = (kind.box[:, 2:] * pixels).round().clamp(1, pixels)
    corner = (kind.box[:, :2] * pixels).round().minimum(pixels - size)
    boxes = torch.cat([corner, size], 1).long().tolist()
    return kind.to.tolist(), boxes, kind.flip.tolist(), kind.turns.tolist()


OP = Op(
    "render_views", tuple(MODES), contest,
    plain={"reference": (reference, render_reference), "grid_sample": (dense, by_grid_sample)},
    ours=lambda: rendering(render_views),
    peers={"single taps": lambda: on_gpu(taps), "kornia": kornia_views, "torchvision, whole pixels": torchvision_views},
)  # fmt: skip
