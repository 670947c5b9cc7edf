"""SSL4EO-S12 v1.0: `{s1,s2a,s2c}/<location>/<product>/<band>.tif`; s2a is L2A, s2c is L1C.

Each location has four seasons. S1 and S2 of a season are paired by nearest date, and pixels by array index: the two
grids lie up to about 3 px apart. A product without a partner is left out, unless SOURCE has one sensor alone.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from rsdnet import bands
from rsdnet.ingest.files import copies, subfolders
from rsdnet.ingest.layouts.base import Layout, Offset, parse_offset
from rsdnet.ingest.source import Image, Recipe, Source

COLLECTIONS = {"L2A": ("s2a", bands.S2L2A), "L1C": ("s2c", bands.S2L1C)}
Level = Literal["L2A", "L1C"]
_TIME = re.compile(r"[0-9]{8}T[0-9]{6}")
# Of S1 and S2 of one season. They were drawn from 30 days, the seasons a quarter apart (zhu-xlab/SSL4EO-S12,
# ssl4eo_s12_downloader.py, get_random_patches): farther apart than half a quarter, another season is as near.
_MOST = timedelta(days=45)


@dataclass(frozen=True)
class Ssl4eo(Layout):
    """SSL4EO-S12 v1.0."""

    s2_level: Level = "L2A"
    """The S2 collection to take."""
    offset: Offset = "auto"

    NAME = "ssl4eo"
    FILES = "{s2a,s2c,s1}/<location>/<product>"
    GROUPS = "locations"

    def check(self) -> None:
        super().check()
        parse_offset(self.offset, self.source)

    def sources(self) -> list[Source]:
        s2, s1 = (self.source / name for name in (COLLECTIONS[self.s2_level][0], "s1"))
        self.tell_unread(("s1", "s2a", "s2c"))
        listed = [{place: _listed(folder / place) for place in subfolders(folder)} for folder in (s2, s1)]
        found = Products(listed[0], listed[1], self.s2_level, _image)
        self.notices.extend(found.one_sensor(s2, s1))
        return [*found.samples()]

    def recipe(self) -> Recipe:
        return replace(recipe(self.s2_level), offset=parse_offset(self.offset, self.source))


def recipe(level: Level) -> Recipe:
    """The conversion of SSL4EO-S12's pixels."""
    # some products have a row or column more than their pair
    return Recipe({"ms": COLLECTIONS[level][1], "sar": bands.SAR}, level=level, tolerance=8)


class Products(NamedTuple):
    """The products of a level of S2 and of S1, `<collection>/<location>/<name>`, by location.

    image: the image of a product with these bands.
    """

    s2: Mapping[str, list[str]]
    s1: Mapping[str, list[str]]
    level: Level
    image: Callable[[str, tuple[str, ...]], Image]

    def one_sensor(self, s2: object, s1: object) -> Iterator[str]:
        """A line on each sensor, `s2` and `s1` in words, that has no product."""
        for one, other, products in ((s2, s1, self.s2), (s1, s2, self.s1)):
            if not products:
                yield f"{one} holds no product: {os.path.basename(str(other))} alone is taken; see --s2-level"

    def samples(self) -> Iterator[Source]:
        """The samples, by location; a product without a partner is left out unless there is no other sensor."""
        named = (product for sensor in (self.s2, self.s1) for products in sensor.values() for product in products)
        doubles = copies({*named})  # a location may be named as a copy, too
        for location in sorted({*self.s2, *self.s1}):
            yield from self._location(location, doubles)

    def _location(self, location: str, doubles: dict[str, str]) -> Iterator[Source]:
        """The samples of a location, numbered by the time of their S2, else S1 product; those without a partner, too.

        doubles: products that are copies, and their originals.
        """
        one_sensor = not (self.s2 and self.s1)
        s2, s1 = (sorted(products.get(location, []), key=_order) for products in (self.s2, self.s1))
        images = {product: {"ms": self.image(product, COLLECTIONS[self.level][1])} for product in s2}
        images |= {product: {"sar": self.image(product, bands.SAR)} for product in s1}
        for product in filter(doubles.get, (*s2, *s1)):
            problem = f"it is named as a copy: of {doubles[product]}"
            yield Source(f"{location}_{_name(product)}", location, images[product], problem=problem)
        s2, s1 = ([product for product in products if product not in doubles] for products in (s2, s1))
        partners = {} if one_sensor else _pair(s2, s1)
        for season, product in enumerate(s2 or s1 if one_sensor else s2):
            own = images[product] | (images[partners[product]] if product in partners else {})
            problem = "" if one_sensor or product in partners else _alone("S1", product)
            yield Source(f"{location}_{season}", location, own, problem=problem)
        for product in [] if one_sensor else s1:
            if product not in partners.values():
                yield Source(f"{location}_{_name(product)}", location, images[product], problem=_alone("S2", product))


def _pair(s2: list[str], s1: list[str]) -> dict[str, str]:
    """The S1 product of each S2 product: the nearest in time first, each product once, none beyond `_MOST`."""
    times = {product: time for product in (*s2, *s1) if (time := _time(product))}
    apart = sorted(
        (abs(times[ms] - times[sar]), at, other)
        for at, ms in enumerate(s2)
        for other, sar in enumerate(s1)
        if ms in times and sar in times
    )
    partners: dict[str, str] = {}
    for gap, at, other in apart:
        if gap <= _MOST and s2[at] not in partners and s1[other] not in partners.values():
            partners[s2[at]] = s1[other]
    return partners


def _alone(other: str, product: str) -> str:
    """The reason why a product has no partner of the other sensor."""
    if _time(product) is None:
        return f"its name tells no date: {product}"
    return f"it has no {other} product of its own within {_MOST.days} days: {product}"


def _name(product: str) -> str:
    return product.rpartition("/")[2]


def _time(product: str) -> datetime | None:
    """The time at which a product was taken, by its name."""
    for text in _TIME.findall(_name(product))[:1]:
        try:
            return datetime.strptime(text, "%Y%m%dT%H%M%S")
        except ValueError:
            return None
    return None


def _order(product: str) -> tuple[datetime, str]:
    """Products by date: names start with S1A or S1B, so that their order would mix the seasons."""
    return _time(product) or datetime.max, _name(product)


def _listed(folder: Path) -> list[str]:
    """A location's products."""
    return [str(folder / name) for name in subfolders(folder)]


def _image(product: str, names: tuple[str, ...]) -> Image:
    """The image of a product; a band's file is B2.tif, as published, or B02.tif."""
    short = {name: f"{product}/{re.sub('^B0', 'B', name)}.tif" for name in names}
    files = tuple((path if os.path.exists(path) else f"{product}/{name}.tif", (name,)) for name, path in short.items())
    return Image("_".join(product.split("/")[-3:]), files)
