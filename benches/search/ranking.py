"""Settings of a grid, ranked by their scores on the validation split: rows of benches/results/grids.csv, and tables.

The number that ranks is the mean of two means over single bands, MS and SAR, by the features of four stages and all
labels. Intervals are of 95 % by Student's t over the runs, seeds x databases; a difference to the first settings is
taken run by run, of the same seed and database. Scores on the test split stand beside it and rank nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from benches.ablations import DEPTH, LABELS, PRE_TRAINED, SHARED
from benches.core.rows import Results, Row, split
from benches.search.runs import Run, last_metrics, steps_of
from rsdnet import probefile
from rsdnet.evaluate.intervals import LEVEL
from rsdnet.runfolder import probe_path

BOTH = "both"
BESIDE = {"random": "random", SHARED: "raw"}  # contenders of the probe, and their names in `also`
HEAD = ["settings", "val", "to the first", "test", "ms (random, raw)", "sar (random, raw)", "rank", "steps"]

Found = dict[str, dict[str, np.ndarray]]
"""By contender, and ms, sar or both: (runs, 2) scores, on the validation and the test split."""


def found(runs: Sequence[Run]) -> Found:
    """The scores of the runs of one variant."""
    own = [scores(probefile.read(probe_path(run.folder))[0]) for run in runs]
    return {label: {what: np.array([each[label][what] for each in own]) for what in own[0][label]} for label in own[0]}


def scores(result: probefile.ProbeFile) -> dict[str, dict[str, tuple[float, float]]]:
    """Validation and test score of an evaluation, by contender, and ms, sar or both."""
    depth = result.results[LABELS][DEPTH]
    means = {"ms": depth.mean_ms, "sar": depth.mean_sar}
    of: dict[str, dict[str, tuple[float, float]]] = {}
    for label in depth.mean_all:
        by = {what: (mean[label].val, mean[label].score) for what, mean in means.items() if mean}
        val, test = np.mean(list(by.values()), 0)
        of[label] = by | {BOTH: (float(val), float(test))}
    return of


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of values (S,), by Student's t; NaN for one value."""
    if len(values) < 2:
        return math.nan, math.nan
    spread = values.std(ddof=1) / math.sqrt(len(values))
    low, high = values.mean() + spread * stats.t.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], len(values) - 1)
    return float(low), float(high)


def told(name: str, values: np.ndarray, sign: str = "") -> dict[str, str]:
    """Mean and interval of values (S,) as cells; no interval of one value."""
    low, high = interval(values)
    ends = {f"{name}_low": f"{low:{sign}.4f}", f"{name}_high": f"{high:{sign}.4f}"} if len(values) > 1 else {}
    return {name: f"{values.mean():{sign}.4f}"} | ends


def tell(
    setting: Mapping[str, str], runs: Mapping[str, Sequence[Run]], reasons: Mapping[str, str], kept: Results
) -> None:
    """Rows of all settings. runs: of each, in the same order. reasons: of settings whose runs have not all ended."""
    first = next(iter(runs))
    ranked = {name: found(own) for name, own in runs.items() if name not in reasons}
    for name, own in runs.items():
        if name in reasons:
            kept.tell(setting, BOTH, name, None, note=reasons[name])
            continue
        metric = probefile.read(probe_path(own[0].folder))[0].metric
        of_ends = [probefile.bounded(last_metrics(run).get("effective_rank")) for run in own]
        ends = {"rank": f"{np.mean(of_ends):.1f}"}
        ends |= {"steps": str(steps_of(own[0]))}
        for what, of_runs in ranked[name][PRE_TRAINED].items():
            val, test = of_runs.T
            also = told("val", val) | told("test", test)
            if name != first and first in ranked:
                others = ranked[first][PRE_TRAINED][what].T
                also |= told("gain", val - others[0], "+") | told("test_gain", test - others[1], "+")
            for label, short in BESIDE.items():
                beside = ranked[name][label][what].mean(0)
                also |= {f"{short}_val": f"{beside[0]:.4f}", short: f"{beside[1]:.4f}"}
            also |= ends | {"runs": " ".join(f"{score:.4f}" for score in val)}
            kept.tell(setting, what, name, float(test.mean()), metric, also=also, digits=4)


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines of a table for each grid, base and data: the settings of the last seeds, the best first."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, dict[str, dict[str, Row]]]] = {}
    for row in rows:
        key = tuple((name, value) for name, value in split(row["setting"]).items() if name != "seeds")
        by_seeds = groups.setdefault(key, {})
        seeds = split(row["setting"])["seeds"]
        by_seeds[seeds] = by_seeds.pop(seeds, {})  # to the end: the last one counts
        whats = by_seeds[seeds].setdefault(row["contender"], {})
        if not row["p50"] or not whats.get(BOTH, row)["p50"]:  # what failed once may have ended since
            whats.clear()
        whats[row["what"]] = row
    for key, by_seeds in groups.items():
        seeds, group = list(by_seeds.items())[-1]
        unit = next((row["unit"] for whats in group.values() for row in whats.values() if row["unit"]), "")
        ordered = sorted(group.items(), key=lambda item: -ranking(item[1][BOTH]))
        conditions = ", ".join(f"{name} {value}" for name, value in (*key, ("seeds", seeds)))
        yield f"{unit} on val and test: {conditions}", HEAD, [line(name, whats) for name, whats in ordered]


def ranking(row: Row) -> float:
    """The number that ranks; the lowest of all where runs failed."""
    return float(split(row["also"])["val"]) if row["p50"] else -math.inf


def line(name: str, whats: Mapping[str, Row]) -> list[str]:
    """The cells of one name's rows, by `what`."""
    if not whats[BOTH]["p50"]:
        return [name, whats[BOTH]["note"], *[""] * (len(HEAD) - 2)]
    also = {what: split(row["also"]) for what, row in whats.items()}
    sensors = (also.get(what) for what in ("ms", "sar"))
    means = [f"{cell(own, 'test')} ({cell(own, 'random')}, {cell(own, 'raw')})" if own else "" for own in sensors]
    both = also[BOTH]
    return [name, ranged(both, "val"), ranged(both, "gain"), ranged(both, "test"), *means, both["rank"], both["steps"]]


def cell(also: Mapping[str, str], name: str) -> str:
    """A score to three digits; its sign stays."""
    return f"{float(also[name]):{'+' if also[name][0] in '+-' else ''}.3f}"


def ranged(also: Mapping[str, str], name: str) -> str:
    """A score with its interval, where there are any."""
    if name not in also:
        return ""
    ends = f" ({cell(also, f'{name}_low')} to {cell(also, f'{name}_high')})" if f"{name}_low" in also else ""
    return cell(also, name) + ends
