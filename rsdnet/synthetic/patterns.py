"""Patterns of the land-cover classes: each mixes a few materials in a texture of its own."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsdnet.synthetic.fields import Array, Rng, blur, clumps, fractal, parcels, soft_threshold
from rsdnet.synthetic.land_cover import Igbp
from rsdnet.synthetic.materials import NAMES

Mask = NDArray[np.bool_]
Layer = NDArray[np.floating] | Mask | float  # (H, W), or the same everywhere


class Paint(NamedTuple):
    """A mixture of materials; its shares are normalised to a sum of 1."""

    shares: Mapping[str, Layer]
    shade: Layer = 1.0  # factor on reflectance
    echo: Layer = 1.0  # factor on backscatter power
    mask: Mask | bool = True  # the pixels to paint, of those of the class


class Canvas(NamedTuple):
    """Material shares and brightness of a place's pixels."""

    share: Array  # (materials, H, W), sums to 1
    shade: Array  # (H, W) factor on reflectance
    echo: Array  # (H, W) factor on backscatter power

    def paint(self, where: Mask, paint: Paint) -> None:
        """Paint the pixels of a class, (H, W) mask `where`."""
        where = where & paint.mask
        total = sum(np.maximum(share, 0) for share in paint.shares.values())
        layers = [(self.share[NAMES.index(name)], np.maximum(share, 0) / total) for name, share in paint.shares.items()]
        for layer, values in (*layers, (self.shade, paint.shade), (self.echo, paint.echo)):
            layer[where] = np.broadcast_to(values, where.shape)[where]

    def mixed(self, values: NDArray[np.floating]) -> Array:
        """(H, W) sum of the materials' `values` (materials,), weighted by their shares."""
        total = np.zeros_like(self.shade)
        for value, share in zip(values, self.share, strict=True):
            if share.any():
                total += value * share
        return total


# A pattern draws the paints of a class, one over the other, from the random generator, the size of the place (px) and
# the share of its vegetation that is in leaf.
Pattern = Callable[[Rng, int, float], Iterator[Paint]]


def forest(kind: str, rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Canopy in clumps with shaded gaps, stands of two species, here and there a clear-cut."""
    canopy = clumps(rng, size, rng.uniform(5, 8))
    stand = soft_threshold(fractal(rng, size, 1.5, 60), rng.normal(), 3)
    leaf = stand if kind == "mixed" else stand * 0.25 if kind == "conifer" else 0.75 + 0.25 * stand
    shares = {"conifer": 1 - leaf, "broadleaf": leaf * green, "twigs": leaf * (1 - green)}
    yield Paint(shares, np.exp(0.22 * canopy), np.exp(0.35 * canopy))
    if rng.random() < 0.4:
        cut = parcels(rng, size, rng.uniform(0, np.pi), (12, 25), (12, 30))
        bare = cut.each(rng.random(cut.cells)) < 0.08
        yield Paint({"straw": 0.5, "loam": 0.3, "grass": green}, mask=bare)


def crops(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Straight parcels, each a crop at its own stage, with drill strips; tracks and hedges between them."""
    across = rng.uniform(9, 18)
    angle = rng.uniform(0, np.pi)
    bend = 0.8 * fractal(rng, size, 2.0, 100)
    field = parcels(rng, size, angle, (across, 2.2 * across), (1.5 * across, 4 * across), bend)
    stage = np.clip(rng.normal(green, 0.45, field.cells), 0, 1)
    ripe = rng.random(field.cells)
    phase = np.where(field.each(rng.random(field.cells)) < 0.5, field.u, field.v)
    rows = np.sin(phase * np.float32(2 * np.pi / rng.uniform(3.5, 6))) * field.each(rng.uniform(0, 0.3, field.cells))
    crop, straw = field.each(stage), field.each((1 - stage) * ripe)
    yield Paint(
        {"crop": crop + 0.5 * rows, "straw": straw, "loam": 1 - crop - straw + 0.5 - rows},
        field.each(np.exp(0.12 * rng.standard_normal(field.cells))),
        field.each(np.exp(0.45 * rng.standard_normal(field.cells))) * np.exp(1.2 * rows),
    )
    hedge = "shrub" if rng.random() < 0.5 else "soil"
    yield Paint({hedge: 1.0, "grass": 0.6}, mask=field.edge < 0.6)


def urban(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Streets around blocks, houses, gardens; walls that face the radar answer with a double bounce."""
    angle = rng.uniform(0, np.pi)
    bend = 2.5 * fractal(rng, size, 2.2, 120)
    block = parcels(rng, size, angle, (7, 14), (9, 22), bend)
    house = parcels(rng, size, angle, (2.2, 4.5), (2.2, 6), bend)
    dense = soft_threshold(fractal(rng, size, 1.8, 120), rng.normal(-0.3, 0.5), 2)
    built = house.each(rng.random(house.cells)) < 0.25 + 0.5 * dense
    kind = house.each(rng.random(house.cells))
    garden = np.where(built, 0.1, 0.8)
    shares: dict[str, Layer] = {
        "roof": built * (kind < 0.4),
        "tile": built * (kind >= 0.4) * 0.9,
        "asphalt": 0.15 + 0.25 * dense,
        "grass": garden * green,
        "straw": garden * (1 - green),
        "broadleaf": 0.4 * garden,
    }
    shade = house.each(np.exp(0.25 * rng.standard_normal(house.cells)))
    yield Paint(shares, shade, np.where(built, house.each(rng.gamma(0.5, 2.0, house.cells)), 1.0))
    yield Paint({"asphalt": 1.0, "grass": 0.2 * green}, mask=block.edge < 0.9)


def shrubland(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Dark shrubs in clumps over bright soil."""
    bush = soft_threshold(clumps(rng, size, rng.uniform(6, 10), 0.4), rng.normal(0.2, 0.3), 3)
    ground = soft_threshold(fractal(rng, size, 1.5, 50), 0, 1)
    yield Paint({"shrub": bush, "soil": (1 - bush) * ground, "straw": (1 - bush) * (1 - ground) * 0.8})


def savanna(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Single crowns, a pixel or two wide, scattered over grass that dries."""
    seeds = (rng.random((size, size), np.float32) < rng.uniform(0.008, 0.02)).astype(np.float32)
    crown = np.clip(blur(seeds, 1.3) * 12, 0, 1)
    shares = {
        "broadleaf": crown * (0.4 + 0.6 * green),
        "shrub": crown * 0.3,
        "straw": (1 - crown) * (1.1 - green),
        "grass": (1 - crown) * green,
    }
    yield Paint(shares, 1 + 0.06 * fractal(rng, size, 1.2, 40), 1 + 1.2 * crown)


def grassland(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Smooth; greener where it is moist."""
    moist = np.clip(green + 0.2 * fractal(rng, size, 1.8, 70), 0, 1)
    yield Paint({"grass": moist, "straw": 1 - moist, "loam": 0.1}, 1 + 0.04 * clumps(rng, size, 16))


def wetland(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Reeds and wet meadow around pools and winding channels."""
    pool = soft_threshold(clumps(rng, size, rng.uniform(13, 22), 0.35), rng.normal(0.5, 0.25), 5)
    channel = np.exp(-((clumps(rng, size, 40, 0.4) / 0.12) ** 2))
    wet = np.maximum(pool, channel)
    tuft = soft_threshold(clumps(rng, size, 5), 0, 1.5)
    grass, straw = (1 - wet) * green * 0.6, (1 - wet) * (1 - green) * 0.6
    yield Paint({"water": wet * 0.9, "reed": (1 - wet) * (0.4 + tuft), "grass": grass, "straw": straw})


def barren(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Dunes, or rock cut by gullies."""
    if rng.random() < 0.5:
        angle = rng.uniform(0, np.pi)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        along = x * np.cos(angle) + y * np.sin(angle) + 6 * fractal(rng, size, 2.0, 90)
        crest = np.sin(along.astype(np.float32) * np.float32(2 * np.pi / rng.uniform(8, 15)))
        yield Paint({"sand": 1.0, "soil": 0.4 - 0.3 * crest}, 1 + 0.13 * crest, np.exp(0.5 * crest))
    else:
        gully = np.abs(fractal(rng, size, 1.5, 40))
        shares: dict[str, Layer] = {"rock": 1.0, "soil": 1.2 * np.exp(-gully / 0.3), "sand": 0.2}
        yield Paint(shares, 0.8 + 0.2 * gully, np.exp(0.5 * gully - 0.4))


def water(rng: Rng, size: int, green: float) -> Iterator[Paint]:
    """Calm, with plumes of sediment; the wind roughens it for the radar in streaks."""
    plume = soft_threshold(fractal(rng, size, 2.0, 120), rng.normal(0.5, 0.7), 1.5)
    wind = rng.normal(0, 0.6) + 0.25 * fractal(rng, size, 1.6, 60)
    yield Paint({"water": 1 - plume, "turbid": plume}, 1.0, np.exp(wind))


PATTERNS: dict[Igbp, Pattern] = {
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
