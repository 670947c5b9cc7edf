"""Does the reference learn what rsdnet learns? Loss curves and F1 of both after as many steps, over several seeds.

Both are run by their own commands with one configuration, rsdnet/demo.toml, in float32, on one labelled database, and
probed by `rsdnet.probe`. They draw other numbers from the same distributions: weights, order, bands, crops and jitter.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from benches.core.peers import Absent, peer
from benches.core.rows import Results
from benches.training.setting import Setting
from rsdnet.errors import DataError

CONFIG = Path(__file__).parents[2] / "rsdnet" / "demo.toml"
PARTS = 5  # of the loss curve
COMMANDS = {"rsdnet": "rsdnet.train", "reference": "benches.reference.train"}
OURS, OTHER = COMMANDS
DEPTHS = ("stages", "last")  # of the features that are probed
Scores = dict[str, dict[str, list[float]]]
"""F1 by depth and program, a number a seed."""
# Student's t by seeds: two-sided 5 % for the loss, one-sided 5 % for F1, with 2 n - 2 degrees of freedom.
TWO_SIDED = {2: 4.30, 3: 2.78, 4: 2.45, 5: 2.31}
ONE_SIDED = {2: 2.92, 3: 2.13, 4: 1.94, 5: 1.86}


def learn(data: Path | None, seeds: Sequence[int], steps: int, threads: int, kept: Results) -> None:
    """Train, probe and compare. Raises DataError where a run fails or the number of seeds has no threshold."""
    if len(seeds) not in TWO_SIDED:
        raise DataError(f"--seeds: {len(seeds)} of them, give {min(TWO_SIDED)} to {max(TWO_SIDED)}")
    setting = demo_setting(threads)
    try:
        database = data or embedded()
        peer("lmdb")
    except Absent as why:
        kept.tell(setting.conditions(), "loss and F1 after equal steps", OTHER, None, note=f"absent: {why}")
        return
    losses: dict[str, list[list[float]]] = {name: [] for name in COMMANDS}
    scores: Scores = {depth: {name: [] for name in COMMANDS} for depth in DEPTHS}
    with TemporaryDirectory(prefix="rsdnet-bench-") as place:
        for seed in seeds:
            for name, module in COMMANDS.items():
                run = Path(place) / f"{name}-{seed}"
                train(module, run, database, seed, steps, threads)
                losses[name].append(curve(run))
                for depth, f1 in scores_of(run, database, threads).items():
                    scores[depth][name].append(f1)
    tell(kept, setting, losses, scores)


def embedded() -> Path:
    """The demo's database. Raises Absent without rasterio, which makes it."""
    peer("rasterio")
    from rsdnet.synthetic import demo

    return demo.prepare()


def demo_setting(threads: int) -> Setting:
    """demo.toml's, for the rows."""
    tables = tomllib.loads(CONFIG.read_text())
    model = tables["model"]
    return Setting(
        model["encoder"], model["width"], tables["views"]["size"], tables["optim"]["batch"], model["hidden"],
        model["dim"], "fp32", "demo", threads=threads,
    )  # fmt: skip


def train(module: str, run: Path, data: Path, seed: int, steps: int, threads: int) -> None:
    """One run. Raises DataError where its command fails."""
    argv: list[object] = ["--config", CONFIG, "--data", data, "--run", run, "--seed", seed, "--steps", steps]
    argv += ["--threads", threads, "--precision", "fp32", "--reader-threads", 1, "--log-every", 50]
    command = [sys.executable, "-m", module, *map(str, argv)]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise DataError(f"{' '.join(command)} failed")


def curve(run: Path) -> list[float]:
    """Mean loss of each part of a run; skipped steps, which have none, are left out."""
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    ends = [len(losses) * n // PARTS for n in range(PARTS + 1)]
    return [mean(losses[begin:end]) for begin, end in pairwise(ends)]


def scores_of(run: Path, data: Path, threads: int) -> dict[str, float]:
    """Macro F1 of a run's encoder by rsdnet's linear evaluation, the mean over single bands, by depth of features."""
    from rsdnet import probe

    torch.set_num_threads(threads or torch.get_num_threads())
    found = probe.probe(probe.Options(run, (data,)), Console(stderr=True)).result["results"]["all"]
    return {depth: found[depth]["mean_all"]["pre-trained"]["score"] for depth in DEPTHS}


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """(mean of the first - mean of the second) in standard errors of that difference: Welch's t."""
    error = ((stdev(first) ** 2 + stdev(second) ** 2) / len(first)) ** 0.5
    return (mean(first) - mean(second)) / max(error, 1e-12)


def tell(kept: Results, setting: Setting, losses: dict[str, list[list[float]]], scores: Scores) -> None:
    """A row for each part of the curve and each depth's F1; `met` says whether they agree within the seeds' noise."""
    seeds = len(losses[OURS])

    def row(what: str, apart: float, target: float, mine: Sequence[float], theirs: Sequence[float]) -> None:
        note = " against ".join(f"{mean(values):.4f} ± {stdev(values):.4f}" for values in (mine, theirs))
        kept.tell(setting.conditions(), what, OTHER, apart, "standard errors", target=f"<= {target}", note=note)

    for n in range(PARTS):
        mine, theirs = ([run[n] for run in losses[name]] for name in COMMANDS)
        what = f"loss, part {n + 1} of {PARTS}, {seeds} seeds: apart by"
        row(what, abs(welch(mine, theirs)), TWO_SIDED[seeds], mine, theirs)
    for depth, by_name in scores.items():
        mine, theirs = by_name[OURS], by_name[OTHER]
        what = f"F1 by {depth}, mean of the bands, {seeds} seeds: below by"
        row(what, welch(theirs, mine), ONE_SIDED[seeds], mine, theirs)
