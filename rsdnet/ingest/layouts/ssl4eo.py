"""SSL4EO-S12 v1.0: `{s1,s2a,s2c}/<location>/<product>/<band>.tif`; s2a is L2A, s2c is L1C.

Each location has four seasons. S1 and S2 of a season are paired by nearest date, and pixels by array index: the two
grids lie up to about 3 px apart. A product without a partner is left out, unless SOURCE has one sensor alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from rsdnet import bands
from rsdnet.ingest.files import copies, subfolders
from rsdnet.ingest.layouts.base import Layout, Offset, parse_offset
from rsdnet.ingest.source import Image, Recipe, Source

_S2 = {"L2A": ("s2a", bands.S2L2A), "L1C": ("s2c", bands.S2L1C)}
_TIME = re.compile(r"[0-9]{8}T[0-9]{6}")
# Of S1 and S2 of one season. They were drawn from 30 days, the seasons a quarter apart (zhu-xlab/SSL4EO-S12,
# ssl4eo_s12_downloader.py, get_random_patches): farther apart than half a quarter, another season is as near.
_MOST = timedelta(days=45)


@dataclass(frozen=True)
class Ssl4eo(Layout):
    """SSL4EO-S12 v1.0."""

    s2_level: Literal["L2A", "L1C"] = "L2A"
    """The S2 collection to take."""
    offset: Offset = "auto"

    NAME = "ssl4eo"
    FILES = "{s2a,s2c,s1}/<location>/<product>"
    GROUPS = "locations"

    def check(self) -> None:
        super().check()
        parse_offset(self.offset, self.source)

    def sources(self) -> list[Source]:
        s2, s1 = self.source / _S2[self.s2_level][0], self.source / "s1"
        folders = {folder: subfolders(folder) for folder in (s2, s1)}
        one_sensor = not all(folders.values())
        self.tell_unread(("s1", "s2a", "s2c"))
        for (folder, present), (other, _) in zip(folders.items(), reversed(folders.items()), strict=True):
            if not present:
                self.notices.append(f"{folder} holds no product: {other.name} alone is taken; see --s2-level")
        products = {folder: {name: _products(folder / name) for name in names} for folder, names in folders.items()}
        doubles = _copies([*products[s2].values(), *products[s1].values()])
        return [
            source
            for location in sorted({*folders[s2], *folders[s1]})
            for source in self._location(
                location, products[s2].get(location, []), products[s1].get(location, []), doubles, one_sensor
            )
        ]

    def _location(
        self, location: str, s2: list[Path], s1: list[Path], doubles: dict[Path, Path], one_sensor: bool
    ) -> Iterator[Source]:
        """The samples of a location, numbered by the time of their S2, else S1 product; those without a partner, too.

        doubles: products that are copies, and their originals. one_sensor: SOURCE has no other, so none needs a
        partner.
        """
        names = _S2[self.s2_level][1]
        for product in filter(doubles.get, (*s2, *s1)):
            images = {"ms": _image(product, names)} if product in s2 else {"sar": _image(product, bands.SAR)}
            problem = f"it is named as a copy: of {doubles[product]}"
            yield Source(f"{location}_{product.name}", location, images, problem=problem)
        s2, s1 = ([product for product in products if product not in doubles] for products in (s2, s1))
        partners = {} if one_sensor else _pair(s2, s1)
        for season, product in enumerate(s2 or s1 if one_sensor else s2):
            kind, bands_of = ("ms", names) if product in s2 else ("sar", bands.SAR)
            images = {kind: _image(product, bands_of)}
            if product in partners:
                images["sar"] = _image(partners[product], bands.SAR)
            problem = "" if one_sensor or product in partners else _alone("S1", product)
            yield Source(f"{location}_{season}", location, images, problem=problem)
        for product in [] if one_sensor else s1:
            if product not in partners.values():
                images = {"sar": _image(product, bands.SAR)}
                yield Source(f"{location}_{product.name}", location, images, problem=_alone("S2", product))

    def recipe(self) -> Recipe:
        return Recipe(
            {"ms": _S2[self.s2_level][1], "sar": bands.SAR},
            offset=parse_offset(self.offset, self.source),
            level=self.s2_level,
            tolerance=8,  # some products have a row or column more than their pair
        )


def _copies(locations: list[list[Path]]) -> dict[Path, Path]:
    """The products that are named as copies of another, or lie in a location that is, and these others."""
    named = {str(product): product for products in locations for product in products}
    return {named[copy]: named[original] for copy, original in copies(named).items()}


def _pair(s2: list[Path], s1: list[Path]) -> dict[Path, Path]:
    """The S1 product of each S2 product: the nearest in time first, each product once, none beyond `_MOST`."""
    times = {product: time for product in (*s2, *s1) if (time := _time(product))}
    apart = sorted(
        (abs(times[ms] - times[sar]), at, other)
        for at, ms in enumerate(s2)
        for other, sar in enumerate(s1)
        if ms in times and sar in times
    )
    partners: dict[Path, Path] = {}
    for gap, at, other in apart:
        if gap <= _MOST and s2[at] not in partners and s1[other] not in partners.values():
            partners[s2[at]] = s1[other]
    return partners


def _alone(other: str, product: Path) -> str:
    """The reason why a product has no partner of the other sensor."""
    if _time(product) is None:
        return f"its name tells no date: {product}"
    return f"it has no {other} product of its own within {_MOST.days} days: {product}"


def _time(product: Path) -> datetime | None:
    """The time at which a product was taken, by its name."""
    for text in _TIME.findall(product.name)[:1]:
        try:
            return datetime.strptime(text, "%Y%m%dT%H%M%S")
        except ValueError:
            return None
    return None


def _products(folder: Path) -> list[Path]:
    """A location's products by date: names start with S1A or S1B, so that their order would mix the seasons."""
    products = [folder / name for name in subfolders(folder)]
    return sorted(products, key=lambda path: (_time(path) or datetime.max, path.name))


def _image(product: Path, names: tuple[str, ...]) -> Image:
    """The image of a product; a band's file is B2.tif, as published, or B02.tif."""
    short = {name: product / f"{re.sub('^B0', 'B', name)}.tif" for name in names}
    files = tuple((str(path if path.exists() else product / f"{name}.tif"), (name,)) for name, path in short.items())
    return Image(f"{product.parts[-3]}_{product.parts[-2]}_{product.name}", files)
