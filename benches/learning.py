"""Does pre-training learn? `python -m benches.learning --seeds 0 1 2`: F1 over several seeds, beside random weights.

Trains and probes the demo once a seed, by the very commands a user types, and appends a row a band and contender to
benches/results/learning.csv. The printed table is made from the rows of this run alone.
"""

import dataclasses
import datetime
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benches import rows
from benches.core.provenance import commit, machine
from benches.report import Row, cell, per_seed
from rsdnet.errors import DataError, command

RESULTS = Path(__file__).parent / "results" / "learning.csv"
SETTING = ("date", "commit", "torch", "machine", "settings", "data", "probe", "steps", "seed")
COLUMNS = (*SETTING, "band", "contender", "f1", "accuracy")


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and probe the demo over several seeds."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""
    steps: int = 0
    """Length of a run; 0: that of rsdnet/demo.toml."""
    data: Path | None = None
    """Labelled database to train on; None: the embedded synthetic data."""
    split: str = "train"
    """Split of it to train on; "all" where another database is probed."""
    probe: Path | None = None
    """Labelled database to probe on; None: the one trained on."""
    runs: Path = Path("runs/learning")
    """Folder for the runs."""
    threads: int = 0
    """CPU threads of a run; 0: torch's choice."""


def settings_of(config: Path) -> str:
    """Eight digits that name what a run learned with: its views, networks and optimizer, but not its length."""
    tables = tomllib.loads(config.read_text())
    tables["optim"].pop("steps", None)
    told = json.dumps([tables[name] for name in ("views", "model", "optim")], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def call(module: str, *argv: object) -> None:
    """Run a command of rsdnet; raises DataError where it fails."""
    words = [sys.executable, "-m", f"rsdnet.{module}", *map(str, argv)]
    if subprocess.run(words, check=False).returncode:
        raise DataError(f"{' '.join(words)} failed")


def measure(options: Options, seed: int) -> list[Row]:
    """Rows of one seed: pre-training and probe."""
    run = options.runs / f"steps{options.steps}-seed{seed}"
    argv = ["--run", run, "--resume", "--seed", seed, "--threads", options.threads, "--log-every", 100]
    if options.data:
        config = Path(__file__).parents[1] / "rsdnet" / "demo.toml"
        argv += ["--config", config, "--data", options.data, "--split", options.split]
    if options.steps:
        argv += ["--steps", options.steps]
    call("train", *argv)
    call("probe", run, *(("--data", options.probe) if options.probe else ()))
    result = json.loads((run / "probe.json").read_text())
    steps = 1 + json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    data, probed = options.data or "demo", " ".join(result["data"])
    today = datetime.date.today().isoformat()
    settings = settings_of(run / "config.toml")
    values = (today, commit(), torch.__version__, machine(), settings, data, probed, steps, seed)
    shared = dict(zip(SETTING, map(str, values), strict=True))
    return [
        shared | {"band": band, "contender": label} | {name: str(round(score[name], 4)) for name in ("f1", "accuracy")}
        for band, row in result["bands"].items()
        for label, score in row.items()
    ]


def show(rows: list[Row], console: Console) -> None:
    """Print mean and standard deviation over the seeds, a row a band, and the mean over the bands."""
    labels = list(dict.fromkeys(row["contender"] for row in rows))
    seeds = {row["seed"] for row in rows}
    table = Table(title=f"macro F1 on the test split, mean and deviation over {len(seeds)} seeds")
    table.add_column("band")
    for label in labels:
        table.add_column(label, justify="right")
    names = list(dict.fromkeys(row["band"] for row in rows))
    for name, bands in [*((n, [n]) for n in names), ("mean of bands", [n for n in names if "+" not in n])]:
        if name == "mean of bands":
            table.add_section()
        table.add_row(name, *[cell(per_seed(rows, label, bands)) for label in labels])
    console.print(table)


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m benches.learning", description=__doc__)
    measured: list[Row] = []
    for seed in options.seeds:
        own = measure(options, seed)
        rows.append(RESULTS, COLUMNS, own)
        measured += own
    show(measured, Console())


if __name__ == "__main__":
    command(main)
