"""From a configuration to what the kernels take: the specification of a view, and the table of bands."""

import math
from typing import Any

import torch
from torch import Tensor

from rsdnet import bands, kernels
from rsdnet.config import Config, ViewConfig
from rsdnet.kernels import ViewSpec

REFLECTANCE = 10_000  # DN of reflectance 1: the quantification value of Sentinel-2 products (ESA, Sentinel-2 PSD)
MS_NODATA = 0  # DN 0 is NO_DATA in Sentinel-2 products (ESA, Sentinel-2 PSD)
# SEN12MS's statistics are of backscatter clipped to these dB (schmitt-muc/SEN12MS classification/main_train.py).
SEN12MS_SAR_CLIP = (-25.0, 0.0)


def spec_of(views: ViewConfig, dtype: torch.dtype, channels_last: bool) -> ViewSpec:
    """The specification of the views that a run trains on."""
    return ViewSpec(
        size=views.size,
        scale=views.crop_scale,
        ratio=views.crop_ratio,
        flip=views.flip,
        turn=views.turn,
        jitter=True,
        dtype=dtype,
        channels_last=channels_last,
        speckle=views.sar_looks > 0,
        antialias=views.antialias,
    )


def training_views(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, views: ViewConfig, *, seed: int,
    epoch: int,
) -> Tensor:  # fmt: skip
    """Views as a run trains on them, (V, B, C, S, S): rendered, and blurred where `views.blur` asks for it."""
    rendered = kernels.render_views(data, records, samples, table, spec, seed=seed, epoch=epoch)
    if not any(views.blur):
        return rendered
    return kernels.blur_views(rendered, samples, probability=views.blur, seed=seed, epoch=epoch)


def band_table(config: Config, statistics: dict[str, dict[str, Any]]) -> Tensor:
    """Per band id, how its values are clipped, jittered and standardised: the table that `render_views` takes.

    statistics: {band name: {"mean", "std"}} in raw units (DN, dB); other bands stay unknown to the table.
    """
    views = config.views
    ms_offset = (REFLECTANCE * views.ms_offset[0], REFLECTANCE * views.ms_offset[1])
    sar_clip = SEN12MS_SAR_CLIP if config.data.statistics == "SEN12MS L1C" else (-math.inf, math.inf)
    rows = {}
    for name, numbers in statistics.items():
        mean, std = numbers["mean"], numbers["std"] or 1.0  # a constant band deviates by 0: any std will do
        if bands.BANDS[name].modality == "ms":
            row = kernels.BandRow(mean, std, gain=views.ms_gain, offset=ms_offset, nodata=MS_NODATA)
        else:
            row = kernels.BandRow(mean, std, offset=views.sar_offset, clip=sar_clip, looks=views.sar_looks or math.inf)
        rows[bands.band_id(name)] = row
    return kernels.band_table(len(bands.NAMES), rows)
