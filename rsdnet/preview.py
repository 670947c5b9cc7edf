"""Look before training: `python -m rsdnet.preview DB OUT.png`. Samples, their bands, and the views a run would see."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from rsdnet import config, options
from rsdnet.augment import band_table, hidden
from rsdnet.errors import command
from rsdnet.files import aside, writable
from rsdnet.pictures import pictures


@dataclasses.dataclass(frozen=True)
class Options:
    """Draw a grid of samples: true colour, some bands, and pairs of views as the trainer would draw them."""

    db: tyro.conf.Positional[Path]
    """Database to look at."""
    out: tyro.conf.Positional[Path]
    """PNG to write."""
    config: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Configuration of the run (TOML), as python -m rsdnet.train takes it; None: the defaults."""
    samples: Annotated[int, Field(ge=1, le=64)] = 6
    """Rows of the grid, spread evenly over the database."""
    pairs: Annotated[int, Field(ge=0, le=10)] = 2
    """Pairs of views a sample: those of the first epochs."""
    split: Literal["train", "val", "test"] | None = None
    """Split to look at; None: any."""


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
    asked = options.parse(Options, prog="python -m rsdnet.preview", description=__doc__)
    writable(asked.out, "PNG")
    cfg = config.read(*asked.config)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(asked.db,)))
    rows = pictures(asked.db, cfg, samples=asked.samples, pairs=asked.pairs, split=asked.split)
    console = Console(markup=False)
    if doubt := hidden(band_table(cfg)):
        console.print(doubt, style="yellow", soft_wrap=True)
    draw_grid(rows, asked.out)
    console.print(f"{asked.out}: {len(rows)} samples", soft_wrap=True)


if __name__ == "__main__":
    command(main)
