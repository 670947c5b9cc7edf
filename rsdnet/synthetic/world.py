"""Synthetic places: land cover, Sentinel-2 L1C digital numbers and Sentinel-1 backscatter of a spot that is not there.

`synthesise(seed, place, size, season)` goes the way a real image goes: a landscape with relief and a land-cover map;
every class a mixture of a few materials laid out in the class's own pattern (canopy, parcels and rows, blocks and
streets, pools, dunes ...); season, sun and atmosphere on top for the optical bands; moisture, slope, double bounce and
speckle for the radar. Brightness varies from place to place more than from class to class, so it is the pattern that
tells a class, and both sensors see the pattern.

Reflectances and backscatter are rounded, plausible values for such materials, chosen by hand in the ranges of the
ECOSTRESS (Meerdink et al. 2019) and USGS splib07 (Kokaly et al. 2017) spectral libraries and of Ulaby & Dobson's
handbook of radar scattering statistics (1989); no entry of theirs is copied.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Layer = NDArray[np.floating] | NDArray[np.bool_] | float  # (H, W), or the same everywhere
Rng = np.random.Generator

SEASONS = ("spring", "summer", "fall", "winter")
GREEN = {"spring": 0.75, "summer": 0.9, "fall": 0.5, "winter": 0.25}  # share of green in what grows and dries
SUN = {"spring": 48.0, "summer": 60.0, "fall": 38.0, "winter": 24.0}  # sun's elevation at 10:30, degrees, mid latitudes

# Sentinel-2 bands as SEN12MS orders them: centre (nm) and resolution (m), ESA Sentinel-2 user handbook, table 1.
MS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
WAVELENGTH = np.array([443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190], np.float32)
RESOLUTION = (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20)

# material: reflectance in per cent for each of MS_BANDS; then C-band sigma0 in dB, VV and VH, at 39 degrees incidence
MATERIALS: dict[str, tuple[tuple[float, ...], tuple[float, float]]] = {
    "water": ((3, 3.2, 3, 2, 1.6, 1.2, 1.1, 0.9, 0.8, 0.7, 0.5, 0.5, 0.4), (-19.0, -26.0)),
    "turbid": ((6, 7, 10, 9, 8, 5, 4.8, 4, 3.5, 3, 1, 1, 0.7), (-18.0, -25.5)),
    "conifer": ((2, 2.6, 4.2, 2.9, 6, 15, 19, 20.5, 21.5, 21, 5, 10, 4.8), (-9.5, -15.5)),
    "broadleaf": ((2.2, 3, 6, 3.4, 9, 26, 34, 36, 37, 36, 8, 18, 8), (-9.0, -14.5)),
    "twigs": ((4, 5, 7, 8, 10, 14, 16, 18, 19, 19, 8, 22, 15), (-10.0, -16.0)),
    "grass": ((3, 4, 8, 5, 12, 26, 32, 34, 36, 35, 10, 22, 11), (-12.0, -19.0)),
    "straw": ((6, 8, 12, 15, 19, 23, 25, 27, 29, 29, 14, 34, 25), (-13.0, -20.5)),
    "crop": ((2.3, 3.2, 7, 3.6, 10, 32, 42, 45, 47, 45, 10, 20, 9), (-11.0, -17.0)),
    "loam": ((5, 6, 8, 10, 12, 13, 15, 16, 17, 18, 10, 24, 20), (-11.0, -20.0)),
    "soil": ((9, 12, 17, 22, 25, 27, 29, 31, 33, 34, 20, 42, 36), (-15.0, -23.0)),
    "sand": ((13, 17, 24, 30, 33, 35, 37, 39, 41, 41, 28, 49, 45), (-17.0, -25.0)),
    "rock": ((8, 9.5, 12, 15, 16, 17, 18, 19, 20, 20, 14, 25, 22), (-9.0, -17.5)),
    "asphalt": ((8, 9, 10, 11, 12, 12, 13, 13, 14, 14, 10, 16, 15), (-14.0, -22.0)),
    "roof": ((18, 21, 24, 26, 27, 28, 29, 30, 31, 31, 18, 32, 28), (-4.0, -13.0)),
    "tile": ((6, 8, 11, 19, 21, 22, 24, 25, 26, 27, 14, 33, 29), (-4.5, -13.5)),
    "reed": ((3, 4, 7, 6, 10, 18, 22, 24, 25, 25, 9, 17, 9), (-10.0, -17.5)),
    "shrub": ((3, 4, 6, 6, 10, 17, 20, 22, 23, 23, 9, 19, 12), (-11.0, -17.5)),
}
NAMES = tuple(MATERIALS)
REFLECTANCE = np.array([m[0] for m in MATERIALS.values()], np.float32) / 100  # (materials, 13)
SIGMA0 = np.array([m[1] for m in MATERIALS.values()], np.float32)  # (materials, 2) dB

# IGBP codes (MODIS MCD12Q1 user guide, table 3) that the maps use.
CONIFER, BROADLEAF, MIXED, SHRUB, SAVANNA, GRASS, WETLAND, CROP, URBAN, BARREN, WATER = (
    1,
    4,
    5,
    7,
    9,
    10,
    11,
    12,
    13,
    16,
    17,
)

# landscape: (classes and their weights, relief in m over the place, share of water, settlements)
LANDSCAPES: tuple[tuple[dict[int, float], float, float, float], ...] = (
    ({CROP: 1.0, GRASS: 0.4, BROADLEAF: 0.4}, 15, 0.02, 0.3),  # farmland
    ({CROP: 0.5, GRASS: 0.8, MIXED: 0.6}, 60, 0.05, 0.2),  # hills
    ({URBAN: 1.0, GRASS: 0.3, CROP: 0.3, BROADLEAF: 0.2}, 20, 0.05, 0.0),  # city
    ({CONIFER: 1.0, BROADLEAF: 0.5, GRASS: 0.4, BARREN: 0.4}, 220, 0.05, 0.0),  # mountains
    ({BARREN: 1.0, SHRUB: 0.7}, 120, 0.0, 0.1),  # arid
    ({SAVANNA: 1.0, SHRUB: 0.7, GRASS: 0.5}, 40, 0.02, 0.1),  # dry tropics
    ({WETLAND: 1.0, GRASS: 0.4, CONIFER: 0.3}, 8, 0.2, 0.0),  # marsh
    ({WETLAND: 0.4, CROP: 0.4, SAVANNA: 0.5, MIXED: 0.3}, 25, 0.35, 0.2),  # lakes and coasts
)


class Place(NamedTuple):
    """One synthetic place; H = W = size pixels of 10 m."""

    cover: NDArray[np.uint8]  # (H, W) IGBP code
    ms: NDArray[np.uint16]  # (13, H, W) L1C digital numbers, MS_BANDS' order
    sar: Array  # (2, H, W) sigma0 in dB, VV then VH


class Canvas(NamedTuple):
    """What the pattern of a class paints on: materials' shares and how bright each pixel is beside its material."""

    rng: Rng
    size: int
    green: float  # 0..1
    share: Array  # (materials, H, W), sums to 1
    shade: Array  # (H, W) factor on reflectance
    echo: Array  # (H, W) factor on backscatter power

    def paint(
        self,
        where: NDArray[np.bool_],
        shares: dict[str, Layer],
        shade: Layer = 1.0,
        echo: Layer = 1.0,
    ) -> None:
        """Lay a mixture of materials where `where` holds; shares are normalised to 1."""
        total = sum(np.maximum(s, 0) for s in shares.values())
        for name, s in shares.items():
            layer = np.broadcast_to(np.maximum(s, 0) / total, where.shape)
            self.share[NAMES.index(name)][where] = layer[where]
        self.shade[where] = np.broadcast_to(np.asarray(shade, np.float32), where.shape)[where]
        self.echo[where] = np.broadcast_to(np.asarray(echo, np.float32), where.shape)[where]


# ---------------------------------------------------------------------- fields


def spectrum(size: int) -> Array:
    """Wave number of each bin of `rfft2`, cycles a pixel, (size, size // 2 + 1)."""
    return np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]).astype(np.float32)


def filtered(white: Array, gain: NDArray[np.floating]) -> Array:
    """White noise through a filter in the frequency domain, to mean 0 and deviation 1."""
    coefficients = np.fft.rfft2(white) * gain
    coefficients[0, 0] = 0
    field = np.fft.irfft2(coefficients, s=white.shape).astype(np.float32)
    return field / np.float32(field.std() + 1e-9)


def fractal(rng: Rng, size: int, exponent: float, longest: float = 1e9) -> Array:
    """A field whose amplitude falls as wave number ** -exponent, flat beyond the wavelength `longest` (px)."""
    k = np.maximum(spectrum(size), 1 / min(longest, 2 * size))
    return filtered(rng.standard_normal((size, size), np.float32), k**-exponent)


def clumps(rng: Rng, size: int, wavelength: float, width: float = 0.5) -> Array:
    """A field of blobs about half a `wavelength` (px) wide: a band of wave numbers, log-normal of deviation `width`."""
    k = np.maximum(spectrum(size), 1e-6)
    return filtered(rng.standard_normal((size, size), np.float32), np.exp(-0.5 * (np.log(k * wavelength) / width) ** 2))


def soften(image: Array, sigma: float) -> Array:
    """Gaussian blur, sigma in px (periodic edges)."""
    gain = np.exp(-2 * (np.pi * sigma * spectrum(image.shape[-1])) ** 2)
    return np.fft.irfft2(np.fft.rfft2(image) * gain, s=image.shape).astype(np.float32)


def step(field: Array, threshold: float, sharpness: float = 4.0) -> Array:
    """A soft threshold: 0 below, 1 above."""
    return 1 / (1 + np.exp(-sharpness * (field - np.float32(threshold))))


class Parcels(NamedTuple):
    """A plane cut into strips, and every strip into cells."""

    cell: NDArray[np.intp]  # (H, W) number of the cell
    cells: int
    edge: Array  # (H, W) px to the nearest cell edge
    u: Array  # (H, W) px along the strips' normal
    v: Array

    def each(self, values: NDArray[np.floating]) -> Array:
        """A value a cell to a value a pixel."""
        return values.astype(np.float32)[self.cell]


def parcels(
    rng: Rng,
    size: int,
    angle: float,
    across: tuple[float, float],
    along: tuple[float, float],
    bend: Array | float = 0.0,
) -> Parcels:
    """Strips `across` px wide at `angle` (radians), cut to cells `along` px long; `bend` shifts their edges (px)."""
    y, x = np.mgrid[:size, :size].astype(np.float32) - size / 2
    u = (x * np.cos(angle) + y * np.sin(angle) + bend).astype(np.float32)
    v = (y * np.cos(angle) - x * np.sin(angle) + bend).astype(np.float32)
    strips = int(1.7 * size / across[0]) + 2
    edges = (np.cumsum(rng.uniform(*across, strips)) - 0.85 * size).astype(np.float32)
    strip = np.clip(np.searchsorted(edges, u.ravel()).reshape(size, size), 1, strips - 1)
    to_strip = np.minimum(np.abs(u - edges[strip - 1]), np.abs(edges[strip] - u))
    length = rng.uniform(*along, strips).astype(np.float32)[strip]
    at = (v + 2 * size) / length + rng.random(strips).astype(np.float32)[strip]
    row = np.floor(at)
    to_row = np.minimum(at - row, row + 1 - at) * length
    rows = int(4 * size / along[0]) + 3
    return Parcels(
        (strip * rows + np.minimum(row, rows - 1)).astype(np.intp), strips * rows, np.minimum(to_strip, to_row), u, v
    )


# ---------------------------------------------------------------------- land cover


def land_cover(rng: Rng, size: int, landscape: int, height: Array) -> NDArray[np.uint8]:
    """IGBP codes in natural shapes: classes contend by fractal fields; water fills the low ground; rivers; villages."""
    weights, _, water, villages = LANDSCAPES[landscape]
    best = np.full((size, size), -np.inf, np.float32)
    cover = np.zeros((size, size), np.uint8)
    for code, weight in weights.items():
        field = fractal(rng, size, 2.7, 2 * size) + np.float32(1.2 * np.log(weight) + 0.5 * rng.standard_normal())
        cover[field > best] = code
        best = np.maximum(best, field)
    low = height + 0.1 * fractal(rng, size, 1.5, size / 4)
    share = min(water * rng.gamma(1.0), 0.7)
    if share > 0.02:
        level = np.quantile(low, share)
        if WETLAND in weights:
            cover[low < level + 0.25] = WETLAND
        cover[low < level] = WATER
    if rng.random() < 0.15 and landscape != 4:
        bed = fractal(rng, size, 2.4, size)
        slope = np.hypot(*np.gradient(bed)) + 1e-3
        cover[np.abs(bed) / slope < rng.uniform(1.0, 4.0)] = WATER
    if rng.random() < villages:
        town = fractal(rng, size, 2.0, size / 2)
        cover[(town > np.quantile(town, 1 - rng.uniform(0.05, 0.15))) & (cover != WATER)] = URBAN
    return cover


# ---------------------------------------------------------------------- patterns of classes


def forest(kind: str) -> Callable[[Canvas, NDArray[np.bool_]], None]:
    """Canopy in clumps with shaded gaps, stands of two species, here and there a clear-cut."""

    def paint(canvas: Canvas, where: NDArray[np.bool_]) -> None:
        rng, size = canvas.rng, canvas.size
        canopy = clumps(rng, size, rng.uniform(5, 8))
        stand = step(fractal(rng, size, 1.5, 60), rng.normal(), 3)
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

    return paint


def crops(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Straight parcels, each a crop at its own stage, with drill strips; tracks and hedges between them."""
    rng, size = canvas.rng, canvas.size
    across = rng.uniform(9, 18)
    field = parcels(
        rng,
        size,
        rng.uniform(0, np.pi),
        (across, 2.2 * across),
        (1.5 * across, 4 * across),
        0.8 * fractal(rng, size, 2.0, 100),
    )
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
    dense = step(fractal(rng, size, 1.8, 120), rng.normal(-0.3, 0.5), 2)
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
    bush = step(clumps(rng, size, rng.uniform(6, 10), 0.4), rng.normal(0.2, 0.3), 3)
    ground = step(fractal(rng, size, 1.5, 50), 0, 1)
    canvas.paint(where, {"shrub": bush, "soil": (1 - bush) * ground, "straw": (1 - bush) * (1 - ground) * 0.8})


def savanna(canvas: Canvas, where: NDArray[np.bool_]) -> None:
    """Single crowns, a pixel or two wide, scattered over grass that dries."""
    rng, size = canvas.rng, canvas.size
    seeds = (rng.random((size, size), np.float32) < rng.uniform(0.008, 0.02)).astype(np.float32)
    crown = np.clip(soften(seeds, 1.3) * 12, 0, 1)
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
    pool = step(clumps(rng, size, rng.uniform(13, 22), 0.35), rng.normal(0.5, 0.25), 5)
    channel = np.exp(-((clumps(rng, size, 40, 0.4) / 0.12) ** 2))
    wet = np.maximum(pool, channel)
    tuft = step(clumps(rng, size, 5), 0, 1.5)
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
    plume = step(fractal(rng, size, 2.0, 120), rng.normal(0.5, 0.7), 1.5)
    wind = rng.normal(0, 0.6) + 0.25 * fractal(rng, size, 1.6, 60)
    canvas.paint(where, {"water": 1 - plume, "turbid": plume}, 1.0, np.exp(wind))


PATTERNS: dict[int, Callable[[Canvas, NDArray[np.bool_]], None]] = {
    CONIFER: forest("conifer"),
    BROADLEAF: forest("broadleaf"),
    MIXED: forest("mixed"),
    SHRUB: shrubland,
    SAVANNA: savanna,
    GRASS: grassland,
    WETLAND: wetland,
    CROP: crops,
    URBAN: urban,
    BARREN: barren,
    WATER: water,
}


# ---------------------------------------------------------------------- sensors


def slope(height: Array, azimuth: float) -> Array:
    """Rise over run (10 m pixels) towards `azimuth` (radians)."""
    dy, dx = np.gradient(height / 10)
    return (dx * np.sin(azimuth) - dy * np.cos(azimuth)).astype(np.float32)


def averaged(image: Array, factor: int) -> Array:
    """Means over `factor` x `factor` pixels, (ceil(H / factor), ceil(W / factor)); the edge fills cut blocks."""
    spare = -image.shape[-1] % factor
    padded = np.pad(image, (0, spare), "edge")
    n = padded.shape[0] // factor
    return padded.reshape(n, factor, n, factor).mean((1, 3))


def repeated(image: Array, factor: int, size: int) -> Array:
    """Back to (size, size) by repeating pixels, as SEN12MS stores its 20 and 60 m bands on the 10 m grid."""
    return image.repeat(factor, 0).repeat(factor, 1)[:size, :size]


def optical(canvas: Canvas, height: Array, season: str) -> NDArray[np.uint16]:
    """What Sentinel-2 sees at the top of the atmosphere: L1C digital numbers, reflectance x 10000, (13, H, W)."""
    rng, size = canvas.rng, canvas.size
    elevation = np.radians(np.clip(SUN[season] + rng.normal(0, 8), 15, 80))
    lit = np.clip(1 - slope(height, rng.normal(np.radians(150), 0.3)) / np.tan(elevation), 0.25, 2.5)
    level = (WAVELENGTH - 1000) / 1200  # -0.5 in the blue .. 1 in the short-wave infrared
    hue = (
        rng.normal(0, 0.18, (len(NAMES), 1)) + rng.normal(0, 0.15, (len(NAMES), 1)) * level
    )  # a species, a soil, a year of one's own
    spectra = REFLECTANCE * np.exp(hue).astype(np.float32)
    gain = np.exp(rng.normal(0, 0.22) + rng.normal(0, 0.1, len(WAVELENGTH)))
    # Rayleigh scattering falls as the 4th power of the wavelength, haze about as its 1.3rd (Angstrom exponent)
    clear = 0.065 * (490 / WAVELENGTH) ** 4
    haze = np.exp(rng.normal(-3.3, 0.8) + 0.35 * fractal(rng, size, 2.0, 1.5 * size)).astype(np.float32)
    cirrus = np.float32(0.004 * rng.gamma(0.5)) * step(fractal(rng, size, 1.8, size), 0.5, 2)
    dim = (
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        0.35,
        0.004,
        1.0,
        1.0,
    )  # water vapour takes most of B09 and all of B10
    shading = canvas.shade * lit
    numbers = np.empty((len(MS_BANDS), size, size), np.uint16)
    for b in range(len(MS_BANDS)):
        ground = np.zeros((size, size), np.float32)
        for m in range(len(NAMES)):
            if canvas.share[m].any():
                ground += spectra[m, b] * canvas.share[m]
        veil = haze * np.float32((490 / WAVELENGTH[b]) ** 1.3)
        top = np.float32(gain[b] * dim[b]) * ground * shading * (1 - np.minimum(2 * veil, 0.6))
        top += np.float32(clear[b] * dim[b]) + veil * dim[b] + cirrus
        factor = RESOLUTION[b] // 10
        top = averaged(top, factor) if factor > 1 else top
        noise = np.sqrt(4e-6 + 2e-5 * top).astype(np.float32)  # signal to noise near 100
        top = top + noise * rng.standard_normal(top.shape, np.float32)
        numbers[b] = repeated(np.clip(np.rint(top * 10000), 1, 20000), factor, size)  # 0 would be nodata
    return numbers


def radar(canvas: Canvas, height: Array) -> Array:
    """What Sentinel-1 sees: sigma0 in dB, VV and VH, (2, H, W), with speckle of about 4.5 looks."""
    rng, size = canvas.rng, canvas.size
    look = np.radians(rng.choice([80.0, 280.0]))  # ascending, descending
    facing = slope(height, look)
    relief = np.clip(1 - 1.6 * facing, 0.15, 4)  # foreslopes bright, backslopes dark
    moisture = rng.normal(0, 1.2)
    images = np.empty((2, size, size), np.float32)
    for p in range(2):
        power = np.zeros((size, size), np.float32)
        sigma0 = SIGMA0[:, p] + rng.normal(0, 1.5, len(NAMES)) + moisture + rng.normal(0, 1.0)
        for m in range(len(NAMES)):
            if canvas.share[m].any():
                power += np.float32(10 ** (sigma0[m] / 10)) * canvas.share[m]
        power = soften(power * canvas.echo, 0.6) * relief
        speckle = soften(rng.standard_gamma(1.5, (size, size), np.float32) / np.float32(1.5), 0.45)
        power = np.maximum(power, 1e-5) * np.maximum(speckle, 0.02) + np.float32(10 ** (-2.6 - 0.4 * p))  # noise floor
        images[p] = 10 * np.log10(power)
    return images


def synthesise(seed: int, place: int, size: int, season: str) -> Place:
    """Place number `place` of the world `seed`, `size` px wide, seen in `season`: a pure function of the four."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, place])))
    landscape = int(rng.integers(len(LANDSCAPES)))
    shape = fractal(rng, size, 2.0, size)
    cover = land_cover(rng, size, landscape, shape)
    height = soften(shape, 0.8) * np.float32(LANDSCAPES[landscape][1] * rng.uniform(0.4, 1.0))
    height[cover == WATER] = 0.9 * height[cover == WATER].mean() if (cover == WATER).any() else 0
    canvas = Canvas(
        rng,
        size,
        float(np.clip(GREEN[season] + rng.normal(0, 0.15), 0.05, 1)),
        np.zeros((len(NAMES), size, size), np.float32),
        np.ones((size, size), np.float32),
        np.ones((size, size), np.float32),
    )
    for code, pattern in PATTERNS.items():
        where = cover == code
        if where.any():
            canvas.share[:, where] = 0
            pattern(canvas, where)
    return Place(cover, optical(canvas, height, season), radar(canvas, height))
