"""From a GeoTIFF's pixels to database values.

Values stay the file's own, in native type and resolution, with these exceptions: SAR in power becomes dB; a nodata
value becomes the database's, 0 for integers and NaN for floats; types unknown to the kernels (float64, 32- and 64-bit
integers) are stored in a narrower one that holds the values; label maps become label ids.
"""

import math
from collections.abc import Mapping

import numpy as np

from rsdnet.errors import DataError

NATIVE = ("uint8", "int16", "uint16", "float16", "float32")  # the kernels' types


def convert(path: str, layer: np.ndarray, nodata: float | None, kind: str, s1_unit: str) -> np.ndarray:
    """(H, W) band of an S2 ("ms") or S1 ("sar") image as it is stored.

    path: named in errors. nodata: the file's nodata value. s1_unit: "db" or "power".
    Raises DataError on complex numbers, and on integers too far apart for 16 bits.
    """
    if layer.dtype.kind == "c":
        raise DataError(f"{path} holds complex numbers: give detected values, in dB or power")
    missing = None if nodata is None or math.isnan(nodata) else layer == nodata
    if kind == "sar":
        layer = decibel(layer) if s1_unit == "power" else layer.astype(np.float32, copy=False)
    elif layer.dtype.name not in NATIVE:
        layer = layer.astype(np.float32) if layer.dtype.kind == "f" else _narrow(path, layer, missing)
    if missing is not None and missing.any():
        layer = np.where(missing, layer.dtype.type(np.nan if layer.dtype.kind == "f" else 0), layer)
    return layer


def decibel(power: np.ndarray) -> np.ndarray:
    """10 log10 in float64, stored as float32; NaN where power is not above zero."""
    wide = power.astype(np.float64)
    positive = np.isfinite(wide) & (wide > 0)
    return (10 * np.log10(wide, where=positive, out=np.full(wide.shape, np.nan))).astype(np.float32)


def _narrow(path: str, layer: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Wide integers as uint16 or int16, whichever holds them; never wrapped."""
    present = layer if missing is None else layer[~missing]
    low, high = (int(present.min()), int(present.max())) if present.size else (0, 0)
    for narrow in (np.uint16, np.int16):
        if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
            return layer.astype(narrow)
    raise DataError(f"{path} has values from {low} to {high}, too far apart for 16 bits: are they DN?")


def convert_map(path: str, layer: np.ndarray, nodata: float | None, classes: Mapping[int, int] | None) -> np.ndarray:
    """(H, W) label map as label ids in uint8, 255 for no class; without `classes` (label id by value) a value is its
    own id, in uint16 with 65535 for no class where the file's type is wider than 8 bits.

    Raises DataError on values that are no integers, negative or too large.
    """
    ids = layer.astype(np.int64) if classes is None else look_up(layer, classes)
    if nodata is not None and not math.isnan(nodata):
        ids = np.where(layer == nodata, -1, ids)
    stored = np.uint8 if classes is not None or layer.dtype.itemsize == 1 else np.uint16
    none = np.iinfo(stored).max
    if ids.max(initial=-1) > none:
        raise DataError(f"{path} has the value {ids.max()}: a label map's lie between 0 and {none - 1}")
    return np.where(ids < 0, none, ids).astype(stored)


def look_up(values: np.ndarray, classes: Mapping[int, int]) -> np.ndarray:
    """(H, W) int64 label ids of pixel values; -1 for values of no class."""
    ids = np.full(65536, -1, np.int64)
    ids[list(classes)] = list(classes.values())
    return ids[np.clip(values, 0, 65535).astype(np.int64)]
