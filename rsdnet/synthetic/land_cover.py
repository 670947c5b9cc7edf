"""Land cover of a synthetic place: classes of a landscape in natural shapes."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsdnet.synthetic.fields import Array, Rng, fractal


class Igbp(IntEnum):
    """The IGBP classes that occur here (MODIS MCD12Q1 user guide, table 3)."""

    CONIFER = 1
    BROADLEAF = 4
    MIXED = 5
    SHRUB = 7
    SAVANNA = 9
    GRASS = 10
    WETLAND = 11
    CROP = 12
    URBAN = 13
    BARREN = 16
    WATER = 17


class Landscape(NamedTuple):
    """A kind of country.

    weights: how much of it each class covers. relief: m over a place. water: share of open water. village, river:
    probability of one in a place.
    """

    weights: dict[Igbp, float]
    relief: float
    water: float
    village: float
    river: float = 0.15


LANDSCAPES = (
    Landscape({Igbp.CROP: 1.0, Igbp.GRASS: 0.4, Igbp.BROADLEAF: 0.4}, 15, 0.02, 0.3),  # farmland
    Landscape({Igbp.CROP: 0.5, Igbp.GRASS: 0.8, Igbp.MIXED: 0.6}, 60, 0.05, 0.2),  # hills
    Landscape({Igbp.URBAN: 1.0, Igbp.GRASS: 0.3, Igbp.CROP: 0.3, Igbp.BROADLEAF: 0.2}, 20, 0.05, 0.0),  # city
    Landscape({Igbp.CONIFER: 1.0, Igbp.BROADLEAF: 0.5, Igbp.GRASS: 0.4, Igbp.BARREN: 0.4}, 220, 0.05, 0.0),  # mountains
    Landscape({Igbp.BARREN: 1.0, Igbp.SHRUB: 0.7}, 120, 0.0, 0.1, river=0.0),  # arid
    Landscape({Igbp.SAVANNA: 1.0, Igbp.SHRUB: 0.7, Igbp.GRASS: 0.5}, 40, 0.02, 0.1),  # dry tropics
    Landscape({Igbp.WETLAND: 1.0, Igbp.GRASS: 0.4, Igbp.CONIFER: 0.3}, 8, 0.2, 0.0),  # marsh
    Landscape({Igbp.WETLAND: 0.4, Igbp.CROP: 0.4, Igbp.SAVANNA: 0.5, Igbp.MIXED: 0.3}, 25, 0.35, 0.2),  # lakes, coasts
)


def land_cover(rng: Rng, size: int, landscape: Landscape, height: Array) -> NDArray[np.uint8]:
    """(H, W) IGBP codes: the class of the highest fractal field wins each pixel; then water, a river, a village.

    height: (H, W), any scale; its lowest ground is under water.
    """
    best = np.full((size, size), -np.inf, np.float32)
    cover = np.zeros((size, size), np.uint8)
    for code, weight in landscape.weights.items():
        field = fractal(rng, size, 2.7, 2 * size) + np.float32(1.2 * np.log(weight) + 0.5 * rng.standard_normal())
        cover[field > best] = code
        best = np.maximum(best, field)
    low = height + 0.1 * fractal(rng, size, 1.5, size / 4)
    share = min(landscape.water * rng.gamma(1.0), 0.7)
    if share > 0.02:
        level = np.quantile(low, share)
        if Igbp.WETLAND in landscape.weights:
            cover[low < level + 0.25] = Igbp.WETLAND
        cover[low < level] = Igbp.WATER
    if rng.random() < landscape.river:
        bed = fractal(rng, size, 2.4, size)
        slope = np.hypot(*np.gradient(bed)) + 1e-3
        cover[np.abs(bed) / slope < rng.uniform(1.0, 4.0)] = Igbp.WATER
    if rng.random() < landscape.village:
        town = fractal(rng, size, 2.0, size / 2)
        cover[(town > np.quantile(town, 1 - rng.uniform(0.05, 0.15))) & (cover != Igbp.WATER)] = Igbp.URBAN
    return cover
