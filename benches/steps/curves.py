"""Does the reference learn what rsdnet learns? Loss curves and F1 of both after as many steps, over several seeds.

Both are run by their own commands with one configuration, rsdnet/demo.toml, in float32, on one labelled database, and
probed as `rsdnet.probe` does. They draw other numbers from the same distributions: weights, order, bands, crops and
jitter.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from benches.peers import Absent, peer
from benches.reading.measure import single
from benches.steps.record import Book
from benches.steps.setting import Setting
from rsdnet.data.pools import pools_of
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate.features import Labelled

CONFIG = Path(__file__).parents[2] / "rsdnet" / "demo.toml"
PARTS = 5  # of the loss curve
COMMANDS = {"rsdnet": "rsdnet.train", "reference": "benches.reference.train"}
# Student's t by seeds: two-sided 5 % for the loss, one-sided 5 % for F1, with 2 n - 2 degrees of freedom.
TWO_SIDED = {2: 4.30, 3: 2.78, 4: 2.45, 5: 2.31}
ONE_SIDED = {2: 2.92, 3: 2.13, 4: 1.94, 5: 1.86}
ERRORS = "standard errors"


def learn(data: Path | None, seeds: Sequence[int], steps: int, threads: int, book: Book) -> None:
    """Train, probe and compare. Raises DataError where a run fails or the number of seeds has no threshold."""
    if len(seeds) not in TWO_SIDED:
        raise DataError(f"--seeds: {len(seeds)} of them, give {min(TWO_SIDED)} to {max(TWO_SIDED)}")
    setting = setting_of(threads)
    try:
        database = data or embedded()
        peer("lmdb")
    except Absent as why:
        book.tell(setting, "loss and F1 after equal steps", "reference", None, note=f"absent: {why}")
        return
    losses: dict[str, list[list[float]]] = {name: [] for name in COMMANDS}
    scores: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with TemporaryDirectory(prefix="rsdnet-bench-") as place:
        for seed in seeds:
            runs = {name: Path(place) / f"{name}-{seed}" for name in COMMANDS}
            for name, run in runs.items():
                train(COMMANDS[name], run, database, seed, steps, threads)
                losses[name].append(curve(run))
            for name, score in scored(runs, database, threads).items():
                scores[name].append(score)
    tell(book, setting, losses, scores)


def embedded() -> Path:
    """The demo's database. Raises Absent without rasterio, which makes it."""
    peer("rasterio")
    from rsdnet.synthetic import demo

    return demo.prepare()


def setting_of(threads: int) -> Setting:
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
    """Mean loss of each part of a run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    return [mean(part) for part in split([loss for loss in losses if loss is not None], PARTS)]


def split(values: Sequence[float], parts: int) -> list[Sequence[float]]:
    """Consecutive parts of almost equal length."""
    ends = [len(values) * n // parts for n in range(parts + 1)]
    return [values[begin:end] for begin, end in pairwise(ends)]


def scored(runs: dict[str, Path], data: Path, threads: int) -> dict[str, float]:
    """Macro F1 of each run's encoder by rsdnet's linear evaluation, the mean over single bands."""
    with suppress(Absent):
        peer("torchvision")  # torchmetrics imports it where it is installed, and can only if it was imported so
    from rsdnet.probe import contenders, evaluate, load_encoder

    torch.set_num_threads(threads or torch.get_num_threads())
    encoders = {}
    for name, run in runs.items():
        encoder, cfg, _ = load_encoder(run)
        encoders[name] = contenders(encoder, cfg, ALONE.device)["pre-trained"]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for modality in cfg.views.modality.split("+"):
        labelled = Labelled(cfg, (data,), modality, ALONE)
        labelled.require("train", "test")
        bands = [(name,) for name in pools_of(cfg.views)[modality]]
        rows |= evaluate(labelled, bands, encoders, 0, Console(stderr=True))
    return {name: mean(row[name]["f1"] for row in rows.values()) for name in runs}


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """(mean of the first - mean of the second) in standard errors of that difference: Welch's t."""
    error = ((stdev(first) ** 2 + stdev(second) ** 2) / len(first)) ** 0.5
    return (mean(first) - mean(second)) / max(error, 1e-12)


def tell(book: Book, setting: Setting, losses: dict[str, list[list[float]]], scores: dict[str, list[float]]) -> None:
    """A row for each part of the curve, and one for F1; `met` says whether they agree within the seeds' noise."""
    ours, other = COMMANDS
    seeds = len(scores[ours])
    for part in range(PARTS):
        mine, theirs = ([run[part] for run in losses[name]] for name in COMMANDS)
        what = f"loss, part {part + 1} of {PARTS}, {seeds} seeds: apart by"
        target = f"<= {TWO_SIDED[seeds]}"
        book.tell(
            setting, what, other, single(abs(apart(mine, theirs))), unit=ERRORS, target=target, note=both(mine, theirs)
        )
    mine, theirs = scores[ours], scores[other]
    what, target = f"F1, mean of the bands, {seeds} seeds: below by", f"<= {ONE_SIDED[seeds]}"
    book.tell(setting, what, other, single(apart(theirs, mine)), unit=ERRORS, target=target, note=both(mine, theirs))


def both(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean and deviation over the seeds of each."""
    told = [f"{mean(values):.4f} ± {stdev(values):.4f}" for values in (mine, theirs)]
    return f"{told[0]} against {told[1]}"
