"""BigEarthNet v2: `BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif`, `BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif`,
`Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif`, and `metadata.parquet`, which pairs S1 with S2.

Keys and values are rico-hdl's. Without metadata.parquet S1 and S2 stay unpaired: a sample each.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, subfolders
from rsdnet.ingest.source import Image, Recipe, Source

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
METADATA = "metadata.parquet"

# The 19 classes and their CORINE codes (Sumbul et al. 2021, BigEarthNet-MM, table 1); other codes are no class.
CLASSES: dict[str, tuple[int, ...]] = {
    "Urban fabric": (111, 112),
    "Industrial or commercial units": (121,),
    "Arable land": (211, 212, 213),
    "Permanent crops": (221, 222, 223, 241),
    "Pastures": (231,),
    "Complex cultivation patterns": (242,),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (243,),
    "Agro-forestry areas": (244,),
    "Broad-leaved forest": (311,),
    "Coniferous forest": (312,),
    "Mixed forest": (313,),
    "Natural grassland and sparsely vegetated areas": (321, 333),
    "Moors, heathland and sclerophyllous vegetation": (322, 323),
    "Transitional woodland, shrub": (324,),
    "Beaches, dunes, sands": (331,),
    "Inland wetlands": (411, 412),
    "Coastal wetlands": (421, 422),
    "Inland waters": (511, 512),
    "Marine waters": (521, 522, 523),
}


@dataclass(frozen=True)
class BigEarthNet(Layout):
    """BigEarthNet v2."""

    NAME = "bigearthnet"

    def sources(self) -> list[Source]:
        s2 = _patches(self.source / "BigEarthNet-S2", bands.S2L2A)
        s1 = _patches(self.source / "BigEarthNet-S1", ("VH", "VV"))
        maps = _patches(self.source / "Reference_Maps", ())
        if not s2 and not s1:
            raise DataError(
                f"{self.source} has neither BigEarthNet-S2/<tile>/<patch> nor BigEarthNet-S1/<scene>/<patch>"
            )
        facts = self._metadata()
        found = [_source(name, s2, s1, maps, facts.get(name, {})) for name in sorted({*s2, *maps})]
        paired = {fact["s1_name"] for name, fact in facts.items() if name in s2}
        alone = [
            Source(name, os.path.dirname(folder), sar=image)
            for name, (folder, image) in sorted(s1.items())
            if name not in paired
        ]
        return found + alone

    def _metadata(self) -> dict[str, dict[str, Any]]:
        import pyarrow
        import pyarrow.parquet

        path = self.source / METADATA
        if not path.is_file():
            return {}
        try:
            table = pyarrow.parquet.read_table(path, columns=["patch_id", "split", "s1_name"])
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read ({error})") from error
        return {row["patch_id"]: row for row in table.to_pylist()}

    def recipe(self) -> Recipe:
        codes = {code: label for label, codes in enumerate(CLASSES.values()) for code in codes}
        return Recipe(*self.tiling, {"ms": bands.S2L2A, "sar": ("VH", "VV")}, classes={"corine": codes}, raw_map=True)

    def level(self) -> str:
        return "L2A"

    def class_names(self) -> tuple[str, ...]:
        return tuple(CLASSES)


_Found = dict[str, tuple[str, Image]]  # (folder, image) by patch


def _patches(root: Path, names: tuple[str, ...]) -> _Found:
    """The patches of a collection; without band names, their reference maps."""
    places = ((str(root / scene / patch), patch) for scene in subfolders(root) for patch in subfolders(root / scene))
    return {patch: (folder, _image(folder, patch, names)) for folder, patch in places}


def _image(folder: str, patch: str, names: tuple[str, ...]) -> Image:
    if not names:
        key = f"{patch}_reference_map"
        return Image(key, ((f"{folder}/{key}.tif", ("Data",)),))
    return Image(patch, tuple((f"{folder}/{patch}_{name}.tif", (name,)) for name in names))


def _source(name: str, s2: _Found, s1: _Found, maps: _Found, fact: dict[str, Any]) -> Source:
    ms, sar, labels = s2.get(name), s1.get(fact.get("s1_name", "")), maps.get(name)
    here = ms or labels
    return Source(
        name=name,
        group=os.path.dirname(here[0]) if here else name,
        ms=ms and ms[1],
        sar=sar[1] if sar and ms else None,
        map=labels and labels[1],
        split=_SPLITS.get(fact.get("split") or ""),
        scheme="corine",
    )
