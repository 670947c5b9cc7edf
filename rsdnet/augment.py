"""From a configuration to what the kernels take: the specification of a view, and the table of bands."""

import contextlib
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rsdnet import bands, kernels
from rsdnet.config import Config, ViewConfig
from rsdnet.data.loader import Batch, Stream
from rsdnet.kernels import ViewSpec
from rsdnet.phases import Phase, untimed

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


AHEAD = 2  # steps that the host may be ahead of a GPU: enough to keep it busy, and few batches in its memory


def rendered(
    stream: Stream, table: Tensor, spec: ViewSpec, views: ViewConfig, seed: int, phase: Phase = untimed
) -> Iterator[tuple[Batch, Tensor]]:
    """The stream's batches, each with its views (V, B, C, S, S).

    On a GPU copy and rendering go on beside the step: they have streams of their own, which the current one waits for.
    phase: times "read" and "render".
    """
    gpu = stream.device.type == "cuda"
    side = torch.cuda.Stream(stream.device) if gpu else None
    epoch = torch.zeros((), dtype=torch.int64, device=stream.device)
    stepped: deque[torch.cuda.Event] = deque()
    batches = iter(stream)
    if side:  # for what the stream's caller enqueued before: the table, a cache
        side.wait_stream(torch.cuda.current_stream(stream.device))
    while True:
        with torch.cuda.stream(side) if side else contextlib.nullcontext():
            with phase("read"):
                batch = next(batches, None)
            if batch is None:
                return
            with phase("render"):
                made = training_views(*batch[:3], table, spec, views, seed=seed, epoch=epoch.fill_(batch.epoch))
        if side:
            current = torch.cuda.current_stream(stream.device)
            current.wait_stream(side)
            made.record_stream(current)
        yield batch, made
        if side:
            stepped.append(torch.cuda.current_stream(stream.device).record_event())
            if len(stepped) > AHEAD:
                stepped.popleft().synchronize()


def training_views(
    data: Tensor, records: Tensor, samples: Tensor, table: Tensor, spec: ViewSpec, views: ViewConfig, *, seed: int,
    epoch: int | Tensor,
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
