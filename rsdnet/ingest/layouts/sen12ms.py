"""SEN12MS, and DFC2020 in the same layout (schmitt-muc/SEN12MS).

`ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif`, beside it `s1_1/` and `lc_1/` (or `dfc_1/`) with the same season,
scene and patch number. S2: L1C, 13 bands in uint16. S1: dB in float32. Layer 1 of `lc`: IGBP land cover of MODIS, of
`dfc`: DFC2020's labels of 10 m, which go before.

DFC2020 comes in two forms: `ROIs0000_validation` and `ROIs0000_test`, the parts of the contest; and by city,
`ROIs0000_autumn/s2_Mumbai/...`, seven of them without parts.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tyro

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.files import add, counted, find_geotiffs
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.splits import Grouping

# DFC2020's classes by number, from 1 (IEEE GRSS Data Fusion Contest 2020).
DFC = (
    "Forest", "Shrubland", "Savanna", "Grassland", "Wetlands", "Croplands", "Urban/Built-up",
    "Snow/Ice", "Barren", "Water",
)  # fmt: skip
# DFC number of IGBP class 0 to 17 (lukasliebel/dfc2020_baseline); 0 is no class.
IGBP_TO_DFC = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)
# The contest trained on SEN12MS and scored on both parts, of 986 and 5,128 patches (lukasliebel/dfc2020_baseline). The
# smaller one, whose labels came out first, trains a probe, the larger one tests it, as in HSG-AIML/SSLTransformerRS;
# the paper does not tell its split: our choice.
_DFC_SPLITS = {"ROIs0000_validation": "train", "ROIs0000_test": "test"}
_NAME = re.compile(r"(ROIs\d+_[a-z0-9]+)_(s1|s2|lc|dfc)_([A-Za-z0-9]+)_p(\d+)")
_DFC2020 = "ROIs0000_"
_CITY = re.compile(r"ROIs0000_(?:spring|summer|autumn|winter)_([A-Za-z]+)")  # group of a DFC2020 source by city
_BANDS = {"s2": bands.S2L1C, "s1": bands.SAR, "lc": ("Data", "*"), "dfc": ("Data", "*")}
_TEST_LIST = "SEN12MS_holdOutScenes.txt"  # schmitt-muc/SEN12MS, splits/: 26 lines as ROIs1158_spring/s1_63
# A line of it, or one of a patch, with or without its folders (test_list.txt in the same place).
_LISTED = re.compile(r"(?:.*[/\\])?(ROIs\d+_[a-z0-9]+)[/\\_](?:s1|s2|lc|dfc)_([A-Za-z0-9]+)(_p\d+)?(?:\.tif)?")


@dataclass(frozen=True)
class Sen12ms(Layout):
    """SEN12MS or DFC2020."""

    split_by: Annotated[str, tyro.conf.arg(metavar="published|city|block:KM")] = ""
    """published: the data set's own split alone, an error without it: SEN12MS's list of held-out scenes, DFC2020's
    validation part to train and test part to test. city: DFC2020 by city, whole cities held out. block:KM: samples in
    the same block of KM x KM km belong into one split, by the georeference of their files; neighbouring blocks touch.
    Without it: the data set's own split where it has one, else scenes are drawn."""
    test_list: Path | None = None
    """List of the scenes or patches of the test, below SOURCE or absolute; without it SEN12MS_holdOutScenes.txt in
    SOURCE or its folder splits, where it is there. Val is drawn from the other scenes."""

    NAME = "sen12ms"
    SPLITS = "DFC2020's validation part to train, its test part to test"
    SPLITS_BY = ("published", "city")
    FILES = (
        "GeoTIFF named as in SEN12MS (ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif): "
        "name the folder above the ROIs folders"
    )

    @cached_property
    def _list(self) -> Path | None:
        """The list of the test, where there is one."""
        if self.test_list is not None:
            return self.source / self.test_list
        places = (self.source / folder / _TEST_LIST for folder in (".", "splits"))
        return next((path for path in places if path.is_file()), None)

    @property
    def shares(self) -> tuple[float, float]:
        return self.val, 0 if self._list else self.test

    def grouping(self) -> Grouping:
        by = super().grouping()
        if self._list:
            by = replace(by, own=f"{_TEST_LIST if self.test_list is None else self.test_list} to test")
        return replace(by, unit="cities", named=True) if self.split_by == "city" else by

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
        made = [_source(*place, files) for place, files in places.items()]
        if modis := [source.name for source in made if source.group.startswith(_DFC2020) and source.scheme == "lc"]:
            self.notices.append(counted("DFC2020 samples without a dfc map, which have MODIS's", len(modis), modis[0]))
        return self._split(made)

    def _split(self, sources: list[Source]) -> list[Source]:
        """The sources with the splits that the options ask for. Raises DataError where they have none such."""
        if self._list and sources:
            sources = self._held_out(sources, self._list)
        if self.split_by == "city":
            cities = {source.name: _CITY.fullmatch(source.group) for source in sources}
            if other := next((name for name, city in cities.items() if not city), None):
                raise DataError(f"--split-by city: {other} names no city, as ROIs0000_autumn_s2_Mumbai_p1.tif does")
            return [source._replace(group=city[1]) for source in sources if (city := cities[source.name])]
        free = [source for source in sources if source.split is None]
        if self.split_by == "published" and free and not self._list:
            how = "--split-by city draws one" if _CITY.fullmatch(free[0].group) else f"name {_TEST_LIST} by --test-list"
            raise DataError(f"--split-by published: {free[0].name} has no published split: {how}")
        return sources

    def _held_out(self, sources: list[Source], path: Path) -> list[Source]:
        """The sources, those listed in the test. Raises DataError if none is, or the list cannot be read."""
        listed = _names(path)
        held = {source.name for source in sources if not listed.isdisjoint((source.group, source.name))}
        absent = sorted(listed - held - {source.group for source in sources})
        if not held:
            raise DataError(f"{path} names {len(listed):,} scenes or patches, none of them in {self.source}: it is the "
                            "list of other data; move it away, or name another by --test-list")  # fmt: skip
        if absent:
            self.notices.append(counted(f"scenes or patches of {path} that are not here", len(absent), absent[0]))
        return [source._replace(split="test") if source.name in held else source for source in sources]

    def recipe(self) -> Recipe:
        dfc = {number: number - 1 for number in range(1, 11)}
        igbp = {value: number - 1 for value, number in enumerate(IGBP_TO_DFC) if number}
        return Recipe(
            {"ms": bands.S2L1C, "sar": bands.SAR},
            classes={"dfc": dfc, "lc": igbp},
            class_names=DFC,
            level="L1C",
        )


def _names(path: Path) -> set[str]:
    """The scenes and patches that a list names, one a line, as `_source` names groups and samples.

    Raises DataError on a file that cannot be read, and on a line that names neither.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): it must be text, a scene or a patch a line") from error
    names = set()
    for number, line in enumerate(map(str.strip, lines), 1):
        match = _LISTED.fullmatch(line)
        if line and not match:
            raise DataError(f"{path}, line {number}: {line!r} names no scene, as ROIs1158_spring/s1_63, and no patch")
        if match:
            names.add(f"{match[1]}_{match[2]}{match[3] or ''}")
    return names


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
