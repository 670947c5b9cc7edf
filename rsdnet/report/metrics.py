"""The numbers of metrics.jsonl that the report knows: title, words, chart and fact of each, in the page's order."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rsdnet.console import percent, size
from rsdnet.health import COLLAPSED
from rsdnet.probefile import Score
from rsdnet.report.record import Record, Series


def figure(value: float) -> str:
    """A number of four digits, thousands whole; a dash where it is not finite."""
    return "–" if not math.isfinite(value) else f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def score(value: float, sign: str = "") -> str:
    """A score with three digits; sign "+": a difference."""
    return f"{value:{sign}z.3f}" if math.isfinite(value) else "–"


def interval(found: Score) -> str:
    """A score and its interval of 95 %, where it has one."""
    low, high = map(score, found.interval)
    return score(found.score) + (f" ({low} to {high})" if math.isfinite(found.interval[0]) else "")


class Metric(NamedTuple):
    """A metric's chart, and its fact in the summary.

    group: heading of the chart. fact: statistic of the summary, a key of FACTS; "": none. show: formats it.
    around: prefix of the metrics between whose extremes the chart is shaded; they have no charts of their own.
    log: logarithmic axis where values span decades. scale: from a value to the axis's unit. quiet: not shown while 0.
    """

    title: str
    words: str = ""
    group: str = "Other numbers"
    fact: str = ""
    show: Callable[[float], str] = figure
    around: str = ""
    log: bool = False
    scale: float = 1.0
    quiet: bool = False


FACTS: dict[str, Callable[[np.ndarray], float]] = {
    "at the end": lambda values: values[-max(len(values) // 20, 1) :].mean(),
    "last": lambda values: values[-1],
    "at most": np.max,
    "median": np.median,
}
_LEARNING, _PROJECTIONS, _SCHEDULE, _COST = "Learning", "Projections", "Schedule", "Speed and cost"
METRICS = {
    "loss": Metric(
        "Loss", "Loss of both views: BYOL's from 0 (predictions agree with targets) to 8, SimSiam's from -1 to 1.",
        _LEARNING, "at the end",
    ),
    "knn_f1": Metric(
        "kNN F1", "Macro F1 of nearest neighbours in the frozen features: mean of the bands; shaded: worst to best.",
        _LEARNING, "last", score, around="knn_f1/",
    ),
    "feature_rank": Metric(
        "Feature rank", "Effective rank of the frozen features of all stages: how many directions they fill.",
        _LEARNING, "last",
    ),
    "grad_norm": Metric("Gradient norm", "Length of the gradient of all weights.", _LEARNING, log=True),
    "trust_median": Metric(
        "LARS trust ratios", "Factor on each tensor's step: median; shaded: least to greatest.",
        _LEARNING, around="trust_", log=True,
    ),
    "skipped": Metric("Steps skipped", "So far: the gradient was not finite.", _LEARNING, "last", quiet=True),
    "spread": Metric(
        "Spread", f"Spread of a batch's projections: 1 is even, below {COLLAPSED} they have collapsed.",
        _PROJECTIONS, "at the end",
    ),
    "effective_rank": Metric(
        "Effective rank", "Directions that a batch's projections fill; 1: they have collapsed.",
        _PROJECTIONS, "at the end",
    ),
    "cosine": Metric(
        "Cosine", "Mean cosine of the projections of two different samples; 1: they have collapsed.",
        _PROJECTIONS, "at the end",
    ),
    "lr": Metric("Learning rate", "After warm-up, it falls to 0 by a cosine.", _SCHEDULE),
    "tau": Metric("Tau", "The target network's momentum, which rises to 1.", _SCHEDULE),
    "epoch": Metric("Epoch", "Passes over the data.", _SCHEDULE),
    "samples_per_s": Metric("Throughput", "Samples a second.", _COST, "median", log=True),
    "wait": Metric("Waiting for data", "Share of the time in which training waited for the reader.", _COST),
    "tflops": Metric("TFLOP/s", "Floating-point operations of the model a second, in 10¹².", _COST, "median"),
    "mfu": Metric(
        "Share of the peak", "Those operations, beside a matrix product's measured in the run.",
        _COST, "median", lambda share: percent(share, 1),
    ),
    "memory_bytes": Metric(
        "Memory", "The most in use so far, in GiB.", _COST, "at most", lambda most: size(most, binary=True),
        scale=2.0**-30,
    ),
    "read_mb_per_s": Metric("Reading", "MB a second that the reader delivered.", _COST, log=True),
    "ready": Metric("Batches ready", "Read and waiting for the network.", _COST),
    "left_out": Metric("Samples left out", "Because they could not be read.", _COST, "last", quiet=True),
}  # fmt: skip


def shown(records: Sequence[Record]) -> dict[str, Metric]:
    """The metrics to show, in the page's order: the known ones, then the others by name."""
    names = {name for record in records for name in record.series}
    not_zero = {name for record in records for name, series in record.series.items() if series.finite.any()}
    known = {name: metric for name, metric in METRICS.items() if name in (not_zero if metric.quiet else names)}
    shaded = tuple(metric.around for metric in known.values() if metric.around)
    others = sorted(name for name in names - METRICS.keys() - {"classes"} if not name.startswith(shaded))
    return known | {name: Metric(name) for name in others}


def around(record: Record, prefix: str) -> tuple[Series, Series] | None:
    """The least and the greatest of the metrics with `prefix`, step by step; None where their steps differ."""
    parts = [series for name, series in record.series.items() if prefix and name.startswith(prefix)]
    if not parts or any(not np.array_equal(part.steps, parts[0].steps) for part in parts):
        return None
    values = np.array([part.values for part in parts])
    return Series(parts[0].steps, values.min(0)), Series(parts[0].steps, values.max(0))
