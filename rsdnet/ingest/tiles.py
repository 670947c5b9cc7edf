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
    sizes = {kind: max(layer.shape for layer in layers.values()) for kind, layers in images.items()}
    height, width = map(min, zip(*sizes.values(), strict=True))
    (first, one), *others = sizes.items()
    for kind, two in others:
        if max(abs(one[0] - two[0]), abs(one[1] - two[1])) > tolerance:
            mine, other = (f"{NAMES[of]} is {size[1]}x{size[0]} px" for of, size in ((first, one), (kind, two)))
            raise DataError(f"{mine}, but {other}: they must be of one grid")
    if patch is None or (patch, patch) == (height, width):
        yield "", images
        return
    factors = {
        kind: {name: max(1, round(sizes[kind][0] / layer.shape[0])) for name, layer in layers.items()}
        for kind, layers in images.items()
    }
    check_cut(patch, stride, {factor for own in factors.values() for factor in own.values()})
    if height < patch or width < patch:
        raise DataError(f"its {width}x{height} px are smaller than --patch {patch}")
    for top in range(0, height - patch + 1, stride or patch):
        for left in range(0, width - patch + 1, stride or patch):
            yield (
                f"_y{top}_x{left}",
                {
                    kind: {
                        name: _cut(name, layer, factors[kind][name], top, left, patch) for name, layer in layers.items()
                    }
                    for kind, layers in images.items()
                },
            )


def _cut(name: str, layer: np.ndarray, factor: int, top: int, left: int, patch: int) -> np.ndarray:
    rows, columns = (slice(begin // factor, (begin + patch) // factor) for begin in (top, left))
    cut = layer[rows, columns]
    if cut.shape != (patch // factor, patch // factor):
        raise DataError(f"{name} is {layer.shape[1]}x{layer.shape[0]} px, too small for its tiles")
    return cut


def check_cut(patch: int, stride: int | None, factors: set[int]) -> None:
    """Raise DataError if a tile or a step is no whole number of pixels in a band `factor` times coarser than 10 m."""
    common = math.lcm(*factors)
    for option, value in (("--patch", patch), ("--stride", stride or patch)):
        if value % common:
            near = (value // common * common, -(-value // common) * common)
            nearest = " or ".join(str(size) for size in near if size)
            raise DataError(
                f"{option} {value} cuts pixels of the {common * 10} m bands in two: the nearest that fit: {nearest}"
            )
