"""SEN12MS, and DFC2020 in the same layout (schmitt-muc/SEN12MS).

`ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif`, beside it `s1_1/` and `lc_1/` (or `dfc_1/`) with the same season,
scene and patch number. S2: L1C, 13 bands in uint16. S1: dB in float32. Layer 1 of `lc`: IGBP land cover.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from rsdnet import bands
from rsdnet.ingest.files import add, counted, find_geotiffs
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import Image, Recipe, Source

# DFC2020's classes by number, from 1 (IEEE GRSS Data Fusion Contest 2020).
DFC = (
    "Forest", "Shrubland", "Savanna", "Grassland", "Wetlands", "Croplands", "Urban/Built-up",
    "Snow/Ice", "Barren", "Water",
)  # fmt: skip
# DFC number of IGBP class 0 to 17 (lukasliebel/dfc2020_baseline); 0 is no class.
IGBP_TO_DFC = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)
# DFC2020's two parts are far apart in size (986 and 5,128): the smaller trains a probe, the larger tests it.
_DFC_SPLITS = {"ROIs0000_validation": "train", "ROIs0000_test": "test"}
_NAME = re.compile(r"(ROIs\d+_[a-z0-9]+)_(s1|s2|lc|dfc)_([A-Za-z0-9]+)_p(\d+)")
_BANDS = {"s2": bands.S2L1C, "s1": bands.SAR, "lc": ("Data", "*"), "dfc": ("Data", "*")}


@dataclass(frozen=True)
class Sen12ms(Layout):
    """SEN12MS or DFC2020."""

    NAME = "sen12ms"
    SPLITS = "DFC2020's validation part to train, its test part to test"
    FILES = (
        "GeoTIFF named as in SEN12MS (ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif): "
        "name the folder above the ROIs folders"
    )

    def sources(self) -> list[Source]:
        found: dict[tuple[str, str, int, str, str], Path] = {}
        others = []
        for path in find_geotiffs(self.source, self.notices):
            if match := _NAME.fullmatch(path.stem):
                season, kind, scene, number = match.groups()
                add(found, (season, scene, int(number), number, kind), path)
            else:
                others.append(path)
        if found and others:
            self.notices.append(counted("GeoTIFFs that bear no SEN12MS name, not read", len(others), others[0]))
        places: dict[tuple[str, str, str], dict[str, Path]] = {}
        for season, scene, order, number, kind in sorted(found):
            places.setdefault((season, scene, number), {})[kind] = found[season, scene, order, number, kind]
        return [_source(*place, files) for place, files in places.items()]

    def recipe(self) -> Recipe:
        dfc = {number: number - 1 for number in range(1, 11)}
        igbp = {value: number - 1 for value, number in enumerate(IGBP_TO_DFC) if number}
        return Recipe(
            {"ms": bands.S2L1C, "sar": bands.SAR},
            classes={"dfc": dfc, "lc": igbp},
            class_names=DFC,
            level="L1C",
        )


def _source(season: str, scene: str, number: str, files: dict[str, Path]) -> Source:
    scheme = "dfc" if "dfc" in files else "lc"
    kinds = {"ms": "s2", "sar": "s1", "map": scheme}
    missing = [kind for kind in ("s2", "s1") if kind not in files]
    return Source(
        name=f"{season}_{scene}_p{number}",
        group=f"{season}_{scene}",
        images={own: Image.of_file(files[kind], _BANDS[kind]) for own, kind in kinds.items() if kind in files},
        split=_DFC_SPLITS.get(season),
        scheme=scheme,
        problem=f"it has no {missing[0]} file" if missing else "",
    )
