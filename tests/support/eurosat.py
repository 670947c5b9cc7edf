"""A small EuroSAT RGB: JPEGs in folders of their class, and the lists of its splits."""

from pathlib import Path

import numpy as np

from rsdnet.ingest.layouts.eurosat import CLASSES
from tests.support import geotiffs

SPLITS = {"train": "jpg", "val": "tif", "test": "jpg"}  # by list, the suffix of its lines: both are in use


def image(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """(3, size, size) uint8: a slope in each band, about 60, 110 and 160; JPEG keeps these to a few levels."""
    row, column = np.mgrid[:size, :size] / size
    slopes = rng.uniform(-30, 30, (3, 2))
    bands = [level + a * row + b * column for level, (a, b) in zip((60, 110, 160), slopes, strict=True)]
    return np.rint(bands).astype(np.uint8)


def write(path: Path, layers: np.ndarray) -> Path:
    """`layers`, (1 or 3, H, W) uint8, as a JPEG of high quality."""
    return geotiffs.write(path, layers, driver="JPEG", QUALITY=98)


def make(
    folder: Path, each: int = 3, classes: tuple[str, ...] = CLASSES[:3], lists: bool = True
) -> dict[str, np.ndarray]:
    """Write `each` JPEGs a class, and lists that give them to train, val and test in turn. Returns pixels by sample."""
    rng = np.random.default_rng(0)
    pixels = {f"{name}_{number}": image(rng) for name in classes for number in range(1, each + 1)}
    for sample, layers in pixels.items():
        write(folder / sample.split("_")[0] / f"{sample}.jpg", layers)
    for at, (split, suffix) in enumerate(SPLITS.items() if lists else ()):
        listed = [f"{sample}.{suffix}\n" for sample in list(pixels)[at :: len(SPLITS)]]
        (folder / f"eurosat-{split}.txt").write_text("".join(listed))
    return pixels
