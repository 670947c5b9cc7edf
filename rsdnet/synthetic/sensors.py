"""Sentinel-1's and Sentinel-2's images of a synthetic place."""

import numpy as np
from numpy.typing import NDArray

from rsdnet import bands
from rsdnet.synthetic.fields import Array, Rng, blur, fractal, slope, soft_threshold
from rsdnet.synthetic.materials import NAMES, REFLECTANCE, SIGMA0
from rsdnet.synthetic.patterns import Canvas

# Of `bands.S2L1C`: centre in nm (ESA Sentinel-2 user handbook, table 1); water vapour takes most of B09, all of B10.
WAVELENGTH = np.array([443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1375, 1610, 2190], np.float32)
TRANSMISSION = (*[1.0] * 9, 0.35, 0.004, 1.0, 1.0)

SUN = {"spring": 48.0, "summer": 60.0, "fall": 38.0, "winter": 24.0}  # elevation at 10:30, degrees, mid latitudes


def averaged(image: Array, factor: int) -> Array:
    """Block means, (ceil(H / factor), ceil(W / factor)); incomplete blocks are filled with the edge."""
    padded = np.pad(image, (0, -image.shape[-1] % factor), "edge")
    n = padded.shape[0] // factor
    return padded.reshape(n, factor, n, factor).mean((1, 3))


def optical(rng: Rng, canvas: Canvas, height: Array, season: str) -> NDArray[np.uint16]:
    """(13, H, W) L1C digital numbers: top-of-atmosphere reflectance x 10000, in the order of `bands.S2L1C`.

    Sun on the terrain, atmosphere, resolution and noise. height: (H, W) m. Bands of 20 and 60 m are repeated on the
    10 m grid, as SEN12MS stores them.
    """
    size = height.shape[-1]
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
    numbers = np.empty((len(WAVELENGTH), size, size), np.uint16)
    for b, (name, dim) in enumerate(zip(bands.S2L1C, TRANSMISSION, strict=True)):
        veil = haze * np.float32((490 / WAVELENGTH[b]) ** 1.3)
        top = np.float32(gain[b] * dim) * canvas.mixed(spectra[:, b]) * shading * (1 - np.minimum(2 * veil, 0.6))
        top += np.float32(clear[b] * dim) + veil * dim + cirrus
        factor = bands.BANDS[name].resolution // 10
        top = averaged(top, factor) if factor > 1 else top
        noise = np.sqrt(4e-6 + 2e-5 * top).astype(np.float32)  # signal to noise near 100
        top = np.rint((top + noise * rng.standard_normal(top.shape, np.float32)) * 10000).clip(1, 20000)  # 0 is nodata
        numbers[b] = top.repeat(factor, 0).repeat(factor, 1)[:size, :size]
    return numbers


def radar(rng: Rng, canvas: Canvas, height: Array) -> Array:
    """(2, H, W) sigma0 in dB, VV then VH: relief, moisture, and speckle of about 4.5 looks. height: (H, W) m."""
    look = np.radians(rng.choice([80.0, 280.0]))  # ascending, descending
    relief = np.clip(1 - 1.6 * slope(height, look), 0.15, 4)  # foreslopes bright, backslopes dark
    moisture = rng.normal(0, 1.2)
    images = np.empty((2, *height.shape), np.float32)
    for p in range(2):
        sigma0 = SIGMA0[:, p] + rng.normal(0, 1.5, len(NAMES)) + moisture + rng.normal(0, 1.0)
        power = canvas.mixed(np.array([10 ** (level / 10) for level in sigma0], np.float32))
        power = blur(power * canvas.echo, 0.6) * relief
        speckle = blur(rng.standard_gamma(1.5, height.shape, np.float32) / np.float32(1.5), 0.45)
        power = np.maximum(power, 1e-5) * np.maximum(speckle, 0.02) + np.float32(10 ** (-2.6 - 0.4 * p))  # noise floor
        images[p] = 10 * np.log10(power)
    return images
