"""Settings of a grid, ranked by their scores on the validation split: rows of benches/results/grids.csv, and tables.

A row is of one run and sensor: the mean over single bands, by the features of four stages and all labels. A table is
made of the rows, of each run the newest, so that seeds may be run one after the other. The number that ranks is the
mean of both sensors on the validation split, over the runs. Intervals are of 95 % by Student's t over the runs, seeds x
databases; a difference to the first settings is taken run by run, of the same seed and database. Scores on the test
split stand beside it and rank nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from benches.ablations import DEPTH, LABELS, PRE_TRAINED, SHARED
from benches.core.rows import Results, Row, split
from benches.search.runs import Run, database_of, last_metrics, steps_of
from rsdnet import probefile
from rsdnet.evaluate.intervals import LEVEL
from rsdnet.runfolder import probe_path

SENSORS = ("ms", "sar")
FAILED = "run"  # `what` of a run without scores; `note` tells why
BESIDE = {"random": "random", SHARED: "raw"}  # contenders of the probe, and their names in `also`
HEAD = ["settings", "val", "to the first", "test", "ms (random, raw)", "sar (random, raw)", "rank", "steps"]

Key = tuple[str, str]  # of a run: database and seed
Runs = dict[Key, dict[str, Row]]
"""Of a variant: of each run its rows, by `what`."""


def tell(setting: Mapping[str, str], run: Run, kept: Results, reason: str = "") -> None:
    """Rows of a run, or one with the reason why it has not ended."""
    setting = {**setting, "database": database_of(run), "seed": str(run.seed)}
    if reason:
        kept.tell(setting, FAILED, run.variant, None, note=reason)
        return
    result = probefile.read(probe_path(run.folder))[0]
    depth = result.results[LABELS][DEPTH]
    end = probefile.bounded(last_metrics(run).get("effective_rank"))
    for what, own in zip(SENSORS, (depth.mean_ms, depth.mean_sar), strict=True):
        if own:
            also = {"val": f"{own[PRE_TRAINED].val:.4f}"}
            for label, short in BESIDE.items():
                also |= {f"{short}_val": f"{own[label].val:.4f}", short: f"{own[label].score:.4f}"}
            also |= {"rank": f"{end:.1f}", "steps": str(steps_of(run))}
            kept.tell(setting, what, run.variant, own[PRE_TRAINED].score, result.metric, also=also, digits=4)


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines of a table for each grid, base, data and length: a line a variant, the best first."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, Runs]] = {}
    for row in rows:
        setting = split(row["setting"])
        key = setting.pop("database"), setting.pop("seed")
        group = groups.setdefault(tuple(setting.items()), {})
        own = group.setdefault(row["contender"], {}).setdefault(key, {})
        if FAILED in (row["what"], *own):  # what failed may have ended since, and the other way round
            own.clear()
        own[row["what"]] = row
    for conditions, group in groups.items():
        keys = {key for runs in group.values() for key in runs}
        first = next(iter(group.values()))
        lines = [line(seeds_beside(name, runs, keys), runs, first) for name, runs in sorted(group.items(), key=by_val)]
        units = [row["unit"] for runs in group.values() for own in runs.values() for row in own.values()]
        told = ", ".join(f"{name} {value}" for name, value in (*conditions, ("seeds", seeds(keys))))
        yield f"{max(units)} on val and test: {told}", HEAD, lines


def line(name: str, runs: Runs, first: Runs) -> list[str]:
    """The cells of a variant. first: the runs that it is compared with."""
    if reasons := failures(runs):
        told = ", ".join(dict.fromkeys(reasons))
        return [name, f"{len(reasons)} of {len(runs)} runs: {told}", *[""] * (len(HEAD) - 2)]
    val, others = by_run(runs, "val"), {} if runs is first or failures(first) else by_run(first, "val")
    gains = [val[key] - others[key] for key in val if key in others]
    cells = [ranged(list(val.values())), ranged(gains, "+"), ranged(list(by_run(runs, "test").values()))]
    for what in SENSORS:
        own = {key: {what: found[what]} for key, found in runs.items() if what in found}
        test, random, raw = (f"{mean(own, number):.3f}" if own else "" for number in ("test", "random", "raw"))
        cells.append(f"{test} ({random}, {raw})" if own else "")
    return [name, *cells, f"{mean(runs, 'rank'):.1f}", f"{mean(runs, 'steps'):.0f}"]


def by_val(variant: tuple[str, Runs]) -> float:
    """Sorts the best variant to the front, one that failed to the end."""
    return math.inf if failures(variant[1]) else -mean(variant[1], "val")


def failures(runs: Runs) -> list[str]:
    """The reasons of those runs that have not ended."""
    return [own[FAILED]["note"] for own in runs.values() if FAILED in own]


def by_run(runs: Runs, number: str) -> dict[Key, float]:
    """A number of each run: the mean of its rows. number: "test", or a name in `also`."""
    found = {key: [{"test": row["p50"]} | split(row["also"]) for row in own.values()] for key, own in runs.items()}
    return {key: float(np.mean([float(cells[number]) for cells in rows])) for key, rows in found.items()}


def mean(runs: Runs, number: str) -> float:
    """Mean of `by_run`."""
    return float(np.mean(list(by_run(runs, number).values())))


def seeds(keys: Iterable[Key]) -> str:
    """The seeds of runs, in order."""
    return " ".join(map(str, sorted({int(seed) for _, seed in keys})))


def seeds_beside(name: str, runs: Iterable[Key], keys: Iterable[Key]) -> str:
    """A variant's name, with its seeds where it lacks runs that others have."""
    return name if set(runs) == set(keys) else f"{name} (seeds {seeds(runs)})"


def ranged(values: Sequence[float], sign: str = "") -> str:
    """The mean of values as a cell, with its interval where there are several; empty without any."""
    if len(values) < 2:
        return f"{values[0]:{sign}.3f}" if values else ""
    low, high = stats.t.interval(LEVEL, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
