"""GeoTIFFs and JPEGs through rasterio, and their pixels as database values.

Values stay the file's own, in native type and resolution, with these exceptions: SAR in power becomes dB; a nodata
value becomes the database's, 0 for integers and NaN for floats; types unknown to the kernels (float64, 32- and 64-bit
integers) are stored in a narrower one that holds the values; label maps become label ids.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsdnet import bands
from rsdnet.errors import DataError

# An unreadable file is reported once, with its sample; GDAL's own messages would double it.
logging.getLogger("rasterio").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")
NATIVE = ("uint8", "int16", "uint16", "float16", "float32")  # the kernels' types
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # a folder of a million files is not listed a file
    "GDAL_CACHEMAX": 64,
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # damaged JPEG data is an error, not pixels made up
}


class Raster(NamedTuple):
    """The layers of a file: (C, H, W), and for each its name and nodata value; the file's tags."""

    layers: np.ndarray
    names: tuple[str, ...]
    nodata: tuple[float | None, ...]
    tags: dict[str, str]


def read(path: str, names: tuple[str, ...] | None, exact: bool) -> Raster:
    """Read the first layers of a file, by `names`, else by the file's band descriptions.

    exact: refuse a file with more layers than names. Raises DataError if it cannot be read or named.
    """
    try:
        with rasterio.open(path) as file:
            names = names or band_names(file.descriptions)
            if names is None:
                raise DataError(f"{path} does not name its {file.count} layers, as others do")
            if exact and file.count != len(names):
                raise DataError(f"{path} has {file.count} layers, but {len(names)} bands are named: {', '.join(names)}")
            return Raster(file.read(list(range(1, len(names) + 1))), names, file.nodatavals, file.tags())
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).replace(path, "").strip(" :'")
        raise DataError(f"{path} cannot be read ({reason}); is it whole?") from error


def band_names(descriptions: Sequence[str | None]) -> tuple[str, ...] | None:
    """Canonical band names from band descriptions; None if one is no known band, or two are the same."""
    try:
        names = tuple(bands.canonical(text or "") for text in descriptions)
    except DataError:
        return None
    return names if len(set(names)) == len(names) else None


def convert(path: str, layer: np.ndarray, nodata: float | None, kind: str, s1_unit: str) -> np.ndarray:
    """(H, W) band of an S2 ("ms") or S1 ("sar") image as it is stored.

    path: named in errors. nodata: the file's nodata value. s1_unit: "db" or "power".
    Raises DataError on complex numbers, and on integers too far apart for 16 bits.
    """
    if layer.dtype.kind == "c":
        raise DataError(f"{path} holds complex numbers: give detected values, in dB or power")
    missing = np.zeros(layer.shape, bool) if nodata is None else layer == nodata
    if kind == "sar":
        layer = decibel(layer) if s1_unit == "power" else layer.astype(np.float32, copy=False)
    elif layer.dtype.name not in NATIVE:
        layer = layer.astype(np.float32) if layer.dtype.kind == "f" else _narrow(path, layer, layer[~missing])
    if missing.any():
        layer = np.where(missing, layer.dtype.type(np.nan if layer.dtype.kind == "f" else 0), layer)
    return layer


def decibel(power: np.ndarray) -> np.ndarray:
    """10 log10 in float64, stored as float32; NaN where power is not above zero."""
    wide = power.astype(np.float64)
    positive = np.isfinite(wide) & (wide > 0)
    return (10 * np.log10(wide, where=positive, out=np.full(wide.shape, np.nan))).astype(np.float32)


def _narrow(path: str, layer: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Wide integers as uint16 or int16, whichever holds the `present` ones; never wrapped."""
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
    if nodata is not None:
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
