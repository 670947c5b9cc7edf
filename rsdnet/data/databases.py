"""Several databases' catalogs as one, piece by piece: a million samples never stand in memory as Python objects."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsdnet.data import shards
from rsdnet.data.catalog import CATALOG, PIECE, VERSION, Catalog, objects, read_meta
from rsdnet.errors import DataError


class Piece(NamedTuple):
    """Some samples of one database, in order."""

    database: int
    first: int
    """Row of the piece's first sample in the joined catalog."""
    catalog: Catalog


class Scan:
    """The rows of `concat(catalogs)`, in pieces: the same rows, the same rules.

    databases: folders, each of a database or of its shards, which are a database each here. catalogs: one a database,
    instead of their `catalog.parquet`. Iterating begins anew each time.
    Raises DataError where a catalog is missing, damaged or contradicts itself, or changed since the scan was made.
    """

    def __init__(self, databases: Sequence[Path], catalogs: Sequence[Catalog] | None = None) -> None:
        if not databases:
            raise DataError("no database was named: give at least one")
        databases = [folder for path in databases for folder in shards.parts(path)] if catalogs is None else databases
        if catalogs is not None and len(catalogs) != len(databases):
            raise DataError(f"{len(catalogs)} catalogs for {len(databases)} databases: give one a database")
        self.databases, self.catalogs = tuple(databases), catalogs
        self._meta = [catalog.meta for catalog in catalogs] if catalogs else [read_meta(path) for path in databases]
        names = [c.classes for c in catalogs] if catalogs else [tuple(m.pop("classes", ())) for m in self._meta]
        names = shards.classes(names, self._meta)
        self._same = len(set(names)) == 1  # else a label id means different things, and counts for nothing
        self.classes = names[0] if self._same else ()
        self.counts = self._check()
        """Samples of each database."""

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[Piece]:
        first = 0
        for database, _ in enumerate(self.databases):
            for piece in self._pieces(database):
                yield Piece(database, first, piece)
                first += len(piece)

    def take(self, rows: np.ndarray) -> Catalog:
        """The samples at `rows` (N,), ascending, of the joined catalog."""
        parts = [piece.catalog.take(at) for piece, at, _ in self.at(rows)]
        names = ("samples", "ms", "sar", "map", "label", "split")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        meta = self._meta[0] if shards.of_one_ingest(self._meta) else {"version": VERSION, "parts": self._meta}
        return Catalog(**arrays, classes=self.classes, meta=meta)

    def at(self, rows: np.ndarray) -> Iterator[tuple[Piece, np.ndarray, slice]]:
        """The pieces that hold `rows` (N,), ascending: the piece, indices into it, and where they stand in `rows`."""
        done = 0
        for piece in self:
            end = int(np.searchsorted(rows, piece.first + len(piece.catalog)))
            if end > done:
                yield piece, rows[done:end] - piece.first, slice(done, end)
            done = end
        if done < len(rows):
            where = ", ".join(str(path) for path in self.databases)
            raise DataError(f"{where}: the catalog has lost samples since it was opened: begin again")

    def _pieces(self, database: int) -> Iterator[Catalog]:
        if self.catalogs is None:
            pieces = Catalog.scan(self.databases[database])
        else:
            whole = self.catalogs[database]
            pieces = (whole.take(np.arange(at, min(at + PIECE, len(whole)))) for at in range(0, len(whole), PIECE))
        for piece in pieces:
            yield replace(piece, classes=self.classes) if self._same else _unlabelled(piece)

    def _check(self) -> list[int]:
        """Samples of each database, once it is sure that no name stands there twice: by 64-bit hashes, 8 bytes each."""
        hashes, counts = list[np.ndarray](), [0] * len(self.databases)
        for piece in self:
            names = piece.catalog.samples
            hashes.append(np.fromiter(map(hash, names), np.int64, len(names)))
            counts[piece.database] += len(names)
        values = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.int64)
        twice = set(values[1:][values[1:] == values[:-1]].tolist())
        if twice:
            self._refuse(twice)
        return counts

    def _refuse(self, hashes: set[int]) -> None:
        """Raise DataError for a sample that stands in the catalogs twice, among those of `hashes`; two names may share
        a hash, and then there may be none."""
        found: Counter[str] = Counter()
        where: dict[str, set[int]] = {}
        for piece in self:
            for name in piece.catalog.samples:
                if hash(name) in hashes:
                    found[name] += 1
                    where.setdefault(name, set()).add(piece.database)
        name, count = found.most_common(1)[0]
        if count > 1:
            own = where[name]
            place = "the databases together" if len(own) > 1 else str(self.databases[min(own)] / CATALOG)
            raise DataError(f"{place}: sample {name!r} stands in it more than once; names must be unique")


def _unlabelled(catalog: Catalog) -> Catalog:
    return replace(catalog, label=np.full(len(catalog), -1, np.int32), map=objects([None] * len(catalog)))


def quotas(weights: Sequence[float], counts: Sequence[int], databases: Sequence[Path]) -> list[int] | None:
    """Samples that each database gives to an epoch of sum(counts) samples; None without weights: all, once each.

    weights: one a database, of any sum; counts: samples of each. Shares are rounded by largest remainder, so that they
    add up; of equal remainders the earlier database's goes first.
    Raises DataError on weights that cannot be had.
    """
    if not weights:
        return None
    if len(weights) != len(counts):
        raise DataError(f"{len(weights)} weights for {len(counts)} databases: give one a database")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise DataError(f"weights {', '.join(map(str, weights))}: none may be negative, and one must be above 0")
    for weight, count, path in zip(weights, counts, databases, strict=True):
        if weight and not count:
            raise DataError(f"weight {weight} for {path}, which has no samples to train on: give it weight 0")
    exact = [Fraction(weight) for weight in weights]
    shares = [weight * sum(counts) / sum(exact) for weight in exact]
    whole = [math.floor(share) for share in shares]
    largest = sorted(range(len(shares)), key=lambda at: (whole[at] - shares[at], at))
    for at in largest[: sum(counts) - sum(whole)]:
        whole[at] += 1
    return whole
