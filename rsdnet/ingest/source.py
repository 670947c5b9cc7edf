"""A sample's files as a layout lists them, and the recipe by which they become database values."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rsdnet.errors import DataError


class Unfit(DataError):
    """A source that is left out. kind: the kind of reason, by which those left out are counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


S2Unit = Literal["dn", "reflectance", "byte"]
S1Unit = Literal["db", "power", "amplitude"]


class Image(NamedTuple):
    """One entry of the database and its files.

    key: the entry's key. files: (path, band names in the order of its layers); names None: the file's own band
    descriptions. The name "-" skips a layer; a last name "*" stands for any further layers, which are not read.
    """

    key: str
    files: tuple[tuple[str, tuple[str, ...] | None], ...]

    @classmethod
    def of_file(cls, path: Path, names: tuple[str, ...] | None, key: str = "") -> "Image":
        """The image of a single file; its key is the file's name without suffix if none is given."""
        return cls(key or path.stem, ((str(path), names),))


class Source(NamedTuple):
    """The files of one sample, before tiles are cut.

    name: the sample's name. group: scene or location, which no split tears apart. images: by kind, "ms", "sar" or
    "map". split: the data set's own, None to draw one. label: its class id, None for the majority of the map. scheme:
    key into `Recipe.classes` for the map's values. problem: the reason to leave it out, or "".
    """

    name: str
    group: str
    images: Mapping[str, Image]
    split: str | None = None
    label: int | None = None
    scheme: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Recipe:
    """From pixels to database values; sent to every worker.

    expected: bands of the S2 and S1 images, {"ms": ..., "sar": ...}. s2_unit, s1_unit: of the files' values, as
    rsdnet/ingest/units.py has them. offset: DN to subtract from S2, by file in a table, or None to decide as
    rsdnet/ingest/s2_offset.py does. classes: label id by pixel value of the map, for each scheme; a missing scheme: the
    value is the id. class_names: by label id, None: the ids themselves, as text. raw_map: store the map's own values,
    as rico-hdl does, not label ids. colours: the values of the map are colours, R G B in 24 bits. level: processing
    level of S2, "L1C", "L2A" or "" for unknown. tolerance: greatest difference in size between S1, S2 and map, px.

    The rest comes from the command line, whatever a layout gives. patch, stride: size and step of the tiles, px of
    10 m; patch None: an image is one patch. max_invalid: largest share of invalid pixels in any band. nodata: values
    that are no data, beside the files' own, {"ms": ..., "sar": ...}. implausible: take values that look like another
    unit or like fill as they are.
    """

    expected: Mapping[str, tuple[str, ...]]
    s2_unit: S2Unit = "dn"
    s1_unit: S1Unit = "db"
    offset: int | None | Mapping[str, int] = 0
    classes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    raw_map: bool = False
    colours: bool = False
    level: str = ""
    tolerance: int = 0
    patch: int | None = None
    stride: int | None = None
    max_invalid: float = 0.05
    nodata: Mapping[str, float] = field(default_factory=dict)
    implausible: bool = False


def assign_splits(sources: list[Source], val: float, test: float) -> list[Source]:
    """The sources with a split each: their own, else their group's.

    Groups are ranked by the SHA-256 of their names; the first go to test, the next to val, the others to train. So the
    split depends on names alone, no group is torn apart, and small data sets get each split that they have enough
    groups for.
    """
    groups = {source.group for source in sources if source.split is None}
    ranked = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    tests = _share(len(groups), test, len(groups) - 1)
    vals = _share(len(groups), val, len(groups) - 1 - tests)
    drawn = dict.fromkeys(ranked, "train") | dict.fromkeys(ranked[: tests + vals], "val")
    drawn |= dict.fromkeys(ranked[:tests], "test")
    return [source._replace(split=source.split or drawn[source.group]) for source in sources]


def _share(total: int, share: float, most: int) -> int:
    return max(0, min(max(round(total * share), int(share > 0)), most))


def digest(sources: list[Source]) -> str:
    """SHA-256 of the sources' names, splits and problems: equal for the same files."""
    lines = (f"{source.name}\t{source.split}\t{source.problem}\n" for source in sources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
