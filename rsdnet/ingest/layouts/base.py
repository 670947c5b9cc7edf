"""Base class of the layouts, with the options that all share."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from pydantic import Field

from rsdnet.data.shards import Shard, check_room, parse
from rsdnet.errors import DataError
from rsdnet.ingest.files import counted, escaped, find_files, find_geotiffs, holds_database, is_utf8, subfolders
from rsdnet.ingest.source import Recipe, S1Unit, S2Unit, Source, digest_of
from rsdnet.ingest.splits import Grouping, parse_block, parse_group
from rsdnet.options import Real, Seed, Share, Workers, checked

__all__ = ["Layout", "Offset", "find_files", "find_geotiffs", "parse_offset", "subfolders"]

_LATER = {"split_seed", "test_list"}  # options that ingests begun before they came do not note
Side = Annotated[int, Field(ge=1, le=2**20)]


@dataclass(frozen=True)
class Layout:
    """A data set on disk. A layout of your own: a frozen dataclass with `sources` and `recipe`; fields are options."""

    source: tyro.conf.Positional[Path]
    """Folder of the data set."""
    db: tyro.conf.Positional[Path]
    """Folder of the database to write; an interrupted ingest into it continues."""
    patch: Side | None = None
    """Cut tiles of this many pixels of 10 m; without it an image is one patch."""
    stride: Side | None = None
    """Pixels of 10 m from tile to tile; without it as --patch."""
    max_invalid: Share = 0.05
    """Leave out a patch where a larger share of any band is nodata or NaN."""
    s2_unit: S2Unit = "dn"
    """Unit of the S2 values, once the scale of a file's tags is applied: DN (reflectance times 10,000), reflectance,
    which is stored as DN, or bytes of a stretched picture, stored as they are."""
    s1_unit: S1Unit = "db"
    """Unit of the S1 values: dB, power, which becomes dB by 10 log10, or amplitude, by 20 log10; zero or negative
    power becomes invalid."""
    s2_nodata: Real | None = None
    """A value of S2 pixels without data, beside the nodata value, mask or alpha layer that a file tells."""
    s1_nodata: Real | None = None
    """The same for S1."""
    implausible: Literal["refuse", "keep"] = "refuse"
    """Images whose values look like another unit or like fill: leave them out, and end where they are many; or keep
    them as they are."""
    val: Share = 0.1
    """Share of scenes for validation, where the data set has no split of its own; scenes: see --group."""
    test: Share = 0.2
    """Share of scenes for the test, where the data set has no split of its own."""
    group: Annotated[str, tyro.conf.arg(metavar="REGEX")] = ""
    """Samples that belong into one split: those with the same text where this expression's first group, or without
    one the whole of it, is found in the path of their first file below SOURCE (pairs: below --s2). Without it scenes,
    locations or folders, as the layout has them."""
    split_by: Annotated[str, tyro.conf.arg(metavar="block:KM")] = ""
    """Samples that belong into one split: those in the same block of KM x KM km, by the georeference of their files.
    Neighbouring blocks touch. Reads the head of every file before it begins."""
    split_seed: Seed = 0
    """Seed of the splits that are drawn: another one holds out other groups."""
    workers: Workers = 0
    """Processes that read; 0: one a core."""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = ""
    """Ingest part I (0 to N - 1) of N, into a folder of its own below DB: one of N jobs that need not know of each
    other. Once all are finished, DB is read as one database, with the splits, labels and statistics of a whole
    ingest."""

    NAME: ClassVar[str] = ""
    """The layout's name in the catalog's metadata."""
    FILES: ClassVar[str] = "GeoTIFF"
    """The files it looks for, as an error names them."""
    GROUPS: ClassVar[str] = "scenes"
    """The word for a `Source.group`, in the plural."""
    SPLITS: ClassVar[str] = "the data set's own"
    """Where `Source.split` comes from."""
    SPLITS_BY: ClassVar[tuple[str, ...]] = ()
    """Values of --split-by beside block:KM."""

    @cached_property
    def notices(self) -> list[str]:
        """Doubts of `sources` and `recipe`, a line each."""
        return []

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the groups without a split of their own that are drawn for val and test."""
        return self.val, self.test

    def grouping(self) -> Grouping:
        """The grouping that the options ask for."""
        block = parse_block(self.split_by, self.SPLITS_BY)
        return Grouping(self.group, block, self.GROUPS, self.SPLITS, self.path_of, self.workers, self.split_seed)

    def path_of(self, source: Source) -> str:
        """The path of a source in which --group is searched: of its first file, below SOURCE."""
        for image in source.images.values():
            path = Path(image.files[0][0])
            return path.relative_to(self.source).as_posix() if path.is_relative_to(self.source) else str(path)
        return source.name

    def tell_unread(self, known: Collection[str], why: str = "are not read") -> None:
        """Note the folders right below SOURCE that are not among the `known` ones and hold no database."""
        own = {*self.db.absolute().parents, self.db.absolute()}
        paths = [self.source / name for name in subfolders(self.source) if name not in known]
        if other := [path for path in paths if path.absolute() not in own and not holds_database(path)]:
            self.notices.append(counted(f"folders below {self.source} that {why}", len(other), other[0]))

    def sources(self) -> list[Source]:
        """The samples in a fixed order, `split` None to draw one; an empty list is an error that names `FILES`."""
        raise NotImplementedError

    def recipe(self) -> Recipe:
        """The conversion of this data set's pixels, and its classes."""
        raise NotImplementedError

    def settled(self, recipe: Recipe) -> Recipe:
        """`recipe` with the options that all layouts share."""
        nodata = {"ms": self.s2_nodata, "sar": self.s1_nodata}
        return replace(
            recipe,
            patch=self.patch,
            stride=self.stride,
            max_invalid=self.max_invalid,
            s2_unit=self.s2_unit,
            s1_unit=self.s1_unit,
            nodata={kind: value for kind, value in nodata.items() if value is not None},
            implausible=self.implausible == "keep",
        )

    @property
    def part(self) -> Shard | None:
        """The shard to ingest; None: all sources. Raises DataError as `shards.parse`."""
        return parse(self.shard) if self.shard else None

    @property
    def folder(self) -> Path:
        """Folder of the database to write: DB, or the shard's own below it."""
        return self.db / self.part.name if self.part else self.db

    def identity(self) -> dict[str, Any]:
        """Options that decide the result: equal in a resumed ingest, and in all shards of one."""
        found = {"layout": self.NAME, "source": str(self.source.resolve())} | {
            name: str((self.source / value).resolve()) if isinstance(value, Path) else value
            for name, value in vars(self).items()
            if name in self.__dataclass_fields__
            and name not in ("source", "db", "workers", "shard")
            and (value or name not in _LATER)
        }
        if str(found.get("offset")).endswith(_TABLE):  # its content decides
            table = parse_offset(found["offset"], self.source)
            found["offset"] = digest_of(map(str, sorted(table.items()))) if isinstance(table, dict) else table
        return found

    def check(self) -> None:
        """Raise DataError for options that cannot work."""
        checked(self)
        if bad := [path for path in (self.source, self.db) if not is_utf8(path)]:
            raise DataError(f"{escaped(bad[0])} has a name that is not UTF-8: rename it")
        if not self.source.is_dir():
            raise DataError(f"{self.source} is not a folder")
        if self.db.exists() and not self.db.is_dir():
            raise DataError(f"{self.db} is a file: name a folder for the database")
        check_room(self.db, self.part)
        if self.patch is None and self.stride is not None:
            raise DataError("--stride needs --patch: say how large the tiles are")
        if self.val + self.test >= 1:
            raise DataError(f"--val {self.val} and --test {self.test} must be shares that leave some to train on")
        if self.group and self.split_by:
            raise DataError("--group and --split-by both say which samples belong together: give one of them")
        parse_group(self.group)
        parse_block(self.split_by, self.SPLITS_BY)


_MOST_OFFSET = 10_000  # DN
_TABLE = ".tsv"

Offset = Annotated[
    str,
    tyro.conf.arg(
        metavar="auto|DN|TABLE.tsv",
        help="DN to subtract from S2: 1000 from processing baseline 04.00 on, 0 before. auto: by each file's tags, "
        "product name or acquisition date; where they leave it open, it asks. TABLE.tsv: lines of a file and its DN, "
        "as in offsets.tsv.",
    ),
]


def parse_offset(text: str, source: Path) -> int | dict[str, int] | None:
    """--offset in DN, by file where it names a table, or None for "auto".

    source: folder that relative paths of a table may lie in. Raises DataError for anything else.
    """
    if text == "auto":
        return None
    if text.isascii() and text.isdecimal() and int(text) <= _MOST_OFFSET:
        return int(text)
    if not text.endswith(_TABLE):
        wanted = f"auto, a number of DN from 0 to {_MOST_OFFSET}, or a {_TABLE}"
        raise DataError(f"--offset is {text!r}, but must be {wanted}")
    try:
        lines = Path(text).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise DataError(f"--offset: {text} cannot be read ({error})") from error
    table: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells) or (number == 1 and cells[0] == "file"):
            continue
        if len(cells) < 2 or not re.fullmatch("[0-9]+", cells[1]) or int(cells[1]) > _MOST_OFFSET:
            raise DataError(f"{text}, line {number}: wants a file, a tab and its DN from 0 to {_MOST_OFFSET}")
        offset = int(cells[1])
        if table.setdefault(str(source / cells[0]), offset) != offset:
            raise DataError(f"{text}, line {number}: {cells[0]} has another offset than above: keep one of the lines")
        table[cells[0]] = offset
    return table
