"""Sentinel-1's image of a synthetic place: relief, moisture and speckle."""

import numpy as np

from rsdnet.synthetic.fields import Array, blur, slope
from rsdnet.synthetic.materials import NAMES, SIGMA0
from rsdnet.synthetic.patterns import Canvas


def radar(canvas: Canvas, height: Array) -> Array:
    """(2, H, W) sigma0 in dB, VV then VH, with speckle of about 4.5 looks."""
    rng, size = canvas.rng, canvas.size
    look = np.radians(rng.choice([80.0, 280.0]))  # ascending, descending
    relief = np.clip(1 - 1.6 * slope(height, look), 0.15, 4)  # foreslopes bright, backslopes dark
    moisture = rng.normal(0, 1.2)
    images = np.empty((2, size, size), np.float32)
    for p in range(2):
        sigma0 = SIGMA0[:, p] + rng.normal(0, 1.5, len(NAMES)) + moisture + rng.normal(0, 1.0)
        power = canvas.mixed(np.array([10 ** (level / 10) for level in sigma0], np.float32))
        power = blur(power * canvas.echo, 0.6) * relief
        speckle = blur(rng.standard_gamma(1.5, (size, size), np.float32) / np.float32(1.5), 0.45)
        power = np.maximum(power, 1e-5) * np.maximum(speckle, 0.02) + np.float32(10 ** (-2.6 - 0.4 * p))  # noise floor
        images[p] = 10 * np.log10(power)
    return images
