"""The data sets whose databases can be adopted: from the keys that rico-hdl gave them to samples.

Keys and tensors: kai-tub/rico-hdl, README.md. The rules by which keys make samples are those of rsdnet/ingest/layouts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from rsdnet.catalog.base import Adoption
from rsdnet.errors import DataError
from rsdnet.ingest.layouts import bigearthnet_tables as ben
from rsdnet.ingest.layouts import eurosat, ssl4eo
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.options import Share, shown


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
        self.require(s2 or s1, keys)
        self.tell(f"entries whose keys are none of {self.NAME}'s, not taken", other)
        tables = ben.Tables(self.metadata, self.unlisted, self.notices)
        if not tables.listed:
            self.notices.append(f"no {ben.METADATA} by --metadata: S1 and S2 are not paired, splits are drawn")
        elif tables.rows and not tables.names & (s2.keys() | s1.keys()):
            both = f"{next(iter(tables.rows))}, not {next(iter(s2 or s1))}"
            raise DataError(f"--metadata lists no patch of {self.db} ({both}): is it its own?")
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
        self.require(any(found.values()), keys)
        self.tell(f"entries whose keys are none of {self.NAME}'s, not taken", other)
        s2, untaken = (ssl4eo.COLLECTIONS[level][0] for level in sorted(ssl4eo.COLLECTIONS, key=self.s2_level.__ne__))
        self.tell(f"locations of {untaken}, not taken; see --s2-level", [*found[untaken]])
        products = ssl4eo.Products(
            found[s2], found["s1"], self.s2_level, lambda product, _: _image("_".join(product.split("/")))
        )
        self.notices.extend(products.one_sensor(s2, "s1"))
        self.require(found[s2] or found["s1"], keys)
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
        self.require(found, keys)
        self.tell("entries of no class of EuroSAT's, not taken", [key for key in keys if key not in found])
        if listed and not listed.keys() & found.keys():
            raise DataError(
                f"{shown(self.metadata)}: name no entry of {self.db} ({next(iter(listed))}): are they its own?"
            )
        absent = sorted(listed.keys() - found.keys())
        self.tell("samples of the lists without an entry", absent)
        return sorted(
            (eurosat.sample(key, label, _image(key), listed) for key, label in found.items()), key=eurosat.order
        )

    def recipe(self) -> Recipe:
        return Recipe({"ms": eurosat.ORDER}, class_names=eurosat.CLASSES, level="L1C")


def _image(key: str) -> Image:
    """The image of an entry: it has no file but the entry."""
    return Image(key, ((key, None),))


ADOPTIONS: dict[str, type[Adoption]] = {kind.NAME: kind for kind in (BigEarthNet, Ssl4eo, EuroSat)}
