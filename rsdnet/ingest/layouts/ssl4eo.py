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
from rsdnet.ingest.layouts.base import Layout, Offset, parse_offset, subfolders
from rsdnet.ingest.source import Image, Recipe, Source

_S2 = {"L2A": ("s2a", bands.S2L2A), "L1C": ("s2c", bands.S2L1C)}
_TIME = re.compile(r"\d{8}T\d{6}")


@dataclass(frozen=True)
class Ssl4eo(Layout):
    """SSL4EO-S12 v1.0."""

    s2_level: Literal["L2A", "L1C"] = "L2A"
    """The S2 collection to take."""
    offset: Offset = "auto"

    NAME = "ssl4eo"
    FILES = "{s2a,s2c,s1}/<location>/<product>"

    def check(self) -> None:
        super().check()
        parse_offset(self.offset, self.source)

    def sources(self) -> list[Source]:
        folder, names = _S2[self.s2_level]
        s2, s1 = self.source / folder, self.source / "s1"
        return [
            Source(
                name=f"{location}_{season}",
                group=location,
                images=({"ms": _image(ms, names)} if ms else {}) | ({"sar": _image(sar, bands.SAR)} if sar else {}),
            )
            for location in sorted({*subfolders(s2), *subfolders(s1)})
            for season, (ms, sar) in enumerate(zip_longest(_products(s2 / location), _products(s1 / location)))
        ]

    def recipe(self) -> Recipe:
        return Recipe(
            {"ms": _S2[self.s2_level][1], "sar": bands.SAR},
            offset=parse_offset(self.offset, self.source),
            level=self.s2_level,
            tolerance=8,  # some products have a row or column more than their pair
        )


def _products(folder: Path) -> list[Path]:
    """A location's products by date: names start with S1A or S1B, so that their order would mix the seasons."""
    products = [folder / name for name in subfolders(folder)]
    return sorted(products, key=lambda path: (_TIME.findall(path.name)[:1], path.name))


def _image(product: Path, names: tuple[str, ...]) -> Image:
    """The image of a product; a band's file is B2.tif, as published, or B02.tif."""
    short = {name: product / f"{re.sub('^B0', 'B', name)}.tif" for name in names}
    files = tuple((str(path if path.exists() else product / f"{name}.tif"), (name,)) for name, path in short.items())
    return Image(f"{product.parts[-3]}_{product.parts[-2]}_{product.name}", files)
