"""One source to database entries and catalog rows: read, convert, check, cut. Runs in the workers."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import rasterio
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.catalog import MAP_TENSOR
from rsdnet.data.statistics import Summary, summarise, valid
from rsdnet.errors import DataError
from rsdnet.ingest import labels, plausible, raster, units
from rsdnet.ingest.grid import Grid, compare, described, positions
from rsdnet.ingest.raster import Layer, Raster
from rsdnet.ingest.s2_offset import Evidence, evidence, subtract
from rsdnet.ingest.source import Image, Recipe, Source, Unfit
from rsdnet.ingest.tiles import NAMES, Layers, coverage, size_of, tiles

LONGEST_KEY = 511  # bytes; LMDB's MDB_MAXKEYSIZE
_IDS = "ids"  # label ids of a map, (H, W) int64, -1 for no class; not stored


class Row(NamedTuple):
    """A row of the catalog: see `rsdnet.data.catalog`."""

    sample: str
    ms: str | None
    sar: str | None
    map: str | None
    label: int | None
    split: str
    group: str
    lon: float | None
    lat: float | None


@dataclass
class Result:
    """The outcome of one source.

    entries: (key, safetensors blob). left: samples left out, (sample, reason, kind of reason). summaries: statistics by
    band, one dict a training tile, in the order of the rows. offsets: (file, DN subtracted, reason, whether it is
    known). evidence: of the offset. notes, doubts: facts and guesses to count over all sources. dropped: pixels of
    label maps by value that is no class. highest: the largest label id on a map, -1 for none. cover: pixels of the
    images, and of those that tiles take. grid: size with pixels, and coordinate system, in words.
    """

    rows: list[Row] = field(default_factory=list)
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    left: list[tuple[str, str, str]] = field(default_factory=list)
    summaries: list[dict[str, Summary]] = field(default_factory=list)
    offsets: list[tuple[str, int, str, bool]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    highest: int = -1
    cover: tuple[int, int] = (0, 0)
    grid: tuple[str, str] = ("", "")

    def line(self) -> dict[str, Any]:
        """The source's line of the journal."""
        kept = ("rows", "left", "offsets", "notes", "doubts", "dropped", "highest", "cover", "grid")
        return {name: getattr(self, name) for name in kept}

    def note(self, text: str) -> None:
        """Note a fact, once."""
        self.notes += [text] if text not in self.notes else []


class Picture(NamedTuple):
    """An image as it will be stored, and the grid of its finest layer. A label map also has the layer `_IDS`."""

    layers: Layers
    grid: Grid | None


def ingest_source(source: Source, recipe: Recipe) -> Result:
    """Entries and rows of one source; a fault in it becomes a reason in `left`, never an exception."""
    result = Result()
    try:
        if source.problem:
            raise Unfit(source.problem.split(":")[0], source.problem)
        with rasterio.Env(**raster.GDAL):
            pictures = {kind: _read(kind, image, source, recipe, result) for kind, image in source.images.items()}
        _check_grids(pictures, result)
        _cut(source, pictures, recipe, result)
    except DataError as error:
        kind = getattr(error, "kind", "other reasons")
        return Result(left=[(source.name, " ".join(str(error).split()), kind)], evidence=result.evidence)
    return result


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(kind: str, image: Image, source: Source, recipe: Recipe, result: Result) -> Picture:
    """The layers of one image, converted to database values."""
    files = [raster.read(path, names, recipe.nodata.get(kind)) for path, names in image.files]
    for file in files:
        if file.flipped:
            result.note(f"{NAMES[kind]}: stored south-up or mirrored, turned north up")
    if kind == "map":
        return _label_map(files[0], source, recipe, result)
    found = {name: layer for file in files for name, layer in file.layers.items()}
    expected, first = recipe.expected[kind], image.files[0][0]
    if absent := [name for name in expected if name not in found]:
        raise Unfit("bands", f"{first} has no band {', '.join(absent)}: it has {', '.join(found)}")
    if untaken := [name for file in files for name in file.untaken] + [name for name in found if name not in expected]:
        result.note(f"{NAMES[kind]}: layers not taken: {', '.join(untaken)}")
    wanted = {name: found[name] for name in expected}
    convert = _sar if kind == "sar" else _ms
    tags = {name: text for file in files for name, text in file.tags.items()}
    return Picture(convert(first, wanted, tags, recipe, result), _grid(first, files))


def _grid(path: str, files: list[Raster]) -> Grid | None:
    """The finest grid of an image's files. Raises Unfit where one is of another place."""
    grids = sorted((file.grid for file in files if file.grid), key=lambda grid: -grid.shape[0])
    for grid in grids[1:]:
        compare(grids[0], grid, ("one band", f"another of {path}"))
    return grids[0] if len(grids) == len(files) else None


def _sar(path: str, wanted: dict[str, Layer], tags: dict[str, str], recipe: Recipe, result: Result) -> Layers:
    """S1 bands in dB."""
    unit = recipe.s1_unit
    layers = {name: units.s1(layer, unit) for name, layer in wanted.items()}
    if not recipe.implausible:
        for name, layer in wanted.items():
            plausible.check_fill(name, layer, "sar", unit)
        plausible.check_s1(path, layers, unit)
    first = next(iter(wanted.values()))
    result.note(_types("S1", first, np.dtype(np.float32), "" if unit == "db" else f", {unit} as dB"))
    if (first.scale, first.offset) != (1, 0):
        result.note(f"S1: scale {first.scale:g} and offset {first.offset:g} of the tags applied")
    return layers


def _ms(path: str, wanted: dict[str, Layer], tags: dict[str, str], recipe: Recipe, result: Result) -> Layers:
    """S2 bands in DN without the offset, or in bytes."""
    unit, first = recipe.s2_unit, next(iter(wanted.values()))
    converted = {name: units.s2(layer, unit) for name, layer in wanted.items()}
    layers = {name: layer for name, (layer, _) in converted.items()}
    if not recipe.implausible:
        for name, layer in wanted.items():
            plausible.check_fill(name, layer, "ms", unit)
        plausible.check_s2(path, layers, unit, first.pixels.dtype)
    stored = next(iter(layers.values())).dtype
    result.note(_types("S2", first, stored, ", reflectance as DN" if unit == "reflectance" else ""))
    if (first.scale, first.offset) != (1, 0):
        result.note(f"S2: scale {first.scale:g} and offset {first.offset:g} of the tags applied")
    if unit != "dn":
        return layers
    tagged = {told for _, told in converted.values()}
    if len(tagged) > 1 and tagged != {None, 0}:
        raise Unfit("offset", f"{path}: its layers' tags tell different offsets")
    told = next(iter(tagged))
    offset, why, known = _offset(path, layers, tags, told, recipe, result)
    result.offsets += [(path, offset, why, known)] if recipe.offset != 0 or told else []
    return {name: subtract(layer, offset - (told or 0)) for name, layer in layers.items()}


def _types(sensor: str, layer: Layer, stored: np.dtype, how: str) -> str:
    return f"{sensor}: {layer.pixels.dtype}{f' stored as {stored}{how}' if stored != layer.pixels.dtype or how else ''}"


def _offset(
    path: str, layers: Layers, tags: dict[str, str], told: int | None, recipe: Recipe, result: Result
) -> tuple[int, str, bool]:
    """(DN of offset in an S2 image, why, whether it is known). told: by its scale and offset tags."""
    if isinstance(recipe.offset, int):
        return (recipe.offset, "--offset", True) if recipe.offset or told is None else (told, "its offset tag", True)
    if recipe.offset is not None:
        if path not in recipe.offset:
            raise Unfit("offset", f"{path} is not in the table that --offset names")
        return recipe.offset[path], "the table of --offset", True
    if told:
        return told, "its offset tag", True
    found = evidence(path, tags, layers.values())
    if found.offset is None and told == 0:
        found = found._replace(offset=0, why="its scale tag, without an offset", known=True)
    result.evidence.append(found)
    if found.open:
        raise Unfit("offset", f"{found.open}: give --offset 0 or --offset {found.offset}")
    if found.offset is None:
        result.doubts.append(
            "S2 tells no tag, baseline or date; its dark pixels speak for offset 0: --offset overrules"
        )
        return 0, f"guess: {found.dark:.1%} of its pixels are under DN 800", False
    if not found.known:
        result.doubts.append("S2 tells its offset by the acquisition date alone: --offset overrules")
    return found.offset, found.why if found.known else f"guess: {found.why}", found.known


def _label_map(file: Raster, source: Source, recipe: Recipe, result: Result) -> Picture:
    """A label map as it is stored, and its label ids."""
    classes = recipe.classes.get(source.scheme)
    values, invalid = labels.values_of(file, recipe.colours)
    ids = labels.look_up(values, classes)
    if invalid is not None:
        ids = np.where(invalid, -1, ids)
    result.dropped = labels.dropped(values, ids, invalid, recipe.colours)
    data = next(iter(file.layers.values())).pixels if recipe.raw_map else labels.stored(ids, classes is not None)
    return Picture({MAP_TENSOR: data, _IDS: ids}, file.grid)


def _check_grids(pictures: dict[str, Picture], result: Result) -> None:
    """Raise Unfit if the images, or any two of them that tell where they lie, are not of one grid."""
    (first, one), *others = pictures.items()
    for kind, two in others:
        if one.grid and two.grid:
            compare(one.grid, two.grid, (NAMES[first], NAMES[kind]))
        else:
            result.doubts.append(f"{NAMES[first]} and {NAMES[kind]} tell no place to compare: paired pixel by pixel")


# ---- cutting ---------------------------------------------------------------------------------------------------------


def _cut(source: Source, pictures: dict[str, Picture], recipe: Recipe, result: Result) -> None:
    """Cut the tiles; add entries, rows and statistics of those that are sound."""
    images = {kind: picture.layers for kind, picture in pictures.items()}
    found = list(tiles(images, recipe.patch, recipe.stride, recipe.tolerance))
    result.cover = coverage(images, [tile.window for tile in found])
    grid = next((picture.grid for picture in pictures.values() if picture.grid), None)
    result.grid = described(grid, size_of(images))
    where = positions(grid, [tile.window.centre for tile in found])
    for tile, place in zip(found, where, strict=True):
        _add(source, tile.suffix, tile.layers, place, recipe, result)


def _add(
    source: Source,
    suffix: str,
    cut: dict[str, Layers],
    place: tuple[float, float] | None,
    recipe: Recipe,
    result: Result,
) -> None:
    """Check one tile; add its entries, row and statistics."""
    sample, split = source.name + suffix, source.split or "train"
    ids = cut["map"].pop(_IDS) if "map" in cut else None
    for kind in ("ms", "sar"):
        for name, layer in cut.get(kind, {}).items():
            share = 1 - np.count_nonzero(valid(layer)) / layer.size
            if share > recipe.max_invalid:
                result.left.append((sample, f"{share:.1%} of {name} is nodata or NaN", "nodata"))
                return
    keys = {kind: source.images[kind].key + suffix for kind in cut}
    for key in keys.values():
        if len(key.encode()) > LONGEST_KEY:
            raise Unfit("key", f"its key is {len(key.encode())} bytes long; LMDB takes {LONGEST_KEY}")
    for kind, layers in cut.items():
        whole = {name: np.ascontiguousarray(layer) for name, layer in layers.items()}
        result.entries.append((keys[kind], save(whole)))
    label = source.label
    if ids is not None:
        counts = np.bincount(ids[ids >= 0])
        result.highest = max(result.highest, len(counts) - 1)
        if label is None and len(counts):
            label = int(counts.argmax())
    if "ms" in cut or "sar" in cut:
        lon, lat = place or (None, None)
        row = Row(sample, keys.get("ms"), keys.get("sar"), keys.get("map"), label, split, source.group, lon, lat)
        result.rows.append(row)
        if split == "train":
            result.summaries.append(summarise_tile(cut.get("ms", {}), cut.get("sar", {})))


def summarise_tile(ms: Layers, sar: Layers) -> dict[str, Summary]:
    """Statistics of one tile, by canonical band name."""
    return {
        bands.canonical(name): summarise(layer, kind)
        for kind, layers in (("ms", ms), ("sar", sar))
        for name, layer in sorted(layers.items())
    }
