"""One source to database entries and catalog rows: read, check, cut. Runs in the workers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import rasterio
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.statistics import Summary, summarise, valid
from rsdnet.errors import DataError, Unfit
from rsdnet.ingest import raster
from rsdnet.ingest.grid import compare, described, positions
from rsdnet.ingest.images import IDS, Facts, Picture, read_image
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.tiles import NAMES, Layers, coverage, size_of, tiles

LONGEST_KEY = 511  # bytes; LMDB's MDB_MAXKEYSIZE
Read = Callable[[str, Image, Source, Recipe, Facts], Picture]
"""The picture of one image of a source: see `read_image`."""


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
    labels: tuple[int, ...] | None = None
    snow: bool | None = None
    clouds: bool | None = None


@dataclass
class Result(Facts):
    """The outcome of one source.

    entries: (key, safetensors blob). left: samples left out, (sample, reason, kind of reason). summaries: statistics by
    band, one dict a training tile, in the order of the rows. highest: the largest label id on a map, -1 for none.
    cover: pixels of the images, and of those that tiles take. grid: size with pixels, and coordinate system, in words.
    """

    rows: list[Row] = field(default_factory=list)
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    left: list[tuple[str, str, str]] = field(default_factory=list)
    summaries: list[dict[str, Summary]] = field(default_factory=list)
    highest: int = -1
    cover: tuple[int, int] = (0, 0)
    grid: tuple[str, str] = ("", "")

    def line(self) -> dict[str, Any]:
        """The source's line of the journal."""
        kept = ("rows", "left", "offsets", "notes", "doubts", "dropped", "highest", "cover", "grid")
        return {name: getattr(self, name) for name in kept}


def ingest_source(source: Source, recipe: Recipe, read: Read = read_image, keep: bool = True) -> Result:
    """Entries and rows of one source; a fault in it becomes a reason in `left`, never an exception.

    keep: make the entries. Without it the database has them already.
    """
    result = Result()
    try:
        if source.problem:
            raise Unfit(source.problem.split(":")[0], source.problem)
        if not source.images or not all(image.files for image in source.images.values()):
            raise Unfit("no files", "its layout gives it no image, or one without files")
        with rasterio.Env(**raster.GDAL):
            pictures = {kind: read(kind, image, source, recipe, result) for kind, image in source.images.items()}
        if keep:  # a database tells no place
            _check_grids(pictures, result)
        _cut(source, pictures, recipe, result, keep)
    except DataError as error:
        kind = getattr(error, "kind", "other reasons")
        return Result(left=[(source.name, " ".join(str(error).split()), kind)], evidence=result.evidence)
    return result


def _check_grids(pictures: dict[str, Picture], result: Result) -> None:
    """Raise Unfit if the images that tell their place are not of one grid."""
    placed = [(NAMES[kind], picture.grid) for kind, picture in pictures.items() if picture.grid]
    for name, grid in placed[1:]:
        compare(placed[0][1], grid, (placed[0][0], name))
    if 1 < len(pictures) != len(placed):
        silent = " and ".join(NAMES[kind] for kind, picture in pictures.items() if not picture.grid)
        result.doubts.append(f"{silent} without a georeference: paired pixel by pixel")


def _cut(source: Source, pictures: dict[str, Picture], recipe: Recipe, result: Result, keep: bool) -> None:
    """Cut the tiles; add entries, rows and statistics of those that are sound."""
    images = {kind: picture.layers for kind, picture in pictures.items()}
    found = list(tiles(images, recipe.patch, recipe.stride, recipe.tolerance))
    result.cover = coverage(images, [tile.window for tile in found])
    grid = next((picture.grid for picture in pictures.values() if picture.grid), None)
    result.grid = described(grid, size_of(images))
    where = positions(grid, [tile.window.centre for tile in found])
    for tile, place in zip(found, where, strict=True):
        _add(source, tile.suffix, tile.layers, place, recipe, result, keep)


def _add(
    source: Source,
    suffix: str,
    cut: dict[str, Layers],
    place: tuple[float, float] | None,
    recipe: Recipe,
    result: Result,
    keep: bool,
) -> None:
    """Check one tile; add its entries, row and statistics."""
    sample, split = source.name + suffix, source.split or "train"
    ids = cut["map"].pop(IDS) if "map" in cut else None
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
    for kind, layers in cut.items() if keep else ():
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
        labels = None if suffix else source.labels  # a tile need not hold every class of its image
        result.rows.append(row._replace(labels=labels, snow=source.snow, clouds=source.clouds))
        if split == "train":
            result.summaries.append(summarise_tile(cut.get("ms", {}), cut.get("sar", {})))


def summarise_tile(ms: Layers, sar: Layers) -> dict[str, Summary]:
    """Statistics of one tile, by canonical band name."""
    return {
        bands.canonical(name): summarise(layer, kind)
        for kind, layers in (("ms", ms), ("sar", sar))
        for name, layer in sorted(layers.items())
    }
