"""One source to database entries and catalog rows: read, convert, cut, check. Runs in the workers."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import rasterio
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.statistics import Summary, summarise, valid
from rsdnet.errors import DataError
from rsdnet.ingest import raster
from rsdnet.ingest.raster import convert, convert_map, look_up
from rsdnet.ingest.s2_offset import decide, subtract
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.tiles import NAMES, Layers, tiles

LONGEST_KEY = 511  # bytes; LMDB's MDB_MAXKEYSIZE


class Row(NamedTuple):
    """A row of the catalog: see `rsdnet.data.catalog`."""

    sample: str
    ms: str | None
    sar: str | None
    map: str | None
    label: int | None
    split: str


@dataclass
class Result:
    """The outcome of one source.

    entries: (key, safetensors blob). left: samples left out, (sample, reason). summaries: statistics by band, one dict
    a training tile, in the order of the rows. offsets: (file, DN subtracted, reason). notes: conversions of types.
    highest: the largest label id on a map, -1 for none.
    """

    rows: list[Row] = field(default_factory=list)
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    summaries: list[dict[str, Summary]] = field(default_factory=list)
    offsets: list[tuple[str, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    highest: int = -1

    def line(self) -> dict[str, Any]:
        """The source's line of the journal."""
        return {name: getattr(self, name) for name in ("rows", "left", "offsets", "notes", "highest")}


def ingest_source(source: Source, recipe: Recipe) -> Result:
    """Entries and rows of one source; a fault in it becomes a reason in `left`, never an exception."""
    result = Result()
    try:
        if source.problem:
            raise DataError(source.problem)
        with rasterio.Env(**raster.GDAL):
            images = {kind: _read(kind, image, source, recipe, result) for kind, image in source.images.items()}
        for suffix, cut in tiles(images, recipe.patch, recipe.stride, recipe.tolerance):
            _add(source, suffix, cut, recipe, result)
    except DataError as error:
        return Result(left=[(source.name, " ".join(str(error).split()))])
    return result


def _read(kind: str, image: Image, source: Source, recipe: Recipe, result: Result) -> Layers:
    """The layers of one image, converted to database values."""
    layers: Layers = {}
    first = image.files[0][0]
    tags = {"path": first}
    for path, named in image.files:
        file = raster.read(path, named, exact=kind != "map")
        tags |= file.tags
        for name, layer, nodata in zip(file.names, file.layers, file.nodata, strict=False):
            if kind == "map":
                if layer.dtype.kind not in "iu":
                    raise DataError(f"{path} holds {layer.dtype}, but a label map holds whole numbers")
                classes = recipe.classes.get(source.scheme)
                layers[name] = layer if recipe.raw_map else convert_map(path, layer, nodata, classes)
                continue
            layers[name] = convert(path, layer, nodata, kind, recipe.s1_unit)
            if layers[name].dtype != layer.dtype:
                power = ", power as dB" if kind == "sar" and recipe.s1_unit == "power" else ""
                note = f"{NAMES[kind]}: {layer.dtype} stored as {layers[name].dtype}{power}"
                result.notes += [note] if note not in result.notes else []
    if kind == "map":
        return layers
    expected = recipe.expected[kind]
    absent = [name for name in expected if name not in layers]
    if absent:
        raise DataError(f"{first} has no band {', '.join(absent)}: it has {', '.join(layers)}")
    layers = {name: layers[name] for name in expected}
    if kind == "sar":
        return layers
    offset = recipe.offset
    if offset is None:
        offset, why = decide(layers, tags)
        result.offsets.append((first, offset, why))
    return {name: subtract(layer, offset) for name, layer in layers.items()}


def _add(source: Source, suffix: str, cut: dict[str, Layers], recipe: Recipe, result: Result) -> None:
    """Check one tile; add its entries, row and statistics."""
    sample, split = source.name + suffix, source.split or "train"
    for kind in ("ms", "sar"):
        for name, layer in cut.get(kind, {}).items():
            share = 1 - np.count_nonzero(valid(layer)) / layer.size
            if share > recipe.max_invalid:
                result.left.append((sample, f"{share:.1%} of {name} is nodata or NaN"))
                return
    keys = {kind: source.images[kind].key + suffix for kind in cut}
    for key in keys.values():
        if len(key.encode()) > LONGEST_KEY:
            raise DataError(f"its key is {len(key.encode())} bytes long; LMDB takes {LONGEST_KEY}")
    for kind, layers in cut.items():
        whole = {name: np.ascontiguousarray(layer) for name, layer in layers.items()}
        result.entries.append((keys[kind], save(whole)))
    label = source.label
    if "map" in cut:
        data = cut["map"]["Data"]
        ids = look_up(data, recipe.classes[source.scheme]) if recipe.raw_map else data
        counts = np.bincount(ids[ids != (-1 if recipe.raw_map else np.iinfo(data.dtype).max)])
        result.highest = max(result.highest, len(counts) - 1)
        if label is None and len(counts):
            label = int(counts.argmax())
    if "ms" in cut or "sar" in cut:
        result.rows.append(Row(sample, keys.get("ms"), keys.get("sar"), keys.get("map"), label, split))
        if split == "train":
            result.summaries.append(summarise_tile(cut.get("ms", {}), cut.get("sar", {})))


def summarise_tile(ms: Layers, sar: Layers) -> dict[str, Summary]:
    """Statistics of one tile, by canonical band name."""
    return {
        bands.canonical(name): summarise(layer, kind)
        for kind, layers in (("ms", ms), ("sar", sar))
        for name, layer in sorted(layers.items())
    }
