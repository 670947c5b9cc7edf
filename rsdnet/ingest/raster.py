"""GeoTIFFs through rasterio: layers, band names, nodata values and tags."""

import logging
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsdnet import bands
from rsdnet.errors import DataError

# An unreadable file is reported once, with its sample; GDAL's own messages would double it.
logging.getLogger("rasterio").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")
GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_CACHEMAX": 64}  # a folder of a million files is not listed a file


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


def described(path: str) -> tuple[tuple[str, ...] | None, int]:
    """(canonical band names by the file's descriptions, number of layers); names None where one is no known band.

    Raises rasterio.errors.RasterioError on a file that cannot be opened.
    """
    with rasterio.open(path) as file:
        return band_names(file.descriptions), file.count


def band_names(descriptions: Sequence[str | None]) -> tuple[str, ...] | None:
    """Canonical band names from band descriptions; None if one is no known band, or two are the same."""
    try:
        names = tuple(bands.canonical(text or "") for text in descriptions)
    except DataError:
        return None
    return names if len(set(names)) == len(names) else None
