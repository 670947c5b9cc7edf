"""The data sets whose databases can be adopted: from the keys that rico-hdl gave them to samples.

Keys and tensors: kai-tub/rico-hdl, README.md. The rules by which keys make samples are those of rsdnet/ingest/layouts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from rsdnet.errors import DataError
from rsdnet.ingest.files import counted, escaped, is_utf8
from rsdnet.ingest.layouts import bigearthnet_tables as ben
from rsdnet.ingest.layouts import eurosat, ssl4eo
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.splits import Grouping, parse_group
from rsdnet.options import Seed, Share, Workers, checked, shown

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
    offset: Literal["refuse", "leave-out", "keep"] = "refuse"
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

    def _require(self, found: object, keys: Sequence[str]) -> None:
        """Raise DataError where no key is of this data set."""
        if not found:
            first = ", ".join(repr(key) for key in keys[:: max(1, len(keys) // _SHOWN)][:_SHOWN])
            told = f"{self.db} holds no key of {self.NAME} ({self.KEYS}), but {first}"
            raise DataError(f"{told}: name the layout of its data set")

    def _tell_untaken(self, what: str, keys: Sequence[str]) -> None:
        if keys:
            self.notices.append(counted(what, len(keys), keys[0]))


def _key(source: Source) -> str:
    """The key of a sample's first entry."""
    return next((image.key for image in source.images.values()), source.name)


def _image(key: str) -> Image:
    """The image of an entry: it has no file but the entry."""
    return Image(key, ((key, None),))


@dataclass(frozen=True)
class BigEarthNet(Adoption):
    """BigEarthNet v2."""

    metadata: tuple[Path, ...] = ()
    """metadata.parquet, which pairs S1 with S2 and has splits and labels, and
    metadata_for_patches_with_snow_cloud_or_shadow.parquet, or one of them. Without the first S1 and S2 are samples of
    their own, and splits are drawn."""
    unlisted: ben.Unlisted = "leave-out"
    """Patches that metadata.parquet does not list: leave them out; or keep them, with the splits and pairs of the
    second table where it lists them, else alone and with splits drawn."""

    NAME = "bigearthnet"
    KEYS = "S2A_MSIL2A_..._T33UUP_26_57, S1A_IW_GRDH_..._33UUP_26_57 or ..._reference_map"
    METADATA = (ben.METADATA, ben.UNCLEAR)
    GROUPS = "tiles or scenes"
    # `<tile>_<row>_<column>` and `<scene>_<tile>_<row>_<column>`: the group, then the place in it
    _FORM: ClassVar[re.Pattern[str]] = re.compile(r"(S2[A-D]_MSIL2A_.+)_\d+_\d+|(S1[A-D]_.+)_[0-9A-Z]{5}_\d+_\d+")
    _MAP: ClassVar[str] = "_reference_map"

    def sources(self, keys: Sequence[str]) -> list[Source]:
        s2, s1, maps = dict[str, Image](), dict[str, Image](), dict[str, Image]()
        other = list[str]()
        for key in keys:
            patch = key.removesuffix(self._MAP)
            if not self._FORM.fullmatch(patch):
                other.append(key)
            else:
                (maps if patch != key else s2 if patch.startswith("S2") else s1)[patch] = _image(key)
        self._require(s2 or s1, keys)
        self._tell_untaken(f"entries whose keys are none of {self.NAME}'s, not taken", other)
        tables = ben.Tables(self.metadata, self.unlisted, self.notices)
        if not tables.listed:
            self.notices.append(f"no {ben.METADATA} by --metadata: S1 and S2 are not paired, splits are drawn")
        elif tables.rows and not (
            s2.keys() & tables.rows.keys() or s1.keys() & {row.s1 for row in tables.rows.values()}
        ):
            first = next(iter(tables.rows))
            raise DataError(
                f"--metadata lists no patch of {self.db} ({first}, not {next(iter(s2 or s1))}): is it its own?"
            )
        return [*tables.samples(s2, s1, maps, self._scene, "an entry")]

    def _scene(self, image: Image) -> str:
        """The tile or scene of a patch: its name without the place in it."""
        match = self._FORM.fullmatch(image.key.removesuffix(self._MAP))
        return (match[1] or match[2]) if match else image.key

    def recipe(self) -> Recipe:
        return ben.recipe()


@dataclass(frozen=True)
class Ssl4eo(Adoption):
    """SSL4EO-S12 v1.0."""

    metadata: tyro.conf.Suppress[tuple[Path, ...]] = ()
    s2_level: ssl4eo.Level = "L2A"
    """The S2 collection to take."""

    NAME = "ssl4eo"
    KEYS = "s2a_0000200_<product>, s2c_... or s1_..."
    GROUPS = "locations"
    _FORM: ClassVar[re.Pattern[str]] = re.compile(r"(s1|s2a|s2c)_(\d+)_(.+)")

    def sources(self, keys: Sequence[str]) -> list[Source]:
        found: dict[str, dict[str, list[str]]] = {"s1": {}, "s2a": {}, "s2c": {}}
        other = []
        for key in keys:
            if match := self._FORM.fullmatch(key):
                found[match[1]].setdefault(match[2], []).append("/".join(match.groups()))
            else:
                other.append(key)
        self._require(any(found.values()), keys)
        self._tell_untaken(f"entries whose keys are none of {self.NAME}'s, not taken", other)
        s2, untaken = (ssl4eo.COLLECTIONS[level][0] for level in sorted(ssl4eo.COLLECTIONS, key=self.s2_level.__ne__))
        self._tell_untaken(f"locations of {untaken}, not taken; see --s2-level", [*found[untaken]])
        products = ssl4eo.Products(
            found[s2], found["s1"], self.s2_level, lambda product, _: _image("_".join(product.split("/")))
        )
        self.notices.extend(products.one_sensor(s2, "s1"))
        self._require(found[s2] or found["s1"], keys)
        return [*products.samples()]

    def recipe(self) -> Recipe:
        return ssl4eo.recipe(self.s2_level)


@dataclass(frozen=True)
class EuroSat(Adoption):
    """EuroSAT, multispectral."""

    metadata: tuple[Path, ...] = ()
    """eurosat-train.txt, eurosat-val.txt and eurosat-test.txt, the lists of the usual split. Without them splits are
    drawn."""
    val: Share = 0.2
    test: Share = 0.2

    NAME = "eurosat"
    KEYS = "<Class>_<number>"
    METADATA = tuple(eurosat.LISTS)
    GROUPS = "patches"
    SPLITS = "those of the lists of --metadata"

    def sources(self, keys: Sequence[str]) -> list[Source]:
        labels = {name: label for label, name in enumerate(eurosat.CLASSES)}
        listed = eurosat.read_lists(self.metadata)
        found = {key: label for key in keys if (label := labels.get(key.rpartition("_")[0])) is not None}
        self._require(found, keys)
        self._tell_untaken("entries of no class of EuroSAT's, not taken", [key for key in keys if key not in found])
        if listed and not listed.keys() & found.keys():
            raise DataError(
                f"{shown(self.metadata)}: name no entry of {self.db} ({next(iter(listed))}): are they its own?"
            )
        absent = sorted(listed.keys() - found.keys())
        self._tell_untaken("samples of the lists without an entry", absent)
        return sorted(
            (eurosat.sample(key, label, _image(key), listed) for key, label in found.items()), key=eurosat.order
        )

    def recipe(self) -> Recipe:
        return Recipe({"ms": eurosat.ORDER}, class_names=eurosat.CLASSES, level="L1C")


ADOPTIONS: dict[str, type[Adoption]] = {kind.NAME: kind for kind in (BigEarthNet, Ssl4eo, EuroSat)}
