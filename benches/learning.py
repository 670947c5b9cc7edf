"""Does pre-training learn, and with which settings? `python -m benches.learning --seeds 0 1 2`.

Trains and probes the demo once a seed, by the very commands a user types, and appends a row a depth, band and contender
to benches/results/learning.csv. The printed table is made from the rows of this run alone.

    python -m benches.learning --recipe single three-random ms simsiam --seeds 0 1 2 --worlds 0 7 --segmentation

compares recipes, each trained and probed with every seed in every world: benches/ablations.py. A command of 24 short
runs is in benches/ablations.toml.

    python -m benches.learning --grid FILE.toml --seeds 0 1 2 --threads 1

ranks the settings of a file by their scores on the validation split: docs/evaluation.md.

Runs stand in RUNS/NAME/DATA-seedS with their logs, --jobs of them run at a time, and a call goes on where another one
stopped.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benches import ablations
from benches.core.rows import Results, Row, split
from benches.report import seed_scores, spread
from benches.search import grid, ranking
from benches.search.options import Options
from benches.search.runs import DEMO, Run, Variant, database_of, planned, recipe, result_of, steps_of
from benches.search.work import work
from rsdnet import config, runfolder
from rsdnet.errors import INTERRUPTED, command
from rsdnet.options import parse
from rsdnet.runfolder import probe_path

DEPTHS = ("stages", "last")  # of the features that are probed
Shown = Iterable[tuple[str, Sequence[str], Iterable[Sequence[str]]]]
"""Tables: title, head and lines."""


def settings_of(path: Path) -> str:
    """Eight digits that name a run's hyper-parameters: views, networks and optimizer, but not its length."""
    tables = tomllib.loads(path.read_text())
    for name in ("steps", "chosen"):
        tables["optim"].pop(name, None)
    told = json.dumps([tables[name] for name in ("views", "model", "optim")], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def rows_of(name: str, folder: Path | None) -> Results:
    """Rows that go to NAME.csv in `folder`; None: nowhere."""
    return Results(name, folder, lambda *told: None)


# ---- the demo -------------------------------------------------------------------------------------------------------


def measured(options: Options, runs: Sequence[Run]) -> Shown:
    """Rows of the demo's runs, and their tables."""
    kept = rows_of("learning", options.rows)
    for run in runs:
        result = result_of(run)
        setting: dict[str, object] = {"settings": settings_of(run.folder / runfolder.CONFIG)}
        setting |= {"data": options.data or "demo", "probe": " ".join(result["data"])}
        setting |= {"steps": steps_of(run), "seed": run.seed}
        for depth in DEPTHS:
            for band, row in result["results"]["all"][depth]["bands"].items():
                for label, score in row.items():
                    also = {"accuracy": f"{score['accuracy']:.4g}"}
                    told = setting | {"depth": depth}
                    kept.tell(told, band, label, score["score"], result["metric"], also=also, digits=4)
    return [table(kept.rows, depth) for depth in DEPTHS]


def table(rows: Sequence[Row], depth: str) -> tuple[str, Sequence[str], Iterable[Sequence[str]]]:
    """Mean and standard deviation over the seeds at one depth, a row a band, and the mean over the bands."""
    rows = [row for row in rows if split(row["setting"])["depth"] == depth]
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [[title.strip("*"), *map(spread, scores)] for title, scores in seed_scores(rows, contenders)]
    title = f"macro F1 on the test split by {depth}, mean and deviation over the seeds"
    return title, ["band", *contenders], lines


# ---- recipes and grids ----------------------------------------------------------------------------------------------


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each variant, in order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def setting_of(options: Options, base: Sequence[Path], runs: Sequence[Run]) -> dict[str, str]:
    """Conditions of a comparison. runs: of a variant."""
    optim = runs[0].config.optim
    return {
        "data": " ".join(dict.fromkeys(map(database_of, runs))), "seeds": " ".join(map(str, options.seeds)),
        "base": " ".join(path.name for path in base), "steps": str(optim.steps or f"{optim.epochs:g} epochs"),
    }  # fmt: skip


def compared(options: Options, runs: Sequence[Run]) -> Shown:
    """Rows of recipes, and their tables."""
    kept = rows_of("ablations", options.rows)
    of = by_variant(runs)
    setting = setting_of(options, options.base or (DEMO,), of[options.recipe[0]])
    for task in options.tasks:
        results = {name: [result_of(run, task) for run in own] for name, own in of.items()}
        paths = {name: [probe_path(run.folder, task) for run in own] for name, own in of.items()}
        of_recipes = {name: ablations.found(paths[name], results[name]) for name in of}
        ablations.tell(setting, results[options.recipe[0]][0]["metric"], of_recipes, kept)
    return ablations.tables(kept.rows)


def ranked(options: Options, searched: grid.Grid, runs: Sequence[Run], left: Mapping[Path, str]) -> Shown:
    """Rows of a grid, and its table. left: folders of runs that have not ended; while one is in work elsewhere, no row
    is written."""
    elsewhere = sum(reason != "failed" for reason in left.values())
    kept = rows_of("grids", None if elsewhere else options.rows)
    setting = {"grid": searched.name} | setting_of(options, searched.base, next(iter(by_variant(runs).values())))
    del setting["seeds"]  # a row is of one
    for run in runs:
        ranking.tell(setting, run, kept, left.get(run.folder, ""))
    return ranking.tables(kept.rows)


# ---- the command ----------------------------------------------------------------------------------------------------


def variants_of(options: Options, searched: grid.Grid | None) -> list[Variant]:
    """The settings to compare."""
    base = options.base or (DEMO,)
    if searched:
        return searched.variants(options.runs)
    return [recipe(name, base) for name in options.recipe] or [Variant("demo", base, config.read(*base))]


def main() -> int:
    """The command."""
    options = parse(Options, prog="python -m benches.learning", description=__doc__)
    options.require_fitting()
    part, parts = options.part
    searched = grid.read(options.grid) if options.grid else None
    runs = list(planned(options, variants_of(options, searched)))
    errors, console = Console(stderr=True), Console(markup=False)
    try:
        left = work(options, runs[part - 1 :: parts], errors)
    except KeyboardInterrupt:
        errors.print(f"stopped; the same command goes on in {options.runs}", soft_wrap=True)
        return INTERRUPTED
    shown: Shown = ()
    if parts == 1 and searched:
        shown = ranked(options, searched, runs, left)
    elif parts == 1 and not left:
        shown = (compared if options.recipe else measured)(options, runs)
    for title, head, lines in shown:
        to = Table(*head, title=title)
        for line in lines:
            to.add_row(*line)
        console.print(to)
    failed = sum(reason == "failed" for reason in left.values())
    told = {"failed": failed, "in progress elsewhere": len(left) - failed}
    for reason, count in told.items():
        if count:
            errors.print(f"{reason}: {count} of {len(runs[part - 1 :: parts])} runs; the same command goes on")
    return 2 if failed else 0


if __name__ == "__main__":
    command(main)
