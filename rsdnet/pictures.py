"""Pictures of samples, their bands, and the views that a run draws of them: for the preview and the report."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsdnet import bands
from rsdnet.augment import band_table, spec_of, training_views
from rsdnet.config import Config
from rsdnet.data.differences import difference_statistics
from rsdnet.data.fixed import fixed_views
from rsdnet.data.inputs import drawn_of
from rsdnet.data.loader import Batch
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from rsdnet.kernels import ViewSpec, render_views
from rsdnet.mixing import Mix, mix_of

SHOWN = 2.0  # standard deviations either side of the mean that a picture's grey levels span
WHOLE = 128  # side of a whole patch's picture in pixels
TRUE_COLOUR = ("B04", "B03", "B02")
LIKED = (*TRUE_COLOUR, "B08", "B11", "VV", "VH")  # the bands that tell most at a glance
Column = tuple[list[str], Tensor]
"""Of the grid: a title a sample, images (B, H, W) or (B, H, W, 3) in [0, 1]."""


def pictures(
    db: Path, cfg: Config, *, samples: int = 6, pairs: int = 2, split: str | None = None
) -> list[list[tuple[str, np.ndarray]]]:
    """A row a sample, spread evenly over the database: (title, (H, W) or (H, W, 3) image in [0, 1]).

    pairs: pairs of views a sample, of the first epochs. split: None for any.

    Raises DataError where the database has no sample of the modality, or lacks a band.
    """
    if samples < 1 or pairs < 0:
        raise DataError(f"{samples} samples and {pairs} pairs of views: name 1 or more and 0 or more")
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(db,)))
    found = Samples(db, cfg.views.modality, pools_of(cfg.views), split=split)
    positions = np.unique(np.linspace(0, len(found) - 1, samples).round().astype(int))
    table = band_table(cfg)
    mix = mix_of(fixed_views(cfg.views), table, difference_statistics(cfg, found))
    columns = [*_patches(cfg, found, positions, table)]
    for epoch in range(pairs):
        columns += _pair(cfg, found, positions, table, mix, epoch)
    rows = [[(titles[row], images[row].numpy()) for titles, images in columns] for row in range(len(positions))]
    for row, position in zip(rows, positions, strict=True):
        label = found.catalog.label[position]
        name = found.classes[label] if 0 <= label < len(found.classes) else "no label"
        row[0] = (f"{found.catalog.samples[position]}\n{name}: {row[0][0]}", row[0][1])
    return rows


def _patches(cfg: Config, samples: Samples, positions: np.ndarray, table: Tensor) -> Iterator[Column]:
    """True colour and single bands of whole patches."""
    for modality, pool in pools_of(cfg.views).items():
        if modality not in cfg.views.modality.split("+"):
            continue
        names = [name for name in LIKED if name in pool] or list(pool[:5])
        ids = np.array([bands.band_id(name) for name in names], np.int32)
        batch = _batch(samples, positions, np.tile(ids, (len(positions), 1, 1)), cfg.run.seed, 0)
        whole = ViewSpec.plain(WHOLE)
        views = render_views(batch.data, batch.records, batch.samples, table, whole, seed=batch.seed, epoch=0)
        images = _grey(views[0])
        if set(TRUE_COLOUR) <= set(names):
            order = [names.index(name) for name in TRUE_COLOUR]
            yield [" ".join(TRUE_COLOUR)] * len(positions), images[:, order].movedim(1, -1)
        for at, name in enumerate(names):
            yield [name] * len(positions), images[:, at]


def _pair(
    cfg: Config, samples: Samples, positions: np.ndarray, table: Tensor, mix: Mix | None, epoch: int
) -> Iterator[Column]:
    """The two views of an epoch, as a run draws them."""
    drawn, fixed = drawn_of(cfg.views), fixed_views(cfg.views)
    chosen = samples.draw(positions, cfg.run.seed, epoch, views=drawn.views, channels=drawn.channels, fixed=drawn.fixed)
    seen = samples.shown(positions, cfg.run.seed, epoch, views=2) if cfg.data.pair_seasons else positions
    batch = _batch(samples, positions, chosen, cfg.run.seed, epoch, seen)
    spec = spec_of(cfg.views, torch.float32, channels_last=False)
    for view, images in enumerate(_grey(training_views(batch, table, spec, mix))):
        shown = [[bands.NAMES[band] for band in own] for own in chosen[:, view]]
        if fixed:
            shown = [list(fixed[bands.BANDS[own[0]].modality].names) for own in shown]
        titles = ["view " + " ".join(own) for own in shown]
        yield titles, images[:, : 3 if images.shape[1] >= 3 else 1].movedim(1, -1).squeeze(-1)


def _batch(
    samples: Samples, positions: np.ndarray, chosen: np.ndarray, seed: int, epoch: int, shown: np.ndarray | None = None
) -> Batch:
    """The bands `chosen` (B, V, C ids) of the samples at `positions` (B,), or of those that the views show, (B, V)."""
    data, records = samples.read(positions if shown is None else shown, chosen)
    numbers = torch.from_numpy(samples.rows[positions])
    return Batch(data, records, numbers, torch.from_numpy(positions), seed, epoch, step=0)


def _grey(standardised: Tensor) -> Tensor:
    """Standardised values as grey levels in [0, 1]."""
    return (standardised / (2 * SHOWN) + 0.5).clamp(0, 1)
