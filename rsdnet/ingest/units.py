"""From a file's pixels to database values: DN for S2, dB for S1; one kind of nodata.

Values stay the file's own, in native type, with these exceptions: the scale and offset that a file's tags tell are
applied; reflectance becomes DN, times 10,000; power and amplitude become dB; pixels without data become 0 in integers
and NaN in floats; types unknown to the kernels (float64, 32- and 64-bit integers) become narrower ones.
"""

import numpy as np

from rsdnet import bands
from rsdnet.errors import IMPLAUSIBLE, Unfit
from rsdnet.ingest.raster import Layer
from rsdnet.ingest.source import S1Unit, S2Unit

NATIVE = ("uint8", "int16", "uint16", "float16", "float32")  # the kernels' types
# A scale tag up to this turns DN into reflectance (0.0001 as a rule); a larger one stays in DN.
_TO_REFLECTANCE = 0.01
_NEGATIVE = 0.05  # share of negative power beyond the noise that is subtracted
_LEAST_NOISE = -1.0  # power; the subtraction of noise leaves a hundredth of that
_LEAST = -100.0  # dB; power below it is none, which the subtraction of noise leaves as a tiny number


def s2(layer: Layer, unit: S2Unit) -> tuple[np.ndarray, float | None]:
    """(H, W) DN or bytes of an S2 layer; the DN that its tags subtract, None if they tell no scale or offset.

    Its scale is applied; its offset is not yet, for DN 0 is no data before that alone.

    Raises Unfit on complex numbers, on integers too far apart for 16 bits, and on bytes of another type.
    """
    _require_real(layer)
    if unit == "byte":
        if layer.pixels.dtype != np.uint8:
            raise Unfit("unit", f"{layer.path} holds {layer.pixels.dtype}, but --s2-unit byte means uint8")
        return _blank(layer.pixels, layer.invalid), None
    factor, offset = _to_dn(layer, unit)
    told = -offset if (layer.scale, layer.offset) != (1, 0) else None
    if factor == 1 and offset == round(offset):
        return _narrow(layer), told
    blank = layer.pixels == 0 if layer.pixels.dtype.kind in "iu" else np.zeros(layer.pixels.shape, bool)
    dn = layer.pixels.astype(np.float64) * factor
    return _blank(dn.astype(np.float32), blank if layer.invalid is None else blank | layer.invalid), told


def _to_dn(layer: Layer, unit: S2Unit) -> tuple[float, float]:
    """Factor and offset from a layer's pixels to DN."""
    reflectance = unit == "reflectance" or (layer.scale != 1 and abs(layer.scale) <= _TO_REFLECTANCE)
    full = bands.REFLECTANCE if reflectance else 1
    return _whole(full * layer.scale), _whole(full * layer.offset)


def _whole(value: float) -> float:
    """A value that is whole but for its rounding (10,000 times 0.0001, which may be a float32), as the whole number."""
    near = round(value)
    return near if value == near or np.isclose(value, near, rtol=1e-7, atol=1e-9) else value


def s1(layer: Layer, unit: S1Unit) -> np.ndarray:
    """(H, W) float32 dB of an S1 layer, NaN where there is no data or power is not above zero.

    Raises Unfit on complex numbers, and on negative power.
    """
    _require_real(layer)
    values = layer.pixels
    if (layer.scale, layer.offset) != (1, 0):
        values = values.astype(np.float64) * layer.scale + layer.offset
    if unit != "db":
        below = (values < _LEAST_NOISE) if layer.invalid is None else (values < _LEAST_NOISE) & ~layer.invalid
        if np.mean(below) > _NEGATIVE:
            share = f"{np.mean(below):.0%} of its values are under {_LEAST_NOISE:g}, which {unit} is not"
            raise Unfit(IMPLAUSIBLE, f"{layer.path}: {share}: likely dB, so give --s1-unit db")
        values = decibel(values, 10 if unit == "power" else 20)
    with np.errstate(over="ignore"):
        return _blank(values.astype(np.float32), layer.invalid)


def decibel(values: np.ndarray, factor: int) -> np.ndarray:
    """factor log10 in float64: 10 for power, 20 for amplitude; NaN for values not above zero, -100 dB."""
    wide = values.astype(np.float64)
    positive = np.isfinite(wide) & (wide > 10 ** (_LEAST / factor))
    return factor * np.log10(wide, where=positive, out=np.full(wide.shape, np.nan))


def _require_real(layer: Layer) -> None:
    if layer.pixels.dtype.kind == "c":
        raise Unfit("unit", f"{layer.path} holds complex numbers: give detected values, in dB, power or amplitude")


def _blank(values: np.ndarray, invalid: np.ndarray | None) -> np.ndarray:
    """The values with pixels without data, and in floats those that are not finite, as nodata."""
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        invalid = ~finite if invalid is None else invalid | ~finite
    if invalid is None:
        return values
    return np.where(invalid, values.dtype.type(np.nan if values.dtype.kind == "f" else 0), values)


def _narrow(layer: Layer) -> np.ndarray:
    """The layer in a type of the kernels: wide integers as uint16 or int16, whichever holds them; never wrapped."""
    pixels, invalid = layer.pixels, layer.invalid
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            kept = pixels if pixels.dtype.name in NATIVE else pixels.astype(np.float32)
        return _blank(kept, invalid)
    if pixels.dtype.name in NATIVE:
        return _blank(pixels, invalid)
    present = pixels if invalid is None else pixels[~invalid]
    low, high = (int(present.min()), int(present.max())) if present.size else (0, 0)
    for narrow in (np.uint16, np.int16):
        if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
            return _blank(pixels, invalid).astype(narrow)
    told = f"{layer.path} has values from {low} to {high}, too far apart for 16 bits"
    raise Unfit(IMPLAUSIBLE, f"{told}: are they DN?")
