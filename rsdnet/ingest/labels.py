"""Label maps: from pixel values to label ids."""

import re
from collections.abc import Mapping

import numpy as np

from rsdnet.errors import DataError, Unfit
from rsdnet.ingest.raster import Layer, Raster

MOST = 255  # classes that --classes can name: a map of theirs is stored in 8 bits, 255 for no class
NONE = 65535  # stored for no class in a map without named classes
RGB = ("R", "G", "B")  # names of a colour map's layers
_NAMES = {np.iinfo(np.int64).min: "NaN or beyond 64 bits"}  # of values that stand for another
_CLASS = re.compile(r"\s*(-?[0-9]+|#[0-9a-fA-F]{6})\s*=\s*(\S.*?)\s*")


def parse(text: str) -> dict[int, str]:
    """Class names by pixel value of "1=water,2=trees", or of "#0000ff=water,#00ff00=trees" by colour, R G B in 24 bits.

    Raises DataError on any other text, a value or a name twice, numbers beside colours, and more than 255 classes.
    """
    classes: dict[int, str] = {}
    parts = [part for part in text.split(",") if part]
    if len({part.lstrip().startswith("#") for part in parts}) > 1:
        raise DataError("--classes has colours beside numbers: use one of them")
    for part in parts:
        match = _CLASS.fullmatch(part)
        if not match:
            raise DataError(
                f"--classes has {part!r}, but wants a value and a name each: 1=water,2=trees; or colours: #0000ff=water"
            )
        value = int(match[1][1:], 16) if match[1].startswith("#") else int(match[1])
        if not -(2**63) <= value < 2**63:
            raise DataError(f"--classes has the value {value}, which no pixel can have")
        if value in classes:
            raise DataError(f"--classes names the value {match[1]} twice")
        if match[2] in classes.values():
            raise DataError(f"--classes names the class {match[2]!r} twice")
        classes[value] = match[2]
    if len(classes) > MOST:
        raise DataError(f"--classes has {len(classes)} classes; a label map holds at most {MOST}")
    return classes


def values_of(raster: Raster, colours: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) int64 class numbers of a label map, or its colours, R G B in 24 bits; and its pixels without data.

    Raises Unfit on values that are not whole, and on a map without the colours.
    """
    if set(raster.layers) == set(RGB):
        red, green, blue = (_whole(raster.layers[name]) for name in RGB)
        blank = [layer.invalid for layer in raster.layers.values() if layer.invalid is not None]
        # A file's nodata value is that of each layer, so that of a colour is no data where all three have it.
        return (red << 16) | (green << 8) | blue, np.logical_and.reduce(blank) if len(blank) == len(RGB) else None
    layer = raster.layers["Data"]
    values = _whole(layer)
    if colours:
        if not raster.palette:
            raise Unfit("label map", f"{layer.path} has no colours, but --classes names some: name class numbers")
        found, places = np.unique(values, return_inverse=True)
        table = {value: red << 16 | green << 8 | blue for value, (red, green, blue, *_) in raster.palette.items()}
        values = np.array([table.get(int(value), -1) for value in found])[places].reshape(values.shape)
    return values, layer.invalid


def _whole(layer: Layer) -> np.ndarray:
    """(H, W) int64; NaN and numbers beyond 64 bits become the smallest."""
    pixels = layer.pixels
    if pixels.dtype.kind in "iu":
        return pixels.astype(np.int64)
    if pixels.dtype.kind != "f":
        raise Unfit("label map", f"{layer.path} holds {pixels.dtype}, but a label map holds whole numbers")
    known = np.isfinite(pixels) if layer.invalid is None else np.isfinite(pixels) & ~layer.invalid
    ids = np.full(pixels.shape, np.iinfo(np.int64).min)
    bounded = known & (np.abs(pixels, where=known, out=np.zeros_like(pixels)) < 2.0**62)
    ids[bounded] = pixels[bounded].astype(np.int64)
    fraction = pixels[bounded] != ids[bounded]
    if fraction.any():
        first = pixels[bounded][fraction][0]
        raise Unfit("label map", f"{layer.path} holds {first:g}, but a label map holds whole numbers")
    return ids


def look_up(values: np.ndarray, classes: Mapping[int, int] | None) -> np.ndarray:
    """(H, W) int64 label ids of pixel values, -1 for values of no class. classes: label id by value; None: a value from
    0 to 65,534 is its own id."""
    if classes is None:
        return np.where((values >= 0) & (values < NONE), values, -1)
    found, places = np.unique(values, return_inverse=True)
    return np.array([classes.get(int(value), -1) for value in found], np.int64)[places].reshape(values.shape)


def dropped(values: np.ndarray, ids: np.ndarray, invalid: np.ndarray | None, colours: bool) -> dict[str, int]:
    """Pixels by value, of the values that are no class; pixels without data are not counted."""
    lost = ids < 0 if invalid is None else (ids < 0) & ~invalid
    return named(values[lost], colours)


def named(values: np.ndarray, colours: bool) -> dict[str, int]:
    """Pixels by value, in words."""
    found, counts = np.unique(values, return_counts=True)
    names = (f"#{value:06x}" if colours and value >= 0 else _NAMES.get(value, str(value)) for value in found.tolist())
    return dict(zip(names, counts.tolist(), strict=True))


def stored(ids: np.ndarray, named: bool) -> np.ndarray:
    """Label ids as a database holds them: uint8, 255 for no class, or uint16, 65535 for no class, without names."""
    kind, none = (np.uint8, MOST) if named else (np.uint16, NONE)
    return np.where(ids < 0, none, ids).astype(kind)
