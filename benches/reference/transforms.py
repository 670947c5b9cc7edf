"""Bands to views: crop, flip, turn, jitter, resample, standardise. By kornia, torchvision, or rsdnet's plain reference.

On a batch (`on_device`): kornia, whose random crops differ by sample; torchvision draws once a batch, so without kornia
`render_reference` stands in. On one patch in a worker (`in_worker`): torchvision, else `render_reference`.
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from rsdnet.kernels import DTYPE_CODES, ViewSpec
from rsdnet.kernels.views import render_reference
from torch import Tensor, nn

from benches.core.peers import Absent, peer, peer_version
from benches.reference.data import Pair
from rsdnet.config import ViewConfig

OnBatch = Callable[[Tensor, Tensor, Tensor], Tensor]  # images (B, 2, C, H, H), bands (B, 2, C), index (B,) to views


def on_device(views: ViewConfig, table: Tensor) -> tuple[str, OnBatch]:
    """What makes views (2, B, C, S, S) float32 of a batch, on the batch's device; and its name.

    table: (K, 10) of rsdnet's `band_table`, on that device: mean, std, gain, offset, clip and nodata by band id.
    """
    try:
        return f"kornia {peer_version('kornia')}", Kornia(views, table)
    except Absent:
        return "rsdnet's plain reference", Plain(views, table)


def in_worker(views: ViewConfig, table: Tensor) -> tuple[str, Callable[[Pair], Pair]]:
    """What makes a pair's images views, (2, C, S, S) float32, in a worker; and its name. table: on the CPU."""
    try:
        peer("torchvision.transforms.v2")
        return f"torchvision {peer_version('torchvision')}", TorchVision(views, table)
    except Absent:
        return "rsdnet's plain reference", OneByOne(Plain(views, table))


def standardised(images: Tensor, rows: Tensor, jitter: Tensor) -> Tensor:
    """Clipped, jittered and standardised images of the same shape; invalid pixels are 0, the band's mean.

    images: (..., H, H) raw. rows: (..., 10) of the table. jitter: (..., 2) in [0, 1): where in the ranges of gain and
    offset.
    """
    mean, std, gain, gain_end, offset, offset_end, low, high, nodata = rows[..., :9, None, None].unbind(-3)
    factor, shift = jitter[..., None, None].unbind(-3)
    valid = images.isfinite() & (images != nodata)
    changed = images.clamp(low, high) * (gain + factor * (gain_end - gain)) + offset + shift * (offset_end - offset)
    return torch.where(valid, (changed - mean) / std, 0.0)


class Kornia(nn.Module):
    """kornia's augmentations on the flattened batch, each image with draws of its own. Raises Absent without kornia."""

    def __init__(self, views: ViewConfig, table: Tensor) -> None:
        super().__init__()
        augment = peer("kornia.augmentation")
        crop = augment.RandomResizedCrop(
            (views.size, views.size), scale=views.crop_scale, ratio=views.crop_ratio, align_corners=False
        )
        steps = [crop]
        steps += [augment.RandomHorizontalFlip(p=0.5)] if views.flip else []
        steps += [augment.RandomRotation90(times=(0, 3), p=1.0)] if views.turn else []
        self.table, self.augment = table, nn.Sequential(*steps)

    @torch.no_grad()
    def forward(self, images: Tensor, bands: Tensor, index: Tensor) -> Tensor:
        jitter = torch.rand(*bands.shape, 2, device=images.device)
        b, _, c, h, _ = images.shape
        views = self.augment(standardised(images, self.table[bands], jitter).view(2 * b, c, h, h))
        return views.view(b, 2, c, *views.shape[-2:]).transpose(0, 1)


class TorchVision:
    """torchvision's transforms v2 on one patch, view by view."""

    def __init__(self, views: ViewConfig, table: Tensor) -> None:
        self.views, self.table = views, table
        self.steps: Any = None

    def __call__(self, pair: Pair) -> Pair:
        if self.steps is None:  # in the worker
            v2 = peer("torchvision.transforms.v2")
            size, scale, ratio = self.views.size, self.views.crop_scale, self.views.crop_ratio
            crop = v2.RandomResizedCrop(size, scale=scale, ratio=ratio, antialias=self.views.antialias)
            self.steps = v2.Compose([crop, v2.RandomHorizontalFlip(0.5)] if self.views.flip else [crop])
        raw = standardised(pair.images, self.table[pair.bands], torch.rand(*pair.bands.shape, 2))
        views = [self._turned(self.steps(view)) for view in raw]
        return pair._replace(images=torch.stack(views))

    def _turned(self, view: Tensor) -> Tensor:
        return torch.rot90(view, random.randrange(4), (-2, -1)) if self.views.turn else view

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"steps": None}


class Plain:
    """rsdnet's `render_reference`: the same views in plain PyTorch, drawn by (seed, call, index)."""

    def __init__(self, views: ViewConfig, table: Tensor) -> None:
        self.table, self.calls = table, 0
        self.spec = ViewSpec(
            views.size, views.crop_scale, views.crop_ratio, views.flip, views.turn, True, torch.float32,
            antialias=views.antialias,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, images: Tensor, bands: Tensor, index: Tensor) -> Tensor:
        b, v, c, h, w = images.shape
        pixels = h * w
        padded = -(-pixels // 4) * 4  # a record begins at a multiple of 16 bytes
        data = torch.zeros(b * v * c, padded, device=images.device)
        data[:, :pixels] = images.reshape(b * v * c, pixels)
        offsets = 4 * padded * torch.arange(b * v * c, device=images.device).view(b, v, c)
        same = [torch.full_like(offsets, n) for n in (DTYPE_CODES[torch.float32], h, w)]
        records = torch.stack([offsets, *same, bands], -1)
        epoch = torch.full((), self.calls, dtype=torch.int64, device=images.device)
        self.calls += 1
        return render_reference(data.view(-1).view(torch.uint8), records, index, self.table, self.spec, 0, epoch)


class OneByOne:
    """A function of batches for one pair."""

    def __init__(self, function: OnBatch) -> None:
        self.function = function

    def __call__(self, pair: Pair) -> Pair:
        views = self.function(pair.images[None], pair.bands[None], torch.as_tensor([pair.sample]))
        return pair._replace(images=views[:, 0])
