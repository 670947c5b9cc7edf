"""EuroSAT, both releases: `<Class>/<Class>_<n>`, 64x64; and any other folders of one class each.

Multispectral: .tif, 13 bands of L1C in uint16, B8A last. RGB: .jpg, three of them stretched to 8 bits.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rsdnet.errors import DataError
from rsdnet.ingest.files import RASTER, add, copies, counted, find_files, key_of
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import Image, Recipe, S2Unit, Source
from rsdnet.options import Share

# The layers' order (phelber/EuroSAT): Sentinel-2's own but for B8A.
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
LISTS = {f"eurosat-{split}.txt": split for split in ("train", "val", "test")}
"""Files of the usual split."""
_SUFFIXES = (".jpg", ".jpeg", ".png", *RASTER)  # of the lines of a list, whatever the release


@dataclass(frozen=True)
class EuroSat(Layout):
    """EuroSAT. The usual split is taken from eurosat-train.txt, -val.txt, -test.txt where SOURCE has them. Its folders
    are the classes: those of other names make a data set of other classes."""

    NAME = "eurosat"
    FILES = "GeoTIFF or JP2 in a folder of its class: name EuroSAT's own folder"
    GROUPS = "patches"
    SPLITS = "those of the lists eurosat-train.txt, -val.txt and -test.txt"
    SUFFIXES: ClassVar[tuple[str, ...]] = RASTER
    BANDS: ClassVar[tuple[str, ...]] = ORDER
    LEVEL: ClassVar[str] = "L1C"
    val: Share = 0.2
    test: Share = 0.2

    def sources(self) -> list[Source]:
        files: dict[str, Path] = {}
        for path in self._images:
            add(files, key_of(path.stem), path)
        labels, listed = {name: label for label, name in enumerate(self._classes)}, self._listed()
        if unknown := sorted(listed.keys() - files.keys()):
            self.notices.append(counted("samples of the lists without a file", len(unknown), unknown[0]))
        doubles = copies(files)
        found = [
            sample(name, labels[key_of(path.parent.name)], Image.of_file(path, self.BANDS, name), listed)
            for name, path in files.items()
        ]
        copied = {name: f"it is named as a copy: of {files[other]}" for name, other in doubles.items()}
        return sorted((one._replace(problem=copied.get(one.name, one.problem)) for one in found), key=order)

    @cached_property
    def _images(self) -> list[Path]:
        """The images in a folder of their class, right below SOURCE."""
        found = find_files(self.source, self.SUFFIXES, self.notices)
        inside = [path for path in found if path.parent.parent == self.source]
        if inside and (beside := sorted({*found} - {*inside})):
            what = f"images in no folder of a class right below {self.source}, not read"
            self.notices.append(counted(what, len(beside), beside[0]))
        return inside

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        """EuroSAT's classes; where folders with images bear other names, those."""
        folders: dict[str, Path] = {}
        for folder in sorted({path.parent for path in self._images}):
            add(folders, key_of(folder.name), folder)
        self.tell_unread([folder.name for folder in folders.values()], "hold no images and are no class")
        return CLASSES if folders.keys() <= {*CLASSES} else tuple(sorted(folders))

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"classes": [*self._classes]}

    def _listed(self) -> dict[str, str]:
        """Split by sample, of the lists that are there. Raises DataError if two of them name one sample."""
        return read_lists([path for name in LISTS if (path := self.source / name).is_file()])

    def recipe(self) -> Recipe:
        return Recipe({"ms": self.BANDS}, class_names=self._classes, level=self.LEVEL)


def sample(name: str, label: int, image: Image, listed: Mapping[str, str]) -> Source:
    """A sample of the class `label`; left out where lists of the splits are there, `listed`, and do not name it."""
    problem = "no list of the split names it" if listed and name not in listed else ""
    return Source(name, name, {"ms": image}, listed.get(name), label, problem=problem)


def order(source: Source) -> tuple[int | None, str]:
    """The order of samples: by class, then by name."""
    return source.label, source.name


def read_lists(paths: Iterable[Path]) -> dict[str, str]:
    """Split by sample, of lists with names of `LISTS`. Raises DataError if two of them name one sample."""
    listed: dict[str, str] = {}
    for path in paths:
        split = LISTS[path.name]
        for name in _names(path):
            if listed.setdefault(name, split) != split:
                both = f"eurosat-{listed[name]}.txt and {path.name} both name {name}"
                raise DataError(f"{path.parent}: {both}: a sample has one split")
    return listed


def _names(path: Path) -> Iterator[str]:
    """The samples that a list names, one a line: with or without folders and suffix."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): it must be text, a file name a line") from error
    for line in text.splitlines():
        name = key_of(line.strip().replace("\\", "/").rpartition("/")[2])
        if suffix := next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), ""):
            name = name[: -len(suffix)]
        if name:
            yield name


@dataclass(frozen=True)
class EuroSatRgb(EuroSat):
    """EuroSAT's RGB release, its 8-bit values as they are: stretched, no reflectance. Splits and classes: see
    eurosat."""

    NAME = "eurosat-rgb"
    FILES = "JPEG in a folder of its class: name the folder EuroSAT_RGB"
    SUFFIXES = (".jpg", ".jpeg")
    BANDS = ("B04", "B03", "B02")
    LEVEL = ""
    s2_unit: S2Unit = "byte"
