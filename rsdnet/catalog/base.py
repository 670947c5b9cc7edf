"""The options that all adoptions share."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from rsdnet.errors import DataError
from rsdnet.ingest.files import counted, escaped, is_utf8
from rsdnet.ingest.source import Recipe, Source
from rsdnet.ingest.splits import Grouping, parse_group
from rsdnet.options import Seed, Share, Workers, checked

OffsetPolicy = Literal["refuse", "leave-out", "keep"]
_SHOWN = 3  # keys in a message


@dataclass(frozen=True)
class Adoption:
    """A database that rico-hdl wrote."""

    db: tyro.conf.Positional[Path]
    """Folder of the database. Its data.mdb is read, and never written."""
    metadata: tuple[Path, ...] = ()
    out: Path | None = None
    """Folder for the catalog and a link to data.mdb, made if absent, where DB itself is not to be written to."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace an existing catalog, or an adoption that was begun with other options."""
    offset: OffsetPolicy = "refuse"
    """S2 patches with the offset of 1,000 DN of processing baseline 04.00, which cannot be subtracted in place: refuse
    the database, leave out the patches whose keys tell it, or keep them."""
    max_invalid: Share = 0.05
    """Leave out a patch where a larger share of any band is nodata or NaN."""
    implausible: Literal["refuse", "keep"] = "refuse"
    """Patches whose values look like another unit or like fill: leave them out, and end where they are many; or keep
    them."""
    val: Share = 0.1
    """Share of scenes for validation, where the metadata tell no split."""
    test: Share = 0.2
    """Share of scenes for the test, where the metadata tell no split."""
    group: Annotated[str, tyro.conf.arg(metavar="REGEX")] = ""
    """Samples that belong into one split: those with the same text where this expression's first group, or without
    one the whole of it, is found in their key. Without it scenes, locations or patches, as the data set has them."""
    split_seed: Seed = 0
    """Seed of the splits that are drawn: another one holds out other groups."""
    workers: Workers = 0
    """Threads or processes that read; 0: one a core."""

    NAME: ClassVar[str] = ""
    KEYS: ClassVar[str] = ""
    """The form of its keys, as an error tells it."""
    METADATA: ClassVar[tuple[str, ...]] = ()
    """Names of the files that --metadata takes."""
    GROUPS: ClassVar[str] = "scenes"
    SPLITS: ClassVar[str] = "those of --metadata"

    @cached_property
    def notices(self) -> list[str]:
        """Doubts of `sources`, a line each."""
        return []

    @property
    def home(self) -> Path:
        """Folder of the catalog."""
        return self.out or self.db

    def sources(self, keys: Sequence[str]) -> list[Source]:
        """The samples that the keys make, in a fixed order. Raises DataError where they are of another data set."""
        raise NotImplementedError

    def recipe(self) -> Recipe:
        """The bands of this data set, and its classes."""
        raise NotImplementedError

    def grouping(self) -> Grouping:
        """The grouping that the options ask for."""
        return Grouping(self.group, None, self.GROUPS, self.SPLITS, _key, self.workers, self.split_seed)

    def identity(self) -> dict[str, Any]:
        """Options that decide the result: equal in an adoption that continues."""
        names = {field.name for field in fields(self)} - {"db", "metadata", "out", "force", "workers"}
        return {"layout": self.NAME, "db": str(self.db.resolve())} | {
            name: getattr(self, name) for name in sorted(names)
        }

    def check(self) -> None:
        """Raise DataError for options that cannot work."""
        checked(self)
        for path in filter(None, (self.db, self.out, *self.metadata)):
            if not is_utf8(path):
                raise DataError(f"{escaped(path)} has a name that is not UTF-8: rename it")
        if self.val + self.test >= 1:
            raise DataError(f"--val {self.val} and --test {self.test} must be shares that leave some to train on")
        parse_group(self.group)
        for path in self.metadata:
            if path.name not in self.METADATA:
                raise DataError(f"--metadata {path}: {self.NAME} takes {' and '.join(self.METADATA) or 'none'} by name")
            if not path.is_file():
                raise DataError(f"--metadata {path} is no file")

    def require(self, found: object, keys: Sequence[str]) -> None:
        """Raise DataError where no key is of this data set."""
        if not found:
            first = ", ".join(repr(key) for key in keys[:: max(1, len(keys) // _SHOWN)][:_SHOWN])
            told = f"{self.db} holds no key of {self.NAME} ({self.KEYS}), but {first}"
            raise DataError(f"{told}: name the layout of its data set")

    def tell(self, what: str, keys: Sequence[str]) -> None:
        """Note the keys that are not taken, or absent, if there are any."""
        if keys:
            self.notices.append(counted(what, len(keys), keys[0]))


def _key(source: Source) -> str:
    """The key of a sample's first entry."""
    return next((image.key for image in source.images.values()), source.name)
