"""Whether an image's values fit their unit, DN for S2 and dB for S1; else the likely unit, or fill.

Limits are wide, so that a sound image never meets them: S1 in dB is negative in more than a twentieth of the pixels
and stays within 100 dB; S2 in DN exceeds 2, but for a few dark pixels; no exact value fills a tenth of an image, but
for integers that really lie close together and for values clipped at one end.
"""

from collections.abc import Mapping

import numpy as np

from rsdnet.bands import REFLECTANCE
from rsdnet.errors import IMPLAUSIBLE, Unfit

_DB = 100.0  # Sentinel-1's backscatter lies between about -45 and 30 dB
_NO_DB = 60.0  # dB, beyond which several pixels of one exact value are no backscatter
_NEGATIVE = 0.05  # share of negative values up to which S1 is no dB: power has some after the subtraction of noise
_LEAST = -1.0  # dB; every image has less somewhere, and power nowhere
_POWER, _DIGITS = 10.0, 65_535.0  # greatest median of power, and of raw amplitude, which is stored in 16 bits
_MOST = 0.9  # share of pixels up to DN 2 from which S2 is reflectance, of which clouds and water's glint exceed 2
_BRIGHTEST = 2 * 65_535  # DN, far above the highest
_HUGE = 1e6  # no DN, dB, power or amplitude is beyond, but for squares of raw amplitude
_FILL = 0.1  # share of pixels with one exact value
_SATURATED = 0.01  # share of pixels at the highest value of a type: more are no saturation
_ZEROS = 0.01  # share of pixels of exactly 0.0 dB: a float hits it by no chance
_BELOW, _ABOVE = (-9999, -32767, -32768), (32767, 65535)  # usual fill
_FEW = 15  # pixels, which have a value in common by chance in small images
_PEAK = 10  # a fill is so many times as frequent as any other value
_APART = 1000.0  # DN between a fill and any other value, where it is an end of their range; else a tenth, in the median
_REFLECTED = 13.0  # greatest value of floats that are reflectance
_PROBE = 1021  # pixels looked at for a frequent value


def check_fill(name: str, path: str, pixels: np.ndarray, invalid: np.ndarray | None, kind: str, unit: str) -> None:
    """Raise Unfit if a band, as its file holds it, has values that are likely fill.

    pixels: (H, W). invalid: (H, W) bool, pixels without data; None: none. kind: "ms" or "sar".
    """
    if unit == "byte" or pixels.dtype.kind == "c":
        return
    keep = np.isfinite(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, bool)
    if (kind == "ms" and pixels.dtype.kind != "f") or unit in ("power", "amplitude"):
        keep &= pixels != 0  # no data anyway
    values = pixels[keep if invalid is None else keep & ~invalid]
    if values.size and (fill := _fill(values, kind, unit)) is not None:
        share = np.count_nonzero(values == fill) / pixels.size
        option = "--s2-nodata" if kind == "ms" else "--s1-nodata"
        told = f"{path}: {share:.1%} of {name} is exactly {fill:.9g}"
        raise Unfit(IMPLAUSIBLE, f"{told}, likely fill", f": give {option} {fill:.9g}")


def _fill(values: np.ndarray, kind: str, unit: str) -> float | None:
    """The value of valid pixels (n,) that is likely fill, None if there is none."""
    low, high = values.min(), values.max()
    for extreme in (low, high):
        digits = kind == "sar" and _HUGE < extreme <= _DIGITS**2 and np.count_nonzero(values == extreme) == 1
        if (abs(float(extreme)) > _HUGE and not digits) or extreme in _BELOW:
            return float(extreme)
    if unit == "db" and _beyond(values, far := max(float(low), float(high), key=abs)):
        return far
    if high in _ABOVE and (unit == "db" or np.count_nonzero(values == high) > max(_FEW, _SATURATED * values.size)):
        return float(high)
    if kind == "sar" and values.dtype.kind == "f" and np.count_nonzero(values == 0) > max(_FEW, _ZEROS * values.size):
        return 0.0
    found, counts = np.unique(values[:: max(1, values.size // _PROBE)], return_counts=True)
    value = found[counts.argmax()]
    if low == high or np.count_nonzero(values == value) <= max(_FEW, _FILL * values.size):
        return 0.0 if low == high == 0 else None  # all of a small image
    if value != 0 and counts.max() <= _PEAK * max(counts[found != value], default=0):
        return None  # integers close together, or pixels of 60 m as several of 10 m
    if kind == "sar" or value == 0:
        return float(value)
    rest = values[values != value].astype(np.float64)
    apart = np.abs(rest - float(value)) * (REFLECTANCE if values.dtype.kind == "f" and high <= _REFLECTED else 1)
    if value == low >= 0 or value == high:  # clipped, as over water or in clouds, but for a gap to the rest
        alone = apart.min() > max(_APART, np.ptp(apart) / (4 if value == high else 1))
    else:
        alone = np.median(apart) > _APART / 10
    return float(value) if alone else None


def _beyond(values: np.ndarray, extreme: float) -> bool:
    """Whether one exact value of S1 in dB is no backscatter, while the others may be."""
    if abs(extreme) <= _NO_DB or (abs(extreme) <= _DB and np.count_nonzero(values == extreme) <= _FEW):
        return False
    beyond = np.abs(values.astype(np.float64)) > _NO_DB
    return bool(np.mean(beyond) <= _FILL and np.mean(values < 0) > _NEGATIVE)


def check_s1(path: str, layers: Mapping[str, np.ndarray], unit: str) -> None:
    """Raise Unfit if S1 bands, {name: (H, W) float32 dB, NaN for nodata}, cannot be dB. unit: the file's."""
    found = _range(layers)
    if found is None:
        return
    low, high = found
    told = f"{path} has S1 values from {low:.4g} to {high:.4g} dB, which cannot be: likely"
    values = np.concatenate([layer[np.isfinite(layer)] for layer in layers.values()])
    positive = low > _LEAST or np.mean(values < 0) <= _NEGATIVE
    if max(-low, high) > _DB and not positive:
        how = "write the factor into the files as GDAL's scale, 0.01 for dB times 100"
        raise Unfit(IMPLAUSIBLE, f"{told} dB times a factor", f"; {how}")
    if max(-low, high) > _DB or (positive and low < high and unit != "amplitude"):
        likely = _likely_s1(float(np.median(values)), unit)
        raise Unfit(IMPLAUSIBLE, f"{told} {likely}", f", so give --s1-unit {likely}" if " " not in likely else "")


def _likely_s1(median: float, unit: str) -> str:
    """The likely unit of values that are none in `unit`, by their median in dB as they were taken; or more words."""
    median = median if unit == "db" else 10 ** (median / (10 if unit == "power" else 20))
    if unit == "db" and median <= _POWER:
        return "power"
    if unit != "amplitude" and median <= _DIGITS:
        return "amplitude"
    return "power without calibration: calibrate it, to sigma or gamma nought"


def check_s2(path: str, layers: Mapping[str, np.ndarray], unit: str, dtype: np.dtype) -> None:
    """Raise Unfit if S2 bands, {name: (H, W) DN, 0 or NaN for nodata}, cannot be DN. unit, dtype: the file's."""
    if unit == "dn" and dtype == np.uint8:
        raise Unfit(IMPLAUSIBLE, f"{path} holds 8 bits, so no DN", ": give --s2-unit byte")
    found = _range({name: layer if layer.dtype.kind == "f" else layer[layer != 0] for name, layer in layers.items()})
    if unit == "byte" or found is None:
        return
    low, high = found
    told = f"{path} has S2 values from {low:.4g} to {high:.4g} DN"
    if unit == "dn" and dtype.kind == "f" and low > -_DB and high < _DB and _share(layers, 0) > _MOST:
        raise Unfit(IMPLAUSIBLE, f"{told}, nearly all negative: likely S1 in dB")
    if unit == "dn" and (high <= 2 or (dtype.kind == "f" and _share(layers, 2) > _MOST)):
        raise Unfit(IMPLAUSIBLE, f"{told}: likely reflectance", ", so give --s2-unit reflectance")
    if unit == "reflectance" and high > _BRIGHTEST:
        raise Unfit(IMPLAUSIBLE, f"{told} by --s2-unit reflectance: likely DN, so give --s2-unit dn")


def _share(layers: Mapping[str, np.ndarray], most: float) -> float:
    """Share of pixels up to a value, of those that are finite."""
    finite = [layer[np.isfinite(layer)] for layer in layers.values()]
    return float(sum(np.count_nonzero(own <= most) for own in finite) / max(sum(own.size for own in finite), 1))


def _range(layers: Mapping[str, np.ndarray]) -> tuple[float, float] | None:
    """The least and the greatest finite value of all bands; None if there is none."""
    finite = [layer[np.isfinite(layer)] if layer.dtype.kind == "f" else layer.ravel() for layer in layers.values()]
    finite = [values for values in finite if values.size]
    return (min(float(v.min()) for v in finite), max(float(v.max()) for v in finite)) if finite else None
