"""Look before training: `python -m rsdnet.preview DB OUT.png`. Samples, their bands, and the views a run would see."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from rsdnet import bands, config
from rsdnet.augment import band_table, spec_of, training_views
from rsdnet.config import Config
from rsdnet.data.loader import Batch
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError, command
from rsdnet.files import aside
from rsdnet.kernels import ViewSpec, render_views

SHOWN = 2.0  # standard deviations either side of the mean that a picture's grey levels span
WHOLE = 128  # pixels a side of the whole patches in the grid
TRUE_COLOUR = ("B04", "B03", "B02")
LIKED = (*TRUE_COLOUR, "B08", "B11", "VV", "VH")  # the bands that tell most at a glance
Column = tuple[list[str], Tensor]
"""Of the grid: a title a sample, images (B, H, W) or (B, H, W, 3) in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw a grid of samples: true colour, some bands, and pairs of views as the trainer would draw them."""

    db: tyro.conf.Positional[Path]
    """Database to look at."""
    out: tyro.conf.Positional[Path]
    """PNG to write."""
    config: Path | None = None
    """Configuration of the run (TOML); None: the defaults."""
    samples: int = 6
    """Rows of the grid, spread evenly over the database."""
    pairs: int = 2
    """Pairs of views a sample: those of the first epochs."""
    split: str | None = None
    """train, val or test; None: any."""


def pictures(options: Options, cfg: Config) -> list[list[tuple[str, np.ndarray]]]:
    """The grid: a row a sample, of (title, (H, W) or (H, W, 3) image in [0, 1]).

    Raises DataError where the database has no sample of the modality, or lacks a band.
    """
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(options.db,)))
    samples = Samples(options.db, cfg.views.modality, pools_of(cfg.views), split=options.split)
    positions = np.unique(np.linspace(0, len(samples) - 1, options.samples).round().astype(int))
    table = band_table(cfg)
    columns = [*_patches(cfg, samples, positions, table)]
    for epoch in range(options.pairs):
        columns += _pair(cfg, samples, positions, table, epoch)
    rows = [[(titles[row], images[row].numpy()) for titles, images in columns] for row in range(len(positions))]
    for row, position in zip(rows, positions, strict=True):
        label = samples.catalog.label[position]
        name = samples.classes[label] if 0 <= label < len(samples.classes) else "no label"
        row[0] = (f"{samples.catalog.samples[position]}\n{name}: {row[0][0]}", row[0][1])
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


def _pair(cfg: Config, samples: Samples, positions: np.ndarray, table: Tensor, epoch: int) -> Iterator[Column]:
    """The two views of an epoch, as a run draws them."""
    chosen = samples.draw(positions, cfg.run.seed, epoch, views=2, channels=cfg.views.channels)
    batch = _batch(samples, positions, chosen, cfg.run.seed, epoch)
    spec = spec_of(cfg.views, torch.float32, channels_last=False)
    for view, images in enumerate(_grey(training_views(batch, table, spec, cfg.views))):
        titles = ["view " + " ".join(bands.NAMES[band] for band in own) for own in chosen[:, view]]
        yield titles, images[:, : 3 if images.shape[1] >= 3 else 1].movedim(1, -1).squeeze(-1)


def _batch(samples: Samples, positions: np.ndarray, chosen: np.ndarray, seed: int, epoch: int) -> Batch:
    """The bands `chosen` (B, V, C ids) of the samples at `positions`."""
    numbers = torch.from_numpy(samples.rows[positions])
    return Batch(*samples.read(positions, chosen), numbers, torch.from_numpy(positions), seed, epoch, step=0)


def _grey(standardised: Tensor) -> Tensor:
    """Standardised values as grey levels in [0, 1]."""
    return (standardised / (2 * SHOWN) + 0.5).clamp(0, 1)


def draw_grid(rows: list[list[tuple[str, np.ndarray]]], path: Path) -> None:
    """Write the grid as a PNG, aside then renamed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(1.7 * len(rows[0]), 1.95 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, image) in zip(line, row, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m rsdnet.preview", description=__doc__)
    if not options.out.absolute().parent.is_dir():
        raise DataError(f"{options.out}: there is no folder {options.out.absolute().parent}; make it first")
    rows = pictures(options, config.read(options.config) if options.config else Config())
    draw_grid(rows, options.out)
    Console().print(f"{options.out}: {len(rows)} samples")


if __name__ == "__main__":
    command(main)
