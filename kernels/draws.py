"""The random draws of views: modality, bands, crop, flip, turn, gain and offset.

Every draw is a pure function of (seed, epoch, sample, view): see philox.py for the generator and the streams.
This is the reference. The reader (`csrc`) draws the same bands; the kernel of views.py draws the rest on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, log
from typing import NamedTuple

import torch
from torch import Tensor

from .philox import BAND, CROP, JITTER, PAIR, TURN, philox_words, pick, uniform

MODALITIES = ("ms+sar", "ms", "sar")
OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class ViewSpec:
    """Size, augmentations and format of views.

    size: S, pixels a side.
    scale: range of the crop's area as a share of the patch; ratio: range of its width / height. Defaults:
    Grill et al. 2020, appendix B, and torchvision's RandomResizedCrop.
    flip: horizontal flip, p = 1/2. turn: quarter turns, each of the four with p = 1/4.
    jitter: gain and offset from the band table's ranges. speckle: on bands whose row of the table has looks.
    antialias: average if the crop has more pixels than the view; else bilinear interpolation of four pixels. nearest:
    the one pixel whose ground holds an output pixel's centre, for label maps; neither is then asked.
    dtype: of the views. channels_last: NHWC memory, same shape.
    blur: probability of a Gaussian blur, one a view, () for none: see `draw_sigma`. BYOL: (1.0, 0.1). sigma: its range,
    pixels; the window is 2 * radius + 1 wide. Grill et al. 2020, appendix B.
    Raises ValueError on a value out of range.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    turn: bool = True
    jitter: bool = True
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = False
    speckle: bool = False
    antialias: bool = True
    blur: tuple[float, ...] = ()
    sigma: tuple[float, float] = (0.1, 2.0)
    nearest: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 1 << 14:
            raise ValueError(f"size: {self.size} pixels, expected 1 to {1 << 14}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: {self.scale}, expected 0 < lo <= hi <= 1")
        if not (0 < self.ratio[0] <= self.ratio[1] and isfinite(self.ratio[1])):
            raise ValueError(f"ratio: {self.ratio}, expected 0 < lo <= hi")
        if self.dtype not in OUT_DTYPES:
            raise ValueError(f"dtype: {self.dtype}, expected one of {OUT_DTYPES}")
        if not all(0 <= chance <= 1 for chance in self.blur):
            raise ValueError(f"blur: {self.blur}, expected probabilities of 0 to 1")
        if not 0 <= self.sigma[0] <= self.sigma[1] < inf:
            raise ValueError(f"sigma: {self.sigma}, expected 0 <= lo <= hi")

        if self.nearest and (self.dtype != torch.float32 or self.speckle or any(self.blur)):
            raise ValueError("nearest: for views in float32 without speckle and blur, which keep a label map's values")

    @property
    def radius(self) -> int:
        """Of the blur, pixels; below 20 pixels a side it is 0 and nothing is blurred. google-deepmind/deepmind-research
        byol/utils/augmentations.py."""
        return self.size // 10 // 2

    @classmethod
    def plain(cls, size: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> "ViewSpec":
        """The whole patch, resampled and standardised, without augmentation: for the probe and for previews."""
        return cls(size, (1.0, 1.0), (1.0, 1.0), False, False, False, dtype, channels_last)

    def of_labels(self) -> "ViewSpec":
        """The crops of these views, of label maps: the nearest pixel, its value unchanged.

        In a table, BandRow(mean=-1, std=1, nodata=...) turns label l into l + 1 and no label into 0.
        """
        return replace(
            self, dtype=torch.float32, jitter=False, speckle=False, blur=(), channels_last=False, nearest=True
        )


class Draws(NamedTuple):
    """The draws of each view. Boxes are fractions of the patch, so that they fit every resolution."""

    top: Tensor  # (B, V) float32, fraction from the upper edge
    left: Tensor  # (B, V) float32
    height: Tensor  # (B, V) float32, in (0, 1]
    width: Tensor  # (B, V) float32
    flip: Tensor  # (B, V) bool: mirrored left to right, before the turn
    turns: Tensor  # (B, V) int64, 0..3 quarter turns counter-clockwise
    gain_u: Tensor  # (B, V, C) float32 in [0, 1): position in the band's range of gains
    offset_u: Tensor  # (B, V, C) float32 in [0, 1): position in the band's range of offsets


def _views(samples: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """samples as (B, 1) and view numbers as (1, V)."""
    return samples.reshape(-1, 1), torch.arange(views, device=samples.device).reshape(1, -1)


def draw_modalities(seed: int, epoch: int | Tensor, samples: Tensor, views: int, modality: str = "ms+sar") -> Tensor:
    """The sensor of each view: bool (B, V), true for SAR. samples: int64 (B,).

    modality: "ms+sar": views alternate between the sensors, the first drawn by sample; "ms", "sar": that sensor alone.
    Raises ValueError on an unknown modality.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality: {modality!r}, expected one of {', '.join(MODALITIES)}")
    sample, view = _views(samples, views)
    if modality != "ms+sar":
        return torch.full((len(sample), views), modality == "sar", device=samples.device)
    order = philox_words(seed, sample, epoch, 0, PAIR)[0] & 1  # of view 0: one draw for all of a sample's views
    return ((view + order) & 1).bool()


def band_words(seed: int, sample: Tensor, epoch: int | Tensor, view: int | Tensor, channels: int) -> list[Tensor]:
    """One random word a channel, for the draw of its band."""
    blocks = [philox_words(seed, sample, epoch, view, BAND + block) for block in range((channels + 3) // 4)]
    return [word for block in blocks for word in block][:channels]


def draw_positions(words: list[Tensor], pool: int) -> Tensor:
    """(..., C) positions in a pool, one a word: drawn without replacement, anew each time the pool is exhausted."""
    positions: list[Tensor] = []
    for channel, word in enumerate(words):
        taken = channel % pool
        position = pick(word, pool - taken)
        if taken:  # step over those of this round, smallest first: the rank becomes a position among the untaken
            for other in torch.stack(positions[-taken:], -1).sort(-1).values.unbind(-1):
                position = position + (position >= other)
        positions.append(position)
    return torch.stack(positions, -1)


def draw_bands(
    seed: int,
    epoch: int | Tensor,
    samples: Tensor,
    views: int,
    channels: int,
    pools: Mapping[str, Sequence[int]],
    modality: str = "ms+sar",
) -> Tensor:
    """The band of each channel of each view: int64 (B, V, C) band ids, the same integers as csrc draws.

    samples: int64 (B,). pools: {"ms": band ids, "sar": band ids}; only those the modality needs.
    Raises ValueError on an unknown modality, an empty pool, or views or channels below 1.
    """
    if views < 1 or channels < 1:
        raise ValueError(f"views and channels: {views} and {channels}, expected at least 1 each")
    sar = draw_modalities(seed, epoch, samples, views, modality)
    sample, view = _views(samples, views)
    words = band_words(seed, sample, epoch, view, channels)
    bands: dict[str, Tensor] = {}
    for sensor in modality.split("+"):
        pool = torch.as_tensor(list(pools.get(sensor, ())), dtype=torch.int64, device=samples.device)
        if not len(pool):
            raise ValueError(f"pools: no {sensor} band, but the modality is {modality!r}")
        bands[sensor] = pool[draw_positions(words, len(pool))]
    return torch.where(sar[..., None], bands.get("sar", 0), bands.get("ms", 0))


def draw_views(spec: ViewSpec, seed: int, epoch: int | Tensor, samples: Tensor, views: int, channels: int) -> Draws:
    """Geometry and jitter of each view, as render_views draws them. samples: int64 (B,).

    The crop is that of Inception (Szegedy et al. 2015) and torchvision's RandomResizedCrop, without the latter's
    rejection loop: area uniform in scale, log of width / height uniform in log(ratio), each side cut to the
    patch, corner uniform.
    """
    sample, view = _views(samples, views)
    area_u, ratio_u, top_u, left_u = (uniform(word) for word in philox_words(seed, sample, epoch, view, CROP))
    area = spec.scale[0] + area_u * (spec.scale[1] - spec.scale[0])
    low, high = log(spec.ratio[0]), log(spec.ratio[1])
    ratio = torch.exp(low + ratio_u * (high - low))
    height, width = (area / ratio).sqrt().clamp(max=1.0), (area * ratio).sqrt().clamp(max=1.0)
    word = philox_words(seed, sample, epoch, view, TURN)[0]
    channel = torch.arange(channels, device=samples.device)
    gain_w, offset_w, _, _ = philox_words(seed, sample[..., None], epoch, view[..., None], JITTER + channel)
    return Draws(
        top=top_u * (1 - height),
        left=left_u * (1 - width),
        height=height,
        width=width,
        flip=((word & 1) & int(spec.flip)).bool(),
        turns=((word >> 1) & 3) * int(spec.turn),
        gain_u=uniform(gain_w),
        offset_u=uniform(offset_w),
    )
