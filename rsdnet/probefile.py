"""The file of an evaluation, as `rsdnet.probe` writes it: its content, checked. No file is trusted."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from rsdnet.errors import DataError

PROTOCOL = 3  # of the evaluation: 3 has stages, intervals and every band; 2 drew from every class; 1 has no number
MEANS = ("mean_ms", "mean_sar", "mean_all")  # of single bands: of a sensor, of all
COMPARED = ("samples", "labels", "classes")  # of the samples; their bands may be others
AGAIN = "run python -m rsdnet.probe again with --force"
LARGEST = 3.4e38  # of a float32; a number beyond it counts as not finite


def bounded(value: float | None) -> float:
    """`value` as a float; NaN where it is not finite, beyond float32, or None, the loss of a skipped step."""
    return float(value) if value is not None and abs(value) < LARGEST else math.nan


Number = Annotated[float, AfterValidator(bounded)]
Samples = dict[str, dict[str, Any]]
"""By sensor: identity of the samples; among others "samples" and "labels", digests, and "classes", names."""


@dataclass(frozen=True)
class Score:
    """A score on the test split, its interval of 95 %, and `val`, the score on validation samples."""

    score: Number
    interval: tuple[Number, Number] = (math.nan, math.nan)
    val: Number = math.nan


Scores = dict[str, Score]
"""By contender; the first is the pre-trained encoder."""


@dataclass(frozen=True)
class Depth:
    """Scores by bands joined by +, and their means over single bands."""

    bands: dict[str, Scores]
    mean_ms: Scores = field(default_factory=dict)
    mean_sar: Scores = field(default_factory=dict)
    mean_all: Scores = field(default_factory=dict)

    @property
    def means(self) -> dict[str, Scores]:
        """The means that there are, by name."""
        return {name: found for name in MEANS if (found := getattr(self, name))}


@dataclass(frozen=True)
class ProbeFile:
    """results: by share of the labels and depth of the features. features: the depth that was asked for."""

    protocol: int
    metric: str
    results: dict[str, dict[str, Depth]]
    samples: Samples
    features: str = "stages"
    seed: int = 0
    size: Any = None
    statistics: Any = None

    @property
    def conditions(self) -> str:
        """Scores of two evaluations compare only where these are the same."""
        samples = {sensor: [own.get(key) for key in COMPARED] for sensor, own in self.samples.items()}
        return str((samples, self.metric, self.seed, self.size, self.statistics))

    @property
    def headline(self) -> dict[str, Scores]:
        """Means over all single bands by the first share of the labels, by depth of the features."""
        by_depth = next(iter(self.results.values()), {})
        return {depth: found.mean_all for depth, found in by_depth.items() if found.mean_all}


def read(path: Path) -> tuple[ProbeFile, dict[str, Any]]:
    """The content of `path`, checked, and as it stands.

    Raises DataError where there is no such file, or it is damaged or of another protocol.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no {path}: run python -m rsdnet.probe first") from None
    try:
        plain = json.loads(content)
        if isinstance(plain, dict) and ("results" not in plain or plain.get("protocol") != PROTOCOL):
            theirs = plain.get("protocol", "none")
            raise DataError(f"{path} is of another protocol of evaluation ({theirs}, here {PROTOCOL}): {AGAIN}")
        return TypeAdapter(ProbeFile).validate_python(plain), plain
    except (ValidationError, ValueError, RecursionError):
        raise DataError(f"{path} is damaged: {AGAIN}") from None
