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
from torch import Tensor

from rsdnet.data.pools import pools_of
from rsdnet.distributed import ALONE, Ranks, open_ranks
from rsdnet.errors import command
from rsdnet.evaluate import linear
from rsdnet.evaluate.features import BATCH, Labelled, labelled_modalities
from rsdnet.evaluate.variants import load_encoder, variants
from rsdnet.files import aside
from rsdnet.options import Count, Seed, checked, parse, require_values
from rsdnet.runfolder import PROBE

CHART = "probe.png"
PROTOCOL = 2  # of the evaluation: 2 draws --limit from every class; results of 1 have no number
# The three-channel rows: true colour; both polarisations with the first once more.
TRIPLES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's frozen encoder by a linear classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = BATCH
    """Samples encoded at once."""
    size: Annotated[int, Field(ge=0, le=4096)] = 0
    """Pixels a side of the patches as the encoder sees them; 0: their own, or the run's views' where that is more."""
    limit: Count = 0
    """At most this many training samples: drawn by --seed, of each class its share and one at least; 0: all."""
    seed: Seed = 0
    """Seed of the draw of --limit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to encode; auto: the GPU where there is one, under torchrun one for each process."""
    force: bool = False
    """Evaluate again even if the run holds the same evaluation already."""


def probe(options: Options, console: Console, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The evaluation, JSON-able: "bands" {name: {variant: Score}}, "mean_f1" and "mean_val_f1" of single bands.

    On every rank the same: each encodes its share of the samples and fits its share of the classifiers.
    Raises DataError on an option out of its range, and on samples that cannot judge an encoder.
    """
    with ranks.together():
        checked(options)
        encoder, cfg, tensors, damaged = load_encoder(options.run)
        databases = options.data or cfg.data.data
        modalities = labelled_modalities(databases, cfg.views.modality)
    for line in damaged:
        console.print(f"{line}; an earlier one is evaluated", style="yellow", soft_wrap=True)
    for name in sorted(set(cfg.views.modality.split("+")) - set(modalities)):
        console.print(f"the database holds no labelled {name} patches: those bands are not probed", style="yellow")
    opened: dict[str, tuple[Labelled, Tensor]] = {}
    with ranks.together():
        for modality in modalities:
            labelled = Labelled(cfg, databases, modality, ranks, size=options.size, batch=options.batch)
            check(labelled, console)
            opened[modality] = labelled, labelled.drawn("train", options.limit, options.seed)
        identity = {
            "protocol": PROTOCOL, "encoder": digest(tensors), "limit": options.limit, "seed": options.seed,
            "size": options.size, "samples": {name: labelled.identity() for name, (labelled, _) in opened.items()},
        }  # fmt: skip
    if found := ranks.collect(saved(options, identity))[0]:
        console.print(f"{options.run / PROBE} holds this evaluation already (--force to repeat it)")
        return found
    with ranks.together():
        compared = variants(encoder, cfg, ranks.device)
    rows: dict[str, dict[str, Any]] = {}
    for modality in modalities:
        labelled, train = opened.pop(modality)  # the views that it keeps go before the next one's
        pool = pools_of(cfg.views)[modality]
        views = [(name,) for name in pool] + [TRIPLES[modality]] * (set(TRIPLES[modality]) <= set(pool))
        rows |= linear.evaluate(labelled, views, compared, train, console)
    single = [row for name, row in rows.items() if "+" not in name]
    means = {
        f"mean_{kind}": {label: float(np.mean([row[label][kind] for row in single])) for label in single[0]}
        for kind in ("f1", "val_f1")
    }
    named = {"run": str(options.run), "data": [str(path) for path in databases]}
    return {**identity, **named, **means, "bands": rows}


def saved(options: Options, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluation that the run holds already, where it is of `identity` and need not be repeated."""
    path = options.run / PROBE
    if options.force or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:  # damaged: it will be written anew
        return None
    same = isinstance(found, dict) and {key: found.get(key) for key in identity} == identity
    return found if same else None


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
    """Print the table of F1 (accuracy) per band."""
    labels = list(result["mean_f1"])
    table = Table(title="Linear evaluation: macro F1 (accuracy) on the test split")
    table.add_column("band")
    for label in labels:
        table.add_column(label, justify="right")
    for name, row in result["bands"].items():
        best = max(row[label]["f1"] for label in labels)
        cells = [f"{row[label]['f1']:.3f} ({row[label]['accuracy']:.3f})" for label in labels]
        styles = ["bold" if row[label]["f1"] == best else "" for label in labels]
        table.add_row(name, *map(Text, cells, styles))
    table.add_section()
    table.add_row("mean of bands", *[f"{result['mean_f1'][label]:.3f}" for label in labels])
    console.print(table)


def chart(result: dict[str, Any], path: Path) -> None:
    """Draw F1 per band as grouped bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels, names = list(result["mean_f1"]), list(result["bands"])
    figure, axes = plt.subplots(figsize=(1.5 + 0.75 * len(names), 3.6), layout="constrained")
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        heights = [result["bands"][name][label]["f1"] for name in names]
        offsets = np.arange(len(names)) + (index - (len(labels) - 1) / 2) * width
        axes.bar(offsets, heights, width, label=f"{label} (mean {result['mean_f1'][label]:.3f})")
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
        result = probe(options, console, ranks)
        if not ranks.main:
            return
        show(result, console)  # first: the folder may be read-only
        with aside(options.run / PROBE) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
        chart(result, options.run / CHART)


if __name__ == "__main__":
    command(main)
