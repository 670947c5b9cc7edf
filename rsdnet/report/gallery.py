"""Pictures of what a run trained on, for the report: rsdnet/pictures.py's grid of its own database, as data URIs."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsdnet import config
from rsdnet.config import Config
from rsdnet.errors import DataError
from rsdnet.report.record import Record, text
from rsdnet.runfolder import CONFIG

QUALITY = 85  # of WebP, which takes a third of a PNG's bytes on noise


class Picture(NamedTuple):
    """A patch or a view. caption: its band or bands. uri: the image itself, as data."""

    caption: str
    uri: str


class Gallery(NamedTuple):
    """Rows of (sample and class, pictures), or none; words: what they show, or why there are none."""

    words: str
    rows: list[tuple[str, list[Picture]]]


def gallery(record: Record, samples: int) -> Gallery:
    """Up to `samples` samples of the run's database, their bands and the views of its first epochs."""
    if not samples:
        return Gallery("No samples were asked for.", [])
    try:
        cfg = config.read(record.folder / CONFIG)
        database = _database(cfg)
        rows = _pictures(cfg, database, samples)
    except (DataError, OSError) as error:
        return Gallery(f"There are no pictures: {text(' '.join(str(error).split()))}.", [])
    words = f"Samples of {database.name}, their bands, and pairs of views as this run drew them in its first epochs."
    return Gallery(text(words), [_row(row) for row in rows])


def same_views(one: Record, other: Record) -> bool:
    """Whether two runs drew the very same views."""
    keys = (("data", "data"), ("data", "split"), ("data", "statistics"), ("run", "seed"))
    views, *rest = ((run.table("views"), *(run.table(name).get(key) for name, key in keys)) for run in (one, other))
    return [views] == rest


def _database(cfg: Config) -> Path:
    """The first of the run's databases that is still there. Raises DataError where none is."""
    for path in cfg.data.data:
        if path.is_dir():
            return path
    names = ", ".join(str(path) for path in cfg.data.data) or "of its own"
    raise DataError(f"the run's database ({names}) is no longer where it was")


def _pictures(cfg: Config, database: Path, samples: int) -> list[list[tuple[str, np.ndarray]]]:
    from rsdnet.pictures import pictures  # torch and the kernels: slow to import, and needed for pictures alone

    return pictures(database, cfg, samples=samples, split=None if cfg.data.split == "all" else cfg.data.split)


def _row(row: list[tuple[str, np.ndarray]]) -> tuple[str, list[Picture]]:
    """preview's row; its first title is "sample, end of line, class: bands"."""
    sample, _, first = row[0][0].rpartition("\n")
    label, _, title = first.rpartition(": ")
    titles = [title, *(title for title, _ in row[1:])]
    return text(f"{sample}, {label}"), [
        Picture(text(title), _uri(image)) for title, (_, image) in zip(titles, row, strict=True)
    ]


def _uri(image: np.ndarray) -> str:
    """An image (H, W) or (H, W, 3) in [0, 1] as data."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, cmap="gray", vmin=0, vmax=1, format="webp", pil_kwargs={"quality": QUALITY})
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
