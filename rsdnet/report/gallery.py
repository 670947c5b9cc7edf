"""Samples of a run's database and their views (rsdnet/pictures.py), as data URIs."""

import base64
import io
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from rsdnet import config
from rsdnet.errors import DataError
from rsdnet.report.record import Record
from rsdnet.runfolder import CONFIG

QUALITY = 85  # of WebP, which takes a third of a PNG's bytes on noise


class Gallery(NamedTuple):
    """Rows of (sample and class, [(bands, image as a data URI)]). words: their description, or why there are none."""

    words: str
    rows: list[tuple[str, list[tuple[str, Markup]]]]


def gallery(record: Record, samples: int) -> Gallery:
    """Up to `samples` samples of the run's database, their bands and the views of its first epochs."""
    if not samples:
        return Gallery("No samples were asked for.", [])
    try:
        cfg = config.read_run(record.folder / CONFIG)
        database = next((path for path in cfg.data.data if path.is_dir()), None)
        if database is None:
            names = ", ".join(map(str, cfg.data.data)) or "of its own"
            raise DataError(f"the run's database ({names}) is no longer where it was")
        from rsdnet.pictures import pictures  # torch and the kernels: slow to import, and needed for pictures alone

        rows = pictures(database, cfg, samples=samples, split=None if cfg.data.split == "all" else cfg.data.split)
    except (DataError, OSError) as error:
        return Gallery(f"There are no pictures: {' '.join(str(error).split())}.", [])
    words = f"Samples of {database.name}, their bands, and pairs of views as this run drew them in its first epochs."
    return Gallery(words, [_row(row) for row in rows])


def same_views(one: Record, other: Record) -> bool:
    """Whether two runs drew the very same views."""
    keys = ("views.", "data.data", "data.split", "data.statistics", "run.seed")
    return all(
        one.config.get(key) == other.config.get(key) for key in one.config | other.config if key.startswith(keys)
    )


def _row(row: list[tuple[str, np.ndarray]]) -> tuple[str, list[tuple[str, Markup]]]:
    """A row of the grid; its first title is "sample, end of line, class: bands"."""
    sample, _, first = row[0][0].rpartition("\n")
    label, _, title = first.rpartition(": ")
    titles = [title, *(title for title, _ in row[1:])]
    return f"{sample}, {label}", [(title, _uri(image)) for title, (_, image) in zip(titles, row, strict=True)]


def _uri(image: np.ndarray) -> Markup:
    """An image (H, W) or (H, W, 3) in [0, 1] as a data URI."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, cmap="gray", vmin=0, vmax=1, format="webp", pil_kwargs={"quality": QUALITY})
    return Markup("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
