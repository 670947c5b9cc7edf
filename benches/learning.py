"""Does pre-training learn? `python -m benches.learning --seeds 0 1 2`: F1 over several seeds, beside random weights.

Trains and probes the demo once a seed, by the very commands a user types, and appends a row a depth, band and contender
to benches/results/learning.csv. The printed table is made from the rows of this run alone.

    python -m benches.learning --recipe single three-random ms simsiam --seeds 0 1 2 --worlds 0 7 --segmentation

compares recipes, each trained and probed with every seed in every world: benches/ablations.py. Called again it goes on.
A command of 24 short runs is in benches/ablations.toml.
"""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

from benches import ablations
from benches.core.rows import RESULTS, Results, Row, split
from benches.report import seed_scores, spread
from rsdnet.errors import DataError, command
from rsdnet.options import Count, Seed, Workers, parse
from rsdnet.runfolder import probe_path
from rsdnet.synthetic import demo

REPO = Path(__file__).parents[1]
DEMO = REPO / "rsdnet" / "demo.toml"
DEPTHS = ("stages", "last")  # of the features that are probed


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and probe the demo, or recipes, over several seeds."""

    recipe: tuple[str, ...] = ()
    """Recipes to compare: names of recipes/NAME.toml, several joined by + as one; none: the demo alone."""
    base: tuple[Path, ...] = (DEMO,)
    """Settings that all runs share, over those of the recipe: size and length."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""
    worlds: tuple[Seed, ...] = ()
    """Worlds of the embedded synthetic data, made where they are not there, to compare recipes on; none: --data."""
    places: Annotated[int, Field(ge=1, le=10**6)] = demo.PLACES
    """Places of a world, of 16 patches each."""
    segmentation: bool = False
    """Compare recipes by segmentation, too."""
    bands: tuple[str, ...] = ()
    """Rows of the evaluations, as of rsdnet.probe; none: all."""
    pixels: Count = 0
    """Pixels of segmentation's training, as of rsdnet.probe; 0: its default."""
    steps: Count = 0
    """Length of a run; 0: that of --base."""
    data: Path | None = None
    """Labelled database to train on; None: the embedded synthetic data."""
    split: str = "train"
    """Split of it to train on; "all" where another database is probed."""
    probe: Path | None = None
    """Labelled database to probe on; None: the one trained on."""
    runs: Path = Path("runs/learning")
    """Folder for the runs."""
    threads: Workers = 0
    """CPU threads of a run; 0: torch's choice."""
    rows: Path = RESULTS
    """Folder of the results, to which rows are appended."""


def settings_of(config: Path) -> str:
    """Eight digits that name a run's hyper-parameters: views, networks and optimizer, but not its length."""
    tables = tomllib.loads(config.read_text())
    tables["optim"].pop("steps", None)
    told = json.dumps([tables[name] for name in ("views", "model", "optim")], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def call(module: str, *argv: object) -> None:
    """Run a command of rsdnet; raises DataError where it fails."""
    words = [sys.executable, "-m", f"rsdnet.{module}", *map(str, argv)]
    if subprocess.run(words, check=False).returncode:
        raise DataError(f"{' '.join(words)} failed")


def train(options: Options, run: Path, seed: int, data: Path | None, recipe: Sequence[Path] = ()) -> None:
    """Pre-train into the folder `run`, or go on there."""
    argv = ["--run", run, "--resume", "--seed", seed, "--threads", options.threads, "--log-every", 100]
    if data:
        argv += ["--config", *recipe, *options.base, "--data", data, "--split", options.split]
    if options.steps:
        argv += ["--steps", options.steps]
    call("train", *argv)


def probed(options: Options, run: Path, task: str = "") -> dict[str, Any]:
    """The result of a run's evaluation."""
    argv: list[object] = ["--data", options.probe] if options.probe else []
    argv += ["--bands", *options.bands] if options.bands else []
    if task:
        argv += ["--task", task]
        argv += ["--pixels", options.pixels] if options.pixels else []
    call("probe", run, *argv)
    result: dict[str, Any] = json.loads(probe_path(run, task).read_text())
    return result


def steps_of(run: Path) -> int:
    """Length of a run."""
    return 1 + int(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"])


# ---- the demo -------------------------------------------------------------------------------------------------------


def measure(options: Options, seed: int, kept: Results) -> None:
    """Pre-training and probe of one seed, and their rows."""
    run = options.runs / f"steps{options.steps}-seed{seed}"
    train(options, run, seed, options.data)
    result = probed(options, run)
    setting: dict[str, object] = {"settings": settings_of(run / "config.toml"), "data": options.data or "demo"}
    setting |= {"probe": " ".join(result["data"]), "steps": steps_of(run), "seed": seed}
    for depth in DEPTHS:
        for band, row in result["results"]["all"][depth]["bands"].items():
            for label, score in row.items():
                also = {"accuracy": f"{score['accuracy']:.4g}"}
                told = setting | {"depth": depth}
                kept.tell(told, band, label, score["score"], result["metric"], also=also, digits=4)


def table(rows: Sequence[Row], depth: str) -> Table:
    """Mean and standard deviation over the seeds at one depth, a row a band, and the mean over the bands."""
    rows = [row for row in rows if split(row["setting"])["depth"] == depth]
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    title = f"macro F1 on the test split by {depth}, mean and deviation over the seeds"
    shown = Table("band", *contenders, title=title)
    for title, scores in seed_scores(rows, contenders):
        shown.add_row(title.strip("*"), *map(spread, scores))
    return shown


# ---- recipes --------------------------------------------------------------------------------------------------------


def files_of(recipe: str) -> list[Path]:
    """The files of a recipe. Raises DataError on a name without one."""
    files = [REPO / "recipes" / f"{name}.toml" for name in recipe.split("+")]
    for path in files:
        if not path.is_file():
            raise DataError(f"--recipe {recipe}: there is no {path}")
    return files


def databases(options: Options) -> Iterator[tuple[str, Path]]:
    """Name and folder of each database to compare on. Raises DataError where both kinds are named."""
    if options.worlds and options.data:
        raise DataError("--worlds are embedded data: leave out --data, or --worlds")
    if options.data:
        yield options.data.name, options.data
    for world in () if options.data else options.worlds or (demo.SEED,):
        yield f"world{world}-places{options.places}", demo.prepare(world, options.places)


def compare(options: Options, kept: Results) -> None:
    """Pre-training and probes of every recipe, seed and database, and their rows."""
    files = {recipe: files_of(recipe) for recipe in options.recipe}
    named = dict(databases(options))
    tasks = ["", *["segmentation"] * options.segmentation]
    runs: dict[str, list[Path]] = {recipe: [] for recipe in files}
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed, (name, data), recipe in itertools.product(options.seeds, named.items(), files):  # in turn
        run = options.runs / f"{recipe}-{name}-steps{options.steps}-seed{seed}"
        runs[recipe].append(run)
        train(options, run, seed, data, files[recipe])
        for task in tasks:
            results.setdefault((task, recipe), []).append(probed(options, run, task))
    setting = {"data": " ".join(named), "seeds": " ".join(map(str, options.seeds))}
    setting |= {
        "base": " ".join(path.name for path in options.base),
        "steps": str(steps_of(runs[options.recipe[0]][0])),
    }
    for task in tasks:
        of_recipes = {
            recipe: ablations.found([probe_path(run, task) for run in runs[recipe]], results[task, recipe])
            for recipe in files
        }
        ablations.tell(setting, results[task, options.recipe[0]][0]["metric"], of_recipes, kept)


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.learning", description=__doc__)
    console = Console()
    if options.recipe:
        kept = Results("ablations", options.rows, lambda *told: None)
        compare(options, kept)
        for title, head, lines in ablations.tables(kept.rows):
            shown = Table(*head, title=title)
            for line in lines:
                shown.add_row(*line)
            console.print(shown)
        return
    if options.worlds or options.segmentation:
        raise DataError("--worlds and --segmentation compare recipes: name them with --recipe")
    kept = Results("learning", options.rows, lambda *told: None)
    for seed in options.seeds:
        measure(options, seed, kept)
    for depth in DEPTHS:
        console.print(table(kept.rows, depth))


if __name__ == "__main__":
    command(main)
