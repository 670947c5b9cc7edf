"""Several databases read as one: their catalogs piece by piece, and each database's part of an epoch.

A million samples never stand in memory as Python objects.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsdnet.data import shards
from rsdnet.data.catalog import COLUMNS, VERSION, Catalog, objects, read_meta
from rsdnet.encoderfile import DataSet
from rsdnet.errors import DataError

FEW = 3  # class names in a message


class Piece(NamedTuple):
    """Consecutive samples of one folder."""

    database: int
    first: int
    """Row of the piece's first sample in the joined catalog."""
    catalog: Catalog


class Databases:
    """The joined catalog of several databases, in pieces: one database's rows after the other's.

    named: folders, each of a database or of its shards. Where the class lists of those with labels differ, a label id
    means different things, so the joined catalog has no labels and no label maps. Each iteration reads the files again.
    Raises DataError where a catalog is missing, damaged, contradictory or changed since, or two samples share a name.
    """

    def __init__(self, named: Path | str | Sequence[Path | str]) -> None:
        self.named = (Path(named),) if isinstance(named, str | Path) else tuple(Path(path) for path in named)
        if not self.named:
            raise DataError("no database was named: give at least one")
        self._parts = [shards.parts(path) for path in self.named]
        self.folders = tuple(folder for parts in self._parts for folder in parts)
        """The folders with a data.mdb: a database's own, or its shards'."""
        self._meta = [read_meta(folder) for folder in self.folders]
        lists = shards.classes([tuple(meta.pop("classes", ())) for meta in self._meta], self._meta)
        self.counts, labelled = self._count()
        """Samples of each folder."""
        self._lists = {self._name(at): lists[at] for at, count in enumerate(labelled) if count}
        self._same = len(set(self._lists.values()) or set(lists)) == 1
        self.classes = next(iter([*self._lists.values(), *lists])) if self._same else ()
        """Class names by label id."""

    def __len__(self) -> int:
        return sum(self.counts)

    def described(self) -> tuple[DataSet, ...]:
        """Each named database, without its path."""
        counts, metas, found = iter(self.counts), iter(self._meta), list[DataSet]()
        for path, parts in zip(self.named, self._parts, strict=True):
            own = [(next(counts), next(metas)) for _ in parts]
            layout, level = (str(own[0][1].get(key) or "") for key in ("layout", "level"))
            found.append(DataSet(path.resolve().name, layout, level, sum(count for count, _ in own)))
        return tuple(found)

    def __str__(self) -> str:
        return ", ".join(str(path) for path in self.named)

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._scan():
            own = replace(piece.catalog, classes=self.classes) if self._same else _unlabelled(piece.catalog)
            yield piece._replace(catalog=own)

    def take(self, rows: np.ndarray) -> Catalog:
        """The samples at `rows` (N,), ascending, of the joined catalog."""
        parts = [piece.catalog.take(at) for piece, at, _ in self.at(rows)]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
        meta = self._meta[0] if shards.of_one_ingest(self._meta) else {"version": VERSION, "parts": self._meta}
        return Catalog(**arrays, classes=self.classes, meta=meta)

    def at(self, rows: np.ndarray) -> Iterator[tuple[Piece, np.ndarray, slice]]:
        """The pieces with `rows` (N,), ascending: the piece, indices into it, and the rows' places among `rows`."""
        done = 0
        for piece in self:
            end = int(np.searchsorted(rows, piece.first + len(piece.catalog)))
            if end > done:
                yield piece, rows[done:end] - piece.first, slice(done, end)
            done = end
        if done < len(rows):
            raise DataError(f"{self}: the catalog has lost samples since it was opened: begin again")

    def quotas(self, weights: Sequence[float], counts: Sequence[int]) -> list[int] | None:
        """Samples of an epoch from each folder; None without weights.

        weights: the sampling weight of each named database, normalised here; empty: each sample once an epoch.
        counts: samples of each folder. The shards of a database share its quota in proportion to their samples.
        Raises DataError on weights that fit neither the databases nor their samples.
        """
        if not weights:
            return None
        left = iter(counts)
        own = [[next(left) for _ in parts] for parts in self._parts]
        totals = quotas(weights, [sum(part) for part in own], self.named)
        return [quota for total, part in zip(totals, own, strict=True) for quota in divide(total, part)]

    def require_one_list(self) -> None:
        """Raise DataError, with the first difference, where the databases with labels have different class lists."""
        if told := self.other_lists():
            raise DataError(told)

    def other_lists(self) -> str | None:
        """One line on the first difference between the class lists of the databases with labels; None without one."""
        if len(set(self._lists.values())) < 2:
            return None
        (one, own), *others = self._lists.items()
        two, other = next((two, other) for two, other in others if other != own)
        if not own or not other:
            unnamed, named, names = (one, two, other) if not own else (two, one, own)
            return (
                f"class lists differ: {unnamed} has labels without class names, {named} has {_few(names)}: name the "
                "classes alike when ingesting (--classes), or use one of them alone"
            )
        at = next(at for at, (a, b) in enumerate(zip_longest(own, other)) if a != b)
        a, b = (f"{names[at]!r}" if at < len(names) else "no such class" for names in (own, other))
        return (
            f"class lists differ: {one} has {_few(own)}, {two} has {_few(other)}; label {at} is {a} in the one and {b} "
            "in the other: ingest both with one list of classes, or use one of them alone"
        )

    @property
    def doubt(self) -> str | None:
        """One line where several databases have labels, and no class names that tell whether a label is one class."""
        if len(self._lists) > 1 and self._same and all(name.isdecimal() for name in self.classes):
            return f"{self}: no class names: the same label is taken for the same class in all"
        return None

    def _name(self, folder: int) -> Path:
        """The database, as it was named, of a folder."""
        return next(name for name, parts in zip(self.named, self._parts, strict=True) if self.folders[folder] in parts)

    def _scan(self) -> Iterator[Piece]:
        """The pieces as they are in the files."""
        first = 0
        for number, folder in enumerate(self.folders):
            for catalog in Catalog.scan(folder):
                yield Piece(number, first, catalog)
                first += len(catalog)

    def _count(self) -> tuple[list[int], list[int]]:
        """Samples of each folder, and those with a label or a label map.

        Raises DataError on a name shared by two: found by 64-bit hashes, 8 bytes each.
        """
        hashes, counts, labelled = list[np.ndarray](), [0] * len(self.folders), [0] * len(self.folders)
        for piece in self._scan():
            names = piece.catalog.samples
            hashes.append(np.fromiter(map(hash, names), np.int64, len(names)))
            counts[piece.database] += len(names)
            mapped = np.array([key is not None for key in piece.catalog.map], bool)
            several = piece.catalog.mask(labelled="several")
            labelled[piece.database] += int(((piece.catalog.label >= 0) | several | mapped).sum())
        values = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.int64)
        if twice := set(values[1:][values[1:] == values[:-1]].tolist()):
            found = Counter(name for piece in self._scan() for name in piece.catalog.samples if hash(name) in twice)
            name, times = found.most_common(1)[0]
            if times > 1:  # else two names have one hash
                raise DataError(f"{self}: sample {name!r} stands in the catalog more than once; names must be unique")
        return counts, labelled


def _few(names: Sequence[str]) -> str:
    """The number of class names, and the first ones."""
    return f"{len(names)} classes ({', '.join(names[:FEW])}{', ...' if len(names) > FEW else ''})"


def _unlabelled(catalog: Catalog) -> Catalog:
    none = objects([None] * len(catalog))
    return replace(catalog, classes=(), label=np.full(len(catalog), -1, np.int32), map=none, labels=none)


def quotas(weights: Sequence[float], counts: Sequence[int], named: Sequence[Path]) -> list[int]:
    """Samples of an epoch of sum(counts) samples from each database, in proportion to its sampling weight.

    counts: samples of each. Rounded by largest remainder, so that they add up; of equal remainders the earlier
    database's goes first. Raises DataError on weights that fit neither the databases nor their samples.
    """
    if len(weights) != len(counts):
        raise DataError(f"{len(weights)} weights for {len(counts)} databases: give one a database")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise DataError(f"weights {', '.join(map(str, weights))}: none may be negative, and one must be above 0")
    for weight, count, path in zip(weights, counts, named, strict=True):
        if weight and not count:
            raise DataError(f"weight {weight} for {path}, which has no samples to train on: give it weight 0")
    exact = [Fraction(weight) for weight in weights]
    shares = [weight * sum(counts) / sum(exact) for weight in exact]
    whole = [math.floor(share) for share in shares]
    largest = sorted(range(len(shares)), key=lambda at: (whole[at] - shares[at], at))
    for at in largest[: sum(counts) - sum(whole)]:
        whole[at] += 1
    return whole


def divide(total: int, counts: Sequence[int]) -> list[int]:
    """`total` in parts proportional to `counts`, each rounded up or down; all of it to the first where all are 0."""
    if not sum(counts):
        return [total, *[0] * (len(counts) - 1)]
    ends = [total * end // sum(counts) for end in accumulate(counts, initial=0)]
    return [end - begin for begin, end in pairwise(ends)]
