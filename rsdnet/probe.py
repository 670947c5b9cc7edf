"""Linear evaluation: `python -m rsdnet.probe RUN --data DB`. A classifier on frozen features, band by band.

For every band one linear classifier (multinomial logistic regression) on the features of whole patches, as the paper
evaluates (arXiv 2205.02049): macro F1 and accuracy on the test split. Beside it, under the same protocol: the weights
that the encoder started from, statistics of the raw band, and weights from elsewhere (--against). With --finetune the
encoders are trained too.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py says

import dataclasses
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

from rsdnet.distributed import ALONE, Ranks, open_ranks
from rsdnet.errors import command
from rsdnet.evaluate import finetune, linear
from rsdnet.evaluate.contenders import contenders, load_encoder
from rsdnet.evaluate.features import BATCH, Labelled, bands_of, labelled_modalities
from rsdnet.evaluate.foreign import against
from rsdnet.evaluate.outcomes import Evaluation, Row, saved
from rsdnet.evaluate.rows import rows_of
from rsdnet.evaluate.weights import digest
from rsdnet.files import aside
from rsdnet.options import Seed, checked, parse, require_values
from rsdnet.runfolder import probe_path

PROTOCOL = 3  # of the evaluation: 3 has stages, intervals and every band; 2 drew from every class; 1 has no number
DEPTHS = ("stages", "last")  # always evaluated

Share = Annotated[str, Field(pattern=r"^(all|[0-9]+(\.[0-9]+)?%|[0-9]+)$")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's frozen encoder by a linear classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    task: Literal["classes"] = "classes"
    """The labels: classes, one a patch (macro F1)."""
    finetune: bool = False
    """Train encoder and linear head together, from each contender's weights, instead of the head alone; see
    --epochs."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    """Passes of --finetune over the training samples, at each of three learning rates."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WEIGHTS [WEIGHTS ...]")] = ()
    """Further encoders to compare with: a file of a ResNet's weights with torchvision's names, a run of rsdnet,
    timm:NAME=FILE, or imagenet:efficientnet-lite0."""
    bands: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BANDS [BANDS ...]")] = ()
    """Rows of the table, such as B08 or B04+B03+B02. None: every band, and three of each sensor."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4])$")] = "stages"
    """Features that the table shows: the encoder's output (last), the spatial means of its four stages side by side
    (stages), or of one (layer1 to layer4). Both last and stages are always evaluated."""
    statistics: Literal["database", "run"] = "database"
    """Mean and standard deviation a band: of the database that is probed, or those that the run was trained with. A
    run with published statistics keeps them either way."""
    labels: Annotated[tuple[Share, ...], tyro.conf.arg(metavar="SHARE [SHARE ...]")] = ("all",)
    """Training samples whose labels are used: all, a share such as 1%%, or a number; several: one table each. Drawn by
    --seed, of each class its share and one at least. The val split, which chooses the penalty, stays whole."""
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


def probe(options: Options, console: Console, ranks: Ranks = ALONE) -> Evaluation:
    """The evaluation: its "results" {share of the labels: {depth: {"bands": {name: {contender: Row}}, "mean_ms",
    "mean_sar", "mean_all": {contender: Row of the mean over single bands}}}}; "metric" names the rows' "score".

    On every rank the same: each encodes its part of the samples and fits its part of the classifiers.
    Raises DataError on an option out of its range, and on samples that cannot judge an encoder.
    """
    with ranks.together():
        checked(options)
        trained = load_encoder(options.run)
        cfg, databases = trained.cfg, options.data or trained.cfg.data.data
        held = {modality: bands_of(databases, modality) for modality in labelled_modalities(databases)}
        shown = rows_of(options.bands, held)
    for line in trained.damaged:
        console.print(f"{line}; an earlier one is evaluated", style="yellow", soft_wrap=True)
    depths = ("last",) if options.finetune else tuple(dict.fromkeys((options.features, *DEPTHS)))
    opened: dict[str, tuple[Labelled, dict[str, Tensor]]] = {}
    with ranks.together():
        for modality in shown:
            labelled = Labelled(
                cfg, databases, modality, ranks, pool=held[modality], size=options.size,
                trained=trained.inputs, statistics=options.statistics, batch=options.batch,
            )  # fmt: skip
            check(labelled, console)
            every = len(labelled.part("train"))
            trains = {each: labelled.drawn("train", number_of(each, every), options.seed) for each in options.labels}
            opened[modality] = labelled, trains
        sizes = {labelled.spec.size for labelled, _ in opened.values()}
        others = against(options.against, databases, sizes)
        identity = {
            "protocol": PROTOCOL, "metric": "macro F1", "encoder": digest(trained.tensors),
            "labels": list(options.labels), "seed": options.seed, "features": depths[0],
            "rows": list(options.bands), "against": {label: each.described() for label, each in others.items()},
            **({"finetune": finetune.settings(options.epochs)} if options.finetune else {}),
            "samples": {name: own.identity() for name, (own, _) in opened.items()},
        }  # fmt: skip
    path = path_of(options)
    if found := ranks.collect(None if options.force else saved(path, identity))[0]:
        console.print(f"{path} holds this evaluation already (--force to repeat it)")
        return found
    with ranks.together():
        compared = contenders(trained.encoder, cfg, ranks.device, depths, others)
    outcomes: dict[str, linear.Outcomes] = {share: {depth: {} for depth in depths} for share in options.labels}
    for modality, views in shown.items():
        labelled, trains = opened.pop(modality)  # the views that it keeps go before the next one's
        if options.finetune:
            scored = finetune.evaluate(
                labelled, views, compared, trains, console, epochs=options.epochs, seed=options.seed
            )
        else:
            scored = linear.evaluate(labelled, views, compared, trains, depths, console)
        for share, by_depth in scored.items():
            for depth, rows in by_depth.items():
                outcomes[share][depth] |= rows
    named = {"run": str(options.run), "data": [str(path) for path in databases]}
    return Evaluation.of({**identity, **named}, outcomes)


def path_of(options: Options) -> Path:
    """The file of the evaluation, one a task, and one more with fine-tuning."""
    parts = [options.task] * (options.task != "classes") + ["finetune"] * options.finetune
    return probe_path(options.run, "-".join(parts))


def number_of(labels: str, samples: int) -> int:
    """Of `samples`, the number that `--labels` asks for; 0: all."""
    if labels == "all":
        return 0
    return max(round(float(labels[:-1]) / 100 * samples), 1) if labels.endswith("%") else int(labels)


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


def show(result: dict[str, Any], console: Console) -> None:
    """Print the scores and their intervals per band, a table for each share of the labels."""
    for share, by_depth in result["results"].items():
        shown = by_depth[result["features"]]
        labels = list(next(iter(shown["bands"].values())))
        kind = "Fine-tuning" if "finetune" in result else "Linear evaluation"
        title = f"{kind}, {share} labels, {result['features']}: {result['metric']}, 95 % interval"
        table = Table("band", title=title)
        for label in labels:
            table.add_column(label, justify="right")
        for name, row in shown["bands"].items():
            best = max(row[label]["score"] for label in labels)
            styles = ["bold" if row[label]["score"] == best else "" for label in labels]
            table.add_row(name, *map(Text, [cell(row[label]) for label in labels], styles))
        table.add_section()
        for depth, found in by_depth.items():
            for mean in ("mean_ms", "mean_sar", "mean_all"):
                if mean in found:
                    table.add_row(f"{mean}, {depth}", *[cell(found[mean][label]) for label in labels])
        console.print(table)


def cell(row: Row) -> str:
    """A score and its interval."""
    return "{score:.3f} ({interval[0]:.3f}-{interval[1]:.3f})".format(**row)


def chart(result: dict[str, Any], path: Path) -> None:
    """Draw the scores per band as grouped bars, with intervals; of the first share of the labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = next(iter(result["results"].values()))[result["features"]]
    names = list(shown["bands"])
    labels = list(shown["bands"][names[0]])
    figure, axes = plt.subplots(figsize=(max(1.5 + 0.75 * len(names), 7), 3.6), layout="constrained")
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        own = [shown["bands"][name][label] for name in names]
        heights = np.array([each["score"] for each in own])
        errors = np.abs(np.array([each["interval"] for each in own]).T - heights)
        offsets = np.arange(len(names)) + (index - (len(labels) - 1) / 2) * width
        mean = f" (mean {shown['mean_all'][label]['score']:.3f})" if "mean_all" in shown else ""
        axes.bar(offsets, heights, width, label=label + mean, yerr=errors, error_kw={"linewidth": 0.6})
    axes.set_xticks(range(len(names)), [name.replace("+", "+\n") for name in names])
    axes.set_ylabel(f"{result['metric']} on the test split")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", ncols=min(len(labels), 3), fontsize="small")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def main() -> None:
    """The command."""
    require_values(sys.argv, "--data", "--against", "--bands")
    options = parse(Options, prog="python -m rsdnet.probe", description=__doc__)
    with open_ranks(options.device) as ranks:
        console = Console(quiet=not ranks.main, markup=False)
        found = probe(options, console, ranks)
        if not ranks.main:
            return
        show(found.result, console)  # first: the folder may be read-only
        found.save(path_of(options))
        chart(found.result, path_of(options).with_suffix(".png"))


if __name__ == "__main__":
    command(main)
