"""EuroSAT multispectral: `<Class>/<Class>_<n>.tif`, 64x64, 13 bands of L1C in uint16, B8A last."""

from collections.abc import Iterator
from dataclasses import dataclass

from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, find_geotiffs, subfolders
from rsdnet.ingest.source import Image, Recipe, Source

# The layers' order (phelber/EuroSAT): Sentinel-2's own but for B8A.
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)


@dataclass(frozen=True)
class EuroSat(Layout):
    """EuroSAT. The usual split is taken from eurosat-train.txt, -val.txt, -test.txt where SOURCE has them."""

    NAME = "eurosat"
    val: float = 0.2
    test: float = 0.2

    def sources(self) -> list[Source]:
        splits = dict(self._listed())
        labels = {name: label for label, name in enumerate(self.class_names())}
        found = [
            Source(
                name=path.stem,
                group=path.stem,
                ms=Image(path.stem, ((str(path), ORDER),)),
                split=splits.get(path.stem) if splits else None,
                label=label,
                problem="no list of the split names it" if splits and path.stem not in splits else "",
            )
            for name, label in labels.items()
            if (self.source / name).is_dir()
            for path in find_geotiffs(self.source / name)
        ]
        if not found:
            raise DataError(f"{self.source} holds no GeoTIFF in a folder of its class: name EuroSAT's own folder")
        return found

    def _listed(self) -> Iterator[tuple[str, str]]:
        for split in ("train", "val", "test"):
            path = self.source / f"eurosat-{split}.txt"
            if path.is_file():
                yield from ((line.strip().rsplit(".", 1)[0], split) for line in path.read_text().splitlines())

    def recipe(self) -> Recipe:
        return Recipe(*self.tiling, {"ms": ORDER, "sar": ()})

    def level(self) -> str:
        return "L1C"

    def class_names(self) -> tuple[str, ...]:
        present = subfolders(self.source)
        return CLASSES if set(present) <= set(CLASSES) else tuple(present)
