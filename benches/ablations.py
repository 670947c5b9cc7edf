"""Recipes beside each other: scores over the same seeds and worlds, as rows of benches/results/ablations.csv.

A row is of one recipe, contender and mean over single bands, or view of several: the mean of its runs. Its interval of
95 % holds the spread of the test scenes and that of the runs (`rsdnet.evaluate.intervals.over_runs`), as does that of
its difference to the first recipe, taken run by run.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from benches.core.rows import Results, Row, split
from rsdnet.bands import BANDS
from rsdnet.evaluate.intervals import interval, over_runs
from rsdnet.evaluate.outcomes import replicates_path

PRE_TRAINED = "pre-trained"
SHARED = "raw statistics"  # has no weights: the same for every recipe
LABELS, DEPTH = "all", "stages"


class Scores(NamedTuple):
    """scores: (S,), one a run. replicates: (S, R) of them, by the bootstrap; of one world, by the same draws."""

    scores: np.ndarray
    replicates: np.ndarray

    def told(self) -> dict[str, str]:
        """Mean and interval as cells."""
        low, high = interval(over_runs(self.replicates))
        return {"low": f"{low:.4f}", "high": f"{high:.4f}"}


Found = dict[tuple[str, str], Scores]
"""By mean, or bands of a view, and contender."""


def found(paths: Sequence[Path], results: Sequence[Mapping[str, Any]]) -> Found:
    """The scores of a recipe's runs. results: the content of the evaluations `paths`."""
    kept = [load_file(replicates_path(path)) for path in paths]
    first = results[0]["results"][LABELS][DEPTH]
    single = [name for name in first["bands"] if name in BANDS]
    groups = {f"mean_{sensor}": [n for n in single if BANDS[n].modality == sensor] for sensor in ("ms", "sar")}
    groups |= {"mean_all": single} | {name: [name] for name in first["bands"] if name not in BANDS}
    joined: Found = {}
    for what, names in groups.items():
        for label in first["bands"][names[0]] if names else ():
            rows = [result["results"][LABELS][DEPTH]["bands"] for result in results]
            scores = [np.mean([own[name][label]["score"] for name in names]) for own in rows]
            of_runs = [np.mean([one[f"{LABELS}/{DEPTH}/{name}/{label}"] for name in names], 0) for one in kept]
            joined[what, label] = Scores(np.array(scores), np.array(of_runs, float))
    return joined


def tell(setting: Mapping[str, Any], metric: str, recipes: Mapping[str, Found], kept: Results) -> None:
    """Rows of the `recipes`, whose runs have the same seeds and worlds in the same order."""
    first = next(iter(recipes.values()))
    for number, (recipe, scores) in enumerate(recipes.items()):
        for (kind, label), own in scores.items():
            if label == SHARED and number:
                continue
            also = own.told() | {"runs": " ".join(f"{score:.4f}" for score in own.scores)}
            if label == PRE_TRAINED and number:
                other = first[kind, label]
                gain = Scores(own.scores - other.scores, own.replicates - other.replicates)
                also |= {f"gain_{name}": value for name, value in gain.told().items()}
                also["gain"] = f"{gain.scores.mean():+.4f}"
            name = label if label == SHARED else f"{recipe}: {label}"
            kept.tell(setting, kind, name, float(own.scores.mean()), metric, also=also, digits=4)


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines of a table for each setting and metric: a line a contender, a column a mean."""
    groups: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["unit"]), {})[row["contender"], row["what"]] = row  # the last one counts
    for (setting, unit), group in groups.items():
        kinds = list(dict.fromkeys(what for _, what in group))
        names = list(dict.fromkeys(name for name, _ in group))
        lines = [[name, *(cell(group.get((name, kind))) for kind in kinds)] for name in names]
        yield f"{unit}; {setting}", ["recipe", *kinds], lines


def cell(row: Row | None) -> str:
    """Score and interval, and the difference to the first recipe with its own."""
    if row is None:
        return ""
    also = split(row["also"])
    gain = f"; {also['gain']} ({also['gain_low']} to {also['gain_high']})" if "gain" in also else ""
    return f"{float(row['p50']):.3f} ({float(also['low']):.3f} to {float(also['high']):.3f}){gain}"
