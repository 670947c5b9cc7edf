"""The identity of a run's input: digests by which samples, their order and their pixels are known again.

Digests are SHA-256 of little-endian numbers and UTF-8: the same in every process, on every machine, under any path and
with any number of threads.

Compared are names, keys, order, and type and size of every band. Of the pixels, all are compared in a small database;
of a larger one a fixed sample, the same each time and spread over the whole, so that a database made anew in another
way is noticed, and a few entries that were replaced one by one may not be.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rsdnet._reader import Table
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError, Echo
from rsdnet.kernels.records import BYTES, FIELDS

Identity = dict[str, Any]
"""JSON-able: "version", "count", "samples", "order", "data": digests; "bands": names by sensor; perhaps "side" of the
first sample in pixels, "unit" of MS values, and "statistics": {band: [mean, standard deviation]}."""

VERSION = 1  # of the digests: those of another version are not comparable
WHOLE = 1 << 25  # bytes of bands: up to so many all are read, 0.1 s from the page cache
SAMPLED = 256  # samples that are read of more: a change in one of a hundred samples escapes 8 % of the time
PIECE = 1 << 12  # samples looked at at once
CLOSE = 1e-9  # relative: statistics summed in another order; far below float32's resolution


def sample_hashes(*columns: Iterable[str]) -> np.ndarray:
    """(N,) uint64: the first 8 bytes of the SHA-256 of each sample's name and keys, `columns` of N texts."""
    rows = ("\0".join(row).encode() for row in zip(*columns, strict=True))
    return np.frombuffer(b"".join(hashlib.sha256(row).digest()[:8] for row in rows), "<u8")


def identity_of(table: Table, hashes: np.ndarray, pools: Mapping[str, np.ndarray], names: Sequence[str]) -> Identity:
    """The identity of the samples in `table`, whose hashes are (N,) uint64 as `sample_hashes` gives them.

    pools: band ids by sensor, of the sensors that a sample must have. names: of the bands, by id.
    Reads at most 32 MB, or one sample. Raises ReaderError on an entry that cannot be read.
    """
    return {
        "version": VERSION,
        "count": len(table),
        "samples": _digest(np.sort(hashes)),
        "order": _digest(np.array(table.counts, np.int64), table.rows, hashes),
        "data": _data(table, hashes, pools),
        "bands": {modality: [names[band] for band in pool] for modality, pool in pools.items()},
    }


def _digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()


def _data(table: Table, hashes: np.ndarray, pools: Mapping[str, np.ndarray]) -> str:
    """Digest of the types and sizes of all bands of all samples, and of the pixels of some.

    Samples are taken in the order of their hashes, whatever their order in the catalog: the first ones are a sample.
    """
    order, bands = np.argsort(hashes, kind="stable"), np.concatenate([*pools.values()])
    total, size = hashlib.sha256(), 0
    for part in _pieces(order):
        needed, records = _describe(table, part, np.tile(bands, (len(part), 1)))
        total.update(records[:, :, 1:].astype("<i8").tobytes())
        size += needed
    if size > WHOLE:
        most = sum(table.band_bytes(modality) for modality in pools)
        order = order[: max(min(SAMPLED, WHOLE // most), 1)]
    for part in _pieces(order):
        chosen = np.tile(bands, (len(part), 1))
        if size > WHOLE:  # a band of each sensor, another one from sample to sample
            chosen = np.stack([pool[hashes[part] % np.uint64(len(pool))] for pool in pools.values()], 1)
        for pixels in _read(table, part, chosen):
            total.update(pixels)
    return total.hexdigest()


def _pieces(order: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(order), PIECE):
        yield order[start : start + PIECE]


def _describe(table: Table, positions: np.ndarray, chosen: np.ndarray) -> tuple[int, np.ndarray]:
    """Bytes and records (n, C, 5) of the bands `chosen` (n, C); reads none of them."""
    records = np.empty((*chosen.shape, FIELDS), np.int64)
    return table.gather(positions, chosen, np.empty(0, np.uint8), records), records


def _read(table: Table, positions: np.ndarray, chosen: np.ndarray) -> Iterator[memoryview]:
    """The bytes of the bands `chosen` (n, C), one band after the other, without gaps."""
    needed, records = _describe(table, positions, chosen)
    data = np.empty(needed, np.uint8)
    table.gather(positions, chosen, data, records)
    for offset, code, height, width, _ in records.reshape(-1, FIELDS).tolist():
        yield data[offset : offset + height * width * BYTES[code]].data


# ---- comparison ------------------------------------------------------------------------------------------------------


def comparable(identity: Identity) -> bool:
    """Whether an identity that was saved can be compared: it is there, and of this version."""
    return identity.get("version") == VERSION


def differences(one: Identity, two: Identity, names: tuple[str, str] = ("then", "now")) -> list[str]:
    """Differences, in a few words each: bands, samples, order, data, unit, statistics. The unknown does not differ.

    names: of the two, for those words.
    """
    if not (comparable(one) and comparable(two)):
        return []
    found = []
    if one["bands"] != two["bands"]:
        found.append(f"bands ({_both(_bands(one), _bands(two), names)})")
    if one["samples"] != two["samples"]:
        counts = _both(one["count"], two["count"], names)
        found.append(f"samples ({counts if one['count'] != two['count'] else 'other names or keys'})")
    else:  # else neither compares
        found += ["order (of the catalog's rows, or of the databases)"] * (one["order"] != two["order"])
        if one["bands"] == two["bands"] and one["data"] != two["data"]:
            found.append("data (entries of the same names hold other pixels)")
    if one.get("unit", two.get("unit")) != two.get("unit", one.get("unit")):
        found.append(f"unit ({_both(one['unit'], two['unit'], names)})")
    return found + _other_statistics(one.get("statistics", {}), two.get("statistics", {}), names)


def _both(one: object, two: object, names: tuple[str, str]) -> str:
    return f"{one} {names[0]}, {two} {names[1]}"


def _bands(identity: Identity) -> str:
    return " ".join(name for pool in identity["bands"].values() for name in pool)


def _other_statistics(one: Mapping[str, Any], two: Mapping[str, Any], names: tuple[str, str]) -> list[str]:
    """Mean and standard deviation of the bands in both."""
    other = [band for band in one if band in two and not all(map(_close, one[band], two[band]))]
    if not other:
        return []
    first, *rest = other
    old, new = ("mean {:.7g}, deviation {:.7g}".format(*table[first]) for table in (one, two))
    return [f"statistics ({first}: {_both(old, new, names)}" + (f"; {len(rest)} more bands)" if rest else ")")]


def _close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=CLOSE, abs_tol=CLOSE)


def shared(own: Identity, ranks: Ranks) -> Identity:
    """The identity on all ranks. Raises DataError, on every rank, where one of them reads other data than the first."""
    first, *others = ranks.collect(own)
    for rank, other in enumerate(others, 1):
        if found := differences(first, other, ("on rank 0", f"on rank {rank}")):
            raise (DataError if ranks.main else Echo)(
                f"rank {rank} reads other data than rank 0: {'; '.join(found)}: give every machine the same databases"
            )
    return first
