"""Results of an evaluation: scores with intervals, their means over bands, and the files in a run's folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rsdnet import bands
from rsdnet.evaluate.intervals import interval
from rsdnet.files import aside
from rsdnet.model.stages import at

Row = dict[str, Any]
"""JSON-able: "score" on the test split, "interval" [low, high] of 95 %, "val", the score on validation samples, and a
task's own fields."""


class Outcome(NamedTuple):
    """score: of one classifier on the test split. val: on the validation samples that chose its settings.

    replicates: (R,) of the score, by the bootstrap. details: a task's own fields, JSON-able.
    """

    score: float
    val: float
    replicates: np.ndarray
    details: dict[str, Any]

    def row(self) -> Row:
        """Without the replicates."""
        return {"score": self.score, "interval": interval(self.replicates), "val": self.val, **self.details}


Outcomes = dict[str, dict[str, dict[str, Outcome]]]
"""By depth, bands joined by +, contender."""


def arranged(
    scored: Mapping[tuple[tuple[str, ...], str], Mapping[str, Mapping[str, Outcome]]], views: Sequence[tuple[str, ...]],
    contenders: Sequence[str], shares: Sequence[str], depths: Sequence[str],
) -> dict[str, Outcomes]:  # fmt: skip
    """Outcomes by share of the labels, of those by bands and contender, share and depth; of a depth that a contender
    lacks, its last."""

    def found(names: tuple[str, ...], share: str, depth: str) -> dict[str, Outcome]:
        own = {label: scored[names, label][share] for label in contenders}
        return {label: by_depth[at(by_depth, depth)] for label, by_depth in own.items()}

    return {
        share: {depth: {"+".join(names): found(names, share, depth) for names in views} for depth in depths}
        for share in shares
    }


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """result: JSON-able, see `rsdnet.probe.probe`. replicates: (R,) float32 by "labels/depth/bands/contender"."""

    result: dict[str, Any]
    replicates: dict[str, np.ndarray]

    @classmethod
    def of(cls, identity: Mapping[str, Any], outcomes: Mapping[str, Outcomes]) -> "Evaluation":
        """identity: what was evaluated. outcomes: by the share of the labels."""
        results = {
            share: {depth: {"bands": rows_of(found), **means(found)} for depth, found in by_depth.items()}
            for share, by_depth in outcomes.items()
        }
        replicates = {
            f"{share}/{depth}/{name}/{label}": found.replicates.astype(np.float32)
            for share, by_depth in outcomes.items()
            for depth, by_bands in by_depth.items()
            for name, by_label in by_bands.items()
            for label, found in by_label.items()
        }
        return cls({**identity, "results": results}, replicates)

    def save(self, path: Path) -> None:
        """Write the result to `path`, a .json, and the replicates beside it."""
        with aside(replicates_path(path)) as temporary:
            save_file(self.replicates, temporary)
        with aside(path) as temporary:
            temporary.write_text(json.dumps(self.result, indent=1) + "\n")


def replicates_path(path: Path) -> Path:
    """The file of replicates beside the result `path`."""
    return path.with_suffix(".safetensors")


def saved(path: Path, identity: Mapping[str, Any]) -> Evaluation | None:
    """The evaluation at `path`, where it is of `identity`; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text())
        kept = load_file(replicates_path(path))
    except (ValueError, OSError, SafetensorError):  # it will be written anew
        return None
    same = isinstance(found, dict) and {key: found.get(key) for key in identity} == json.loads(json.dumps(identity))
    return Evaluation(found, kept) if same else None


def rows_of(outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Row]]:
    """Rows by bands and contender."""
    return {name: {label: found.row() for label, found in row.items()} for name, row in outcomes.items()}


def means(outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Row]]:
    """Rows by contender of "mean_ms", "mean_sar", "mean_all": means over single bands, of a sensor and of all."""
    single = {name: row for name, row in outcomes.items() if name in bands.BANDS}
    kinds = {f"mean_{sensor}": [n for n in single if bands.BANDS[n].modality == sensor] for sensor in ("ms", "sar")}
    kinds["mean_all"] = list(single)
    return {
        kind: {label: mean([single[name][label] for name in names]).row() for label in single[names[0]]}
        for kind, names in kinds.items()
        if names
    }


def mean(outcomes: list[Outcome]) -> Outcome:
    """The mean score; replicates of one number are of the same draws, so those of the mean are theirs."""
    return Outcome(
        float(np.mean([each.score for each in outcomes])), float(np.mean([each.val for each in outcomes])),
        np.mean([each.replicates for each in outcomes], axis=0), {},
    )  # fmt: skip
