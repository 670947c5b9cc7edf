"""SSL4EO-S12 v1.0: `{s1,s2a,s2c}/<location>/<product>/<band>.tif`; s2a is L2A, s2c is L1C.

Each location has four seasons. S1 and S2 of a season are paired by their order in time, and pixels by array index:
the two grids lie up to about 3 px apart.
"""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.base import Layout, Offset, parse_offset, subfolders
from rsdnet.ingest.source import Image, Recipe, Source

_BANDS = {"s2a": bands.S2L2A, "s2c": bands.S2L1C, "s1": ("VV", "VH")}
_LEVELS = {"L2A": "s2a", "L1C": "s2c"}
_TIME = re.compile(r"\d{8}T\d{6}")


@dataclass(frozen=True)
class Ssl4eo(Layout):
    """SSL4EO-S12 v1.0."""

    s2_level: Literal["L2A", "L1C"] = "L2A"
    """The S2 collection to take."""
    offset: Offset = "auto"

    NAME = "ssl4eo"

    def check(self) -> None:
        super().check()
        parse_offset(self.offset)

    def sources(self) -> list[Source]:
        s2, s1 = self.source / _LEVELS[self.s2_level], self.source / "s1"
        locations = sorted({*subfolders(s2), *subfolders(s1)})
        found = [source for location in locations for source in _sources(location, s2, s1)]
        if not found:
            raise DataError(f"{self.source} has no {s2.name}/<location>/<product> nor s1/<location>/<product>")
        return found

    def recipe(self) -> Recipe:
        return Recipe(
            *self.tiling,
            {"ms": _BANDS[_LEVELS[self.s2_level]], "sar": _BANDS["s1"]},
            offset=parse_offset(self.offset),
            tolerance=8,  # some products have a row or column more than their pair
        )

    def level(self) -> str:
        return self.s2_level


def _sources(location: str, s2: Path, s1: Path) -> list[Source]:
    pairs = zip_longest(_products(s2 / location), _products(s1 / location))
    return [
        Source(
            name=f"{location}_{season}",
            group=location,
            ms=_image(s2.name, location, ms) if ms else None,
            sar=_image(s1.name, location, sar) if sar else None,
        )
        for season, (ms, sar) in enumerate(pairs)
    ]


def _products(folder: Path) -> list[Path]:
    """A location's products by date: names start with S1A or S1B, so that their order would mix the seasons."""
    products = [folder / name for name in subfolders(folder)]
    return sorted(products, key=lambda path: (_TIME.findall(path.name)[:1], path.name))


def _image(kind: str, location: str, product: Path) -> Image:
    files = tuple((str(_file(product, name)), (name,)) for name in _BANDS[kind])
    return Image(f"{kind}_{location}_{product.name}", files)


def _file(product: Path, name: str) -> Path:
    """B2.tif, as published, or B02.tif."""
    short = re.sub(r"^B0", "B", name)
    return product / f"{short}.tif" if (product / f"{short}.tif").exists() else product / f"{name}.tif"
