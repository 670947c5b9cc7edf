"""One image of a source to database values: its layers by name, in DN, dB or label ids, and the facts about it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rsdnet import plausible
from rsdnet.data.catalog import MAP_TENSOR
from rsdnet.errors import Unfit
from rsdnet.ingest import labels, raster, units
from rsdnet.ingest.grid import Grid, compare
from rsdnet.ingest.raster import Layer, Raster
from rsdnet.ingest.region import Region
from rsdnet.ingest.s2_offset import DARK, Evidence, evidence, subtract
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.tiles import NAMES, Layers

IDS = "ids"
"""The layer of a label map's ids, (H, W) int64, -1 for no class; not stored."""


@dataclass
class Facts:
    """Facts about the images of a source.

    offsets: (file, DN subtracted, reason, whether it is known). evidence: of the offset. notes, doubts: facts and
    guesses to count over all sources. dropped: pixels of label maps by value that is no class. read: bytes that were
    read, where that is counted.
    """

    offsets: list[tuple[str, int, str, bool]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    read: int = 0

    def note(self, text: str) -> None:
        """Note a fact, once."""
        self.notes += [text] if text not in self.notes else []


class Picture(NamedTuple):
    """An image as it will be stored, and the grid of its finest layer. A label map also has the layer `IDS`."""

    layers: Layers
    grid: Grid | None


def read_image(
    kind: str, image: Image, source: Source, recipe: Recipe, facts: Facts, region: Region | None = None, most: int = 0
) -> Picture:
    """The layers of one image, converted to database values. region, most: as of `raster.read`."""
    files = [raster.read(path, names, recipe.nodata.get(kind), region, most) for path, names in image.files]
    return picture_of(kind, image.files[0][0], files, source, recipe, facts)


def picture_of(kind: str, first: str, files: list[Raster], source: Source, recipe: Recipe, facts: Facts) -> Picture:
    """The layers of an image's files, converted to database values. first: the path of its first file."""
    for file in files:
        if file.flipped:
            facts.note(f"{NAMES[kind]}: stored south-up or mirrored, turned north up")
    if kind == "map":
        return _label_map(files[0], source, recipe, facts)
    found = {name: layer for file in files for name, layer in file.layers.items()}
    expected = recipe.expected[kind]
    if absent := [name for name in expected if name not in found]:
        raise Unfit("bands", f"{first} has no band {', '.join(absent)}: it has {', '.join(found)}")
    if untaken := [name for file in files for name in file.untaken] + [name for name in found if name not in expected]:
        facts.note(f"{NAMES[kind]}: layers not taken: {', '.join(untaken)}")
    wanted = {name: found[name] for name in expected}
    convert = _sar if kind == "sar" else _ms
    tags = raster.joined(file.tags for file in files)
    return Picture(convert(first, wanted, tags, recipe, facts), _grid(files))


def _grid(files: list[Raster]) -> Grid | None:
    """The finest grid of an image's files. Raises Unfit where one is of another place."""
    grids = [(file.grid, next(iter(file.layers.values())).path) for file in files if file.grid]
    grids.sort(key=lambda one: -one[0].shape[0])
    for grid, path in grids[1:]:
        compare(grids[0][0], grid, (grids[0][1], path))
    return grids[0][0] if len(grids) == len(files) else None


def _sar(path: str, wanted: dict[str, Layer], tags: dict[str, str], recipe: Recipe, facts: Facts) -> Layers:
    """S1 bands in dB."""
    unit = recipe.s1_unit
    if not recipe.implausible:
        for name, layer in wanted.items():
            plausible.check_fill(name, layer.path, layer.pixels, layer.invalid, "sar", unit)
    layers = {name: units.s1(layer, unit) for name, layer in wanted.items()}
    if not recipe.implausible:
        plausible.check_s1(path, layers, unit)
    first = next(iter(wanted.values()))
    for layer in wanted.values():
        facts.note(_types("S1", layer, np.dtype(np.float32), "" if unit == "db" else f", {unit} as dB"))
    if (first.scale, first.offset) != (1, 0):
        facts.note(f"S1: scale {first.scale:g} and offset {first.offset:g} of the tags applied")
    return layers


def _ms(path: str, wanted: dict[str, Layer], tags: dict[str, str], recipe: Recipe, facts: Facts) -> Layers:
    """S2 bands in DN without the offset, or in bytes."""
    unit, first = recipe.s2_unit, next(iter(wanted.values()))
    converted = {name: units.s2(layer, unit) for name, layer in wanted.items()}
    layers = {name: layer for name, (layer, _) in converted.items()}
    if not recipe.implausible:
        for name, layer in wanted.items():
            plausible.check_fill(name, layer.path, layer.pixels, layer.invalid, "ms", unit)
        plausible.check_s2(path, layers, unit, first.pixels.dtype)
    for name, layer in wanted.items():
        facts.note(_types("S2", layer, layers[name].dtype, ", reflectance as DN" if unit == "reflectance" else ""))
    if unit == "byte":
        if recipe.offset not in (None, "tags", 0):
            raise Unfit("offset", "--offset is in DN, but --s2-unit byte has none: leave one of them out")
        return layers
    tagged = {told for _, told in converted.values()}
    if len(tagged) > 1 and tagged != {None, 0} and recipe.offset in (None, "tags"):
        raise Unfit("offset", f"{path}: its layers' tags tell different offsets: give --offset in DN")
    told = tagged.pop() if len(tagged) == 1 else None
    offset, why, known = _offset(path, layers, tags, told, recipe, facts)
    if (first.scale, first.offset) != (1, 0):
        overruled = first.offset != 0 and offset != told
        how = "read, and another offset subtracted as --offset tells" if overruled else "applied"
        facts.note(f"S2: scale {first.scale:g} and offset {first.offset:g} of the tags {how}")
    listed = offset or (unit == "dn" and recipe.offset not in ("tags", 0))
    facts.offsets += [(path, round(offset), why, known)] if listed else []
    return {name: subtract(layer, offset) for name, layer in layers.items()}


def _types(sensor: str, layer: Layer, stored: np.dtype, how: str) -> str:
    return f"{sensor}: {layer.pixels.dtype}{f' stored as {stored}{how}' if stored != layer.pixels.dtype or how else ''}"


def _offset(
    path: str, layers: Layers, tags: dict[str, str], told: float | None, recipe: Recipe, facts: Facts
) -> tuple[float, str, bool]:
    """(DN of offset in an S2 image, why, whether it is known). told: by its scale and offset tags."""
    if recipe.offset == "tags":
        return told or 0, "its offset tag", True
    if isinstance(recipe.offset, int):
        return recipe.offset, "--offset", True
    if recipe.offset is not None:
        if path not in recipe.offset:
            raise Unfit("offset", f"{path} is not in the table that --offset names")
        return recipe.offset[path], "the table of --offset", True
    found = evidence(path, tags, layers.values())
    if told:
        found = found._replace(offset=round(told), why="its offset tag", known=True)
    elif recipe.s2_unit == "reflectance":
        if found.offset and found.near:
            inside = f"{found.why} tells an offset, and its darkest reflectance lies just above 0.1, as with it"
            raise Unfit("offset", f"{path}: {inside}: give --offset 1000, or --offset 0 to take it as it is")
        return 0, "reflectance", True
    elif found.offset is None and told == 0:
        found = found._replace(offset=0, why="its scale tag, without an offset", known=True)
    facts.evidence.append(found)
    if found.open:
        raise Unfit("offset", f"{found.open}: give --offset 0 or --offset {found.offset}")
    if found.offset is None:
        facts.doubts.append("S2 tells no tag, baseline or date; its dark pixels speak for offset 0: --offset overrules")
        return 0, f"guess: {found.dark:.1%} of its pixels are under DN {DARK}", False
    if not found.known:
        facts.doubts.append("S2 tells its offset by the acquisition date alone: --offset overrules")
    return told or found.offset, found.why if found.known else f"guess: {found.why}", found.known


def _label_map(file: Raster, source: Source, recipe: Recipe, facts: Facts) -> Picture:
    """A label map as it is stored, and its label ids."""
    classes = recipe.classes.get(source.scheme)
    values, invalid = labels.values_of(file, recipe.colours)
    ids = labels.look_up(values, classes)
    if invalid is not None:
        if classes is not None and (blank := labels.named(values[invalid & (ids >= 0)], recipe.colours)):
            facts.doubts.append(
                f"label maps: pixels without data, by nodata value or mask, are a class: {', '.join(blank)}"
            )
        ids = np.where(invalid, -1, ids)
    facts.dropped = labels.dropped(values, ids, invalid, recipe.colours)
    data = next(iter(file.layers.values())).pixels if recipe.raw_map else labels.stored(ids, classes is not None)
    return Picture({MAP_TENSOR: data, IDS: ids}, file.grid)
