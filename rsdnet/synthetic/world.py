"""Synthetic places: land cover, Sentinel-2 L1C digital numbers and Sentinel-1 backscatter.

A place is made as a real image comes about: a landscape with relief and land cover; every class a mixture of a few
materials in a texture of its own (canopy, parcels and rows, blocks and streets, pools, dunes); season, sun and
atmosphere for the optical bands; moisture, slope, double bounce and speckle for the radar. Brightness varies more from
place to place than from class to class, so the texture tells a class, and both sensors see it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsdnet.synthetic.fields import Array, blur, fractal
from rsdnet.synthetic.land_cover import LANDSCAPES, Igbp, land_cover
from rsdnet.synthetic.materials import NAMES
from rsdnet.synthetic.patterns import PATTERNS, Canvas
from rsdnet.synthetic.sensors import optical, radar

GREEN = {"spring": 0.75, "summer": 0.9, "fall": 0.5, "winter": 0.25}  # share of seasonal vegetation that is green
SEASONS = tuple(GREEN)


class Place(NamedTuple):
    """One synthetic place; H = W = size pixels of 10 m."""

    cover: NDArray[np.uint8]  # (H, W) IGBP code
    ms: NDArray[np.uint16]  # (13, H, W) L1C digital numbers, in the order of `bands.S2L1C`
    sar: Array  # (2, H, W) sigma0 in dB, VV then VH


def synthesise(seed: int, place: int, size: int, season: str) -> Place:
    """Place number `place` of world `seed`, `size` px wide, seen in `season`: a pure function of the four."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, place])))
    landscape = LANDSCAPES[int(rng.integers(len(LANDSCAPES)))]
    shape = fractal(rng, size, 2.0, size)
    cover = land_cover(rng, size, landscape, shape)
    height = blur(shape, 0.8) * np.float32(landscape.relief * rng.uniform(0.4, 1.0))
    lake = cover == Igbp.WATER
    height[lake] = 0.9 * height[lake].mean() if lake.any() else 0
    green = float(np.clip(GREEN[season] + rng.normal(0, 0.15), 0.05, 1))
    blank = np.ones((size, size), np.float32)
    canvas = Canvas(np.zeros((len(NAMES), size, size), np.float32), blank, blank.copy())
    for code, pattern in PATTERNS.items():
        where = cover == code
        if where.any():
            for paint in pattern(rng, size, green):
                canvas.paint(where, paint)
    return Place(cover, optical(rng, canvas, height, season), radar(rng, canvas, height))
