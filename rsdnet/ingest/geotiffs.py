"""One sample of a data set from its GeoTIFFs to database values: read, convert, cut, check. Runs in the workers.

Values stay the file's own, in native type and resolution, but for these: S2 offset subtracted where asked; SAR in
power turned into dB; nodata values other than the database's (0 for whole numbers, NaN for floats) turned into
those; types that the kernels do not take (float64, 32- and 64-bit integers) stored in one that holds the values.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.statistics import Summary, summarise, valid
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Image, Recipe, Source
from rsdnet.ingest.s2_offset import decide, subtract

NATIVE = ("uint8", "int16", "uint16", "float16", "float32")  # the types the kernels read
LONGEST_KEY = 511  # bytes; LMDB's MDB_MAXKEYSIZE
_NAMES = {"ms": "S2", "sar": "S1", "map": "label map"}

# GDAL's own complaints come to the user as reasons, once; a folder of a million files is not listed a file.
logging.getLogger("rasterio").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")
_GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_CACHEMAX": 64}


class Row(NamedTuple):
    """A sample of the catalog: see `rsdnet.data.catalog`."""

    sample: str
    ms: str | None
    sar: str | None
    map: str | None
    label: int | None
    split: str


@dataclass
class Result:
    """What one source gave.

    entries: (key, safetensors blob). left_out: (sample, reason). summaries: one dict a training tile, in the
    order of the rows. offsets: (file, DN subtracted, why). notes: conversions done. highest: the largest
    label id on a map, -1 for none.
    """

    rows: list[Row] = field(default_factory=list)
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    summaries: list[dict[str, Summary]] = field(default_factory=list)
    offsets: list[tuple[str, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    highest: int = -1


def ingest_source(source: Source, recipe: Recipe) -> Result:
    """The database entries and catalog rows of one source. What is wrong with it is a reason in `left_out`."""
    result = Result()
    try:
        if source.problem:
            raise DataError(source.problem)
        with rasterio.Env(**_GDAL):
            _ingest(source, recipe, result)
    except DataError as error:
        return Result(left_out=[(source.name, " ".join(str(error).split()))])
    return result


def _ingest(source: Source, recipe: Recipe, result: Result) -> None:
    images = {kind: image for kind, image in zip(("ms", "sar", "map"), source[2:5], strict=True) if image}
    tensors = {kind: _read(kind, image, source, recipe, result) for kind, image in images.items()}
    sizes = {kind: _size(layers) for kind, layers in tensors.items()}
    _check_sizes(sizes, recipe)
    size = (min(height for height, _ in sizes.values()), min(width for _, width in sizes.values()))
    if recipe.patch is None or (recipe.patch, recipe.patch) == size:
        tiles: Sequence[tuple[str, int, int]] = [("", 0, 0)]
    else:
        factors = {f for kind, layers in tensors.items() for f in _factors(layers, sizes[kind])}
        check_cut(recipe.patch, recipe.stride, factors)
        tiles = list(_tiles(size, recipe.patch, recipe.stride or recipe.patch))
        if not tiles:
            raise DataError(f"its {size[1]}x{size[0]} px are smaller than --patch {recipe.patch}")
    for suffix, top, left in tiles:
        whole = not suffix
        cut = {
            kind: layers if whole else _cut(layers, sizes[kind], top, left, recipe.patch or 0)
            for kind, layers in tensors.items()
        }
        _add(source, suffix, images, cut, recipe, result)


def check_cut(patch: int, stride: int | None, factors: set[int]) -> None:
    """Raise DataError if a tile or a step is no whole number of pixels in a band `factor` times coarser than 10 m."""
    common = math.lcm(*factors)
    for option, value in (("--patch", patch), ("--stride", stride or patch)):
        if value % common:
            below, above = value // common * common, -(-value // common) * common
            near = f"{below} or {above}" if below else f"{above}"
            raise DataError(
                f"{option} {value} cuts pixels of the {common * 10} m bands in two: the nearest that fit: {near}"
            )


def _tiles(size: tuple[int, int], patch: int, stride: int) -> Iterator[tuple[str, int, int]]:
    for top in range(0, size[0] - patch + 1, stride):
        for left in range(0, size[1] - patch + 1, stride):
            yield f"_y{top}_x{left}", top, left


def _size(layers: dict[str, np.ndarray]) -> tuple[int, int]:
    """(height, width) of the finest band: the pixels that --patch counts."""
    return max(layer.shape for layer in layers.values())


def _factors(layers: dict[str, np.ndarray], size: tuple[int, int]) -> set[int]:
    return {max(1, round(size[0] / layer.shape[0])) for layer in layers.values()}


def _check_sizes(sizes: dict[str, tuple[int, int]], recipe: Recipe) -> None:
    (first, one), *others = sizes.items()
    for kind, two in others:
        if max(abs(one[0] - two[0]), abs(one[1] - two[1])) > recipe.tolerance:
            raise DataError(
                f"{_NAMES[first]} is {one[1]}x{one[0]} px, but {_NAMES[kind]} is {two[1]}x{two[0]} px: "
                "they must be of one grid"
            )


def _cut(
    layers: dict[str, np.ndarray], size: tuple[int, int], top: int, left: int, patch: int
) -> dict[str, np.ndarray]:
    cut = {}
    for name, layer in layers.items():
        factor = max(1, round(size[0] / layer.shape[0]))
        rows = slice(top // factor, (top + patch) // factor)
        columns = slice(left // factor, (left + patch) // factor)
        cut[name] = layer[rows, columns]
        if cut[name].shape != (patch // factor, patch // factor):
            raise DataError(f"{name} is {layer.shape[1]}x{layer.shape[0]} px, too small for its tiles")
    return cut


def _add(
    source: Source,
    suffix: str,
    images: dict[str, Image],
    cut: dict[str, dict[str, np.ndarray]],
    recipe: Recipe,
    result: Result,
) -> None:
    """One tile: checked, stored, its row and statistics added."""
    sample, split = source.name + suffix, source.split or "train"
    for kind in ("ms", "sar"):
        for name, layer in cut.get(kind, {}).items():
            share = 1 - np.count_nonzero(valid(layer)) / layer.size
            if share > recipe.max_invalid:
                result.left_out.append((sample, f"{share:.1%} of {name} is nodata or NaN"))
                return
    keys = {kind: images[kind].key + suffix for kind in cut}
    long = [key for key in keys.values() if len(key.encode()) > LONGEST_KEY]
    if long:
        raise DataError(f"its key is {len(long[0].encode())} bytes long; LMDB takes {LONGEST_KEY}")
    for kind, layers in cut.items():
        blob = save({name: np.ascontiguousarray(layer) for name, layer in layers.items()})
        result.entries.append((keys[kind], blob))
    label = source.label
    if "map" in cut:
        ids = _label_ids(cut["map"]["Data"], source, recipe)
        counts = np.bincount(ids[ids >= 0])
        result.highest = max(result.highest, len(counts) - 1)
        if label is None and len(counts):
            label = int(counts.argmax())
    if "ms" in cut or "sar" in cut:
        result.rows.append(Row(sample, keys.get("ms"), keys.get("sar"), keys.get("map"), label, split))
        if split == "train":
            result.summaries.append(summarise_tile(cut.get("ms", {}), cut.get("sar", {})))


def summarise_tile(ms: dict[str, np.ndarray], sar: dict[str, np.ndarray]) -> dict[str, Summary]:
    """The statistics of one tile's bands, by canonical name."""
    return {
        bands.canonical(name): summarise(layer, kind)
        for kind, layers in (("ms", ms), ("sar", sar))
        for name, layer in sorted(layers.items())
    }


def _label_ids(data: np.ndarray, source: Source, recipe: Recipe) -> np.ndarray:
    """(H, W) int64 label ids, -1 for no class, of a map as it is stored."""
    if recipe.raw_map:
        return _look_up(data, recipe.classes[source.scheme])
    ids = data.astype(np.int64)
    return np.where(ids == np.iinfo(data.dtype).max, -1, ids)


def _look_up(data: np.ndarray, classes: Any) -> np.ndarray:
    table = np.full(65536, -1, np.int64)
    table[list(classes)] = list(classes.values())
    return table[np.clip(data, 0, 65535).astype(np.int64)]


def described(descriptions: Sequence[str | None]) -> tuple[str, ...] | None:
    """Canonical band names from a file's band descriptions; None if any says no known band."""
    try:
        names = tuple(bands.canonical(text or "") for text in descriptions)
    except DataError:
        return None
    return names if len(set(names)) == len(names) else None


def _read(kind: str, image: Image, source: Source, recipe: Recipe, result: Result) -> dict[str, np.ndarray]:
    """The layers of one image by canonical name ("Data" for a map), converted to database values."""
    layers: dict[str, np.ndarray] = {}
    tags: dict[str, str] = {"path": image.files[0][0]}
    for path, names in image.files:
        array, names, nodata, tagged = _read_file(kind, path, names)
        tags |= tagged
        for name, layer, missing in zip(names, array, nodata, strict=False):
            layers[name] = _convert(kind, path, layer, missing, source, recipe, result)
    if kind == "map":
        return layers
    absent = [name for name in recipe.expected[kind] if name not in layers]
    if absent:
        raise DataError(f"{image.files[0][0]} has no band {', '.join(absent)}: it has {', '.join(layers)}")
    layers = {name: layers[name] for name in recipe.expected[kind]}
    return _without_offset(image, layers, tags, recipe, result) if kind == "ms" else layers


def _read_file(
    kind: str, path: str, names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...], tuple[float | None, ...], dict[str, str]]:
    try:
        with rasterio.open(path) as file:
            if names is None:
                names = described(file.descriptions)
            if names is None:
                raise DataError(f"{path} does not name its {file.count} layers, as others do")
            if kind != "map" and file.count != len(names):
                raise DataError(f"{path} has {file.count} layers, but {len(names)} bands are named: {', '.join(names)}")
            return file.read(list(range(1, len(names) + 1))), names, file.nodatavals, file.tags()
    except (RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).replace(path, "").strip(" :'")
        raise DataError(f"{path} cannot be read ({reason}); is it whole?") from error


def _without_offset(
    image: Image, layers: dict[str, np.ndarray], tags: dict[str, str], recipe: Recipe, result: Result
) -> dict[str, np.ndarray]:
    if recipe.offset is None:
        offset, why = decide(layers, tags)
        result.offsets.append((image.files[0][0], offset, why))
    else:
        offset = recipe.offset
    return {name: subtract(layer, offset) for name, layer in layers.items()}


def _convert(
    kind: str, path: str, layer: np.ndarray, nodata: float | None, source: Source, recipe: Recipe, result: Result
) -> np.ndarray:
    if kind == "map":
        return _convert_map(path, layer, nodata, source, recipe)
    if layer.dtype.kind == "c":
        raise DataError(f"{path} holds complex numbers: give detected values, in dB or power")
    missing = None if nodata is None or math.isnan(nodata) else layer == nodata
    was = layer.dtype
    if kind == "sar":
        layer = _decibel(layer) if recipe.s1_unit == "power" else layer.astype(np.float32, copy=False)
    elif layer.dtype.name not in NATIVE:
        layer = layer.astype(np.float32) if was.kind == "f" else _narrow(path, layer, missing)
    if missing is not None and missing.any():
        layer = np.where(missing, layer.dtype.type(np.nan if layer.dtype.kind == "f" else 0), layer)
    if layer.dtype != was:
        power = ", power as dB" if kind == "sar" and recipe.s1_unit == "power" else ""
        note = f"{_NAMES[kind]}: {was} stored as {layer.dtype}{power}"
        if note not in result.notes:
            result.notes.append(note)
    return layer


def _decibel(power: np.ndarray) -> np.ndarray:
    """10 log10 in float64, stored as float32; NaN where power is not above zero."""
    wide = power.astype(np.float64)
    positive = np.isfinite(wide) & (wide > 0)
    return (10 * np.log10(wide, where=positive, out=np.full(wide.shape, np.nan))).astype(np.float32)


def _narrow(path: str, layer: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Wide whole numbers as uint16 or int16, whichever holds them; never wrapped."""
    present = layer if missing is None else layer[~missing]
    low, high = (int(present.min()), int(present.max())) if present.size else (0, 0)
    for narrow in (np.uint16, np.int16):
        if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
            return layer.astype(narrow)
    raise DataError(f"{path} has values from {low} to {high}, too far apart for 16 bits: are they DN?")


def _convert_map(path: str, layer: np.ndarray, nodata: float | None, source: Source, recipe: Recipe) -> np.ndarray:
    """Label ids in uint8, 255 for no class (uint16 and 65535 where a map without --classes needs them)."""
    if layer.dtype.kind not in "iu":
        raise DataError(f"{path} holds {layer.dtype}, but a label map holds whole numbers")
    if recipe.raw_map:
        return layer
    classes = recipe.classes.get(source.scheme)
    ids = layer.astype(np.int64) if classes is None else _look_up(layer, classes)
    if nodata is not None and not math.isnan(nodata):
        ids = np.where(layer == nodata, -1, ids)
    small = classes is not None or layer.dtype.itemsize == 1
    stored = np.uint8 if small else np.uint16
    none = np.iinfo(stored).max
    if ids.max(initial=-1) > none:
        raise DataError(f"{path} has the value {ids.max()}: a label map's lie between 0 and {none - 1}")
    return np.where(ids < 0, none, ids).astype(stored)
