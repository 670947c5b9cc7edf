"""A run's files, read for the report. None is trusted: a run may be unfinished, damaged or of another version.

A file or line that cannot be read is left out and named in `Record.notes`.
"""

import json
import tomllib
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic import TypeAdapter

from rsdnet import probefile
from rsdnet.errors import DataError
from rsdnet.probefile import Number, ProbeFile, bounded
from rsdnet.runfolder import CONFIG, ENCODER, ENVIRONMENT, METRICS, PROFILE, evaluations

T = TypeVar("T")


class Series(NamedTuple):
    """A metric's values (N,), NaN where not finite, at steps (N,), ascending."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The finite values."""
        return np.extract(np.isfinite(self.values), self.values)


@dataclass(frozen=True)
class Phase:
    """A phase of the training step: milliseconds and share of a step; beside: it overlaps the step."""

    phase: str
    ms: Number
    share: Number
    beside: bool = False


@dataclass(frozen=True)
class Profile:
    """profile.json: phases of a step of `step_ms` milliseconds, means over `steps` steps."""

    phases: list[Phase]
    steps: int
    step_ms: Number


@dataclass
class Record:
    """A run. config, environment: values by "table.key"; probes: evaluations by name, "" of one label a patch; written:
    time of the last metrics, seconds since 1970."""

    folder: Path
    name: str
    series: dict[str, Series] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, ProbeFile] = field(default_factory=dict)
    profile: Profile | None = None
    notes: list[str] = field(default_factory=list)
    complete: bool = False
    written: float = 0.0

    @property
    def steps(self) -> int:
        """Steps of the whole schedule; 0 where unknown."""
        found = self.environment.get("steps", self.config.get("optim.steps"))
        return found if isinstance(found, int) and found < 2**53 else 0

    @property
    def reached(self) -> int:
        """Steps logged: one more than the last, counted from 0."""
        return 1 + max((int(series.steps[-1]) for series in self.series.values()), default=-1)


def read(folder: Path) -> Record:
    """The run in `folder`. Raises DataError where there is no such folder, or it holds neither metrics nor config."""
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; name the folder of a run (--run of rsdnet.train)")
        if not any((folder / name).is_file() for name in (METRICS, CONFIG)):
            raise DataError(f"{folder} is not a run: it holds neither {METRICS} nor {CONFIG}")
        record = Record(folder, folder.resolve().name or str(folder), complete=(folder / ENCODER).is_file())
        _read_metrics(record)
        _read_config(record)
        _read_probes(record)
        record.profile = _json(record, PROFILE, Profile, "run python -m rsdnet.train again with --profile")
        record.environment = flat(_json(record, ENVIRONMENT, dict[str, Any], "versions and machine are unknown") or {})
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.filename or ''} {error.strerror}") from None
    return record


def flat(tables: dict[str, Any]) -> dict[str, Any]:
    """{"table.key": value} of {table: {key: value}}, of a table in a table likewise; else a key keeps its name."""
    rows: dict[str, Any] = {}
    for name, table in tables.items():
        inner = flat(table).items() if isinstance(table, dict) else ()
        rows |= {f"{name}.{key}": value for key, value in inner} if isinstance(table, dict) else {name: table}
    return rows


def _read_metrics(record: Record) -> None:
    """Fill `series` from the lines of metrics.jsonl; of a step logged twice, the last value counts."""
    path = record.folder / METRICS
    if not path.is_file():
        record.notes.append(f"There is no {METRICS}: no step has been logged yet.")
        return
    record.written = path.stat().st_mtime
    columns: dict[str, tuple[array[int], array[float]]] = defaultdict(lambda: (array("q"), array("d")))
    damaged, cut = 0, False
    with open(path, errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
                step = found.pop("step")
                if type(step) is not int or not 0 <= step < 2**53:
                    raise ValueError(step)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                cut = not line.endswith("\n")
                damaged += bool(line.strip()) and not cut
                continue
            for name, value in found.items():
                if value is None or isinstance(value, int | float):
                    columns[name][0].append(step)
                    columns[name][1].append(bounded(value))
    for name, (steps, values) in columns.items():
        unique, last = np.unique(np.array(steps)[::-1], return_index=True)
        record.series[name] = Series(unique, np.array(values)[::-1][last])
    if cut:
        record.notes.append(f"The last line of {METRICS} is cut short, as in a run that is writing it; it is left out.")
    if damaged:
        record.notes.append(f"{damaged:,} lines of {METRICS} are damaged and left out.")
    if not columns:
        record.notes.append(f"{METRICS} holds no values yet: there are no curves to draw.")


def _read_config(record: Record) -> None:
    try:
        record.config = flat(tomllib.loads((record.folder / CONFIG).read_text("utf-8-sig")))
    except FileNotFoundError:
        record.notes.append(f"There is no {CONFIG}: the settings are unknown.")
    except (ValueError, RecursionError) as error:
        record.notes.append(f"{CONFIG} is not TOML ({error}): the settings are unknown.")


def _read_probes(record: Record) -> None:
    for name, path in evaluations(record.folder).items():
        try:
            record.probes[name] = probefile.read(path)[0]
        except DataError as error:
            record.notes.append(f"{str(error).replace(str(path), path.name)}.")


def _json(record: Record, name: str, kind: type[T], remedy: str) -> T | None:
    """A JSON file of the run as `kind`; None where it is missing, or damaged, which a note says."""
    path = record.folder / name
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValueError:  # pydantic's
        record.notes.append(f"{name} is damaged: {remedy}.")
        return None
