"""Tiles of a sample's images: windows of one place, cut alike from bands of every resolution."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rsdnet.errors import Unfit

Layers = dict[str, np.ndarray]  # (H, W) by canonical band name; a label map's is "Data"
NAMES = {"ms": "S2", "sar": "S1", "map": "label map"}


class Window(NamedTuple):
    """A window in pixels of 10 m."""

    top: int
    left: int
    height: int
    width: int

    @property
    def centre(self) -> tuple[float, float]:
        """(column, row)"""
        return self.left + self.width / 2, self.top + self.height / 2


class Tile(NamedTuple):
    """A tile: the suffix of its names ("_y0_x120"; "" for whole images), its window, its layers by image."""

    suffix: str
    window: Window
    layers: dict[str, Layers]


def tiles(images: dict[str, Layers], patch: int | None, stride: int | None, tolerance: int) -> Iterator[Tile]:
    """The tiles of images of one grid.

    patch, stride: px of 10 m; patch None: the images are one patch as a whole. tolerance: greatest difference in size
    between the images, px.
    Raises Unfit on images of different sizes, smaller than a tile, or with pixels that a tile would cut in two.
    """
    sizes = {kind: _size(layers) for kind, layers in images.items()}
    (first, one), *others = sizes.items()
    for kind, two in others:
        if max(abs(one[0] - two[0]), abs(one[1] - two[1])) > tolerance:
            mine, other = (f"{NAMES[of]} is {size[1]}x{size[0]} px" for of, size in ((first, one), (kind, two)))
            raise Unfit("grid", f"{mine}, but {other}: they must be of one grid")
    height, width = size_of(images)
    if patch is None or (patch, patch) == (height, width):
        yield Tile("", Window(0, 0, height, width), images)
        return
    factors = {
        kind: {name: max(1, round(sizes[kind][0] / layer.shape[0])) for name, layer in layers.items()}
        for kind, layers in images.items()
    }
    check_cut(patch, stride, {factor for own in factors.values() for factor in own.values()})
    if height < patch or width < patch:
        raise Unfit("size", f"its {width}x{height} px are smaller than --patch {patch}")
    for top in range(0, height - patch + 1, stride or patch):
        for left in range(0, width - patch + 1, stride or patch):
            cut = {
                kind: {name: _cut(name, layer, factors[kind][name], top, left, patch) for name, layer in layers.items()}
                for kind, layers in images.items()
            }
            yield Tile(f"_y{top}_x{left}", Window(top, left, patch, patch), cut)


def coverage(images: dict[str, Layers], windows: Sequence[Window]) -> tuple[int, int]:
    """Pixels of the images, and of those that lie in a window."""
    height, width = size_of(images)
    taken = np.zeros((height, width), bool)
    for window in windows:
        taken[window.top : window.top + window.height, window.left : window.left + window.width] = True
    return taken.size, int(np.count_nonzero(taken))


def size_of(images: dict[str, Layers]) -> tuple[int, int]:
    """Height and width that all images have, in pixels of 10 m."""
    height, width = map(min, zip(*map(_size, images.values()), strict=True))
    return height, width


def _size(layers: Layers) -> tuple[int, ...]:
    """Height and width of the finest layer."""
    return max(layer.shape for layer in layers.values())


def _cut(name: str, layer: np.ndarray, factor: int, top: int, left: int, patch: int) -> np.ndarray:
    rows, columns = (slice(begin // factor, (begin + patch) // factor) for begin in (top, left))
    cut = layer[rows, columns]
    if cut.shape != (patch // factor, patch // factor):
        raise Unfit("size", f"{name} is {layer.shape[1]}x{layer.shape[0]} px, too small for its tiles")
    return cut


def check_cut(patch: int, stride: int | None, factors: set[int]) -> None:
    """Raise DataError if a tile or a step is no whole number of pixels in a band `factor` times coarser than 10 m."""
    common = math.lcm(*factors)
    for option, value in (("--patch", patch), ("--stride", stride or patch)):
        if value % common:
            near = (value // common * common, -(-value // common) * common)
            nearest = " or ".join(str(size) for size in near if size)
            raise Unfit(
                "size",
                f"{option} {value} cuts pixels of the {common * 10} m bands in two: the nearest that fit: {nearest}",
            )
