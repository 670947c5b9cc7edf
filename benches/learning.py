"""Does pre-training learn? `python -m benches.learning --seeds 0 1 2`: F1 over several seeds, beside random weights.

Trains and probes the demo once a seed, by the very commands a user types, and appends a row a depth, band and contender
to benches/results/learning.csv. The printed table is made from the rows of this run alone.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benches.core.rows import RESULTS, Results, Row, split
from benches.report import seed_scores, spread
from rsdnet.errors import DataError, command
from rsdnet.options import Count, Seed, Workers, parse

CONFIG = Path(__file__).parents[1] / "rsdnet" / "demo.toml"
DEPTHS = ("stages", "last")  # of the features that are probed


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and probe the demo over several seeds."""

    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""
    steps: Count = 0
    """Length of a run; 0: that of rsdnet/demo.toml."""
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


def measure(options: Options, seed: int, kept: Results) -> None:
    """Pre-training and probe of one seed, and their rows."""
    run = options.runs / f"steps{options.steps}-seed{seed}"
    argv = ["--run", run, "--resume", "--seed", seed, "--threads", options.threads, "--log-every", 100]
    if options.data:
        argv += ["--config", CONFIG, "--data", options.data, "--split", options.split]
    if options.steps:
        argv += ["--steps", options.steps]
    call("train", *argv)
    call("probe", run, *(("--data", options.probe) if options.probe else ()))
    result = json.loads((run / "probe.json").read_text())
    steps = 1 + json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    setting: dict[str, object] = {"settings": settings_of(run / "config.toml"), "data": options.data or "demo"}
    setting |= {"probe": " ".join(result["data"]), "steps": steps, "seed": seed}
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


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.learning", description=__doc__)
    kept = Results("learning", RESULTS, lambda *told: None)
    for seed in options.seeds:
        measure(options, seed, kept)
    for depth in DEPTHS:
        Console().print(table(kept.rows, depth))


if __name__ == "__main__":
    command(main)
