"""EuroSAT, both releases: `<Class>/<Class>_<n>`, 64x64.

Multispectral: .tif, 13 bands of L1C in uint16, B8A last. RGB: .jpg, three of them stretched to 8 bits.
"""

from dataclasses import dataclass
from typing import ClassVar

from rsdnet.ingest.layouts.base import GEOTIFF, Layout, find_files, subfolders
from rsdnet.ingest.source import Image, Recipe, S2Unit, Source
from rsdnet.options import Share

# The layers' order (phelber/EuroSAT): Sentinel-2's own but for B8A.
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip


@dataclass(frozen=True)
class EuroSat(Layout):
    """EuroSAT. The usual split is taken from eurosat-train.txt, -val.txt, -test.txt where SOURCE has them."""

    NAME = "eurosat"
    FILES = "GeoTIFF in a folder of its class: name EuroSAT's own folder"
    SUFFIXES: ClassVar[tuple[str, ...]] = GEOTIFF
    BANDS: ClassVar[tuple[str, ...]] = ORDER
    LEVEL: ClassVar[str] = "L1C"
    UNIT: ClassVar[S2Unit] = "dn"
    val: Share = 0.2
    test: Share = 0.2

    def sources(self) -> list[Source]:
        splits = self._listed()
        return [
            Source(
                name=path.stem,
                group=path.stem,
                images={"ms": Image.of_file(path, self.BANDS)},
                split=splits.get(path.stem),
                label=label,
                problem="no list of the split names it" if splits and path.stem not in splits else "",
            )
            for label, name in enumerate(self._classes())
            if (self.source / name).is_dir()
            for path in find_files(self.source / name, self.SUFFIXES)
            if path.parent == self.source / name  # a folder above EuroSAT's own is no class
        ]

    def _listed(self) -> dict[str, str]:
        """Split by sample, of the lists that are there."""
        lists = {split: self.source / f"eurosat-{split}.txt" for split in ("train", "val", "test")}
        return {
            line.strip().rsplit(".", 1)[0]: split
            for split, path in lists.items()
            if path.is_file()
            for line in path.read_text().splitlines()
        }

    def recipe(self) -> Recipe:
        return Recipe({"ms": self.BANDS}, s2_unit=self.UNIT, class_names=self._classes(), level=self.LEVEL)

    def _classes(self) -> tuple[str, ...]:
        """EuroSAT's classes; where the folders bear other names, those."""
        present = subfolders(self.source)
        return CLASSES if set(present) <= set(CLASSES) else tuple(present)


@dataclass(frozen=True)
class EuroSatRgb(EuroSat):
    """EuroSAT's RGB release, its 8-bit values as they are: stretched, no reflectance. Splits: see eurosat."""

    NAME = "eurosat-rgb"
    FILES = "JPEG in a folder of its class: name the folder EuroSAT_RGB"
    SUFFIXES = (".jpg", ".jpeg")
    BANDS = ("B04", "B03", "B02")
    LEVEL = ""
    UNIT = "byte"
