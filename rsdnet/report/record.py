"""The files of a run, read for the report: metrics, configuration, probe, environment. Nothing is trusted.

A run may still be going, may have died while it wrote a line, or may come from another version: whatever cannot be read
is left out, and `Record.notes` says so in words.
"""

import contextlib
import json
import math
import tomllib
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rsdnet import runfolder
from rsdnet.errors import DataError
from rsdnet.runfolder import CONFIG, ENVIRONMENT, METRICS, PROBE, PROFILE

T = TypeVar("T")
CLIPPED = 400  # characters of a value that are shown
LARGEST = 3.4e38  # of a float32: what lies beyond counts as not finite


@dataclass(frozen=True)
class Series:
    """One metric: its value at each of `steps`, ascending; values that were not finite are NaN."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The values that are finite."""
        return np.extract(np.isfinite(self.values), self.values)


@dataclass
class Record:
    """A run: series by name of the metric, config by "table.key", probe, profile and environment, and notes on
    oddities."""

    folder: Path
    name: str
    series: dict[str, Series] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    samples: int = 0  # in the training data; 0 where no checkpoint says it
    complete: bool = False
    written: float = 0.0  # when the metrics were last written, in seconds since 1970

    @property
    def steps(self) -> int:
        """Steps of the whole schedule; 0 where the run does not tell."""
        optim = self.table("optim")
        with contextlib.suppress(KeyError, ValueError):
            return int(self.environment["steps"])
        with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
            steps, epochs, batch = (int(optim.get(name, 0)) for name in ("steps", "epochs", "batch"))
            return steps or epochs * (self.samples // batch)
        return 0

    @property
    def reached(self) -> int:
        """Steps that the metrics hold: one more than the last, counted from 0."""
        return 1 + max((int(series.steps[-1]) for series in self.series.values()), default=-1)

    def table(self, name: str) -> dict[str, Any]:
        """A table of the configuration; empty where there is none."""
        found = self.tables.get(name, {})
        return found if isinstance(found, dict) else {}


def read(folder: Path) -> Record:
    """The run in `folder`. Raises DataError where there is no such folder, or it holds neither metrics nor config."""
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; name the folder of a run (--run of rsdnet.train)")
        if not any((folder / name).is_file() for name in (METRICS, CONFIG)):
            raise DataError(f"{folder} is not a run: it holds neither {METRICS} nor {CONFIG}")
        record = Record(folder, text(folder.resolve().name or str(folder)))
        _read_metrics(record)
        _read_config(record)
        record.probe = _json(record, PROBE, _probe, "run python -m rsdnet.probe again with --force")
        record.profile = _json(record, PROFILE, _profile, "run python -m rsdnet.train again with --profile")
        record.environment = _json(record, ENVIRONMENT, flat, "versions and machine are not known") or {}
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.filename or ''} {error.strerror}") from None
    _read_progress(record)
    return record


def text(value: Any, clip: int = CLIPPED) -> str:
    """`value` as printable text of at most `clip` characters."""
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown[: clip + 1])
    return shown if len(shown) <= clip else shown[: clip - 1] + "…"


def number(value: Any) -> float | None:
    """A JSON number (or true, 1) as a float, NaN where it is not finite or too large for a float32; None: another."""
    if not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else math.nan


def _read_metrics(record: Record) -> None:
    """Fill `series` from the lines of metrics.jsonl; the last line of a step counts."""
    path = record.folder / METRICS
    if not path.is_file():
        record.notes.append(f"There is no {METRICS}: no step has been logged yet.")
        return
    record.written = path.stat().st_mtime
    columns: dict[str, tuple[array[int], array[float]]] = {}
    damaged, cut = 0, False
    with open(path, errors="replace") as file:
        for line in file:
            try:
                step, values = _parse(line)
            except (ValueError, RecursionError):
                cut = not line.endswith("\n")
                damaged += bool(line.strip()) and not cut
                continue
            for name, value in values.items():
                steps, column = columns.setdefault(name, (array("q"), array("d")))
                steps.append(step)
                column.append(value)
    record.series = {name: _sorted(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}
    if cut:
        record.notes.append(f"The last line of {METRICS} is cut short, as in a run that is writing it; it is left out.")
    if damaged:
        record.notes.append(f"{damaged:,} lines of {METRICS} are damaged and left out.")
    if not columns:
        record.notes.append(f"{METRICS} holds no values yet: there are no curves to draw.")


def _parse(line: str) -> tuple[int, dict[str, float]]:
    """Step and numbers of a line; NaN for null, which the loss of a step that was skipped is.

    Raises ValueError on a line that is not an object with a step.
    """
    found = json.loads(line)
    step = found.pop("step", None) if isinstance(found, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**53:
        raise ValueError("no step")
    values = {text(name, 80): math.nan if value is None else number(value) for name, value in found.items()}
    return step, {name: value for name, value in values.items() if value is not None}


def _sorted(steps: np.ndarray, values: np.ndarray) -> Series:
    """By step, each step once, with its last value."""
    unique, last = np.unique(steps[::-1], return_index=True)
    return Series(unique, values[::-1][last])


def _read_config(record: Record) -> None:
    path = record.folder / CONFIG
    try:
        record.tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        record.notes.append(f"There is no {CONFIG}: the settings are not known.")
    except (ValueError, RecursionError) as error:
        record.notes.append(f"{CONFIG} is not TOML ({text(str(error), 120)}): the settings are not known.")
    record.config = flat(record.tables)


def flat(tables: dict[str, Any]) -> dict[str, str]:
    """{"table.key": value as text} of a configuration's tables."""
    return {
        text(f"{section}.{key}" if key else section, 120): text(value)
        for section, table in tables.items()
        for key, value in (table.items() if isinstance(table, dict) else [("", table)])
    }


def _json(record: Record, name: str, of: Callable[[Any], T], remedy: str) -> T | None:
    """What `of` makes of a JSON file of the run; None where there is none, or it is damaged, which a note says."""
    path = record.folder / name
    if not path.is_file():
        return None
    try:
        return of(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        record.notes.append(f"{name} is damaged: {remedy}.")
        return None


def _probe(found: Any) -> dict[str, Any]:
    """A probe: "labels", "means" {variant: F1}, "bands" {band: {variant: {score: number}}}, "protocol"."""
    labels = list(found["mean_f1"])
    return {
        "labels": [text(label, 60) for label in labels],
        "means": {text(label, 60): _score(found["mean_f1"][label]) for label in labels},
        "bands": {
            text(band, 60): {
                text(label, 60): {kind: _score(row[label][kind]) for kind in ("f1", "accuracy")}
                for label in labels
                if label in row
            }
            for band, row in found["bands"].items()
        },
        "protocol": {key: text(found.get(key)) for key in ("data", "limit", "size")},
    }


def _profile(found: Any) -> dict[str, Any]:
    """A profile: "phases" {name: (milliseconds a step, share of the step)}, and "words" on the steps measured."""
    phases = {
        text(phase["phase"], 60) + (" (beside the step)" if phase.get("beside") else ""): (
            _score(phase["ms"]), _score(phase["share"])
        )
        for phase in found["phases"]
    }  # fmt: skip
    whole = f"{_score(found['step_ms']):,.2f} ms, " if "step_ms" in found else ""
    return {"phases": phases, "words": f"{whole}{int(found['steps']):,} steps measured"}


def _score(value: Any) -> float:
    """A number as a float. Raises TypeError where it is no number."""
    found = number(value)
    if found is None:
        raise TypeError(value)
    return found


def _read_progress(record: Record) -> None:
    """How many samples the run trains on, and whether its end was reached."""
    from safetensors import SafetensorError, safe_open

    record.complete = (record.folder / runfolder.ENCODER).is_file()
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        with safe_open(record.folder / runfolder.CHECKPOINT, framework="numpy") as file:
            samples = json.loads(file.metadata()["meta"])["samples"]
        record.samples = samples if isinstance(samples, int) else 0
