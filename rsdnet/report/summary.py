"""A run at a glance: its facts, and its oddities, in plain words."""

import datetime
import math
from collections import defaultdict
from typing import Any

import numpy as np

from rsdnet.console import duration, percent
from rsdnet.health import Watch, intervals
from rsdnet.probefile import Scores
from rsdnet.report.metrics import FACTS, interval, shown
from rsdnet.report.record import Record, bounded

SLOWEST = 1e-3  # samples/s; a number below is damaged
WATCHED = {
    "loss", "spread", "effective_rank", "cosine", "grad_norm", "trust_min", "trust_max",
    "knn_f1", "feature_rank", "classes",
}  # fmt: skip
WARNINGS = 5  # of training that are shown
WAITED = 0.05  # share of time waiting for data that deserves a note


def facts(record: Record) -> dict[str, Any]:
    """A run at a glance."""
    config = record.config
    found = {
        "state": "complete" if record.complete else "still going, or stopped",
        "steps": f"{record.reached:,}" + (f" of {record.steps:,}" if record.steps else ""),
    }
    for key in ("model.method", "model.encoder", "views.modality", "optim.batch", "optim.optimizer", "optim.lr"):
        found[key.partition(".")[2]] = config.get(key, "–")
    for name, metric in shown([record]).items():
        if metric.fact and len(values := record.series[name].finite):
            found[f"{metric.title}, {metric.fact}"] = metric.show(float(FACTS[metric.fact](values)))
    share, seconds = time(record)
    found |= {"waiting for data": percent(share, 1), "time in steps": duration(seconds)}
    for name, probe in record.probes.items():
        for depth, means in probe.headline.items():
            title = f"{name}: " * bool(name) + f"mean {probe.metric}"
            found |= {f"{title}, {label}, {depth}": interval(mean) for label, mean in means.items()}
    if record.written:
        found["last metrics"] = datetime.datetime.fromtimestamp(record.written).strftime("%Y-%m-%d %H:%M")
    return found


def notes(record: Record) -> list[str]:
    """Oddities of a run, in plain words."""
    found = list(record.notes)
    for name, series in record.series.items():
        if (bad := ~np.isfinite(series.values)).any():
            at = series.steps[bad.argmax()]
            found.append(f"{bad.sum():,} of {len(bad):,} values of {name} are not finite, first at step {at:,}.")
    if (skipped := record.series.get("skipped")) is not None and skipped.finite.any():
        found.append(f"{skipped.finite.max():,.0f} steps were skipped: their gradient was not finite.")
    warnings = watched(record)
    found += [warning[0].upper() + warning[1:] + "." for warning in warnings[:WARNINGS]]
    if len(warnings) > WARNINGS:
        found.append(f"And {len(warnings) - WARNINGS:,} more such warnings later.")
    if (share := time(record)[0]) > WAITED:
        found.append(f"Training waited for data {percent(share, 1)} of the time.")
    for name, probe in record.probes.items():
        if worse := [depth for depth, means in probe.headline.items() if _no_better(means)]:
            told = f"{name}, mean" if name else "Mean"
            told += f" of the bands, {' and '.join(worse)}"
            found.append(f"{told}: the pre-trained features are no better than the baselines.")
    return found


def _no_better(means: Scores) -> bool:
    """Whether the first contender is not above all others."""
    first, *others = [each.score for each in means.values()]
    return bool(others) and first <= max(others)


def watched(record: Record) -> list[str]:
    """The warnings of rsdnet.health on the run's metrics, except of skipped steps."""
    if "spread" not in record.series:
        return []
    lines: dict[int, dict[str, float]] = defaultdict(dict)
    for name in WATCHED & record.series.keys():
        for step, value in zip(*(part.tolist() for part in record.series[name]), strict=True):
            if math.isfinite(value):
                lines[step][name] = value
    watch = Watch()
    return [
        said for line in intervals(lines[step] | {"step": step} for step in sorted(lines)) for said in watch.look(line)
    ]


def time(record: Record) -> tuple[float, float]:
    """Share of the time in steps spent waiting for data, and the time, in seconds; NaN where unknown."""
    rate, wait, batch = (*map(record.series.get, ("samples_per_s", "wait")), record.config.get("optim.batch"))
    if rate is None or not (fine := rate.values > SLOWEST).any():
        return math.nan, math.nan
    share = math.nan
    if wait is not None and np.array_equal(rate.steps, wait.steps):
        good = fine & np.isfinite(wait.values)
        share = float(np.average(wait.values[good], weights=1 / rate.values[good])) if good.any() else math.nan
    return share, bounded(batch if isinstance(batch, int) else None) * float((1 / rate.values[fine]).sum())
