"""Augmentation: from a run's configuration to the kernels' parameters, and from a batch of raw bands to views.

A parameter of a view is in `spec_of`, one of a band's values in `band_table`.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rsdnet import bands, kernels
from rsdnet.config import Config, ViewConfig
from rsdnet.data.loader import Batch, Loader
from rsdnet.data.normalisation import FULL_SCALE, MS_NODATA, ms_unit, sar_clip, statistics_of
from rsdnet.kernels import ViewSpec
from rsdnet.mixing import Mix
from rsdnet.phases import Phase, untimed

# An offset of more standard deviations of a band hides its texture. Published ones of the default bands are 333 DN and
# more, 0.6 of the default offset; only B10, cirrus, has less than 100 DN.
HIDES = 2.0


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
        blur=views.blur if any(views.blur) else (),
    )


AHEAD = 2  # steps that the host may be ahead of a GPU: enough to keep it busy, and few batches in its memory


def rendered(
    loader: Loader, table: Tensor, spec: ViewSpec, phase: Phase = untimed, mix: Mix | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """The loader's batches, each with its views (V, B, C, S, S). mix: for differences of bands.

    On a GPU copy and rendering overlap with the step: they have streams of their own, and the current stream waits for
    them. phase: times "read" and "render".
    """
    gpu = loader.device.type == "cuda"
    side = torch.cuda.Stream(loader.device) if gpu else None
    stepped: deque[torch.cuda.Event] = deque()
    batches = iter(loader)
    if side:  # the caller enqueued the table and a cache before
        side.wait_stream(torch.cuda.current_stream(loader.device))
    while True:
        with torch.cuda.stream(side) if side else contextlib.nullcontext():
            with phase("read"):
                batch = next(batches, None)
            if batch is None:
                return
            with phase("render"):
                made = training_views(batch, table, spec, mix)
        if side:
            current = torch.cuda.current_stream(loader.device)
            current.wait_stream(side)
            made.record_stream(current)
        yield batch, made
        if side:
            stepped.append(torch.cuda.current_stream(loader.device).record_event())
            if len(stepped) > AHEAD:
                stepped.popleft().synchronize()


def training_views(batch: Batch, table: Tensor, spec: ViewSpec, mix: Mix | None = None) -> Tensor:
    """A batch's views as a run trains on them, (V, B, C, S, S)."""
    epoch = torch.full((), batch.epoch, dtype=torch.int64, device=batch.data.device)
    shown = kernels.render_views(batch.data, batch.records, batch.samples, table, spec, seed=batch.seed, epoch=epoch)
    return mix(shown, batch.records, spec.channels_last) if mix else shown


def band_table(cfg: Config, statistics: Mapping[str, tuple[float, float]] | None = None) -> Tensor:
    """(K, 10) float32 by band id, for `render_views`: how a run clips, jitters and standardises each band's values.

    statistics: {band: (mean, standard deviation)}; None: those of the configuration.

    Raises DataError on a band without statistics or databases of different units: see `rsdnet.data.normalisation`.
    """
    views = cfg.views
    scale = FULL_SCALE[ms_unit(cfg)]
    ms_offset = (scale * views.ms_offset[0], scale * views.ms_offset[1])
    rows = {}
    for name, (mean, std) in (statistics or statistics_of(cfg)).items():
        std = std or 1.0  # a constant band deviates by 0: any std will do
        if bands.BANDS[name].modality == "ms":
            row = kernels.BandRow(mean, std, gain=views.ms_gain, offset=ms_offset, nodata=MS_NODATA)
        else:
            row = kernels.BandRow(
                mean, std, offset=views.sar_offset, clip=sar_clip(cfg), looks=views.sar_looks or math.inf
            )
        rows[bands.band_id(name)] = row
    return kernels.band_table(len(bands.NAMES), rows)


def hidden(table: Tensor) -> str:
    """A line on the bands of a `band_table` whose texture the jitter's offset hides; "" where there is none."""
    times = table[:, 4:6].abs().amax(1) / table[:, 1]
    found = [at for at in range(len(table)) if times[at] > HIDES]
    if not found:
        return ""
    named = ", ".join(f"{bands.NAMES[at]} by {times[at]:,.1f}" for at in found)
    options = sorted({f"--{bands.BANDS[bands.NAMES[at]].modality}-offset" for at in found})
    return f"the jitter hides the texture: {' and '.join(options)} moves {named} standard deviations; lower it"
