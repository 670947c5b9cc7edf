"""The comparison of runs as one JSON: rows of bands, means over the bands that all columns have, and what to say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsdnet import bands
from rsdnet.comparison import agreement, results
from rsdnet.comparison.columns import Column, columns_of
from rsdnet.comparison.published import published
from rsdnet.comparison.results import Result
from rsdnet.evaluate.intervals import LEVEL

VERSION = 1
ROUNDING = 1e-9  # scores so close are the same numbers, added in another order
Comparison = dict[str, Any]
"""JSON-able: "metric", "features", "level" of the intervals, "columns", "tables" {share: rows}, "left_out" of the means
by band, "published". A row: "row", its name, "kind" (band, mean or several), "cells", one a column, null where it was
not evaluated: "score", "interval" [low, high], "val", "seeds", the score of each, and "best"."""


def gather(runs: Sequence[Path], name: str = "", labels: Sequence[str] = (), features: str = "") -> Comparison:
    """The comparison of the evaluations `name` of `runs`. labels: shares to show; none: all that the runs share.
    features: their depth; none: stages where all runs have it, as only frozen encoders do, otherwise the first run's.

    Raises DataError where an evaluation is absent or damaged, or the runs do not compare.
    """
    found = [results.read(run, name) for run in runs]
    agreement.require_alike(found, labels)
    shares = agreement.shares_of(found, labels)
    agreement.require_alike(found, shares)
    if not features:
        staged = all("stages" in each.found.results[share] for each in found for share in shares)
        features = "stages" if staged else found[0].found.features
    agreement.require_depth(found, shares, features)
    columns = columns_of(found, shares, features)
    classes = {name for own in found[0].found.samples.values() for name in own.get("classes") or []}
    made = {
        "version": VERSION, "metric": found[0].found.metric, "features": features, "level": LEVEL, "task": name,
        "columns": [told(column) for column in columns],
        "tables": {share: table(found, columns, share, features) for share in shares},
        "left_out": left_out(found, columns, shares, features),
        "samples": found[0].found.samples, "published": published(found[0].found.metric, classes),
    }  # fmt: skip
    return dict(json.loads(json.dumps(made)))


def told(column: Column) -> dict[str, Any]:
    """A column's head and origin."""
    runs = [str(each.run) for each in column.members]
    seeds = [each.seed for each in column.members]
    return {"head": column.head, "title": column.title, "contender": column.contender, "runs": runs, "seeds": seeds}


def table(found: Sequence[Result], columns: Sequence[Column], share: str, depth: str) -> list[dict[str, Any]]:
    """Rows: single bands, the means over those that all columns have, then several bands together."""
    names = _names(found, share, depth)
    single = [name for name in bands.BANDS if name in names]
    common = [name for name in single if all(column.has(share, depth, name) for column in columns)]
    rows = [row(name, "band", [name], columns, share, depth) for name in single]
    means = {f"mean_{sensor}": [n for n in common if bands.BANDS[n].modality == sensor] for sensor in ("ms", "sar")}
    if all(means.values()):
        means["mean_all"] = common
    rows += [row(mean, "mean", own, columns, share, depth) for mean, own in means.items() if own]
    return rows + [row(name, "several", [name], columns, share, depth) for name in names if name not in single]


def row(
    title: str, kind: str, names: Sequence[str], columns: Sequence[Column], share: str, depth: str
) -> dict[str, Any]:
    """A row: the mean over the bands `names` of each column."""
    cells = [
        column.cell(share, depth, names) if all(column.has(share, depth, name) for name in names) else None
        for column in columns
    ]
    highest = max((cell["score"] for cell in cells if cell), default=0.0)
    best = [cell and cell | {"best": cell["score"] > highest - ROUNDING} for cell in cells]
    return {"row": title, "kind": kind, "cells": best}


def left_out(
    found: Sequence[Result], columns: Sequence[Column], shares: Sequence[str], depth: str
) -> dict[str, list[str]]:
    """Of each single band that is in no mean, the runs that lack it; where they have it all, the other contenders."""
    names = dict.fromkeys(name for share in shares for name in _names(found, share, depth) if name in bands.BANDS)
    lacking = {
        name: [column for column in columns if not all(column.has(share, depth, name) for share in shares)]
        for name in names
    }
    return {
        name: [column.title for column in own if column.contender == columns[0].contender]
        or [column.title for column in own]
        for name, own in lacking.items()
        if own
    }


def _names(found: Sequence[Result], share: str, depth: str) -> list[str]:
    return list(dict.fromkeys(name for each in found for name in each.depth(share, depth).bands))
