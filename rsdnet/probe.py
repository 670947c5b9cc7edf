"""Evaluation: `python -m rsdnet.probe RUN --data DB`. A classifier on frozen features, band by band.

For every band one linear classifier (logistic regression) on the features of whole patches, as the paper evaluates
(arXiv 2205.02049): macro F1 on the test split; with --task multilabel mean average precision, with --task segmentation
mIoU of the pixels. Beside it, under the same protocol: the weights that the encoder started from, statistics of the raw
band, and weights from elsewhere (--against). With --finetune the encoders are trained too.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py says

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console
from torch import Tensor

from rsdnet.data.catalog import Labelling
from rsdnet.data.fixed import fixed_views
from rsdnet.distributed import ALONE, Ranks, open_ranks
from rsdnet.errors import DataError, command
from rsdnet.evaluate import finetune, linear, multilabel, segmentation
from rsdnet.evaluate.contenders import Contender, Foreign, Trained, contenders, load_encoder
from rsdnet.evaluate.features import BATCH, Labelled, bands_of, labelled_modalities
from rsdnet.evaluate.foreign import against
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.outcomes import Evaluation, Outcomes, saved
from rsdnet.evaluate.rows import Rows, rows_of
from rsdnet.evaluate.shown import chart, show
from rsdnet.evaluate.targets import UNCLEAR, require_labelling
from rsdnet.evaluate.weights import digest
from rsdnet.options import Seed, checked, parse, require_values
from rsdnet.probefile import PROTOCOL
from rsdnet.runfolder import probe_path

DEPTHS = ("stages", "last")  # always evaluated
METRICS = {"classes": "macro F1", "multilabel": "macro mAP", "segmentation": "mIoU"}

Share = Annotated[str, Field(pattern=r"^(all|[0-9]+(\.[0-9]+)?%|[0-9]+)$")]


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's encoder by a classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    task: Literal["classes", "multilabel", "segmentation"] = "classes"
    """The labels: classes, one a patch (macro F1); multilabel, any number a patch (mean average precision);
    segmentation, the pixels of label maps (mIoU)."""
    bands: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BANDS [BANDS ...]")] = ()
    """Rows of the table, such as B08 or B04+B03+B02. None: every band, three of each sensor, and the run's fixed
    views."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WEIGHTS [WEIGHTS ...]")] = ()
    """Further encoders to compare with: a file of a ResNet's weights with torchvision's names, a run of rsdnet,
    timm:NAME=FILE, or imagenet:efficientnet-lite0."""
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
    """Seed of the draw of --labels, of pixels, and of fine-tuning."""
    head: Literal["linear", "fcn"] = "linear"
    """Segmentation's classifier of pixels, on the maps of --features: linear (logistic regression) or fcn (a
    convolution of 3 x 3 before it)."""
    pixels: Annotated[int, Field(ge=2, le=10**7)] = segmentation.PIXELS
    """Pixels of the train split, and of the val split, that segmentation's linear head is fitted and chosen on. Drawn
    by --seed, of each class its share."""
    ignore: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS [CLASS ...]")] = ()
    """Classes whose pixels segmentation leaves out, by name: Savanna Snow/Ice for DFC2020."""
    finetune: bool = False
    """Train encoder and linear head together, from each contender's weights, instead of the head alone; see
    --epochs."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    """Passes of --finetune over the training samples, at each of three learning rates."""
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

    @property
    def labelling(self) -> Labelling:
        """The kind of labels of a patch."""
        return "several" if self.task == "multilabel" else "one"


@dataclasses.dataclass(frozen=True)
class Subject:
    """Samples of one sensor with their labels or label maps, and those to train on by the share of the labels."""

    target: Labelled | LabelMaps
    labelled: Labelled
    trains: dict[str, Tensor]

    @classmethod
    def open(
        cls, options: Options, trained: Trained, databases: tuple[Path, ...], modality: str, ranks: Ranks,
        console: Console,
    ) -> "Subject":  # fmt: skip
        """Raises DataError on samples that cannot judge an encoder."""
        labelled = Labelled(
            trained.cfg, databases, modality, ranks, pool=bands_of(databases, modality), size=options.size,
            trained=trained.inputs, statistics=options.statistics, batch=options.batch, labelling=options.labelling,
            kept=[name for name in UNCLEAR if getattr(options, name) == "keep"],
        )  # fmt: skip
        target = LabelMaps(labelled, options.ignore, console) if options.task == "segmentation" else labelled
        check(target, console)
        every = len(labelled.part("train"))
        trains = {share: labelled.drawn("train", number_of(share, every), options.seed) for share in options.labels}
        for share, train in trains.items():
            if share != "all" and options.task != "segmentation" and (unseen := labelled.unseen(train)):
                console.print(f"{share} labels: no training sample of {', '.join(unseen)}", style="yellow")
        return cls(target, labelled, trains)


def probe(options: Options, console: Console, ranks: Ranks = ALONE) -> Evaluation:
    """The evaluation: its "results" {share of the labels: {depth: {"bands": {name: {contender: Row}}, "mean_ms",
    "mean_sar", "mean_all": {contender: Row of the mean over single bands}}}}; "metric" names the rows' "score".

    On every rank the same: each encodes its part of the samples and fits its part of the classifiers.
    Raises DataError on an option out of its range or place, and on samples that cannot judge an encoder.
    """
    with ranks.together():
        checked(options)
        require_fitting(options)
        trained = load_encoder(options.run)
        databases = options.data or trained.cfg.data.data
        require_labelling(databases, options.task)
        modalities = labelled_modalities(databases, labelling=options.labelling)
        held = {modality: bands_of(databases, modality) for modality in modalities}
        rows = rows_of(options.bands, held, fixed_views(trained.cfg.views))
    for line in trained.damaged:
        console.print(f"{line}; an earlier one is evaluated", style="yellow", soft_wrap=True)
    for name in sorted(set(trained.cfg.views.modality.split("+")) - set(modalities)):
        console.print(f"the database holds no labelled {name} patches: those bands are not probed", style="yellow")
    with ranks.together():
        opened = {name: Subject.open(options, trained, databases, name, ranks, console) for name in rows}
        others = against(options.against, databases, {subject.labelled.spec.size for subject in opened.values()})
    identity = identity_of(options, trained, opened, others)
    path = path_of(options)
    if found := ranks.collect(None if options.force else saved(path, identity))[0]:
        console.print(f"{path} holds this evaluation already (--force to repeat it)")
        return found
    with ranks.together():
        compared = contenders(trained.encoder, trained.cfg, ranks.device, depths_of(options), others)
    outcomes = evaluated(options, opened, rows, compared, console)
    named = {"run": str(options.run), "data": [str(path) for path in databases]}
    return Evaluation.of({**identity, **named}, outcomes)


def evaluated(
    options: Options, opened: dict[str, Subject], rows: Rows, compared: Mapping[str, Contender], console: Console
) -> dict[str, Outcomes]:
    """Outcomes of all sensors, by the share of the labels; empties `opened`."""
    depths = depths_of(options)
    found: dict[str, Outcomes] = {share: {depth: {} for depth in depths} for share in options.labels}
    for modality, views in rows.items():
        subject = opened.pop(modality)  # the views that it keeps go before the next one's
        task = multilabel.SEVERAL if options.task == "multilabel" else linear.CLASSES
        if isinstance(subject.target, LabelMaps):
            scored = segmentation.evaluate(
                subject.target, views, compared, subject.trains, depths, console,
                head=options.head, limit=options.pixels, seed=options.seed,
            )  # fmt: skip
        elif options.finetune:
            scored = finetune.evaluate(
                subject.target, views, compared, subject.trains, console,
                epochs=options.epochs, seed=options.seed, task=task,
            )  # fmt: skip
        else:
            scored = linear.evaluate(subject.target, views, compared, subject.trains, depths, console, task)
        for share, by_depth in scored.items():
            for depth, outcomes in by_depth.items():
                found[share][depth] |= outcomes
    return found


def identity_of(
    options: Options, trained: Trained, opened: Mapping[str, Subject], others: Mapping[str, Foreign]
) -> dict[str, Any]:
    """All that the scores depend on, JSON-able."""
    found = {
        "protocol": PROTOCOL, "metric": METRICS[options.task], "encoder": digest(trained.tensors),
        "labels": list(options.labels), "seed": options.seed, "features": depths_of(options)[0],
        "size": options.size, "statistics": options.statistics, "rows": list(options.bands),
        "against": {label: each.described() for label, each in others.items()},
        "samples": {name: subject.target.identity() for name, subject in opened.items()},
    }  # fmt: skip
    if options.task == "segmentation":
        found |= {"head": options.head, "pixels": options.pixels}
    if options.finetune:
        found |= {"finetune": finetune.settings(options.epochs)}
    return found


def require_fitting(options: Options) -> None:
    """Raise DataError on options of another task than the one asked for."""
    if options.task != "segmentation" and (options.ignore or options.head != "linear"):
        raise DataError("--ignore and --head fcn are for label maps: add --task segmentation, or leave them out")
    if options.task == "segmentation" and options.finetune:
        raise DataError("--finetune is for --task classes and multilabel: leave it out, or try --head fcn")


def depths_of(options: Options) -> tuple[str, ...]:
    """Depths to evaluate, the one that is shown first."""
    return ("last",) if options.finetune else tuple(dict.fromkeys((options.features, *DEPTHS)))


def path_of(options: Options) -> Path:
    """The file of the evaluation, one a task, and one more with fine-tuning."""
    parts = [options.task] * (options.task != "classes") + ["finetune"] * options.finetune
    return probe_path(options.run, "-".join(parts))


def number_of(share: str, samples: int) -> int:
    """Of `samples`, the number that a share of the labels asks for; 0: all."""
    if share == "all":
        return 0
    return max(round(float(share[:-1]) / 100 * samples), 1) if share.endswith("%") else int(share)


def check(target: Labelled | LabelMaps, console: Console) -> None:
    """Warn of samples left out, labels without names, and classes that a split lacks.

    Raises DataError on an empty train or test split.
    """
    for line in filter(None, (target.samples.databases.doubt, target.samples.report(), *target.report())):
        console.print(line, style="yellow")
    target.require("train", "test")
    if unseen := target.unseen():
        names = ", ".join(unseen)
        console.print(f"the train split has no {target.of} of {names}, which the test split has", style="yellow")


def main() -> None:
    """The command."""
    for option in ("--data", "--bands", "--against"):
        require_values(sys.argv, option)
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
