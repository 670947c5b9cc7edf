"""Tiles of a sample's images: windows of one place, cut alike from bands of every resolution."""

import math
from collections.abc import Iterator

import numpy as np

from rsdnet.errors import DataError

Layers = dict[str, np.ndarray]  # (H, W) by canonical band name; a label map's is "Data"
NAMES = {"ms": "S2", "sar": "S1", "map": "label map"}


def tiles(
    images: dict[str, Layers], patch: int | None, stride: int | None, tolerance: int
) -> Iterator[tuple[str, dict[str, Layers]]]:
    """Suffix ("_y0_x120") and layers by image of each tile; suffix "" for images that are one patch as a whole.

    patch, stride: px of 10 m. tolerance: greatest difference in size between the images, px.
    Raises DataError on images of different grids, smaller than a tile, or with pixels that a tile would cut in two.
    """
    sizes = {kind: _size(layers) for kind, layers in images.items()}
    _check_sizes(sizes, tolerance)
    height, width = (min(size[axis] for size in sizes.values()) for axis in (0, 1))
    if patch is None or (patch, patch) == (height, width):
        yield "", images
        return
    check_cut(patch, stride, {_factor(layer, sizes[k]) for k, layers in images.items() for layer in layers.values()})
    if height < patch or width < patch:
        raise DataError(f"its {width}x{height} px are smaller than --patch {patch}")
    for top in range(0, height - patch + 1, stride or patch):
        for left in range(0, width - patch + 1, stride or patch):
            cut = {kind: _cut(layers, sizes[kind], top, left, patch) for kind, layers in images.items()}
            yield f"_y{top}_x{left}", cut


def check_cut(patch: int, stride: int | None, factors: set[int]) -> None:
    """Raise DataError if a tile or a step is no whole number of pixels in a band `factor` times coarser than 10 m."""
    common = math.lcm(*factors)
    for option, value in (("--patch", patch), ("--stride", stride or patch)):
        if value % common:
            below, above = value // common * common, -(-value // common) * common
            near = f"{below} or {above}" if below else f"{above}"
            raise DataError(
                f"{option} {value} cuts pixels of the {common * 10} m bands in two: the nearest that fit: {near}"
            )


def _size(layers: Layers) -> tuple[int, ...]:
    """(height, width) of the finest band: the pixels that --patch counts."""
    return max(layer.shape for layer in layers.values())


def _factor(layer: np.ndarray, size: tuple[int, ...]) -> int:
    """Pixel size of a band, in pixels of the finest."""
    return max(1, round(size[0] / layer.shape[0]))


def _check_sizes(sizes: dict[str, tuple[int, ...]], tolerance: int) -> None:
    (first, one), *others = sizes.items()
    for kind, two in others:
        if max(abs(one[0] - two[0]), abs(one[1] - two[1])) > tolerance:
            raise DataError(
                f"{NAMES[first]} is {one[1]}x{one[0]} px, but {NAMES[kind]} is {two[1]}x{two[0]} px: "
                "they must be of one grid"
            )


def _cut(layers: Layers, size: tuple[int, ...], top: int, left: int, patch: int) -> Layers:
    cut = {}
    for name, layer in layers.items():
        factor = _factor(layer, size)
        rows, columns = (slice(begin // factor, (begin + patch) // factor) for begin in (top, left))
        cut[name] = layer[rows, columns]
        if cut[name].shape != (patch // factor, patch // factor):
            raise DataError(f"{name} is {layer.shape[1]}x{layer.shape[0]} px, too small for its tiles")
    return cut
