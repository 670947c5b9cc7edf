"""Patterns of the land-cover classes: each mixes a few materials in a texture of its own."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsdnet.synthetic.fields import Array, Rng, blur, clumps, fractal, parcels, soft_threshold
from rsdnet.synthetic.land_cover import Igbp
from rsdnet.synthetic.materials import NAMES

Layer = NDArray[np.floating] | NDArray[np.bool_] | float  # (H, W), or the same everywhere


class Canvas(NamedTuple):
    """Material shares and brightness of a place's pixels, painted by the patterns of its classes."""

    rng: Rng
    size: int
    green: float  # share of vegetation in leaf, 0 to 1
    share: Array  # (materials, H, W), sums to 1
    shade: Array  # (H, W) factor on reflectance
    echo: Array  # (H, W) factor on backscatter power

    def paint(self, where: NDArray[np.bool_], shares: dict[str, Layer], shade: Layer = 1.0, echo: Layer = 1.0) -> None:
        """Fill the mask `where` with a mixture of materials; shares are normalised to 1."""
        total = sum(np.maximum(s, 0) for s in shares.values())
        for name, s in shares.items():
            layer = np.broadcast_to(np.maximum(s, 0) / total, where.shape)
            self.share[NAMES.index(name)][where] = layer[where]
        self.shade[where] = np.broadcast_to(np.asarray(shade, np.float32), where.shape)[where]
        self.echo[where] = np.broadcast_to(np.asarray(echo, np.float32), where.shape)[where]

    def mixed(self, values: NDArray[np.floating]) -> Array:
        """(H, W) sum of the materials' `values` (materials,), weighted by their shares."""
        total = np.zeros((self.size, self.size), np.float32)
        for value, share in zip(values, self.share, strict=True):
            if share.any():
                total += value * share
        return total


def forest(kind: str, canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Canopy in clumps with shaded gaps, stands of two species, here and there a clear-cut."""
    rng, size = canvas.rng, canvas.size
    canopy = clumps(rng, size, rng.uniform(5, 8))
    stand = soft_threshold(fractal(rng, size, 1.5, 60), rng.normal(), 3)
    leaf = stand if kind == "mixed" else stand * 0.25 if kind == "conifer" else 0.75 + 0.25 * stand
    canvas.paint(
        where,
        {"conifer": 1 - leaf, "broadleaf": leaf * canvas.green, "twigs": leaf * (1 - canvas.green)},
        np.exp(0.22 * canopy),
        np.exp(0.35 * canopy),
    )
    if rng.random() < 0.4:
        cut = parcels(rng, size, rng.uniform(0, np.pi), (12, 25), (12, 30))
        bare = where & (cut.each(rng.random(cut.cells)) < 0.08)
        canvas.paint(bare, {"straw": 0.5, "loam": 0.3, "grass": canvas.green})


def crops(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Straight parcels, each a crop at its own stage, with drill strips; tracks and hedges between them."""
    rng, size = canvas.rng, canvas.size
    across = rng.uniform(9, 18)
    angle = rng.uniform(0, np.pi)
    bend = 0.8 * fractal(rng, size, 2.0, 100)
    field = parcels(rng, size, angle, (across, 2.2 * across), (1.5 * across, 4 * across), bend)
    stage = np.clip(rng.normal(canvas.green, 0.45, field.cells), 0, 1)
    ripe = rng.random(field.cells)
    phase = np.where(field.each(rng.random(field.cells)) < 0.5, field.u, field.v)
    rows = np.sin(phase * np.float32(2 * np.pi / rng.uniform(3.5, 6))) * field.each(rng.uniform(0, 0.3, field.cells))
    green, straw = field.each(stage), field.each((1 - stage) * ripe)
    canvas.paint(
        where,
        {"crop": green + 0.5 * rows, "straw": straw, "loam": 1 - green - straw + 0.5 - rows},
        field.each(np.exp(0.12 * rng.standard_normal(field.cells))),
        field.each(np.exp(0.45 * rng.standard_normal(field.cells))) * np.exp(1.2 * rows),
    )
    hedge = "shrub" if rng.random() < 0.5 else "soil"
    canvas.paint(where & (field.edge < 0.6), {hedge: 1.0, "grass": 0.6})


def urban(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Streets around blocks, houses, gardens; walls that face the radar answer with a double bounce."""
    rng, size = canvas.rng, canvas.size
    angle = rng.uniform(0, np.pi)
    bend = 2.5 * fractal(rng, size, 2.2, 120)
    block = parcels(rng, size, angle, (7, 14), (9, 22), bend)
    house = parcels(rng, size, angle, (2.2, 4.5), (2.2, 6), bend)
    dense = soft_threshold(fractal(rng, size, 1.8, 120), rng.normal(-0.3, 0.5), 2)
    built = house.each(rng.random(house.cells)) < 0.25 + 0.5 * dense
    kind = house.each(rng.random(house.cells))
    garden = np.where(built, 0.1, 0.8)
    canvas.paint(
        where,
        {
            "roof": built * (kind < 0.4),
            "tile": built * (kind >= 0.4) * 0.9,
            "asphalt": 0.15 + 0.25 * dense,
            "grass": garden * canvas.green,
            "straw": garden * (1 - canvas.green),
            "broadleaf": 0.4 * garden,
        },
        house.each(np.exp(0.25 * rng.standard_normal(house.cells))),
        np.where(built, house.each(rng.gamma(0.5, 2.0, house.cells)), 1.0),
    )
    canvas.paint(where & (block.edge < 0.9), {"asphalt": 1.0, "grass": 0.2 * canvas.green})


def shrubland(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Dark shrubs in clumps over bright soil."""
    rng, size = canvas.rng, canvas.size
    bush = soft_threshold(clumps(rng, size, rng.uniform(6, 10), 0.4), rng.normal(0.2, 0.3), 3)
    ground = soft_threshold(fractal(rng, size, 1.5, 50), 0, 1)
    canvas.paint(where, {"shrub": bush, "soil": (1 - bush) * ground, "straw": (1 - bush) * (1 - ground) * 0.8})


def savanna(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Single crowns, a pixel or two wide, scattered over grass that dries."""
    rng, size = canvas.rng, canvas.size
    seeds = (rng.random((size, size), np.float32) < rng.uniform(0.008, 0.02)).astype(np.float32)
    crown = np.clip(blur(seeds, 1.3) * 12, 0, 1)
    canvas.paint(
        where,
        {
            "broadleaf": crown * (0.4 + 0.6 * canvas.green),
            "shrub": crown * 0.3,
            "straw": (1 - crown) * (1.1 - canvas.green),
            "grass": (1 - crown) * canvas.green,
        },
        1 + 0.06 * fractal(rng, size, 1.2, 40),
        1 + 1.2 * crown,
    )


def grassland(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Smooth; greener where it is moist."""
    rng, size = canvas.rng, canvas.size
    moist = np.clip(canvas.green + 0.2 * fractal(rng, size, 1.8, 70), 0, 1)
    canvas.paint(where, {"grass": moist, "straw": 1 - moist, "loam": 0.1}, 1 + 0.04 * clumps(rng, size, 16))


def wetland(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Reeds and wet meadow around pools and winding channels."""
    rng, size = canvas.rng, canvas.size
    pool = soft_threshold(clumps(rng, size, rng.uniform(13, 22), 0.35), rng.normal(0.5, 0.25), 5)
    channel = np.exp(-((clumps(rng, size, 40, 0.4) / 0.12) ** 2))
    wet = np.maximum(pool, channel)
    tuft = soft_threshold(clumps(rng, size, 5), 0, 1.5)
    canvas.paint(
        where,
        {
            "water": wet * 0.9,
            "reed": (1 - wet) * (0.4 + tuft),
            "grass": (1 - wet) * canvas.green * 0.6,
            "straw": (1 - wet) * (1 - canvas.green) * 0.6,
        },
    )


def barren(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Dunes, or rock cut by gullies."""
    rng, size = canvas.rng, canvas.size
    if rng.random() < 0.5:
        angle = rng.uniform(0, np.pi)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        along = x * np.cos(angle) + y * np.sin(angle) + 6 * fractal(rng, size, 2.0, 90)
        crest = np.sin(along.astype(np.float32) * np.float32(2 * np.pi / rng.uniform(8, 15)))
        canvas.paint(where, {"sand": 1.0, "soil": 0.4 - 0.3 * crest}, 1 + 0.13 * crest, np.exp(0.5 * crest))
        return
    gully = np.abs(fractal(rng, size, 1.5, 40))
    canvas.paint(
        where,
        {"rock": 1.0, "soil": 1.2 * np.exp(-gully / 0.3), "sand": 0.2},
        0.8 + 0.2 * gully,
        np.exp(0.5 * gully - 0.4),
    )


def water(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Calm, with plumes of sediment; the wind roughens it for the radar in streaks."""
    rng, size = canvas.rng, canvas.size
    plume = soft_threshold(fractal(rng, size, 2.0, 120), rng.normal(0.5, 0.7), 1.5)
    wind = rng.normal(0, 0.6) + 0.25 * fractal(rng, size, 1.6, 60)
    canvas.paint(where, {"water": 1 - plume, "turbid": plume}, 1.0, np.exp(wind))


PATTERNS: dict[Igbp, Callable[[Canvas, NDArray[np.bool_]], None]] = {
    Igbp.CONIFER: partial(forest, "conifer"),
    Igbp.BROADLEAF: partial(forest, "broadleaf"),
    Igbp.MIXED: partial(forest, "mixed"),
    Igbp.SHRUB: shrubland,
    Igbp.SAVANNA: savanna,
    Igbp.GRASS: grassland,
    Igbp.WETLAND: wetland,
    Igbp.CROP: crops,
    Igbp.URBAN: urban,
    Igbp.BARREN: barren,
    Igbp.WATER: water,
}
