"""A run at a glance: its facts, and its oddities, in plain words."""

import datetime
import math
from collections.abc import Callable

import numpy as np

from rsdnet.console import duration, percent, size
from rsdnet.health import Watch
from rsdnet.report.record import Record, Series, text

SLOWEST = 1e-3  # samples/s: below, the number is damaged
WATCHED = {"spread", "effective_rank", "cosine", "grad_norm", "trust_min", "trust_max", "knn_f1"}
WARNINGS = 5  # of training that are shown
WAITED = 0.05  # share of time waiting for data from which on the page says so


def facts(record: Record) -> dict[str, str]:
    """A run at a glance."""
    reached, steps = f"{record.reached:,}", f" of {record.steps:,}" if record.steps else ""
    found = {
        "state": "complete" if record.complete else "still going, or stopped",
        "steps": reached + steps,
        "encoder": _setting(record, "model", "{encoder}, width {width}"),
        "views": _setting(record, "views", "{modality}, {size} px"),
        "batch": _setting(record, "optim", "{batch}"),
        "optimizer": _setting(record, "optim", "{optimizer}, lr {lr}"),
        "loss at the end": figure(_end(record.series.get("loss"))),
        "spread at the end": figure(_end(record.series.get("spread"))),
        "samples/s (median)": figure(_median(record.series.get("samples_per_s"))),
        "waiting for data": percent(waiting(record), 1),
        "time in steps": _duration(record),
    }
    found |= _measured(record)
    if record.probe:
        found |= {f"mean F1, {label}": score(f1) for label, f1 in record.probe["means"].items()}
    if record.written:
        found["last metrics"] = datetime.datetime.fromtimestamp(record.written).strftime("%Y-%m-%d %H:%M")
    return found


def _measured(record: Record) -> dict[str, str]:
    """Facts from metrics that not every run logs."""
    values = {name: series.finite for name, series in record.series.items() if len(series.finite)}
    shown: dict[str, tuple[str, Callable[[np.ndarray], str]]] = {
        "kNN F1, last": ("knn_f1", lambda f1: score(float(f1[-1]))),
        "effective rank at the end": ("effective_rank", lambda rank: figure(_last(rank))),
        "cosine at the end": ("cosine", lambda cosine: figure(_last(cosine))),
        "steps skipped": ("skipped", lambda skipped: f"{skipped.max():,.0f}"),
        "TFLOP/s (median)": ("tflops", lambda rate: figure(float(np.median(rate)))),
        "share of the peak (median)": ("mfu", lambda share: percent(float(np.median(share)), 1)),
        "memory at most": ("memory_bytes", lambda most: size(float(most.max()), binary=True)),
    }
    return {key: words(values[name]) for key, (name, words) in shown.items() if name in values}


def notes(record: Record) -> list[str]:
    """Oddities of a run, in plain words."""
    found = list(record.notes)
    for name, series in record.series.items():
        bad = ~np.isfinite(series.values)
        if bad.any():
            first = int(series.steps[bad][0])
            found.append(f"{bad.sum():,} of {len(bad):,} values of {name} are not finite, first at step {first:,}.")
    skipped = record.series.get("skipped")
    if skipped is not None and skipped.finite.any():
        found.append(f"{skipped.finite.max():,.0f} steps were skipped: their gradient was not finite.")
    warnings = watched(record)
    found += [warning[0].upper() + warning[1:] + "." for warning in warnings[:WARNINGS]]
    if len(warnings) > WARNINGS:
        found.append(f"And {len(warnings) - WARNINGS:,} more such warnings later.")
    if waiting(record) > WAITED:
        found.append(f"Training waited for data {percent(waiting(record), 1)} of the time.")
    means = list(record.probe["means"].values()) if record.probe else []
    if len(means) > 1 and means[0] <= max(means[1:]):
        found.append("On the mean of the bands, the pre-trained features are no better than the baselines.")
    return found


def watched(record: Record) -> list[str]:
    """The warnings that training gave, or would have given (rsdnet/health.py), except of steps skipped."""
    spread = record.series.get("spread")
    if spread is None:
        return []
    watch, found, begin = Watch(), list[str](), -1
    for end in spread.steps[np.append(spread.values[1:] != spread.values[:-1], True)].tolist():  # a log interval's last
        line = {"step": float(end)}
        for name in WATCHED & record.series.keys():
            series = record.series[name]
            at = int(np.searchsorted(series.steps, end, "right")) - 1
            if at >= 0 and series.steps[at] > begin and math.isfinite(value := float(series.values[at])):
                line[name] = value
        found += watch.look(line)
        begin = end
    return found


def waiting(record: Record) -> float:
    """Share of the time in steps spent waiting for data; NaN where the run does not tell."""
    rate, wait = record.series.get("samples_per_s"), record.series.get("wait")
    if rate is None or wait is None or not np.array_equal(rate.steps, wait.steps):
        return math.nan
    good = np.isfinite(rate.values) & np.isfinite(wait.values) & (rate.values > SLOWEST)
    return float(np.average(wait.values[good], weights=1 / rate.values[good])) if good.any() else math.nan


def _setting(record: Record, name: str, words: str) -> str:
    """`words` filled in from a table of the configuration; a dash where it lacks one of them."""
    try:
        return text(words.format_map(record.table(name)), 80)
    except KeyError:
        return "–"


def _duration(record: Record) -> str:
    """Time that all steps took by their throughput, as h:mm:ss."""
    rate, batch = record.series.get("samples_per_s"), record.table("optim").get("batch")
    if rate is None or not isinstance(batch, int) or not (rate.finite > SLOWEST).any():
        return "–"
    return duration(float((batch / rate.finite[rate.finite > SLOWEST]).sum()))


def _end(series: Series | None) -> float:
    """The mean of the last twentieth of the values; NaN where there are none."""
    return math.nan if series is None or not len(series.finite) else _last(series.finite)


def _last(values: np.ndarray) -> float:
    """The mean of the last twentieth."""
    return float(values[-max(len(values) // 20, 1) :].mean())


def _median(series: Series | None) -> float:
    return math.nan if series is None or not len(series.finite) else float(np.median(series.finite))


def figure(value: float) -> str:
    """A number to read: four digits, thousands whole."""
    return "–" if not math.isfinite(value) else f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def score(value: float, sign: str = "") -> str:
    """A score with three digits; sign "+": a difference."""
    return f"{value:{sign}z.3f}" if math.isfinite(value) else "–"
