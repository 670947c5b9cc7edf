"""Statistics per band over many patches, in the memory of one: mean, std, extremes and percentiles.

Integers are counted by value, so mean, standard deviation and percentiles are exact, whatever the order. Floats
are summed in float64 per patch and joined in the order of the patches (Chan, Golub, LeVeque 1979), so that the
same patches in the same order give the same bits; their percentiles come from fine bins: 0.01 dB for SAR, 0.3 %
of the value for MS.
"""

import math
from typing import Any, NamedTuple

import numpy as np

PERCENTILES = (1, 2, 5, 25, 50, 75, 95, 98, 99)
_LOWEST = -32768  # int16's; with uint16's highest it bounds what is counted by value
_VALUES = 65535 - _LOWEST + 1
_DB_STEP, _DB_LOWEST, _DB_BINS = 0.01, -100.0, 20_000
_OCTAVE, _LOG_LOWEST, _LOG_BINS = 256, -20.0, 256 * 40  # log2: 1e-6 to 1e6 in steps of 2^(1/256)


class Summary(NamedTuple):
    """One band of one patch: what `Accumulator.add` needs of it.

    kind: "count" for integers, "db" or "log" for floats by how they are binned. start: the bin of counts[0].
    moments: of floats, (n, mean, sum of squared deviations, min, max); empty for integers.
    """

    kind: str
    invalid: int
    start: int
    counts: np.ndarray
    moments: tuple[int, float, float, float, float] | None


def valid(band: np.ndarray) -> np.ndarray:
    """(H, W) bool: finite, for floats; not 0, for the integers of MS bands."""
    return np.isfinite(band) if band.dtype.kind == "f" else band != 0


def summarise(band: np.ndarray, modality: str) -> Summary:
    """What one band, (H, W), of a patch adds to the statistics."""
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
        self.moments: tuple[int, float, float, float, float] | None = None

    def add(self, summary: Summary) -> None:
        """Join one patch. Floats and integers of one band are not mixed within a data set."""
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
            mean, deviation = _exact(weights, bins + _LOWEST)
            table |= {"mean": mean, "std": deviation}
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


def _join(
    one: tuple[int, float, float, float, float] | None, two: tuple[int, float, float, float, float]
) -> tuple[int, float, float, float, float]:
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
