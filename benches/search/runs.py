"""The runs of a comparison: their folders, their commands, and which of them are finished."""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benches.search.options import Options
from rsdnet import config, probefile, runfolder
from rsdnet.config import Config
from rsdnet.errors import DataError
from rsdnet.evaluate.outcomes import replicates_path
from rsdnet.runfolder import probe_path
from rsdnet.synthetic import demo

REPO = Path(__file__).parents[2]
DEMO = REPO / "rsdnet" / "demo.toml"
EVALUATION = {"labels": ["all"], "features": "stages", "seed": 0, "size": 0, "statistics": "database"}  # by default


class Variant(NamedTuple):
    """files: of settings, of which the last one's value counts. config: what they make."""

    name: str
    files: tuple[Path, ...]
    config: Config


class Run(NamedTuple):
    """A training and its evaluations. data: the database that it is trained on."""

    variant: str
    seed: int
    folder: Path
    data: Path
    files: tuple[Path, ...]
    config: Config


def recipe(name: str, base: Sequence[Path]) -> Variant:
    """The variant of a recipe, or of several joined by +. Raises DataError on a name without a file."""
    files = [REPO / "recipes" / f"{part}.toml" for part in name.split("+")]
    for path in files:
        if not path.is_file():
            raise DataError(f"--recipe {name}: there is no {path}")
    return Variant(name, (*files, *base), config.read(*files, *base))


def databases(options: Options) -> Iterator[tuple[str, Path]]:
    """Name and folder of each database to train on; the embedded ones are made where they are not there."""
    if options.data:
        path = options.data.absolute()
        yield path.parent.name if path.name == "db" else path.name, options.data
    elif not options.worlds:
        yield "demo", demo.prepare()
    for world in options.worlds:
        yield f"world{world}-places{options.places}", demo.prepare(world, options.places)


def planned(options: Options, variants: Sequence[Variant]) -> Iterator[Run]:
    """All runs: RUNS/VARIANT/DATA-seedS. Every variant has the same seeds and databases, in the same order."""
    length = f"-steps{options.steps}" if options.steps else ""
    for seed, (name, data), variant in itertools.product(options.seeds, databases(options), variants):  # in turn
        folder = options.runs / variant.name.replace(" ", "-") / f"{name}{length}-seed{seed}"
        yield Run(variant.name, seed, folder, data, variant.files, asked(options, variant.config, seed))


def asked(options: Options, cfg: Config, seed: int) -> Config:
    """The configuration of a run, as its command line makes it."""
    tables = config.to_tables(cfg)
    tables["data"] |= {"split": options.split}
    tables["run"] |= {"seed": seed}
    tables["optim"] |= {"steps": options.steps} if options.steps else {}
    return config.from_tables(tables, "command line")


def database_of(run: Run) -> str:
    """Name of the database that a run is trained on, and the run's length where the command tells one."""
    return run.folder.name.rpartition("-seed")[0]


def commands(options: Options, run: Run) -> list[list[str]]:
    """The command that trains a run, or goes on with it, and those that evaluate it."""
    argv: list[object] = ["--run", run.folder, "--resume", "--seed", run.seed, "--threads", options.threads]
    argv += ["--log-every", 100, "--config", *run.files, "--data", run.data, "--split", options.split]
    found = [["train", *argv, *(["--steps", options.steps] if options.steps else [])]]
    for task in options.tasks:
        argv = [run.folder, "--data", options.probe or run.data]
        argv += ["--bands", *options.bands] if options.bands else []
        argv += ["--task", task] if task else []
        argv += ["--pixels", options.pixels] if task and options.pixels else []
        found.append(["probe", *argv])
    return [[sys.executable, "-m", f"rsdnet.{name}", *map(str, argv)] for name, *argv in found]


def finished(options: Options, run: Run) -> bool:
    """Whether a run has ended, and its evaluations too, with these options; if in doubt, its commands know."""
    folder, encoder = run.folder, run.folder / runfolder.ENCODER
    try:
        saved = config.read_run(folder / runfolder.CONFIG)
        other = config.differences(saved, config.continued(run.config, saved))
        trained = encoder.stat().st_mtime
        return not other and all(evaluated(options, run, task, trained) for task in options.tasks)
    except (DataError, OSError):
        return False


def evaluated(options: Options, run: Run, task: str, since: float) -> bool:
    """Whether the evaluation of a task is there, of these options, and not older than `since`."""
    path = probe_path(run.folder, task)
    result = probefile.read(path)[1]
    told = EVALUATION | {"rows": list(options.bands)} | ({"pixels": options.pixels} if task and options.pixels else {})
    same = {key: result.get(key) for key in told} == told
    data = [Path(each).absolute() for each in result["data"]] == [(options.probe or run.data).absolute()]
    return same and data and replicates_path(path).is_file() and path.stat().st_mtime >= since


def result_of(run: Run, task: str = "") -> dict[str, Any]:
    """The content of a run's evaluation."""
    result: dict[str, Any] = json.loads(probe_path(run.folder, task).read_text())
    return result


def last_metrics(run: Run) -> dict[str, Any]:
    """The metrics at the end of a run."""
    found: dict[str, Any] = json.loads((run.folder / runfolder.METRICS).read_text().splitlines()[-1])
    return found


def steps_of(run: Run) -> int:
    """Length of a run."""
    return 1 + int(last_metrics(run)["step"])
