"""SEN12MS, and DFC2020 in the same layout (schmitt-muc/SEN12MS).

`ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif`, beside it `s1_1/` and `lc_1/` (or `dfc_1/`) with the same season,
scene and patch number. S2: L1C, 13 bands in uint16. S1: dB in float32. Layer 1 of `lc`: IGBP land cover.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, find_geotiffs
from rsdnet.ingest.source import Image, Recipe, Source

# DFC2020's classes by number, from 1 (IEEE GRSS Data Fusion Contest 2020).
DFC = (
    "Forest",
    "Shrubland",
    "Savanna",
    "Grassland",
    "Wetlands",
    "Croplands",
    "Urban/Built-up",
    "Snow/Ice",
    "Barren",
    "Water",
)
# DFC number of IGBP class 0 to 17 (lukasliebel/dfc2020_baseline); 0 is no class.
IGBP_TO_DFC = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)
S1_BANDS = ("VV", "VH")
# DFC2020's two parts are far apart in size (986 and 5,128): the smaller trains a probe, the larger tests it.
_DFC_SPLITS = {"ROIs0000_validation": "train", "ROIs0000_test": "test"}
_NAME = re.compile(r"(ROIs\d+_[a-z0-9]+)_(s1|s2|lc|dfc)_([A-Za-z0-9]+)_(p\d+)")


@dataclass(frozen=True)
class Sen12ms(Layout):
    """SEN12MS or DFC2020."""

    NAME = "sen12ms"

    def sources(self) -> list[Source]:
        found: dict[tuple[str, str, str], dict[str, Path]] = {}
        for path in find_geotiffs(self.source):
            match = _NAME.fullmatch(path.stem)
            if match:
                season, kind, scene, number = match.groups()
                found.setdefault((season, scene, number), {})[kind] = path
        if not found:
            raise DataError(
                f"{self.source} holds no GeoTIFF named as in SEN12MS "
                "(ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif): name the folder above the ROIs folders"
            )
        return [_source(key, found[key]) for key in sorted(found, key=_order)]

    def recipe(self) -> Recipe:
        dfc = {number: number - 1 for number in range(1, 11)}
        igbp = {value: number - 1 for value, number in enumerate(IGBP_TO_DFC) if number}
        return Recipe(*self.tiling, {"ms": bands.S2L1C, "sar": S1_BANDS}, classes={"dfc": dfc, "lc": igbp})

    def level(self) -> str:
        return "L1C"

    def class_names(self) -> tuple[str, ...]:
        return DFC


def _order(key: tuple[str, str, str]) -> tuple[str, str, int]:
    return key[0], key[1], int(key[2][1:])


def _source(key: tuple[str, str, str], files: dict[str, Path]) -> Source:
    season, scene, number = key
    names: dict[str, tuple[str, ...]] = {"s2": bands.S2L1C, "s1": S1_BANDS, "lc": ("Data",), "dfc": ("Data",)}
    images = {kind: Image(path.stem, ((str(path), names[kind]),)) for kind, path in files.items()}
    missing = [kind for kind in ("s2", "s1") if kind not in files]
    return Source(
        name=f"{season}_{scene}_{number}",
        group=f"{season}_{scene}",
        ms=images.get("s2"),
        sar=images.get("s1"),
        map=images.get("dfc", images.get("lc")),
        scheme="dfc" if "dfc" in files else "lc",
        split=_DFC_SPLITS.get(season),
        problem=f"it has no {missing[0]} file" if missing else "",
    )
