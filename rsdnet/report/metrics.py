"""What the report knows of the numbers in metrics.jsonl: their titles and words, their order, which share a chart."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rsdnet.health import COLLAPSED
from rsdnet.report.record import Record, Series

OTHERS = "Other numbers"


class Metric(NamedTuple):
    """A chart of one metric.

    group: the heading it stands under. plain: it has no noise, so no running mean is drawn. around: what begins so is
    no chart of its own, but from its least to its greatest value a band around the curve. log: on a logarithmic axis
    where it goes far. scale: what values are multiplied by. quiet: not drawn where it is 0 throughout.
    """

    title: str
    words: str
    group: str = OTHERS
    plain: bool = False
    around: str = ""
    log: bool = False
    scale: float = 1.0
    quiet: bool = False


_LEARNING, _PROJECTIONS, _SCHEDULE, _COST = "Learning", "Projections", "Schedule", "Speed and cost"
METRICS = {
    "loss": Metric("Loss", "Loss of both views: BYOL's from 0 (they agree) to 8, SimSiam's from -1 to 1.", _LEARNING),
    "knn_f1": Metric(
        "kNN F1", "Macro F1 of nearest neighbours in the frozen features: mean of the bands; shaded: worst to best.",
        _LEARNING, plain=True, around="knn_f1/",
    ),
    "grad_norm": Metric("Gradient norm", "Length of the gradient of all weights.", _LEARNING, log=True),
    "trust_median": Metric(
        "LARS trust ratios", "Factor on each tensor's step: median; shaded: least to greatest.",
        _LEARNING, around="trust_", log=True,
    ),
    "skipped": Metric("Steps skipped", "So far: the gradient was not finite.", _LEARNING, plain=True, quiet=True),
    "spread": Metric(
        "Spread", f"Spread of a batch's projections: 1 is even, below {COLLAPSED} they have collapsed.", _PROJECTIONS
    ),
    "effective_rank": Metric(
        "Effective rank", "Directions that a batch's projections fill; 1: they have collapsed.", _PROJECTIONS
    ),
    "cosine": Metric(
        "Cosine", "Mean cosine of the projections of two different samples; 1: they have collapsed.", _PROJECTIONS
    ),
    "lr": Metric("Learning rate", "After warm-up, it falls to 0 by a cosine.", _SCHEDULE, plain=True),
    "tau": Metric("Tau", "The target network's momentum, which rises to 1.", _SCHEDULE, plain=True),
    "epoch": Metric("Epoch", "Passes over the data.", _SCHEDULE, plain=True),
    "samples_per_s": Metric("Throughput", "Samples a second.", _COST),
    "wait": Metric("Waiting for data", "Share of the time in which training waited for the reader.", _COST),
    "tflops": Metric("TFLOP/s", "Floating-point operations a second that the model asks for, in 10¹².", _COST),
    "mfu": Metric("Share of the peak", "Those operations, beside a matrix product's measured in the run.", _COST),
    "memory_bytes": Metric("Memory", "The most in use so far, in GiB.", _COST, plain=True, scale=2.0**-30),
    "read_mb_per_s": Metric("Reading", "MB a second that the reader delivered.", _COST),
    "ready": Metric("Batches ready", "Read and waiting for the network.", _COST),
    "left_out": Metric("Samples left out", "Because they could not be read.", _COST, plain=True, quiet=True),
}  # fmt: skip


def known(name: str) -> Metric:
    """What is known of a metric; of one that is not known, its name."""
    return METRICS.get(name, Metric(name, ""))


def order(records: Iterable[Record]) -> list[str]:
    """The metrics to draw, in the page's order: the known ones first, the others by name."""
    found: dict[str, list[Series]] = {}
    for record in records:
        for name, series in record.series.items():
            found.setdefault(name, []).append(series)
    prefixes = tuple(metric.around for name, metric in METRICS.items() if metric.around and name in found)
    silent = {name for name, all_ in found.items() if known(name).quiet and not any(s.finite.any() for s in all_)}
    rest = [name for name in found if name not in METRICS and not name.startswith(prefixes or ("\0",))]
    return [name for name in METRICS if name in found and name not in silent] + sorted(rest)


def scaled(record: Record, name: str) -> Series:
    """A metric's series, in the unit it is drawn in."""
    series = record.series[name]
    return Series(series.steps, series.values * known(name).scale)


def around(record: Record, name: str) -> tuple[Series, Series] | None:
    """The least and the greatest values of what lies around a metric, at the steps that all of it has; or None."""
    prefix = known(name).around
    parts = [series for other, series in record.series.items() if prefix and other.startswith(prefix) and other != name]
    if len(parts) < 2:
        return None
    steps = parts[0].steps
    for part in parts[1:]:
        steps = np.intersect1d(steps, part.steps, assume_unique=True)
    values = np.array([part.values[np.searchsorted(part.steps, steps)] for part in parts])
    return (Series(steps, values.min(0)), Series(steps, values.max(0))) if len(steps) else None
