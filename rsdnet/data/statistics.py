"""Statistics per band: counted while patches are ingested, kept in stats.json, chosen for a run.

Integers are counted by value, so mean, standard deviation and percentiles are exact, whatever the order. Floats are
summed in float64 per patch and joined in the order of the patches (Chan, Golub, LeVeque 1979), so that the same patches
in the same order give the same bits; their percentiles come from fine bins: 0.01 dB for SAR, 0.3 % of the value for MS.
A shard of an ingest also keeps its histograms, from which the statistics of all shards together are computed.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsdnet import bands
from rsdnet.config import Config
from rsdnet.data import shards
from rsdnet.data.catalog import STATS, VERSION
from rsdnet.data.pools import pools_of
from rsdnet.errors import DataError
from rsdnet.files import aside

HISTOGRAMS = "histograms.safetensors"
PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
_LOWEST = -32768  # int16's; with uint16's highest it bounds what is counted by value
_VALUES = 65535 - _LOWEST + 1
_DB_STEP, _DB_LOWEST, _DB_BINS = 0.01, -100.0, 20_000
_OCTAVE, _LOG_LOWEST, _LOG_BINS = 256, -20.0, 256 * 40  # log2: 1e-6 to 1e6 in steps of 2^(1/256)


Moments = tuple[int, float, float, float, float]
"""(n, mean, sum of squared deviations, min, max)"""


# ---- counting --------------------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """The counts of one band, of a patch or of a shard.

    kind: "count" for integers, "db" or "log" for floats by how they are binned. start: the bin of counts[0].
    moments: of floats; None for integers.
    """

    kind: str
    invalid: int
    start: int
    counts: np.ndarray
    moments: Moments | None


def valid(band: np.ndarray) -> np.ndarray:
    """(H, W) bool: finite, for floats; not 0, for the integers of MS bands."""
    return np.isfinite(band) if band.dtype.kind == "f" else band != 0


def summarise(band: np.ndarray, modality: str) -> Summary:
    """The counts of one band, (H, W), of a patch."""
    values = band[valid(band)]
    invalid = band.size - values.size
    if band.dtype.kind != "f":
        return Summary("count", invalid, *_count(values.astype(np.int64) - _LOWEST), None)
    wide = values.astype(np.float64)
    kind = "db" if modality == "sar" else "log"
    if not wide.size:
        return Summary(kind, invalid, 0, np.empty(0, np.uint32), None)
    mean = float(wide.mean())
    spread = float(np.square(wide - mean).sum())
    moments = (wide.size, mean, spread, float(wide.min()), float(wide.max()))
    return Summary(kind, invalid, *_count(_bin(wide, kind)), moments)


def _count(bins: np.ndarray) -> tuple[int, np.ndarray]:
    if not bins.size:
        return 0, np.empty(0, np.uint32)
    start = int(bins.min())
    return start, np.bincount(bins - start).astype(np.uint32)


def _bin(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "db":
        return np.clip((values - _DB_LOWEST) / _DB_STEP, 0, _DB_BINS - 1).astype(np.int64)
    steps = (np.log2(np.maximum(values, 2.0**_LOG_LOWEST)) - _LOG_LOWEST) * _OCTAVE
    return np.clip(steps, 0, _LOG_BINS - 1).astype(np.int64)


def _value(bins: np.ndarray, kind: str) -> np.ndarray:
    """The value in the middle of a bin."""
    if kind == "count":
        return (bins + _LOWEST).astype(np.float64)
    if kind == "db":
        return _DB_LOWEST + (bins + 0.5) * _DB_STEP
    return 2.0 ** (_LOG_LOWEST + (bins + 0.5) / _OCTAVE)


class Accumulator:
    """One band's statistics over all patches added so far."""

    def __init__(self) -> None:
        self.invalid = 0
        self.counts: dict[str, np.ndarray] = {}
        self.moments: Moments | None = None

    def add(self, summary: Summary) -> None:
        """Add the counts of a patch. A data set does not mix floats and integers of one band."""
        self.invalid += summary.invalid
        size = {"count": _VALUES, "db": _DB_BINS, "log": _LOG_BINS}[summary.kind]
        counts = self.counts.setdefault(summary.kind, np.zeros(size, np.int64))
        counts[summary.start : summary.start + len(summary.counts)] += summary.counts
        if summary.moments is not None:
            self.moments = _join(self.moments, summary.moments)

    def result(self) -> dict[str, Any]:
        """mean, std, count, invalid, percentiles, min, max; None where no pixel is valid."""
        kind, counts = max(self.counts.items(), key=lambda item: int(item[1].sum()), default=("count", np.zeros(0)))
        bins = np.flatnonzero(counts)
        table: dict[str, Any] = dict.fromkeys(("mean", "std"))
        table |= {"count": int(counts.sum()), "invalid": self.invalid}
        if not len(bins):
            return table | {"percentiles": {str(q): None for q in PERCENTILES}, "min": None, "max": None}
        weights, values = counts[bins], _value(bins, kind)
        if self.moments is not None and kind != "count":
            n, mean, spread, low, high = self.moments
            table |= {"mean": mean, "std": math.sqrt(spread / n)}
        else:
            table["mean"], table["std"] = _exact(weights, bins + _LOWEST)
            low, high = float(values[0]), float(values[-1])
        table["percentiles"] = {str(q): _percentile(weights, values, q, kind) for q in PERCENTILES}
        return table | {"min": low, "max": high}


def _exact(weights: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation in whole numbers of any length, rounded once."""
    pairs = list(zip(weights.tolist(), values.tolist(), strict=True))
    n = sum(weight for weight, _ in pairs)
    total = sum(weight * value for weight, value in pairs)
    squares = sum(weight * value * value for weight, value in pairs)
    return total / n, math.sqrt((n * squares - total * total) / (n * n))


def _join(one: Moments | None, two: Moments) -> Moments:
    if one is None:
        return two
    n = one[0] + two[0]
    delta = two[1] - one[1]
    mean = one[1] + delta * two[0] / n
    spread = one[2] + two[2] + delta * delta * one[0] * two[0] / n
    return n, mean, spread, min(one[3], two[3]), max(one[4], two[4])


def _percentile(weights: np.ndarray, values: np.ndarray, q: float, kind: str) -> float:
    """As numpy.percentile's linear interpolation for counted integers; the bin's middle for floats."""
    ends = np.cumsum(weights)
    rank = (int(ends[-1]) - 1) * q / 100
    low = values[np.searchsorted(ends, math.floor(rank), side="right")]
    if kind != "count":
        return float(low)
    high = values[np.searchsorted(ends, math.ceil(rank), side="right")]
    return float(low + (high - low) * (rank - math.floor(rank)))


# ---- files -----------------------------------------------------------------------------------------------------------


def write_stats(db: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Write {band: `Accumulator.result`} of the training split as `stats.json` of the database `db`."""
    with aside(db / STATS) as temporary:
        content = {"version": VERSION, "split": "train", "bands": table}
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
        for band, summary in _read_histograms(folder):
            pooled.setdefault(band, Accumulator()).add(summary)
    return tables[0] | {"bands": {band: pooled[band].result() for band in sorted(pooled)}}


def _read(path: Path) -> dict[str, Any]:
    try:
        stats = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: make the database with `python -m rsdnet.ingest`") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): ingest again") from error
    if not isinstance(stats, dict) or stats.get("version") != VERSION or not isinstance(stats.get("bands"), dict):
        raise DataError(f"{path} is damaged (no version {VERSION} table of bands): ingest again")
    return stats


def write_histograms(folder: Path, counted: Mapping[str, Accumulator]) -> None:
    """Write the histograms of a shard, {band: counts}, beside its `stats.json`."""
    from safetensors.numpy import save_file

    tensors, rest = dict[str, np.ndarray](), dict[str, Any]()
    for band, total in counted.items():
        for kind, counts in total.counts.items():
            used = np.flatnonzero(counts)
            start, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            tensors[f"{band}/{kind}"] = counts[start:end].copy()
            rest[f"{band}/{kind}"] = {"start": start, "moments": None if kind == "count" else total.moments}
        rest[band] = total.invalid
    with aside(folder / HISTOGRAMS) as temporary:
        save_file(tensors, temporary, metadata={"rsdnet": json.dumps(rest)})


def _read_histograms(folder: Path) -> Iterator[tuple[str, Summary]]:
    """(band, counts) of one shard. Raises DataError on a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / HISTOGRAMS
    try:
        with safe_open(path, "numpy") as file:
            rest = json.loads(file.metadata()["rsdnet"])
            for key in file.keys():  # noqa: SIM118 - no mapping
                band, kind = key.split("/")
                moments = rest[key]["moments"]
                counts = file.get_tensor(key)
                yield band, Summary(kind, rest.pop(band, 0), rest[key]["start"], counts, moments and tuple(moments))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}): delete {folder} and ingest it anew") from error


# ---- of a run --------------------------------------------------------------------------------------------------------


def statistics_of(cfg: Config) -> dict[str, tuple[float, float]]:
    """{band: (mean, standard deviation)} of the bands in a run's views, in the raw values' units (DN, dB).

    From the databases' own stats.json, pooled by the number of pixels, or from published tables (rsdnet/bands.py).
    Raises DataError on a band without statistics.
    """
    pools = pools_of(cfg.views)
    source: str = cfg.data.statistics
    names = [name for modality in cfg.views.modality.split("+") for name in pools[modality]]
    if source == "database":
        source = "stats.json"
        found = database_statistics(cfg.data.data, names)
    else:
        dataset, level = source.rsplit(" ", 1)
        found = {name: bands.STATISTICS[dataset, level].get(name) for name in names}
    if missing := [name for name in names if found[name] is None]:
        raise DataError(
            f"{source} has no statistics of {', '.join(missing)}: leave them out of --ms-bands and --sar-bands"
        )
    return {name: value for name, value in found.items() if value}


def database_statistics(databases: Sequence[Path], names: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """{band: (mean, standard deviation)} of the databases' stats.json together; None of a band without a pixel.

    Raises DataError as `read_stats`.
    """
    tables = [read_stats(path)["bands"] for path in databases]
    return {name: _pooled([table[name] for table in tables if name in table]) for name in names}


def _pooled(parts: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Mean and standard deviation of the union of sets of pixels, by the law of total variance; None without pixels."""
    counts = np.array([part["count"] for part in parts], np.float64)
    if not counts.sum():
        return None
    means, deviations = (np.array([part[key] or 0 for part in parts], np.float64) for key in ("mean", "std"))
    mean = float(np.average(means, weights=counts))
    variance = float(np.average(deviations**2 + (means - mean) ** 2, weights=counts))
    return mean, variance**0.5
