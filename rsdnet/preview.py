"""Look before training: `python -m rsdnet.preview DB OUT.png`. Samples, their bands, and the views a run would see."""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from rsdnet import config
from rsdnet.config import Config
from rsdnet.errors import DataError, command
from rsdnet.files import aside
from rsdnet.pictures import pictures


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
    cfg = config.read(options.config) if options.config else Config()
    rows = pictures(options.db, cfg, samples=options.samples, pairs=options.pairs, split=options.split)
    draw_grid(rows, options.out)
    Console().print(f"{options.out}: {len(rows)} samples")


if __name__ == "__main__":
    command(main)
