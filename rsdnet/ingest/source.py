"""A sample's files as a layout lists them, and the recipe by which they become database values."""

import hashlib
import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rsdnet.data.catalog import SPLITS
from rsdnet.errors import DataError

S2Unit = Literal["dn", "reflectance", "byte"]
S1Unit = Literal["db", "power", "amplitude"]
DIGEST = "2:"  # how a digest of this kind begins
_TILE = re.compile(r"_y\d+_x\d+$")  # the suffix of a tile's name


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
    key into `Recipe.classes` for the map's values. problem: the reason to leave it out, or "". labels: ids of all its
    classes. snow, clouds: whether it has seasonal snow, and clouds or their shadow. None for unknown.
    """

    name: str
    group: str
    images: Mapping[str, Image]
    split: str | None = None
    label: int | None = None
    scheme: str = ""
    problem: str = ""
    labels: tuple[int, ...] | None = None
    snow: bool | None = None
    clouds: bool | None = None


@dataclass(frozen=True)
class Recipe:
    """From pixels to database values; sent to every worker.

    expected: bands of the S2 and S1 images, {"ms": ..., "sar": ...}. offset: DN to subtract from S2, by file in a
    table; None to decide as rsdnet/ingest/s2_offset.py does; "tags" for that of GDAL's tags, as a rule 0. classes:
    label id by pixel value of the map, for each scheme; a missing scheme: the value is the id. class_names: by label
    id, None: the ids themselves, as text. raw_map: store the map's own values, as rico-hdl does, not label ids.
    colours: the values of the map are colours, R G B in 24 bits. level: processing level of S2, "L1C", "L2A" or "" for
    unknown. tolerance: greatest difference in size between S1, S2 and map, px.

    The rest comes from the command line, whatever a layout gives. patch, stride: size and step of the tiles, px of 10
    m; patch None: an image is one patch. max_invalid: largest share of invalid pixels in any band. nodata: values that
    are no data, beside the files' own, {"ms": ..., "sar": ...}. s2_unit, s1_unit: of the files' values, as
    rsdnet/ingest/units.py has them. implausible: take values that look like another unit or like fill as they are.
    """

    expected: Mapping[str, tuple[str, ...]]
    offset: int | Mapping[str, int] | Literal["tags"] | None = "tags"
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
    s2_unit: S2Unit = "dn"
    s1_unit: S1Unit = "db"
    implausible: bool = False


def digest(sources: list[Source]) -> str:
    """SHA-256 of the sources' names, splits, problems, keys and, where some are known, labels: equal for the same
    files."""
    return digest_of("\t".join(_digested(source)) for source in sources)


def _digested(source: Source) -> Iterable[str]:
    yield from (source.name, str(source.split), source.problem, *(image.key for image in source.images.values()))
    if (known := (source.labels, source.snow, source.clouds)) != (None, None, None):
        yield from map(str, known)


def digest_of(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text."""
    return DIGEST + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_names(sources: list[Source], patch: int | None) -> None:
    """Raise DataError if two sources have one name, or two images one key, also as tiles: one would replace the other.

    patch: size of the tiles, px; None: none are cut. One image may belong to several samples.
    """
    files: dict[str, tuple[str, ...]] = {}
    named: dict[str, Source] = {}
    for source in sources:
        if source.name in named:
            raise _clash(f"sample {source.name}", _paths(named[source.name]), _paths(source))
        named[source.name] = source
        for image in source.images.values():
            paths = tuple(path for path, _ in image.files)
            if files.setdefault(image.key, paths) != paths:
                raise _clash(f"key {image.key}", files[image.key], paths)
    if patch is not None:
        for name, source in named.items():
            whole = _TILE.sub("", name)
            if whole != name and whole in named:
                raise _clash(f"name of a tile, {name}", _paths(named[whole]), _paths(source))


def check_values(sources: list[Source], recipe: Recipe) -> None:
    """Raise DataError where a layout gives a source a split that is none, or a label that is no class."""
    classes = recipe.class_names
    for source in sources:
        if source.split not in (None, *SPLITS):
            raise DataError(
                f"sample {source.name} has the split {source.split!r}: it must be one of {', '.join(SPLITS)}"
            )
        if source.label is not None and source.label < 0:
            raise DataError(f"sample {source.name} has the label {source.label}: labels begin at 0, and none is None")
        if classes is not None and source.label is not None and source.label >= len(classes):
            raise DataError(
                f"sample {source.name} has the label {source.label}, but there are {len(classes)} class names"
            )
        if source.labels and not 0 <= min(source.labels) <= max(source.labels) < len(classes or ()):
            named = f"there are {len(classes or ())} class names"
            raise DataError(f"sample {source.name} has the labels {list(source.labels)}, but {named}")


def once(sources: list[Source]) -> list[Source]:
    """The sources, with a problem for those whose S2, else S1 file is another's by a link: the same pixels twice."""
    holders: dict[tuple[int, int], Source] = {}
    doubles: dict[str, str] = {}
    for source in sorted(sources, key=lambda source: os.path.islink(_first(source))):
        try:
            status = os.stat(_first(source))
        except OSError:
            continue
        if not source.problem and status.st_ino:  # some network file systems have no inode numbers
            holder = holders.setdefault((status.st_dev, status.st_ino), source)
            if _first(holder) != _first(source):  # a layout may give one file to several samples
                doubles[source.name] = f"it is the same file as another: as that of {holder.name}"
    return [source._replace(problem=doubles.get(source.name, source.problem)) for source in sources]


def _first(source: Source) -> str:
    """The first file of a source."""
    return next(
        (path for kind in ("ms", "sar", "map") if kind in source.images for path, _ in source.images[kind].files), ""
    )


def whole_name(sample: str, names: Container[str]) -> str:
    """The name of a sample's source: one of `names`, else the sample's without the suffix of a tile."""
    return sample if sample in names else _TILE.sub("", sample)


def _paths(source: Source) -> tuple[str, ...]:
    return tuple(path for image in source.images.values() for path, _ in image.files)


def _clash(what: str, one: tuple[str, ...], two: tuple[str, ...]) -> DataError:
    first, second = ((paths or ("a sample without files",))[0] for paths in (one, two))
    return DataError(f"{first} and {second} have one {what}: rename one of them, or keep one alone")
