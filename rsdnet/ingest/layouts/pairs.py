"""Any folders of multi-band GeoTIFFs with the same file names: one of S2, one of S1, one of label maps."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import rasterio

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest import labels
from rsdnet.ingest.files import RASTER, add, copies, find_files, key_of
from rsdnet.ingest.layouts.base import Layout, Offset, parse_offset
from rsdnet.ingest.raster import SKIP, choose
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.tiles import NAMES

_ORDERS = {"L1C": bands.S2L1C, "L2A": bands.S2L2A}
_SUFFIXES = {"ms": "s2", "sar": "s1", "map": "map"}  # of the entries' keys


@dataclass(frozen=True)
class Pairs(Layout):
    """Folders of multi-band GeoTIFFs with the same file names; --s2, --s1, --label lie below SOURCE or are absolute."""

    s2: Path | None = None
    """Folder of the S2 files."""
    s1: Path | None = None
    """Folder of the S1 files."""
    label: Path | None = None
    """Folder of the label maps: one layer of class numbers."""
    s2_bands: str = ""
    """Names of the S2 layers in order, B02,B03,...; - skips a layer; L1C or L2A for all 13 or 12; without it the
    layers that the files describe as bands."""
    s1_bands: str = ""
    """Names of the S1 layers in order, VV,VH; - skips a layer; without it the layers that the files describe as
    bands."""
    offset: Offset = "auto"
    classes: str = ""
    """Classes of the label maps, 1=water,2=trees,... or, of colour maps, #0000ff=water,...: other values are no class;
    without it each value from 0 to 65,534 is one."""

    NAME = "pairs"
    GROUPS = "folders or files"

    def check(self) -> None:
        super().check()
        if self.s2 is None and self.s1 is None:
            raise DataError("pairs needs --s2 DIR, --s1 DIR or both")
        parse_offset(self.offset, self.source)
        if labels.parse(self.classes) and self.label is None:
            raise DataError("--classes names the classes of label maps, so it needs --label DIR")

    def sources(self) -> list[Source]:
        found = self._found
        if not set.intersection(*map(set, found.values())):
            raise DataError(f"the folders of {self.source} have no file name in common")
        layers = {
            "ms": layer_names(self.s2_bands),
            "sar": layer_names(self.s1_bands),
            "map": labels.RGB if "#" in self.classes else ("Data",),
        }
        sources = []
        names = set.union(*map(set, found.values()))
        doubles = copies(names)
        for name in sorted(names):
            images = {
                kind: Image.of_file(files[name], layers[kind], f"{name}_{_SUFFIXES[kind]}")
                for kind, files in found.items()
                if name in files
            }
            absent = [kind for kind in found if kind not in images]
            problem = f"it has no {'label' if absent[-1] == 'map' else _SUFFIXES[absent[-1]]} file" if absent else ""
            problem = f"it is named as a copy: of {doubles[name]}" if name in doubles else problem
            group = name.rpartition("/")[0] or name
            sources.append(Source(name, group, images, scheme="map", problem=problem))
        if (
            self.val + self.test > 0
            and not self.group
            and not self.split_by
            and any("/" not in s.name and not s.problem for s in sources)
        ):
            self.notices.append(
                "splits are drawn by file, as files lie in no folder of their scene: --group, --split-by"
            )
        return sources

    @cached_property
    def _found(self) -> dict[str, dict[str, Path]]:
        """The files of each folder by name, {"ms": ..., "sar": ..., "map": ...}."""
        folders = {"ms": self.s2, "sar": self.s1, "map": self.label}
        return {k: _files(self.source / folder, self.notices) for k, folder in folders.items() if folder is not None}

    def path_of(self, source: Source) -> str:
        return source.name

    def recipe(self) -> Recipe:
        classes = labels.parse(self.classes)
        s2 = self._expected("ms", self.s2_bands, "--s2-bands")
        return Recipe(
            {"ms": s2, "sar": self._expected("sar", self.s1_bands, "--s1-bands")},
            offset=parse_offset(self.offset, self.source),
            classes={"map": {value: row for row, value in enumerate(classes)}} if classes else {},
            class_names=tuple(classes.values()) or None,
            colours="#" in self.classes,
            level="L1C" if "B10" in s2 else "L2A" if set(s2) == set(bands.S2L2A) else "",
        )

    def _expected(self, kind: str, spelled: str, option: str) -> tuple[str, ...]:
        """The bands of every file: those named, else those of the first readable file's descriptions."""
        names = layer_names(spelled)
        if names is None and kind in self._found:
            names = _described(self._found[kind].values(), kind, option)
        names = tuple(name for name in names or () if name != SKIP)
        for name in names:
            if bands.BANDS[name].modality != kind:
                raise DataError(f"{name} is no band of {NAMES[kind]}: see --s2-bands, --s1-bands")
        return names


def _files(folder: Path, notices: list[str]) -> dict[str, Path]:
    """The files of a folder by their path below it, without its suffix. Raises DataError if two have one."""
    files: dict[str, Path] = {}
    for path in find_files(folder, RASTER, notices):
        below = "/".join(path.parts[len(folder.parts) :])
        add(files, key_of(os.path.splitext(below)[0]), path)
    if not files:
        raise DataError(f"{folder} holds no GeoTIFF or JP2")
    return files


def layer_names(spelled: str) -> tuple[str, ...] | None:
    """Names of layers, B02,B03,-,B08 or L1C or L2A, as canonical ones; None where there are none."""
    if not spelled:
        return None
    words = [word.strip() for word in spelled.split(",")]
    names = _ORDERS.get(spelled.upper()) or tuple(word if word == SKIP else bands.canonical(word) for word in words)
    named = [name for name in names if name != SKIP]
    if len(set(named)) < len(named):
        raise DataError(f"{spelled!r} names a band twice")
    if not named:
        raise DataError(f"{spelled!r} names no band")
    return names


def _described(files: Iterable[Path], kind: str, option: str) -> tuple[str, ...]:
    """The bands of one sensor by the descriptions of the first file that can be read."""
    for path in files:
        try:
            with rasterio.open(path) as file:
                names = choose(str(path), file.descriptions, None)
        except rasterio.errors.RasterioError:
            continue
        except DataError as error:
            raise DataError(f"{error}: give {option}, their names in order") from error
        if own := tuple(name for name in names if bands.BANDS[name].modality == kind):
            return own
        raise DataError(f"{path} describes {', '.join(names)}, none of them a band of {NAMES[kind]}: see {option}")
    raise DataError(f"none of the {NAMES[kind]} files can be read")
