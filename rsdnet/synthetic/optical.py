"""Sentinel-2's image of a synthetic place: sun on the terrain, atmosphere, resolution and noise."""

import numpy as np
from numpy.typing import NDArray

from rsdnet.synthetic.fields import Array, fractal, slope, soft_threshold
from rsdnet.synthetic.materials import NAMES, REFLECTANCE
from rsdnet.synthetic.patterns import Canvas

# Sentinel-2 bands as SEN12MS orders them: centre (nm) and resolution (m), ESA Sentinel-2 user handbook, table 1.
MS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
WAVELENGTH = np.array([443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190], np.float32)
RESOLUTION = (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20)
TRANSMISSION = (*[1.0] * 9, 0.35, 0.004, 1.0, 1.0)  # water vapour takes most of B09 and all of B10

SUN = {"spring": 48.0, "summer": 60.0, "fall": 38.0, "winter": 24.0}  # elevation at 10:30, degrees, mid latitudes


def averaged(image: Array, factor: int) -> Array:
    """Block means, (ceil(H / factor), ceil(W / factor)); incomplete blocks are filled with the edge."""
    spare = -image.shape[-1] % factor
    padded = np.pad(image, (0, spare), "edge")
    n = padded.shape[0] // factor
    return padded.reshape(n, factor, n, factor).mean((1, 3))


def repeated(image: Array, factor: int, size: int) -> Array:
    """(size, size) nearest-neighbour enlargement, as SEN12MS stores 20 and 60 m bands on the 10 m grid."""
    return image.repeat(factor, 0).repeat(factor, 1)[:size, :size]


def optical(canvas: Canvas, height: Array, season: str) -> NDArray[np.uint16]:
    """(13, H, W) L1C digital numbers: top-of-atmosphere reflectance x 10000, in the order of `MS_BANDS`."""
    rng, size = canvas.rng, canvas.size
    elevation = np.radians(np.clip(SUN[season] + rng.normal(0, 8), 15, 80))
    lit = np.clip(1 - slope(height, rng.normal(np.radians(150), 0.3)) / np.tan(elevation), 0.25, 2.5)
    level = (WAVELENGTH - 1000) / 1200  # -0.5 in the blue, 1 in the short-wave infrared
    # every place has species, soils and a year of its own
    hue = rng.normal(0, 0.18, (len(NAMES), 1)) + rng.normal(0, 0.15, (len(NAMES), 1)) * level
    spectra = REFLECTANCE * np.exp(hue).astype(np.float32)
    gain = np.exp(rng.normal(0, 0.22) + rng.normal(0, 0.1, len(WAVELENGTH)))
    # Rayleigh scattering falls as the 4th power of the wavelength, haze about as its 1.3rd (Angstrom exponent)
    clear = 0.065 * (490 / WAVELENGTH) ** 4
    haze = np.exp(rng.normal(-3.3, 0.8) + 0.35 * fractal(rng, size, 2.0, 1.5 * size)).astype(np.float32)
    cirrus = np.float32(0.004 * rng.gamma(0.5)) * soft_threshold(fractal(rng, size, 1.8, size), 0.5, 2)
    shading = canvas.shade * lit
    numbers = np.empty((len(MS_BANDS), size, size), np.uint16)
    for b in range(len(MS_BANDS)):
        dim = TRANSMISSION[b]
        veil = haze * np.float32((490 / WAVELENGTH[b]) ** 1.3)
        top = np.float32(gain[b] * dim) * canvas.mixed(spectra[:, b]) * shading * (1 - np.minimum(2 * veil, 0.6))
        top += np.float32(clear[b] * dim) + veil * dim + cirrus
        factor = RESOLUTION[b] // 10
        top = averaged(top, factor) if factor > 1 else top
        noise = np.sqrt(4e-6 + 2e-5 * top).astype(np.float32)  # signal to noise near 100
        top = top + noise * rng.standard_normal(top.shape, np.float32)
        numbers[b] = repeated(np.clip(np.rint(top * 10000), 1, 20000), factor, size)  # 0 would be nodata
    return numbers
