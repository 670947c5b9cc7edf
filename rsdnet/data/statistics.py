"""Statistics per band: counted while patches are ingested, kept in stats.json.

Integers are counted by value, so that of integers alone mean, standard deviation and percentiles are exact, whatever
the order. Floats are summed in float64 per patch and joined in the order of the patches (Chan, Golub, LeVeque 1979), so
that the same patches in the same order give the same bits; for their percentiles they are counted in fine bins. A band
may have both: its moments are joined, and its percentiles are of all counts. A shard of an ingest also keeps its
histograms, from which the statistics of all shards together are computed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rsdnet.data import shards
from rsdnet.data.catalog import STATS, VERSION
from rsdnet.errors import DataError
from rsdnet.files import aside

HISTOGRAMS = "histograms.safetensors"
_LARGEST = float(np.finfo(np.float32).max)
PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
_LOWEST, _HIGHEST = -32768, 65535  # int16's and uint16's: integers between them are counted by value
_DB_STEP, _DB_LOWEST, _DB_BINS = 0.01, -100.0, 20_000
_OCTAVE, _LOG_LOWEST, _LOG_BINS = 256, -20.0, 256 * 40  # log2: 1e-6 to 1e6 in steps of 2^(1/256)
_SHIFT, _ZERO = 15, 1 << 16  # a float32 without its last 15 bits: 256 bins an octave, and the bin of 0.0
KINDS = {"count": _HIGHEST - _LOWEST + 1, "db": _DB_BINS, "float": 2 * _ZERO, "log": _LOG_BINS}
"""Number of bins by kind. count: integers by value. db: -100 to 100 dB by 0.01 dB. float: all of float32, each bin up
to 0.4 % of its value wide. log: positive floats in histograms of older shards."""

Moments = tuple[int, float, float, float, float]
"""(n, mean, sum of squared deviations, min, max)"""


# ---- counting --------------------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """The counts of one band, of a patch or of a shard.

    counts: of each kind, the bin of its first number and the numbers. moments: of floats; None without them.
    """

    invalid: int
    counts: dict[str, tuple[int, np.ndarray]]
    moments: Moments | None


def valid(band: np.ndarray) -> np.ndarray:
    """(H, W) bool: finite, for floats; not 0, for the integers of MS bands."""
    return np.isfinite(band) if band.dtype.kind == "f" else band != 0


def summarise(band: np.ndarray, modality: str) -> Summary:
    """The counts of one band, (H, W), of a patch."""
    values = band[valid(band)]
    invalid = band.size - values.size
    if not values.size:
        return Summary(invalid, {}, None)
    if band.dtype.kind != "f" and int(values.min()) >= _LOWEST and int(values.max()) <= _HIGHEST:
        return Summary(invalid, {"count": _count(values.astype(np.int64) - _LOWEST)}, None)
    wide = values.astype(np.float64)
    mean = float(wide.mean())
    moments = (wide.size, mean, float(np.square(wide - mean).sum()), float(wide.min()), float(wide.max()))
    bins = (wide - _DB_LOWEST) / _DB_STEP
    db = (bins >= 0) & (bins < _DB_BINS) if modality == "sar" else np.zeros(bins.shape, bool)
    parts = {"db": bins[db].astype(np.int64), "float": _float_bins(wide[~db])}
    return Summary(invalid, {kind: _count(part) for kind, part in parts.items() if part.size}, moments)


def _count(bins: np.ndarray) -> tuple[int, np.ndarray]:
    start = int(bins.min())
    return start, np.bincount(bins - start).astype(np.uint32 if bins.size < 1 << 32 else np.int64)


def _float_bins(values: np.ndarray) -> np.ndarray:
    """By the leading bits of a float32: those of the exponent, and eight of the fraction; negative ones downwards."""
    limit = np.finfo(np.float32).max
    bits = np.clip(values, -limit, limit).astype(np.float32).view(np.int32).astype(np.int64)
    size = (bits & 0x7FFFFFFF) >> _SHIFT
    return np.where(bits < 0, _ZERO - 1 - size, _ZERO + size)


def _value(bins: np.ndarray, kind: str) -> np.ndarray:
    """The value of a count, and in the middle of any other bin."""
    if kind == "count":
        return (bins + _LOWEST).astype(np.float64)
    if kind == "db":
        return _DB_LOWEST + (bins + 0.5) * _DB_STEP
    if kind == "log":
        return 2.0 ** (_LOG_LOWEST + (bins + 0.5) / _OCTAVE)
    negative = bins < _ZERO
    size = np.where(negative, _ZERO - 1 - bins, bins - _ZERO)
    middle = ((size << _SHIFT) + (1 << _SHIFT >> 1)).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(negative, -middle, middle)


class Accumulator:
    """One band's statistics over all patches added so far, of integers and of floats."""

    def __init__(self) -> None:
        self.invalid = 0
        self.counts: dict[str, np.ndarray] = {}
        self.moments: Moments | None = None

    def add(self, summary: Summary) -> None:
        """Add the counts of a patch or of a shard."""
        self.invalid += summary.invalid
        for kind, (start, counts) in summary.counts.items():
            total = self.counts.setdefault(kind, np.zeros(KINDS[kind], np.int64))
            total[start : start + len(counts)] += counts
        self.moments = _join(self.moments, summary.moments)

    def result(self) -> dict[str, Any]:
        """mean, std, count, invalid, percentiles, min, max; None where no pixel is valid."""
        moments = _join(self._integers(), self.moments)
        if moments is None:
            rest = {"percentiles": {str(q): None for q in PERCENTILES}, "min": None, "max": None}
            return {"mean": None, "std": None, "count": 0, "invalid": self.invalid} | rest
        n, mean, spread, low, high = moments
        used = {kind: np.flatnonzero(counts) for kind, counts in self.counts.items()}
        weights = np.concatenate([self.counts[kind][bins] for kind, bins in used.items()])
        values = np.concatenate([_value(bins, kind) for kind, bins in used.items()])
        order = np.argsort(values, kind="stable")
        percentiles = _percentiles(weights[order], values[order].clip(low, high))
        table = {"mean": mean, "std": math.sqrt(spread / n), "count": n, "invalid": self.invalid}
        return table | {"percentiles": percentiles, "min": low, "max": high}

    def _integers(self) -> Moments | None:
        """The moments of the integers, in whole numbers of any length, rounded once."""
        counts = self.counts.get("count", np.zeros(0, np.int64))
        bins = np.flatnonzero(counts)
        pairs = list(zip(counts[bins].tolist(), (bins + _LOWEST).tolist(), strict=True))
        if not pairs:
            return None
        n = sum(weight for weight, _ in pairs)
        total = sum(weight * value for weight, value in pairs)
        squares = sum(weight * value * value for weight, value in pairs)
        return n, total / n, (n * squares - total * total) / n, float(pairs[0][1]), float(pairs[-1][1])


def _join(one: Moments | None, two: Moments | None) -> Moments | None:
    if one is None or two is None:
        return one or two
    n = one[0] + two[0]
    delta = two[1] - one[1]
    mean = one[1] + delta * two[0] / n
    spread = one[2] + two[2] + delta * delta * one[0] * two[0] / n
    return n, mean, spread, min(one[3], two[3]), max(one[4], two[4])


def _percentiles(weights: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """As numpy.percentile interpolates, of each of `values`, ascending, as often as its weight says."""
    ends = np.cumsum(weights)
    found = {}
    for q in PERCENTILES:
        rank = (int(ends[-1]) - 1) * q / 100
        low, high = (values[np.searchsorted(ends, at, side="right")] for at in (math.floor(rank), math.ceil(rank)))
        found[str(q)] = float(low + (high - low) * (rank - math.floor(rank)))
    return found


# ---- files -----------------------------------------------------------------------------------------------------------


def write_stats(db: Path, table: Mapping[str, Mapping[str, Any]], *, checked: bool = False) -> None:
    """Write {band: `Accumulator.result`} of the training split as `stats.json` of the database `db`.

    checked: note that the values were compared with their unit, image by image.
    """
    with aside(db / STATS) as temporary:
        content = {"version": VERSION, "split": "train", "checked": checked, "bands": table}
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_stats(db: Path) -> dict[str, Any]:
    """The content of `stats.json` of the database `db`; of a folder of shards, as one ingest would have written it.

    Integers' statistics are exact; floats' mean and standard deviation are joined in the order of the shards.
    Raises DataError if a file is missing or damaged, and as `shards.parts`.
    """
    folders = shards.parts(db)
    tables = [_read(folder / STATS) for folder in folders]
    if folders == (db,):
        return tables[0]
    pooled: dict[str, Accumulator] = {}
    for folder in folders:
        for band, summary in read_histograms(folder / HISTOGRAMS, f"delete {folder} and ingest it anew"):
            pooled.setdefault(band, Accumulator()).add(summary)
    return tables[0] | {"bands": {band: pooled[band].result() for band in sorted(pooled)}}


def _read(path: Path) -> dict[str, Any]:
    try:
        stats = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: make the database with `python -m rsdnet.ingest`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): ingest again") from error
    if not isinstance(stats, dict) or stats.get("version") != VERSION or not isinstance(stats.get("bands"), dict):
        raise DataError(f"{path} is damaged (no version {VERSION} table of bands): ingest again")
    if bad := [name for name, band in stats["bands"].items() if not _sound(band)]:
        raise DataError(f"{path} is damaged ({bad[0]} has no count, mean and std that are numbers): ingest again")
    return stats


def _sound(band: Any) -> bool:
    """Whether a band has pixels with a mean and a standard deviation, or none, and its other numbers are numbers."""
    if not isinstance(band, dict) or not isinstance(count := band.get("count"), int) or count < 0:
        return False
    percentiles = band.get("percentiles", {})
    if not isinstance(percentiles, dict):
        return False
    others = [band.get("min"), band.get("max"), band.get("invalid", 0), *percentiles.values()]
    if not all(x is None or _number(x) for x in others):
        return False
    mean, std = band.get("mean"), band.get("std")
    return count == 0 or (_number(mean) and _number(std) and std >= 0)


def _number(x: Any) -> TypeGuard[float]:
    """Whether a value is a number that a float32 holds, as the kernels do."""
    return isinstance(x, int | float) and abs(x) <= _LARGEST


def write_histograms(path: Path, counted: Mapping[str, Accumulator], done: int = 0) -> None:
    """Write {band: counts}: of a shard as `HISTOGRAMS` beside its `stats.json`. done: a number for `read_done`."""
    from safetensors.numpy import save

    tensors, rest = dict[str, np.ndarray](), dict[str, Any]()
    for band, total in counted.items():
        moments = total.moments
        for kind, counts in {"count": np.zeros(0, np.int64), **total.counts}.items():
            used = np.flatnonzero(counts)
            start, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            tensors[f"{band}/{kind}"] = counts[start:end].copy()
            rest[f"{band}/{kind}"] = {"start": start, "moments": None if kind == "count" else moments}
            moments = moments if kind == "count" else None  # beside the first kind of floats alone
        rest[band] = total.invalid
    with aside(path) as temporary:
        # not save_file, to which a full disk is no OSError
        temporary.write_bytes(save(tensors, {"rsdnet": json.dumps(rest), "done": str(done)}))


def read_done(path: Path, remedy: str) -> int:
    """The number beside the histograms. remedy: as for `read_histograms`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return int(file.metadata()["done"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}): {remedy}") from error


def read_histograms(path: Path, remedy: str) -> Iterator[tuple[str, Summary]]:
    """(band, counts) of a file that `write_histograms` wrote.

    remedy: the end of the line of the DataError on a file that is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            rest = json.loads(file.metadata()["rsdnet"])
            for key in file.keys():  # noqa: SIM118 - no mapping
                band, kind = key.split("/")
                start, moments = rest[key]["start"], rest[key]["moments"]
                counts = file.get_tensor(key)
                if not 0 <= start <= KINDS[kind] - len(counts):
                    raise ValueError(f"{key} has bins up to {start + len(counts)}")
                yield band, Summary(rest.pop(band, 0), {kind: (start, counts)}, moments and tuple(moments))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}): {remedy}") from error
