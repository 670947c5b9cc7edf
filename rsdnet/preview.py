"""Look before training: `python -m rsdnet.preview DB OUT.png`. Samples, their bands, and the views a run would see."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from rsdnet import bands, config
from rsdnet.augment import band_table, spec_of, training_views
from rsdnet.config import Config
from rsdnet.data.samples import Samples, pools_of, statistics
from rsdnet.errors import DataError, command
from rsdnet.files import aside
from rsdnet.kernels import ViewSpec, render_views

SHOWN = 2.0  # standard deviations either side of the mean that a picture's grey levels span
WHOLE = 128  # pixels a side of the whole patches in the grid


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
    pools = pools_of(cfg.views)
    patches = Samples((options.db,), cfg.views.modality, pools, split=options.split)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(options.db,)))
    table = band_table(cfg, statistics(cfg, pools))
    positions = np.unique(np.linspace(0, len(patches) - 1, options.samples).round().astype(int))
    whole, columns = ViewSpec.plain(WHOLE), list[tuple[str, Tensor]]()
    for modality in cfg.views.modality.split("+"):
        names = _shown(pools[modality])
        ids = np.array([bands.band_id(name) for name in names], np.int32)
        chosen = np.broadcast_to(ids, (len(positions), 1, len(ids))).copy()
        images = _grey(render_views(*_read(patches, positions, chosen), table, whole, seed=cfg.run.seed, epoch=0)[0])
        if {"B04", "B03", "B02"} <= set(names):
            order = [names.index(name) for name in ("B04", "B03", "B02")]
            columns.append(("B04 B03 B02", images[:, order].movedim(1, -1)))
        columns += [(name, images[:, at]) for at, name in enumerate(names)]
    rows = [[(title, image[row].numpy()) for title, image in columns] for row in range(len(positions))]
    spec = spec_of(cfg.views, torch.float32, channels_last=False)
    for epoch in range(options.pairs):
        chosen = patches.draw(positions, cfg.run.seed, epoch, views=2, channels=cfg.views.channels)
        batch = _read(patches, positions, chosen)
        views = _grey(training_views(*batch, table, spec, cfg.views, seed=cfg.run.seed, epoch=epoch))
        for at, row in enumerate(rows):
            for view in range(2):
                title = " ".join(bands.NAMES[band] for band in chosen[at, view])
                image = views[view, at, :3] if views.shape[2] >= 3 else views[view, at, :1]
                row.append((f"view {title}", image.movedim(0, -1).squeeze(-1).numpy()))
    for row, position in zip(rows, positions, strict=True):
        label = patches.catalog.label[position]
        name = patches.catalog.classes[label] if 0 <= label < len(patches.catalog.classes) else "no label"
        row[0] = (f"{patches.catalog.samples[position]}\n{name}: {row[0][0]}", row[0][1])
    return rows


def _shown(pool: tuple[str, ...]) -> list[str]:
    """Up to five bands of a pool that tell most at a glance."""
    liked: list[str] = [name for name in ("B04", "B03", "B02", "B08", "B11", "VV", "VH") if name in pool]
    return liked or list(pool[:5])


def _read(patches: Samples, positions: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Data, records and samples of the bands `chosen` (B, V, C), as render_views takes them."""
    return *patches.read(positions, chosen), torch.from_numpy(patches.rows[positions])


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
