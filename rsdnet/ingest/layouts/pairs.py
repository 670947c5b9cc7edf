"""Any folders of multi-band GeoTIFFs with the same file names: one of S2, one of S1, one of label maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rasterio.errors import RasterioError

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, Offset, find_geotiffs, parse_offset
from rsdnet.ingest.raster import described
from rsdnet.ingest.source import Image, Recipe, Source

_ORDERS = {"L1C": bands.S2L1C, "L2A": bands.S2L2A}


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
    """Names of the S2 layers in order, B02,B03,...; L1C or L2A for all 13 or 12; without it the files' descriptions."""
    s1_bands: str = ""
    """Names of the S1 layers in order, VV,VH; without it the files' descriptions."""
    s1_unit: Literal["db", "power"] = "db"
    """Unit of the S1 values; power becomes dB, 10 log10; zero or negative power becomes invalid."""
    offset: Offset = "auto"
    classes: str = ""
    """Classes of the label maps, 1=water,2=trees,...: other values are no class; without it each value is one."""

    NAME = "pairs"

    def check(self) -> None:
        super().check()
        if self.s2 is None and self.s1 is None:
            raise DataError("pairs needs --s2 DIR, --s1 DIR or both")
        parse_offset(self.offset)
        self._classes()

    def sources(self) -> list[Source]:
        folders = {"ms": self.s2, "sar": self.s1, "map": self.label}
        found = {kind: self._files(self.source / folder) for kind, folder in folders.items() if folder is not None}
        if not set.intersection(*map(set, found.values())):
            raise DataError(f"the folders of {self.source} have no file name in common")
        return [self._source(name, found) for name in sorted(set.union(*map(set, found.values())))]

    def _files(self, folder: Path) -> dict[str, Path]:
        """The files of a folder by their path below it, without its suffix."""
        files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in find_geotiffs(folder)}
        if not files:
            raise DataError(f"{folder} holds no GeoTIFF")
        return files

    def _source(self, name: str, found: dict[str, dict[str, Path]]) -> Source:
        images, problem = dict[str, Image](), ""
        forms = {"ms": ("s2", _names(self.s2_bands)), "sar": ("s1", _names(self.s1_bands)), "map": ("map", ("Data",))}
        for kind, (suffix, names) in forms.items():
            path = found.get(kind, {}).get(name)
            if path is not None:
                images[kind] = Image(f"{name}_{suffix}", ((str(path), names),))
            elif kind in found:
                problem = f"it has no {'label' if kind == 'map' else suffix} file"
        ms, sar, labels = (images.get(kind) for kind in forms)
        return Source(name, name, ms, sar, labels, scheme="map", problem=problem)

    def recipe(self) -> Recipe:
        classes = self._classes()
        return Recipe(
            *self.tiling,
            {"ms": self._expected("ms"), "sar": self._expected("sar")},
            s1_unit=self.s1_unit,
            offset=parse_offset(self.offset),
            classes={"map": {value: row for row, value in enumerate(classes)}} if classes else {},
        )

    def _expected(self, kind: str) -> tuple[str, ...]:
        """The bands of every file: those named, else those of the first readable file's descriptions."""
        folder, spelled = (self.s2, self.s2_bands) if kind == "ms" else (self.s1, self.s1_bands)
        names = _names(spelled)
        if names is None and folder is not None:
            names = _described(self.source / folder, "--s2-bands" if kind == "ms" else "--s1-bands")
        for name in names or ():
            if bands.BANDS[name].modality != kind:
                raise DataError(f"{name} is no band of {'S2' if kind == 'ms' else 'S1'}: see --s2-bands, --s1-bands")
        return names or ()

    def level(self) -> str:
        names = self._expected("ms")
        return "L1C" if "B10" in names else "L2A" if set(names) == set(bands.S2L2A) else ""

    def class_names(self) -> tuple[str, ...] | None:
        return tuple(self._classes().values()) or None

    def _classes(self) -> dict[int, str]:
        classes: dict[int, str] = {}
        for part in filter(None, self.classes.split(",")):
            number, _, name = part.partition("=")
            if not number.strip().isdigit() or not name.strip():
                raise DataError(f"--classes has {part!r}, but wants a value and a name each: 1=water,2=trees")
            if int(number) in classes:
                raise DataError(f"--classes names the value {int(number)} twice")
            classes[int(number)] = name.strip()
        if len(classes) > 255:
            raise DataError(f"--classes has {len(classes)} classes; a label map holds at most 255")
        return classes


def _names(spelled: str) -> tuple[str, ...] | None:
    """--s2-bands or --s1-bands as canonical names; None where it is empty."""
    if not spelled:
        return None
    names = _ORDERS.get(spelled.upper()) or tuple(bands.canonical(name) for name in spelled.split(","))
    if len(set(names)) < len(names):
        raise DataError(f"{spelled!r} names a band twice")
    return names


def _described(folder: Path, option: str) -> tuple[str, ...]:
    """Band names by the descriptions of the first file that can be read."""
    for path in find_geotiffs(folder):
        try:
            names, layers = described(str(path))
        except RasterioError:
            continue
        if names is None:
            raise DataError(f"{path} does not name its {layers} layers: give {option}, their names in order")
        return names
    raise DataError(f"no GeoTIFF in {folder} can be read")
