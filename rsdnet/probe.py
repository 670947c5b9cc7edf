"""Linear evaluation: `python -m rsdnet.probe RUN --data DB`. A classifier on frozen features, band by band.

For every band one linear classifier (logistic regression) on the features of whole patches, as the paper evaluates
(arXiv 2205.02049): macro F1 and accuracy on the test split, or mean average precision of any number of labels a patch.
Beside it, under the same protocol: the weights that the encoder started from, and statistics of the raw band.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py says

import dataclasses
import hashlib
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

from rsdnet.config import ViewConfig
from rsdnet.data.catalog import Labelling
from rsdnet.data.fixed import fixed_views
from rsdnet.distributed import ALONE, Ranks, open_ranks
from rsdnet.errors import DataError, command
from rsdnet.evaluate import linear, multilabel, segmentation
from rsdnet.evaluate.contenders import contenders, load_encoder
from rsdnet.evaluate.features import BATCH, Labelled, bands_of, labelled_modalities
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.outcomes import Evaluation, Outcomes, Row, saved
from rsdnet.evaluate.targets import UNCLEAR, require_labelling
from rsdnet.files import aside
from rsdnet.options import Seed, checked, parse, require_values
from rsdnet.probefile import PROTOCOL
from rsdnet.runfolder import probe_path

DEPTHS = ("stages", "last")  # always evaluated
METRICS = {"classes": "macro F1", "multilabel": "macro mAP", "segmentation": "mIoU"}
# The three-channel rows: true colour; both polarisations with the first once more.
TRIPLES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}

Share = Annotated[str, Field(pattern=r"^(all|[0-9]+(\.[0-9]+)?%|[0-9]+)$")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's frozen encoder by a linear classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    task: Literal["classes", "multilabel", "segmentation"] = "classes"
    """The labels: classes, one a patch (macro F1); multilabel, any number a patch (mean average precision);
    segmentation, the pixels of label maps (mIoU)."""
    head: Literal["linear", "fcn"] = "linear"
    """Segmentation's classifier of pixels, on the maps of --features: linear (logistic regression) or fcn (a
    convolution of 3 x 3 before it)."""
    pixels: Annotated[int, Field(ge=2, le=10**7)] = segmentation.PIXELS
    """Pixels of the train split, and of the val split, that segmentation's linear head is fitted and chosen on. Drawn
    by --seed, of each class its share."""
    ignore: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS [CLASS ...]")] = ()
    """Classes whose pixels segmentation leaves out, by name: Savanna Snow/Ice for DFC2020."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4])$")] = "stages"
    """Features that the table shows: the encoder's output (last), the spatial means of its four stages side by side
    (stages), or of one (layer1 to layer4). Both last and stages are always evaluated."""
    statistics: Literal["database", "run"] = "database"
    """Mean and standard deviation a band: of the database that is probed, or those that the run was trained with. A
    run with published statistics keeps them either way."""
    labels: Annotated[tuple[Share, ...], tyro.conf.arg(metavar="SHARE [SHARE ...]")] = ("all",)
    """Training samples whose labels are used: all, a share such as 1%%, or a number; several: one table each. Drawn by
    --seed, of each class its share and one at least; of any number of labels a patch the rarest is its class. The val
    split, which chooses the penalty, stays whole."""
    seed: Seed = 0
    """Seed of the draw of --labels."""
    snow: Literal["leave-out", "keep"] = "leave-out"
    """Patches with seasonal snow, where the database tells: leave them out, as published figures do, or keep them."""
    clouds: Literal["leave-out", "keep"] = "leave-out"
    """The same for patches with clouds or their shadow."""
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
        if options.task != "segmentation" and (options.ignore or options.head != "linear"):
            raise DataError("--ignore and --head fcn are for label maps: add --task segmentation, or leave them out")
        trained = load_encoder(options.run)
        cfg, databases = trained.cfg, options.data or trained.cfg.data.data
        require_labelling(databases, options.task)
        labelling: Labelling = "several" if options.task == "multilabel" else "one"
        modalities = labelled_modalities(databases, labelling=labelling)
    for line in trained.damaged:
        console.print(f"{line}; an earlier one is evaluated", style="yellow", soft_wrap=True)
    for name in sorted(set(cfg.views.modality.split("+")) - set(modalities)):
        console.print(f"the database holds no labelled {name} patches: those bands are not probed", style="yellow")
    depths = tuple(dict.fromkeys((options.features, *DEPTHS)))
    opened: dict[str, tuple[Labelled, dict[str, Tensor]]] = {}
    targets: dict[str, Labelled | LabelMaps] = {}
    with ranks.together():
        for modality in modalities:
            labelled = Labelled(
                cfg, databases, modality, ranks, pool=bands_of(databases, modality), size=options.size,
                trained=trained.inputs, statistics=options.statistics, batch=options.batch,
                labelling=labelling, kept=[name for name in UNCLEAR if getattr(options, name) == "keep"],
            )  # fmt: skip
            targets[modality] = labelled
            if options.task == "segmentation":
                targets[modality] = LabelMaps(labelled, options.ignore, console)
            check(targets[modality], console)
            every = len(labelled.part("train"))
            trains = {each: labelled.drawn("train", number_of(each, every), options.seed) for each in options.labels}
            opened[modality] = labelled, trains
        identity = {
            "protocol": PROTOCOL, "metric": METRICS[options.task], "encoder": digest(trained.tensors),
            "labels": list(options.labels), "seed": options.seed, "features": options.features,
            "size": options.size, "statistics": options.statistics,
            "samples": {name: own.identity() for name, own in targets.items()},
        }  # fmt: skip
        if options.task == "segmentation":
            identity |= {"head": options.head, "pixels": options.pixels}
    path = path_of(options)
    if found := ranks.collect(None if options.force else saved(path, identity))[0]:
        console.print(f"{path} holds this evaluation already (--force to repeat it)")
        return found
    with ranks.together():
        compared = contenders(trained.encoder, cfg, ranks.device, depths)
    outcomes: dict[str, Outcomes] = {share: {depth: {} for depth in depths} for share in options.labels}
    for modality in modalities:
        labelled, trains = opened.pop(modality)  # the views that it keeps go before the next one's
        views = views_of(labelled, cfg.views)
        if isinstance(target := targets.pop(modality), LabelMaps):
            found_here = segmentation.evaluate(
                target, views, compared, trains, depths, console,
                head=options.head, limit=options.pixels, seed=options.seed,
            )  # fmt: skip
        else:
            of_task = multilabel.evaluate if options.task == "multilabel" else linear.evaluate
            found_here = of_task(labelled, views, compared, trains, depths, console)
        for share, by_depth in found_here.items():
            for depth, rows in by_depth.items():
                outcomes[share][depth] |= rows
    named = {"run": str(options.run), "data": [str(path) for path in databases]}
    return Evaluation.of({**identity, **named}, outcomes)


def path_of(options: Options) -> Path:
    """The file of the evaluation, one a task."""
    return probe_path(options.run, "" if options.task == "classes" else options.task)


def views_of(labelled: Labelled, views: ViewConfig) -> list[tuple[str, ...]]:
    """Channels of each view that is evaluated: every band, the three-channel views, and the run's fixed view."""
    modality, held = labelled.samples.modality, set(labelled.bands)
    found: list[tuple[str, ...]] = [(name,) for name in labelled.bands]
    found += [TRIPLES[modality]] * (held >= set(TRIPLES[modality]))
    fixed = fixed_views(views).get(modality)
    found += [fixed.names] if fixed and held >= set(fixed.bands) else []
    return list(dict.fromkeys(found))


def number_of(labels: str, samples: int) -> int:
    """Of `samples`, the number that `--labels` asks for; 0: all."""
    if labels == "all":
        return 0
    return max(round(float(labels[:-1]) / 100 * samples), 1) if labels.endswith("%") else int(labels)


def check(target: Labelled | LabelMaps, console: Console) -> None:
    """Warn of samples left out, labels without names, and classes that a split lacks.

    Raises DataError on an empty train or test split.
    """
    said = [target.samples.databases.doubt, target.samples.report()]
    said += target.report() if isinstance(target, LabelMaps) else [target.left_out]
    for line in filter(None, said):
        console.print(line, style="yellow")
    target.require("train", "test")
    if unseen := target.unseen():
        names = ", ".join(unseen)
        console.print(f"the train split has no {target.of} of {names}, which the test split has", style="yellow")


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def show(result: dict[str, Any], console: Console) -> None:
    """Print the scores and their intervals per band, a table for each share of the labels."""
    for share, by_depth in result["results"].items():
        shown = by_depth[result["features"]]
        labels = list(shown["mean_all"])
        kind = f"Segmentation, {result['head']} head" if "head" in result else "Linear evaluation"
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
            for kind in ("mean_ms", "mean_sar", "mean_all"):
                if kind in found:
                    table.add_row(f"{kind}, {depth}", *[cell(found[kind][label]) for label in labels])
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
    labels, names = list(shown["mean_all"]), list(shown["bands"])
    figure, axes = plt.subplots(figsize=(1.5 + 0.75 * len(names), 3.6), layout="constrained")
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        own = [shown["bands"][name][label] for name in names]
        heights = np.array([each["score"] for each in own])
        errors = np.abs(np.array([each["interval"] for each in own]).T - heights)
        offsets = np.arange(len(names)) + (index - (len(labels) - 1) / 2) * width
        title = f"{label} (mean {shown['mean_all'][label]['score']:.3f})"
        axes.bar(offsets, heights, width, label=title, yerr=errors, error_kw={"linewidth": 0.6})
    axes.set_xticks(range(len(names)), [name.replace("+", "+\n") for name in names])
    axes.set_ylabel(f"{result['metric']} on the test split")
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
        show(found.result, console)  # first: the folder may be read-only
        found.save(path_of(options))
        chart(found.result, path_of(options).with_suffix(".png"))


if __name__ == "__main__":
    command(main)
