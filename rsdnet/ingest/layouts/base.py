"""What every layout says of a data set: its samples, their files, their splits; and the options all share."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from rsdnet.data.shards import Shard, check_room, parse
from rsdnet.errors import DataError


class Image(NamedTuple):
    """One entry of the database and the files it is made of.

    key: the entry's key. files: (path, names of its layers in order); names are None where the file's band
    descriptions tell them.
    """

    key: str
    files: tuple[tuple[str, tuple[str, ...] | None], ...]


class Source(NamedTuple):
    """One sample as it lies on disk, before it is cut.

    name: the sample's. group: what must not be torn apart by splits (a scene, a location). ms, sar, map: its
    images, None where it has none. split: the data set's own, else None. label: its class id where that is
    not the majority of the map. scheme: which of `Recipe.classes` the map's values follow. problem: why it
    cannot be ingested, "" where nothing is known against it.
    """

    name: str
    group: str
    ms: Image | None = None
    sar: Image | None = None
    map: Image | None = None
    split: str | None = None
    label: int | None = None
    scheme: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Recipe:
    """How pixels become database values; sent to every worker.

    expected: the bands wanted of the S2 and S1 images, {"ms": ..., "sar": ...}. offset: DN to subtract from
    S2, None to decide for each file. classes: by scheme, label id by pixel value of the map; a scheme that
    is not there: the value is the id. raw_map: keep the map's own values (as rico-hdl does) instead of label
    ids. tolerance: pixels by which S1, S2 and map may differ in size.
    """

    patch: int | None
    stride: int | None
    max_invalid: float
    expected: Mapping[str, tuple[str, ...]]
    s1_unit: str = "db"
    offset: int | None = 0
    classes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    raw_map: bool = False
    tolerance: int = 0


@dataclass(frozen=True)
class Layout:
    """The options every layout has."""

    source: tyro.conf.Positional[Path]
    """Folder of the data set."""
    db: tyro.conf.Positional[Path]
    """Folder of the database to write; an interrupted ingest into it continues."""
    patch: int | None = None
    """Cut tiles of this many pixels of 10 m; without it an image is one patch."""
    stride: int | None = None
    """Pixels of 10 m from tile to tile; without it as --patch."""
    max_invalid: float = 0.05
    """Leave out a patch where a larger share of any band is nodata or NaN."""
    val: float = 0.1
    """Share of scenes for validation, where the data set has no split of its own."""
    test: float = 0.2
    """Share of scenes for the test, where the data set has no split of its own."""
    workers: int = 0
    """Processes that read; 0: one a core."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = ""
    """Ingest part I (0 to N - 1) of N, into a folder of its own below DB: one of N jobs that need not know of each
    other. Once all are finished, DB is read as one database, with the splits, labels and statistics of a whole
    ingest."""

    # What a layout says of itself; pixel values are the catalog's business only through these.
    NAME = ""

    def sources(self) -> list[Source]:
        """The samples in a fixed order, `split` None where `assign_splits` shall decide."""
        raise NotImplementedError

    def recipe(self) -> Recipe:
        """How this data set's pixels become values."""
        raise NotImplementedError

    def level(self) -> str:
        """The processing level of S2: L1C, L2A, or "" where it is not known."""
        return ""

    def class_names(self) -> tuple[str, ...] | None:
        """Class names by label id; None: the ids found, as text."""
        return None

    @property
    def part(self) -> Shard | None:
        """The part of the sources to ingest; None: all of them. Raises DataError as `shards.parse`."""
        return parse(self.shard) if self.shard else None

    @property
    def folder(self) -> Path:
        """Folder of the database to write: DB, or the shard's own below it."""
        return self.db / self.part.name if self.part else self.db

    def identity(self) -> dict[str, Any]:
        """The options that decide what comes out: a resumed ingest must have the same, and so must all shards."""
        skip = ("db", "workers", "shard")
        values = {name: value for name, value in vars(self).items() if name not in skip}
        return {"layout": self.NAME} | {
            name: str(value.resolve()) if isinstance(value, Path) else value for name, value in values.items()
        }

    def check(self) -> None:
        """Raise DataError for options that cannot work."""
        shard = self.part
        if not self.source.is_dir():
            raise DataError(f"{self.source} is not a folder")
        check_room(self.db, shard)
        if self.patch is None and self.stride is not None:
            raise DataError("--stride needs --patch: say how large the tiles are")
        for name in ("patch", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"--{name} is {value}, but a size must be at least 1")
        if not 0 <= self.max_invalid <= 1:
            raise DataError(f"--max-invalid is {self.max_invalid}, but a share lies between 0 and 1")
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise DataError(f"--val {self.val} and --test {self.test} must be shares that leave some to train on")


def assign_splits(sources: list[Source], val: float, test: float) -> list[Source]:
    """The sources with a split each: their own, else one drawn by their group's name.

    Groups are ranked by the SHA-256 of their names and the first shares go to test and val, so the split
    depends on nothing but the names, a group is never torn apart, and small data sets get each split that
    they have enough groups for.
    """
    groups = sorted({source.group for source in sources if source.split is None}, key=_digest)
    tests = _share(len(groups), test, len(groups) - 1)
    vals = _share(len(groups), val, len(groups) - 1 - tests)
    drawn = {
        group: "test" if rank < tests else "val" if rank < tests + vals else "train"
        for rank, group in enumerate(groups)
    }
    return [source._replace(split=source.split or drawn[source.group]) for source in sources]


def _share(total: int, share: float, most: int) -> int:
    return max(0, min(max(round(total * share), int(share > 0)), most))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def geotiffs(folder: Path) -> Iterator[Path]:
    """All GeoTIFFs below `folder`, in a fixed order. Raises DataError if it is not a folder."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith((".tif", ".tiff")):
                yield Path(root, name)


def folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted; none if it is not there."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


Offset = Annotated[
    str,
    tyro.conf.arg(
        metavar="INT|auto",
        help="DN to subtract from S2 (1000 for processing baseline 04.00); auto decides for each file and says so.",
    ),
]


def parse_offset(text: str) -> int | None:
    """--offset as a number of DN, or None for "auto". Raises DataError for anything else."""
    if text == "auto":
        return None
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 10000:
        raise DataError(f"--offset is {text!r}, but must be auto or a number of DN from 0 to 10000")
    return value
