"""Random fields: power-law and band-pass noise, and parcels, from which land cover, patterns and haze are made."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rng = np.random.Generator


def wave_number(size: int) -> Array:
    """(size, size // 2 + 1) wave number of each bin of `rfft2`, cycles per pixel."""
    return np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]).astype(np.float32)


def filtered(rng: Rng, size: int, gain: NDArray[np.floating]) -> Array:
    """White noise filtered by `gain` in the frequency domain, scaled to mean 0 and standard deviation 1."""
    coefficients = np.fft.rfft2(rng.standard_normal((size, size), np.float32)) * gain
    coefficients[0, 0] = 0
    field = np.fft.irfft2(coefficients, s=(size, size)).astype(np.float32)
    return field / np.float32(field.std() + 1e-9)


def fractal(rng: Rng, size: int, exponent: float, longest: float = 1e9) -> Array:
    """Power-law noise: amplitude ~ wave number ** -exponent, flat at wavelengths above `longest` (px)."""
    k = np.maximum(wave_number(size), 1 / min(longest, 2 * size))
    return filtered(rng, size, k**-exponent)


def clumps(rng: Rng, size: int, wavelength: float, width: float = 0.5) -> Array:
    """Band-pass noise, blobs about half a `wavelength` (px) wide: a log-normal band of deviation `width`."""
    k = np.maximum(wave_number(size), 1e-6)
    return filtered(rng, size, np.exp(-0.5 * (np.log(k * wavelength) / width) ** 2))


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur with periodic edges; sigma in px."""
    gain = np.exp(-2 * (np.pi * sigma * wave_number(image.shape[-1])) ** 2)
    return np.fft.irfft2(np.fft.rfft2(image) * gain, s=image.shape).astype(np.float32)


def soft_threshold(field: Array, threshold: float, sharpness: float = 4.0) -> Array:
    """Logistic threshold: 0 below, 1 above."""
    return 1 / (1 + np.exp(-sharpness * (field - np.float32(threshold))))


def slope(height: Array, azimuth: float) -> Array:
    """(H, W) rise over run of a height (m) on 10 m pixels, towards `azimuth` (radians)."""
    dy, dx = np.gradient(height / 10)
    return (dx * np.sin(azimuth) - dy * np.cos(azimuth)).astype(np.float32)


class Parcels(NamedTuple):
    """Parallel strips, each cut into cells."""

    cell: NDArray[np.intp]  # (H, W) number of the cell
    cells: int
    edge: Array  # (H, W) distance to the nearest cell edge, px
    u: Array  # (H, W) coordinate across the strips, px
    v: Array  # (H, W) coordinate along them, px

    def each(self, values: NDArray[np.floating]) -> Array:
        """(H, W) values of the pixels from `values` of the cells."""
        return values.astype(np.float32)[self.cell]


def parcels(
    rng: Rng, size: int, angle: float, across: tuple[float, float], along: tuple[float, float], bend: Array | float = 0
) -> Parcels:
    """Strips at `angle` (radians), `across` = (least, most) px wide, in cells `along` px long; `bend` shifts edges."""
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
    cell = (strip * rows + np.minimum(row, rows - 1)).astype(np.intp)
    return Parcels(cell, strips * rows, np.minimum(to_strip, to_row), u, v)
