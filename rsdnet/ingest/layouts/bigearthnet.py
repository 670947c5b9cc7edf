"""BigEarthNet v2: `BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif`, `BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif`,
`Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif`, and `metadata.parquet`, which pairs S1 with S2.

Keys and values are rico-hdl's. Without metadata.parquet S1 and S2 stay unpaired: a sample each.
"""

import os
from dataclasses import dataclass
from typing import Any

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, subfolders
from rsdnet.ingest.source import Image, Recipe, Source

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
METADATA = "metadata.parquet"
_S1 = ("VH", "VV")  # rico-hdl's order

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
    FILES = "BigEarthNet-S2/<tile>/<patch> nor BigEarthNet-S1/<scene>/<patch>"

    def sources(self) -> list[Source]:
        s2 = self._patches("BigEarthNet-S2", bands.S2L2A)
        s1 = self._patches("BigEarthNet-S1", _S1)
        maps = self._patches("Reference_Maps", ())
        if not s2 and not s1:
            return []
        rows = self._metadata()
        partners = {patch: rows[patch]["s1_name"] for patch in s2 if patch in rows}
        found = []
        for patch in sorted({*s2, *maps}):
            kinds = {"ms": s2.get(patch), "sar": s1.get(partners.get(patch, "")), "map": maps.get(patch)}
            images = {kind: image for kind, image in kinds.items() if image is not None}
            split = _SPLITS.get(rows.get(patch, {}).get("split") or "")
            found.append(Source(patch, _scene(next(iter(images.values()))), images, split, scheme="corine"))
        alone = sorted(s1.keys() - partners.values())
        return found + [Source(patch, _scene(s1[patch]), {"sar": s1[patch]}) for patch in alone]

    def _patches(self, collection: str, names: tuple[str, ...]) -> dict[str, Image]:
        """The images of a collection by patch: one file a band; without band names, the reference maps."""
        root = self.source / collection
        found = {}
        for scene in subfolders(root):
            for patch in subfolders(root / scene):
                stem = root / scene / patch / patch
                files = tuple((f"{stem}_{name}.tif", (name,)) for name in names)
                reference = Image.of_file(stem.with_name(f"{patch}_reference_map.tif"), ("Data",))
                found[patch] = Image(patch, files) if names else reference
        return found

    def _metadata(self) -> dict[str, dict[str, Any]]:
        """The rows of metadata.parquet by S2 patch; none without the file."""
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
        return Recipe(
            {"ms": bands.S2L2A, "sar": _S1},
            classes={"corine": codes},
            class_names=tuple(CLASSES),
            raw_map=True,
            level="L2A",
        )


def _scene(image: Image) -> str:
    """The folder of the patch's tile or scene: a group that no split tears apart."""
    return os.path.dirname(os.path.dirname(image.files[0][0]))
