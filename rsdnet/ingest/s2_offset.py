"""The +1000 DN that Sentinel-2 products carry since processing baseline 04.00: find it, subtract it.

ESA, Sentinel-2 Products Specification, RADIO_ADD_OFFSET: from 25 January 2022 DN = 10000 * reflectance + 1000,
so that reflectances below zero can be written. Reprocessed older products (Collection 1) carry it too, and some
archives subtract it again, so neither the date nor the baseline alone tells.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

OFFSET = 1000
# Reflectance below -0.02 does not occur but in dead pixels: with the offset no valid DN lies under this.
_DARK = 800
_DEAD_PIXELS = 0.001  # share of pixels that may lie under it all the same
# Without haze every scene has pixels this dark in some band but the blue ones: vegetation in red, water and shadow
# in infrared, snow in the short-wave infrared. Where none are, the file is too bright to tell.
_NEAR = 1250
_BLUE = ("B01", "B02")  # haze lifts them, deserts are dark in them

_BASELINE = re.compile(r"_N(\d\d)(\d\d)_")


def baseline(texts: Mapping[str, str]) -> float | None:
    """The processing baseline that a product's metadata tell (4.0 for "04.00" or "_N0400_"), None if they do not.

    texts: tags by name, as GDAL or a metadata file gives them. 99.99 marks a product of no official baseline.
    """
    for name, text in texts.items():
        match = _BASELINE.search(text)
        try:
            value = float(text if "BASELINE" in name.upper() else ".".join(match.groups() if match else ""))
        except ValueError:
            continue
        return None if value > 99 else value
    return None


def decide(bands: Mapping[str, np.ndarray], tags: Mapping[str, str]) -> tuple[int, str]:
    """(0 or 1000, why) for the S2 bands of one file, canonical name -> (H, W) DN with 0 for nodata.

    Dark pixels rule the offset out whatever the metadata say, since an archive may have subtracted it; then
    the metadata's baseline counts; then whether the darkest pixels lie close above 1000. A file that is
    bright everywhere and has no metadata is taken to have none, "undecided".
    """
    if any(band.dtype.kind not in "iu" for band in bands.values()):
        return 0, "values are not whole DN"
    lowest = _per_pixel_minimum(bands.values())
    if lowest.size == 0:
        return 0, "undecided: no valid pixel"
    dark = float(np.mean(lowest < _DARK))
    if dark > _DEAD_PIXELS:
        return 0, f"{dark:.1%} of the pixels lie under DN {_DARK}"
    told = baseline(tags)
    if told is not None:
        return (OFFSET if told >= 4 else 0), f"processing baseline {told:05.2f}"
    rest = [band for name, band in bands.items() if name not in _BLUE] or list(bands.values())
    near = float(np.percentile(_per_pixel_minimum(rest), 100 * _DEAD_PIXELS))
    if near < _NEAR:
        return OFFSET, f"the darkest pixels lie at DN {near:.0f}"
    return 0, f"undecided: the darkest pixels lie at DN {near:.0f}, too bright to tell"


def _per_pixel_minimum(bands: Iterable[np.ndarray]) -> np.ndarray:
    """Minimum over bands of one size, of pixels valid in all of them; bands of several sizes, one after another."""
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for band in bands:
        by_shape.setdefault(band.shape, []).append(band)
    minima = [np.minimum.reduce(same)[np.all(same, axis=0)] for same in by_shape.values()]
    return np.concatenate([np.empty(0, np.int64), *minima])


def subtract(band: np.ndarray, offset: int) -> np.ndarray:
    """(H, W) DN less the offset, same type. 0 stays 0, nodata; a valid DN up to the offset becomes 1.

    Its reflectance is at or below zero; 1, a reflectance of 0.0001, is the least that is not nodata.
    Floats, which have NaN for nodata, are subtracted plainly.
    """
    if offset == 0:
        return band
    if band.dtype.kind == "f":
        return band - band.dtype.type(offset)
    lower = np.maximum(band.astype(np.int32) - offset, 1).astype(band.dtype)
    return np.where(band == 0, band, lower)
