"""Linear evaluation: `python -m rsdnet.probe RUN --data DB`. A classifier on frozen features, band by band.

For every band one linear classifier (multinomial logistic regression) on the features of whole patches, as the paper
evaluates (arXiv 2205.02049): macro F1 and accuracy on the test split. Beside it, under the same protocol: the weights
that the encoder started from, and statistics of the raw band.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py says

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from rsdnet import bands
from rsdnet.distributed import ALONE, Ranks, open_ranks
from rsdnet.errors import command
from rsdnet.evaluate import linear
from rsdnet.evaluate.contenders import contenders, load_encoder
from rsdnet.evaluate.features import BATCH, Labelled, bands_of, labelled_modalities
from rsdnet.files import aside
from rsdnet.options import Seed, checked, parse, require_values
from rsdnet.runfolder import PROBE

CHART = "probe.png"
REPLICATES = "probe.safetensors"
PROTOCOL = 3  # of the evaluation: 3 has stages, intervals and every band; 2 drew from every class; 1 has no number
DEPTHS = ("stages", "last")  # always evaluated
# The three-channel rows: true colour; both polarisations with the first once more.
TRIPLES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's frozen encoder by a linear classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4])$")] = "stages"
    """Features that the table shows: the encoder's output (last), the spatial means of its four stages side by side
    (stages), or of one (layer1 to layer4). Both last and stages are always evaluated."""
    statistics: Literal["database", "run"] = "database"
    """Mean and standard deviation a band: of the database that is probed, or those that the run was trained with. A
    run with published statistics keeps them either way."""
    labels: Annotated[str, Field(pattern=r"^(all|[0-9]+(\.[0-9]+)?%|[0-9]+)$")] = "all"
    """Training samples whose labels are used: all, a share such as 1%%, or a number; drawn by --seed, of each class its
    share and one at least. The val split, which chooses the penalty, stays whole."""
    seed: Seed = 0
    """Seed of the draw of --labels."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = BATCH
    """Samples encoded at once."""
    size: Annotated[int, Field(ge=0, le=4096)] = 0
    """Pixels a side of the patches as the encoder sees them; 0: scaled as the mean crop of training."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to encode and to fit; auto: the GPU where there is one, under torchrun one for each process."""
    force: bool = False
    """Evaluate again even if the run holds the same evaluation already."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """result: JSON-able, see `probe`. replicates: (R,) float32 of the bootstrap, by "depth/bands/contender"."""

    result: dict[str, Any]
    replicates: dict[str, np.ndarray]


def probe(options: Options, console: Console, ranks: Ranks = ALONE) -> Evaluation:
    """The evaluation: its "results" {depth: {"bands": {name: {contender: Score}}, "mean_ms", "mean_sar", "mean_all",
    "mean_val": {contender: mean F1 of single bands}}}.

    On every rank the same: each encodes its share of the samples and fits its share of the classifiers.
    Raises DataError on an option out of its range, and on samples that cannot judge an encoder.
    """
    with ranks.together():
        checked(options)
        trained = load_encoder(options.run)
        cfg, databases = trained.cfg, options.data or trained.cfg.data.data
        modalities = labelled_modalities(databases)
    for line in trained.damaged:
        console.print(f"{line}; an earlier one is evaluated", style="yellow", soft_wrap=True)
    depths = tuple(dict.fromkeys((options.features, *DEPTHS)))
    opened: dict[str, tuple[Labelled, Tensor]] = {}
    with ranks.together():
        for modality in modalities:
            labelled = Labelled(
                cfg, databases, modality, ranks, pool=bands_of(databases, modality), size=options.size,
                trained=trained.inputs, statistics=options.statistics, batch=options.batch,
            )  # fmt: skip
            check(labelled, console)
            every = len(labelled.part("train"))
            opened[modality] = labelled, labelled.drawn("train", number_of(options.labels, every), options.seed)
        identity = {
            "protocol": PROTOCOL, "encoder": digest(trained.tensors), "labels": options.labels, "seed": options.seed,
            "features": options.features, "samples": {name: own.identity() for name, (own, _) in opened.items()},
        }  # fmt: skip
    if found := ranks.collect(saved(options, identity))[0]:
        console.print(f"{options.run / PROBE} holds this evaluation already (--force to repeat it)")
        return found
    with ranks.together():
        compared = contenders(trained.encoder, cfg, ranks.device, depths)
    outcomes: linear.Outcomes = {depth: {} for depth in depths}
    for modality in modalities:
        labelled, train = opened.pop(modality)  # the views that it keeps go before the next one's
        views = [(name,) for name in labelled.bands]
        views += [TRIPLES[modality]] * (set(TRIPLES[modality]) <= set(labelled.bands))
        for depth, rows in linear.evaluate(labelled, views, compared, train, depths, console).items():
            outcomes[depth] |= rows
    named = {"run": str(options.run), "data": [str(path) for path in databases]}
    results = {
        depth: {**means(rows), "bands": {
            name: {label: dataclasses.asdict(found.score) for label, found in row.items()} for name, row in rows.items()
        }}
        for depth, rows in outcomes.items()
    }  # fmt: skip
    replicates = {
        f"{depth}/{name}/{label}": found.replicates.astype(np.float32)
        for depth, rows in outcomes.items() for name, row in rows.items() for label, found in row.items()
    }  # fmt: skip
    return Evaluation({**identity, **named, "results": results}, replicates)


def number_of(labels: str, samples: int) -> int:
    """Of `samples`, the number that `--labels` asks for; 0: all."""
    if labels == "all":
        return 0
    return max(round(float(labels[:-1]) / 100 * samples), 1) if labels.endswith("%") else int(labels)


def means(rows: dict[str, dict[str, linear.Outcome]]) -> dict[str, dict[str, float]]:
    """Means over the rows of single bands, by contender: of F1 of each sensor and of all, and of validation F1."""
    single = {name: row for name, row in rows.items() if "+" not in name}
    kinds = {f"mean_{sensor}": [n for n in single if bands.BANDS[n].modality == sensor] for sensor in ("ms", "sar")}
    kinds |= {"mean_all": list(single), "mean_val": list(single)}
    found = {}
    for kind, names in kinds.items():
        if names:
            field = "val_f1" if kind == "mean_val" else "f1"
            labels = single[names[0]]
            found[kind] = {
                label: float(np.mean([getattr(single[name][label].score, field) for name in names])) for label in labels
            }
    return found


def saved(options: Options, identity: dict[str, Any]) -> Evaluation | None:
    """The evaluation that the run holds already, where it is of `identity` and need not be repeated."""
    path = options.run / PROBE
    if options.force or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        kept = load_file(options.run / REPLICATES)
    except (ValueError, OSError, SafetensorError):  # damaged: it will be written anew
        return None
    same = isinstance(found, dict) and {key: found.get(key) for key in identity} == identity
    return Evaluation(found, kept) if same else None


def check(labelled: Labelled, console: Console) -> None:
    """Warn of samples left out, labels without names and classes unseen in training.

    Raises DataError on an empty train or test split.
    """
    if doubt := labelled.samples.databases.doubt:
        console.print(doubt, style="yellow")
    if report := labelled.samples.report():
        console.print(report, style="yellow")
    labelled.require("train", "test")
    if unseen := labelled.unseen():
        console.print(f"the train split has no sample of {', '.join(unseen)}, which the test split has", style="yellow")


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table of F1 and its interval per band."""
    shown = result["results"][result["features"]]
    labels = list(shown["mean_all"])
    table = Table("band", title=f"Linear evaluation of {result['features']}: macro F1 on the test split, 95 % interval")
    for label in labels:
        table.add_column(label, justify="right")
    for name, row in shown["bands"].items():
        best = max(row[label]["f1"] for label in labels)
        cells = ["{f1:.3f} ({interval[0]:.3f}-{interval[1]:.3f})".format(**row[label]) for label in labels]
        styles = ["bold" if row[label]["f1"] == best else "" for label in labels]
        table.add_row(name, *map(Text, cells, styles))
    table.add_section()
    for depth, found in result["results"].items():
        for kind in ("mean_ms", "mean_sar", "mean_all"):
            if kind in found:
                table.add_row(f"{kind}, {depth}", *[f"{found[kind][label]:.3f}" for label in labels])
    console.print(table)


def chart(result: dict[str, Any], path: Path) -> None:
    """Draw F1 per band as grouped bars, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = result["results"][result["features"]]
    labels, names = list(shown["mean_all"]), list(shown["bands"])
    figure, axes = plt.subplots(figsize=(1.5 + 0.75 * len(names), 3.6), layout="constrained")
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        own = [shown["bands"][name][label] for name in names]
        heights = np.array([each["f1"] for each in own])
        errors = np.abs(np.array([each["interval"] for each in own]).T - heights)
        offsets = np.arange(len(names)) + (index - (len(labels) - 1) / 2) * width
        title = f"{label} (mean {shown['mean_all'][label]:.3f})"
        axes.bar(offsets, heights, width, label=title, yerr=errors, error_kw={"linewidth": 0.6})
    axes.set_xticks(range(len(names)), [name.replace("+", "+\n") for name in names])
    axes.set_ylabel("macro F1 on the test split")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", ncols=len(labels), fontsize="small")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def main() -> None:
    """The command."""
    require_values(sys.argv, "--data")
    options = parse(Options, prog="python -m rsdnet.probe", description=__doc__)
    with open_ranks(options.device) as ranks:
        console = Console(quiet=not ranks.main, markup=False)
        found = probe(options, console, ranks)
        if not ranks.main:
            return
        result = found.result
        show(result, console)  # first: the folder may be read-only
        with aside(options.run / REPLICATES) as temporary:
            save_file(found.replicates, temporary)
        with aside(options.run / PROBE) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
        chart(result, options.run / CHART)


if __name__ == "__main__":
    command(main)
