"""BigEarthNet v2's tables, `metadata.parquet` and that of patches with snow, clouds or shadow: which S1 and S2 patches
make a sample, its split and its labels."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rsdnet import bands
from rsdnet.data.catalog import CONDITIONS
from rsdnet.errors import DataError
from rsdnet.ingest.files import counted
from rsdnet.ingest.source import Image, Recipe, Source

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
METADATA = "metadata.parquet"
UNCLEAR = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
S1 = ("VH", "VV")  # rico-hdl's order
Unlisted = Literal["leave-out", "keep"]

# The 19 classes and their CORINE codes (Sumbul et al. 2021, BigEarthNet-MM, table 1); other codes are no class.
CLASSES: dict[str, tuple[int, ...]] = {
    "Urban fabric": (111, 112),
    "Industrial or commercial units": (121,),
    "Arable land": (211, 212, 213),
    "Permanent crops": (221, 222, 223, 241),
    "Pastures": (231,),
    "Complex cultivation patterns": (242,),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (243,),
    "Agro-forestry areas": (244,),
    "Broad-leaved forest": (311,),
    "Coniferous forest": (312,),
    "Mixed forest": (313,),
    "Natural grassland and sparsely vegetated areas": (321, 333),
    "Moors, heathland and sclerophyllous vegetation": (322, 323),
    "Transitional woodland, shrub": (324,),
    "Beaches, dunes, sands": (331,),
    "Inland wetlands": (411, 412),
    "Coastal wetlands": (421, 422),
    "Inland waters": (511, 512),
    "Marine waters": (521, 522, 523),
}
_IDS = {name: label for label, name in enumerate(CLASSES)}


def recipe() -> Recipe:
    """The conversion of BigEarthNet v2's pixels, and its classes."""
    codes = {code: label for label, codes in enumerate(CLASSES.values()) for code in codes}
    return Recipe(
        {"ms": bands.S2L2A, "sar": S1},
        classes={"corine": codes},
        class_names=tuple(CLASSES),
        raw_map=True,
        level="L2A",
    )


@dataclass
class Tables:
    """The tables, and the rules by which they make samples.

    paths: `METADATA` and `UNCLEAR`, where they are there. unlisted: keep the patches that `METADATA` does not list.
    notices: gets a line on each doubt.
    """

    paths: tuple[Path, ...]
    unlisted: Unlisted = "leave-out"
    notices: list[str] = field(default_factory=list)

    def samples(
        self,
        s2: Mapping[str, Image],
        s1: Mapping[str, Image],
        maps: Mapping[str, Image],
        scene: Callable[[Image], str],
        lacking: str,
    ) -> Iterator[Source]:
        """The samples of images by patch, S2 patches first; those to leave out with their reasons.

        scene: of an image, a group that no split tears apart. lacking: the word for what an absent patch has not.
        """
        rows, patch_of = self.rows, {row.s1: patch for patch, row in self.rows.items() if row.s1}
        self._tell_absent(s2, s1, lacking)
        paired = set[str]()
        for patch in sorted({*s2, *maps}):
            row = rows.get(patch)
            kinds = {"ms": s2.get(patch), "sar": s1.get(row.s1 or "") if row else None, "map": maps.get(patch)}
            images = {kind: image for kind, image in kinds.items() if image is not None}
            paired |= {row.s1} if row and row.s1 and "sar" in images else set()
            problem = self._problem(patch, row) or ("" if patch in s2 or not self.listed else "it has no S2 files")
            group = scene(next(iter(images.values())))
            yield Source(patch, group, images, scheme="corine", problem=problem)._replace(**(row or Row()).facts())
        for patch in sorted(s1.keys() - paired):
            row = rows.get(patch_of.get(patch, ""))
            alone = Source(patch, scene(s1[patch]), {"sar": s1[patch]}, problem=self._problem(patch, row))
            yield alone._replace(**(row or Row()).facts())

    @property
    def listed(self) -> bool:
        """Whether `METADATA` is there."""
        return any(path.name == METADATA for path in self.paths)

    @cached_property
    def rows(self) -> dict[str, "Row"]:
        """The rows of the patches to take, by S2 patch."""
        taken = sorted(path for path in self.paths if path.name == METADATA or self.unlisted == "keep")
        rows: dict[str, Row] = {}
        for path in taken if self.listed else []:
            rows = _read(path, self.notices) | rows
        partners = Counter(row.s1 for row in rows.values() if row.s1)
        return {
            patch: row._replace(problem=f"its S1 patch is listed for another S2 patch, too: {row.s1}")
            if row.s1 and partners[row.s1] > 1 and not row.problem
            else row
            for patch, row in rows.items()
        }

    @property
    def names(self) -> set[str]:
        """The S2 and S1 patches of the rows."""
        return _patches(self.rows)

    @cached_property
    def _unclear(self) -> set[str]:
        """The S2 and S1 patches that the second table lists, where it is there."""
        return set().union(*(_patches(_read(path, [])) for path in self.paths if path.name == UNCLEAR))

    def _problem(self, patch: str, row: "Row | None") -> str:
        """The reason to leave out a patch with this row of the tables, or none."""
        if row is not None:
            return row.problem
        if not self.listed or self.unlisted == "keep":
            return ""
        if patch in self._unclear:
            return f"{METADATA} does not list it, but {UNCLEAR} does: --unlisted keep takes it"
        return f"{METADATA} does not list it: --unlisted keep takes it"

    def _tell_absent(self, s2: Mapping[str, Image], s1: Mapping[str, Image], lacking: str) -> None:
        """Note the patches that a table lists and that are not there."""
        listed = [*self.rows.items()]
        for what, absent in (
            ("S2", sorted(patch for patch, _ in listed if patch not in s2)),
            ("S1", sorted(row.s1 for _, row in listed if row.s1 and row.s1 not in s1)),
        ):
            if absent:
                told = f"{what} patches of {METADATA} without {lacking} (their partners are samples without {what})"
                self.notices.append(counted(told, len(absent), absent[0]))


class Row(NamedTuple):
    """A row of a table: the S1 patch of an S2 patch, its split, label ids, and whether it has snow, and clouds or their
    shadow; None for unknown. problem: the reason to leave it out, or ""."""

    s1: str | None = None
    split: str | None = None
    labels: tuple[int, ...] | None = None
    snow: bool | None = None
    clouds: bool | None = None
    problem: str = ""

    def facts(self) -> dict[str, Any]:
        """Fields of a `Source`."""
        return {name: getattr(self, name) for name in ("split", "labels", "snow", "clouds")}


def _patches(rows: Mapping[str, Row]) -> set[str]:
    return {*rows, *(row.s1 for row in rows.values() if row.s1)}


def _read(path: Path, notices: list[str]) -> dict[str, Row]:
    """The rows of a table by S2 patch; a row that contradicts itself or another has a problem.

    Raises DataError if it cannot be read, lacks a column, or has a label that is none of the 19 classes.
    """
    rows: dict[str, Row] = {}
    nameless = 0
    for patch, s1, split, names, snow, clouds in _values(path):
        if not patch:
            nameless += 1
            continue
        known = _SPLITS.get(split or "")
        problem = "" if known else f"{path.name} gives it no split that is known: {split}"
        row = Row(s1 or None, known, _ids(names, patch, path), snow, clouds, problem)
        if rows.setdefault(patch, row)[:-1] != row[:-1]:
            rows[patch] = row._replace(problem=f"{path.name} lists it more than once: with other values")
    if nameless:
        notices.append(f"rows of {path.name} without a patch_id, passed over: {nameless:,}")
    return rows


def _values(path: Path) -> Iterator[tuple[Any, ...]]:
    """Patch, S1 patch, split, names of its classes, snow, clouds or shadow, of each row; None for a column it lacks.

    Raises DataError if it cannot be read, or lacks one of the first three.
    """
    import pyarrow
    import pyarrow.parquet

    text, flag = pyarrow.string(), pyarrow.bool_()
    needed = dict.fromkeys(("patch_id", "s1_name", "split"), text)
    columns = needed | {"labels": pyarrow.list_(text)} | dict.fromkeys(CONDITIONS, flag)
    try:
        held = pyarrow.parquet.read_schema(path).names
        if lacking := [name for name in needed if name not in held]:
            raise DataError(f"{path} has no column {', '.join(lacking)}: is it BigEarthNet v2's?")
        table = pyarrow.parquet.read_table(path, columns=[name for name in columns if name in held])
        values = [
            table.column(name).cast(kind).to_pylist() if name in held else [None] * len(table)
            for name, kind in columns.items()
        ]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    return zip(*values, strict=True)


def _ids(names: list[str] | None, patch: str, path: Path) -> tuple[int, ...] | None:
    """The label ids, ascending, of class names; None for unknown ones. Raises DataError on a name of no class."""
    if names is None:
        return None
    if other := [name for name in names if name not in _IDS]:
        raise DataError(
            f"{path} gives {patch} the label {other[0]!r}, which is none of BigEarthNet v2's {len(CLASSES)} classes"
        )
    return tuple(sorted({_IDS[name] for name in names}))
