"""Splits that ingest draws: whole groups of samples, by name alone, to train, val and test.

A group is a scene, location or folder, as the layout has it; the text that `--group` finds in a sample's path; or the
block of the Earth of `--split-by block:KM`.
"""

import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import rasterio
from rasterio.errors import RasterioError

from rsdnet.console import progress
from rsdnet.errors import DataError
from rsdnet.ingest.grid import grid_of, positions
from rsdnet.ingest.raster import GDAL
from rsdnet.ingest.source import Source
from rsdnet.ingest.workers import ordered

_RADIUS = 6371.0072  # km, of the sphere with the Earth's surface (authalic, WGS 84)
_SMALLEST, _LARGEST = 0.1, 20_000.0  # km, of a block
_FOLDERS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test", "testing": "test"}
_UNREADABLE = "unreadable"
_UNPLACED = "no georeference"


class Drawn(NamedTuple):
    """Sources with a split each.

    origin: of the splits, in words. notices: requests that could not be met.
    """

    sources: list[Source]
    origin: str
    notices: list[str]


@dataclass(frozen=True)
class Grouping:
    """How samples are grouped, from the command line.

    pattern: --group, "" for the layout's own groups. block: --split-by in km, None for none. unit: the layout's own
    group, in the plural. own: the origin of its own splits. path: the path of a source in which pattern is searched.
    workers: as --workers. seed: as --split-seed. named: whether groups that are held out are named in words.
    """

    pattern: str
    block: float | None
    unit: str
    own: str
    path: Callable[[Source], str]
    workers: int
    seed: int = 0
    named: bool = False

    def __str__(self) -> str:
        if self.block is not None:
            return f"blocks of {self.block:g} km"
        return f"groups of --group {self.pattern}" if self.pattern else self.unit


def draw(sources: list[Source], val: float, test: float, by: Grouping) -> Drawn:
    """The sources with their groups, and with a split each: their own, else their group's.

    Raises DataError where a sample has no group.
    """
    if by.pattern:
        sources = _matched(sources, by)
    elif by.block is not None:
        sources = _placed(sources, by)
    drawn = assign_splits(sources, val, test, by.seed)
    taken = [source for source in sources if not source.problem and source.images.keys() & {"ms", "sar"}]
    free = [source for source in taken if source.split is None]
    groups = len({source.group for source in free})
    own = len(taken) - len(free)
    words = [f"{by.own}, for {own:,} sources"] if own else []
    named = _held_out(drawn) if by.named else ""
    words += [f"drawn for {len(free):,} sources in {groups:,} {by}{named}"] if free else []
    return Drawn(drawn, "; ".join(words), [*_unmet(drawn, free, groups, val, test, by)])


def _held_out(drawn: list[Source]) -> str:
    """The groups in val and test, by name."""
    held = {split: sorted({source.group for source in drawn if source.split == split}) for split in ("val", "test")}
    return "".join(f", {split}: {', '.join(names)}" for split, names in held.items() if names)


def _unmet(
    drawn: list[Source], free: list[Source], groups: int, val: float, test: float, by: Grouping
) -> Iterable[str]:
    if not free and (by.pattern or by.block is not None):
        yield "--group and --split-by draw nothing: the data set has splits of its own"
    held = {source.split for source in drawn if not source.problem}
    names = {source.name for source in free}
    folders = {(part, source.split) for source in drawn if source.name in names for part in source.name.split("/")[:-1]}
    if other := sorted({part for part, split in folders if _FOLDERS.get(part.lower(), split) != split}):
        yield f"folders named {', '.join(other)} are in splits that were drawn, not in those of their names"
    for name, share in (("val", val), ("test", test)):
        if free and share > 0 and name not in held:
            yield f"no sample is in {name}, though --{name} is {share:g}: too few {by} to share out ({groups:,})"


def assign_splits(sources: list[Source], val: float, test: float, seed: int = 0) -> list[Source]:
    """The sources with a split each: their own, else that of all others of their group, else their group's.

    Groups are ranked by the SHA-256 of their names, after the seed where it is not 0; the first go to test, the next to
    val, the others to train. So the split depends on names and seed alone, no group is torn apart, and small data sets
    get each split that they have enough groups for. Sources that are left out do not count.
    """
    settled: dict[str, set[str]] = {}
    for source in sources:
        if source.split is not None:
            settled.setdefault(source.group, set()).add(source.split)
    known = {group: next(iter(splits)) for group, splits in settled.items() if len(splits) == 1}
    free = [source for source in sources if source.split is None and source.group not in known]
    groups = {source.group for source in free if not source.problem}
    ranked = sorted(groups, key=lambda name: hashlib.sha256(f"{seed or ''}{name}".encode()).digest())
    tests = _share(len(groups), test, len(groups) - 1)
    vals = _share(len(groups), val, len(groups) - 1 - tests)
    drawn = dict.fromkeys((source.group for source in free), "train") | known
    drawn |= dict.fromkeys(ranked[: tests + vals], "val") | dict.fromkeys(ranked[:tests], "test")
    return [source._replace(split=source.split or drawn[source.group]) for source in sources]


def _share(total: int, share: float, most: int) -> int:
    return max(0, min(max(round(total * share), int(share > 0)), most))


def parse_group(text: str) -> re.Pattern[str]:
    """--group as a compiled expression. Raises DataError if it is none."""
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(f"--group {text!r} is no regular expression ({error})") from error


def parse_block(text: str, names: Sequence[str] = ()) -> float | None:
    """--split-by in km; None where it is empty or among the `names` that a layout takes, too.

    Raises DataError if it is none of these nor block:KM.
    """
    if not text or text in names:
        return None
    match = re.fullmatch(r"block:([0-9]+(?:\.[0-9]+)?)", text)
    if not match or not _SMALLEST <= float(match[1]) <= _LARGEST:
        wanted = " or ".join((*names, "block:KM"))
        raise DataError(f"--split-by is {text!r}, but must be {wanted} with KM from {_SMALLEST} to {_LARGEST:g}")
    return float(match[1])


def _matched(sources: list[Source], by: Grouping) -> list[Source]:
    """The sources grouped by the first group, or else the whole match, of the pattern in their paths."""
    pattern, found = parse_group(by.pattern), []
    for source in sources:
        match = pattern.search(by.path(source))
        group = match and match[1 if pattern.groups else 0]
        if not group and not source.problem:
            raise DataError(f"--group {by.pattern!r} finds nothing in {by.path(source)!r}: each sample needs a group")
        found.append(source._replace(group=group) if group else source)
    return found


def _placed(sources: list[Source], by: Grouping) -> list[Source]:
    """The sources grouped by block, from the headers of their files; those that cannot be read keep their own group."""
    asked = [source for source in sources if not source.problem]
    files = [tuple(path for image in source.images.values() for path, _ in image.files[:1]) for source in asked]
    centres = list[tuple[float, float] | str]()
    with (
        progress("places", len(files), "files") as show,
        contextlib.closing(ordered(_centre, files, by.workers)) as found,
    ):
        for centre in found:
            centres.append(centre)
            show(len(centres))
    if unplaced := [paths[0] for paths, centre in zip(files, centres, strict=True) if centre == _UNPLACED]:
        raise DataError(
            f"{unplaced[0]} bears no georeference{_more(len(unplaced) - 1)}: --split-by needs one, --group does not"
        )
    blocks = {
        source.name: block(*centre, by.block or _LARGEST)
        for source, centre in zip(asked, centres, strict=True)
        if not isinstance(centre, str)
    }
    return [source._replace(group=blocks.get(source.name, source.group)) for source in sources]


def _more(count: int) -> str:
    return f", nor do {count:,} more" if count else ""


def block(lon: float, lat: float, km: float) -> str:
    """Name of the block of about `km` x `km` around a place in degrees: row from the south, column from 180 W.

    Rows are equally high, and each is cut into as many columns as keep them about as wide: Major TOM's grid (Francis &
    Czerkawski 2024, arXiv 2402.12095, 3.1), which needs no projection, and no block crosses 180 degrees. Neighbouring
    blocks touch: patches on both sides of a border may lie close together.
    """
    rows = math.ceil(math.pi * _RADIUS / km)
    row = min(int((lat + 90) / 180 * rows), rows - 1)
    widest = max(math.cos(math.radians(edge / rows * 180 - 90)) for edge in (row, row + 1))
    columns = max(1, math.ceil(2 * math.pi * _RADIUS * widest / km))
    column = min(int((lon + 180) % 360 / 360 * columns), columns - 1)
    return f"block{km:g}_{row}_{column}"


def _centre(paths: tuple[str, ...]) -> tuple[float, float] | str:
    """(longitude, latitude) in degrees of the centre of the first file that tells it; else `_UNREADABLE` where one
    cannot be read, or `_UNPLACED`."""
    with rasterio.Env(**GDAL):
        told = [_centre_of(path) for path in paths]
    return next((at for at in told if not isinstance(at, str)), _UNREADABLE if _UNREADABLE in told else _UNPLACED)


def _centre_of(path: str) -> tuple[float, float] | str:
    try:
        with rasterio.open(path) as file:
            grid, _ = grid_of(file)
    except (RasterioError, OSError):
        return _UNREADABLE
    (place,) = positions(grid, [(grid.shape[1] / 2, grid.shape[0] / 2)] if grid else [(0, 0)])
    return place or _UNPLACED
