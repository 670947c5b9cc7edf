"""Linear evaluation: `python -m rsdnet.probe RUN --data DB`. What a frozen encoder knows, band by band.

For every band one linear classifier (multinomial logistic regression) on the features of whole patches, as the paper
evaluates (arXiv 2205.02049): macro F1 and accuracy on the test split. Beside it, under the same protocol: the weights
that the encoder started from, and statistics of the raw band.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from rsdnet import bands, checkpoint, config
from rsdnet.catalog import SPLITS
from rsdnet.config import Config
from rsdnet.errors import DataError, command
from rsdnet.files import aside
from rsdnet.kernels import ViewSpec, render_views
from rsdnet.model import ResNet
from rsdnet.samples import Samples, pools_of, statistics
from rsdnet.scan import Scan
from rsdnet.precision import AUTOCAST, precision_of
from rsdnet.views import band_table

JSON, CHART = "probe.json", "probe.png"
# The three-channel rows: true colour; both polarisations with the first once more.
TRIPLES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}
# Weight penalties to choose from on the validation split, for all features alike; each fit starts from the last one's.
L2 = (1e-2, 1e-3, 1e-4)
ITERATIONS = 100  # of L-BFGS, at each penalty
KEEP = 1 << 30  # bytes of views to keep from one contender to the next
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Options:
    """Evaluate a run's frozen encoder by a linear classifier a band."""

    run: tyro.conf.Positional[Path]
    """Folder of a pre-training run."""
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DB [DB ...]")] = ()
    """Labelled databases with train and test splits. None: the run's own."""
    batch: int = 256
    """Samples encoded at once."""
    size: int = 0
    """Pixels a side of the patches as the encoder sees them; 0: their own, or the run's views' where that is more."""
    limit: int = 0
    """At most this many training patches, the first ones; 0: all."""
    device: str = "auto"
    """auto, cpu or cuda."""
    force: bool = False
    """Evaluate again even if the run holds the same evaluation already."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Test scores of one linear classifier."""

    f1: float
    """Macro F1: the mean over the classes of the test split."""
    accuracy: float
    l2: float
    """The penalty that won on the validation split."""
    val_f1: float
    """Macro F1 on the validation split (the training split, where there is none): to choose settings by."""


def load_encoder(run: Path) -> tuple[ResNet, Config, dict[str, Tensor]]:
    """The encoder of a finished run, or of an unfinished one's checkpoint; its configuration; its weights.

    Raises DataError where the folder holds neither or they are damaged.
    """
    path = run / checkpoint.ENCODER
    if path.is_file():
        tensors, meta = checkpoint.load(path)
    elif (run / checkpoint.FILE).is_file():
        path = run / checkpoint.FILE
        tensors, meta = checkpoint.load(path)
        tensors = checkpoint.under("model", tensors)
        tensors = {n.removeprefix("online.encoder."): t for n, t in tensors.items() if n.startswith("online.encoder.")}
    else:
        raise DataError(f"{run} holds no encoder and no checkpoint: name the folder of a pre-training run")
    cfg = config.from_tables(meta["config"], str(path))
    encoder = ResNet(cfg.model.encoder, cfg.views.channels, cfg.model.width)
    checkpoint.restore(encoder, tensors, str(path))
    return encoder, cfg, tensors


class Bench:
    """Labelled patches of one modality, rendered whole, with their splits and labels."""

    def __init__(
        self, cfg: Config, databases: tuple[Path, ...], modality: str, device: torch.device, options: Options
    ) -> None:
        self.samples = Samples(databases, modality, pools_of(cfg.views), labelled=True, threads=cfg.data.reader_threads)
        own = dataclasses.replace(cfg.views, modality=modality)  # type: ignore[arg-type]
        own_cfg = dataclasses.replace(cfg, views=own, data=dataclasses.replace(cfg.data, data=databases))
        self.table = band_table(own_cfg, statistics(own_cfg, pools_of(cfg.views))).to(device)
        self.spec = ViewSpec.plain(options.size or max(cfg.views.size, self.native_side()))
        self.device, self.batch, self.limit = device, options.batch, options.limit
        self._kept: tuple[tuple[str, ...], list[Tensor]] = ((), [])  # the views last rendered, for the next contender
        labels = self.samples.catalog.label.astype(np.int64)
        self.classes, indices = np.unique(labels, return_inverse=True)
        self.labels = torch.from_numpy(indices)
        """(N,) int64 in range(len(classes)). A class of the test split that the train split lacks counts as missed."""

    def native_side(self) -> int:
        """Pixels a side of the first sample's finest band."""
        pool = self.samples.pools[self.samples.modality]
        _, records = self.samples.read(np.zeros(1, np.int64), pool.reshape(1, 1, -1))
        return int(records[..., 2:4].max())

    def require(self) -> None:
        """Raise DataError where there is nothing to learn from or to test on."""
        split = self.samples.catalog.split
        for name in ("train", "test"):
            if not (split == name).any():
                raise DataError(
                    f"{self.samples.where}: no labelled sample in the {name} split, so there is nothing to probe"
                )
        if len(np.unique(self.labels[torch.from_numpy(split == "train")])) < 2:
            raise DataError(
                f"{self.samples.where}: one class only in the train split, so there is nothing to tell apart"
            )

    def unseen(self) -> list[str]:
        """Names of the classes that the test split has and the train split has not."""
        split, names = self.samples.catalog.split, self.samples.catalog.classes
        seen, tested = (set(self.labels[torch.from_numpy(split == name)].tolist()) for name in ("train", "test"))
        labels = (int(self.classes[index]) for index in sorted(tested - seen))
        return [names[label] if label < len(names) else str(label) for label in labels]

    def views(self, names: tuple[str, ...]) -> Iterator[Tensor]:
        """Batches (b, len(names), S, S), float32, of all samples in order; the channels are the bands `names`."""
        if self._kept[0] == names:
            yield from self._kept[1]
            return
        small = 4 * len(self.samples) * len(names) * self.spec.size**2 <= KEEP
        kept: list[Tensor] = []
        ids = np.array([bands.band_id(name) for name in names], np.int32)
        for start in range(0, len(self.samples), self.batch):
            positions = np.arange(start, min(start + self.batch, len(self.samples)))
            chosen = np.broadcast_to(ids, (len(positions), 1, len(ids))).copy()
            data, records = self.samples.read(positions, chosen)
            rows = torch.from_numpy(self.samples.rows[positions])
            data, records, rows = (tensor.to(self.device) for tensor in (data, records, rows))
            views = render_views(data, records, rows, self.table, self.spec, seed=0, epoch=0)[0]
            if small:
                kept.append(views)
            yield views
        if small:
            self._kept = names, kept

    def features(self, names: tuple[str, ...], of: Callable[[Tensor], Tensor]) -> Tensor:
        """(N, F) float32 features on the CPU: `of` applied to every batch of `views`."""
        with torch.inference_mode():
            return torch.cat([of(batch).float().cpu() for batch in self.views(names)])

    def score(self, features: Tensor) -> Score:
        """Test scores of a linear classifier on `features` (N, F): fitted on train, its penalty chosen on val."""
        split, y = self.samples.catalog.split, self.labels
        parts = {name: torch.from_numpy(np.flatnonzero(split == name)) for name in SPLITS}
        parts["train"] = parts["train"][: self.limit or None]
        mean, std = features[parts["train"]].mean(0), features[parts["train"]].std(0)
        x = (features - mean) / torch.where(std > 1e-6, std, 1.0)
        judge = parts["val"] if len(parts["val"]) else parts["train"]
        best: tuple[float, float, Tensor] | None = None
        weights = None
        for l2 in L2:
            weights = fit(x[parts["train"]], y[parts["train"]], len(self.classes), l2, weights)
            f1, _ = scores(predict(weights, x[judge]), y[judge], len(self.classes))
            if best is None or f1 > best[0]:
                best = f1, l2, weights
        assert best is not None
        f1, accuracy = scores(predict(best[2], x[parts["test"]]), y[parts["test"]], len(self.classes))
        return Score(f1, accuracy, best[1], best[0])


def fit(x: Tensor, y: Tensor, classes: int, l2: float, start: Tensor | None = None) -> Tensor:
    """Weights (F + 1, classes) of multinomial logistic regression: mean cross entropy + l2/2 * |weights|^2.

    x: (N, F) standardised features. y: (N,) int64 in range(classes). start: weights to start from; None: zeros.
    The last row is the bias, not penalised.
    """
    x = torch.cat((x, torch.ones(len(x), 1)), 1)
    weights = torch.zeros(x.shape[1], classes) if start is None else start.clone()
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weights, y) + 0.5 * l2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def predict(weights: Tensor, x: Tensor) -> Tensor:
    """Classes (N,) of standardised features x (N, F)."""
    return (x @ weights[:-1] + weights[-1]).argmax(1)


def scores(predicted: Tensor, truth: Tensor, classes: int) -> tuple[float, float]:
    """Macro F1 over the classes that occur in `truth`, and accuracy."""
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    each = multiclass_f1_score(predicted, truth, classes, average="none")
    f1 = each[torch.bincount(truth, minlength=classes) > 0].mean()
    return float(f1), float(multiclass_accuracy(predicted, truth, classes, average="micro"))


def band_statistics(views: Tensor) -> Tensor:
    """(b, C * 9): mean, standard deviation, extremes and quantiles of each channel of views (b, C, S, S)."""
    pixels = views.flatten(2)
    quantiles = torch.quantile(pixels, torch.tensor(QUANTILES, device=views.device), dim=2).movedim(0, -1)
    rest = (pixels.mean(2), pixels.std(2, correction=0), pixels.amin(2), pixels.amax(2))
    return torch.cat((torch.stack(rest, -1), quantiles), -1).flatten(1)


def labelled_modalities(databases: tuple[Path, ...], modality: str, console: Console) -> list[str]:
    """The sensors of `modality` that the databases hold labelled samples of; says which they lack.

    Raises DataError where they hold none.
    """
    catalogs = Scan(databases)
    wanted = modality.split("+")
    found = [m for m in wanted if any(piece.catalog.mask(modality=m, labelled=True).any() for piece in catalogs)]
    if not found:
        where = ", ".join(str(path) for path in databases)
        raise DataError(f"{where}: no labelled samples with {modality} entries, so there is nothing to probe")
    for name in sorted(set(wanted) - set(found)):
        console.print(f"the database holds no labelled {name} patches: those bands are not probed", style="yellow")
    return found


class Contender(NamedTuple):
    """What is compared: features (b, F) of views (b, channels, S, S); channels 0 takes any number of bands."""

    channels: int
    features: Callable[[Tensor], Tensor]


def contenders(encoder: ResNet, cfg: Config, device: torch.device) -> dict[str, Contender]:
    """The pre-trained encoder, the very weights it started from, and statistics of the raw band."""
    torch.manual_seed(cfg.run.seed)
    start = ResNet(cfg.model.encoder, cfg.views.channels, cfg.model.width)
    dtype = AUTOCAST[precision_of(cfg, device)]

    def frozen(network: ResNet) -> Contender:
        network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

        def features(views: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                return network(views.contiguous(memory_format=torch.channels_last))

        return Contender(cfg.views.channels, features)

    return {"pre-trained": frozen(encoder), "random": frozen(start), "raw statistics": Contender(1, band_statistics)}


def features_of(
    bench: Bench, contender: Contender, names: tuple[str, ...], known: dict[tuple[str, ...], Tensor]
) -> Tensor:
    """(N, F) features of the bands `names` of all samples; `known` keeps those of single bands.

    As many bands as the contender has channels go in as one view; one band is repeated over the channels; several bands
    of a contender with one channel give their features side by side.
    """
    if contender.channels == len(names) > 1:
        return bench.features(names, contender.features)
    for name in set(names):
        if (name,) not in known:
            known[name,] = bench.features((name,) * contender.channels, contender.features)
    return torch.cat([known[name,] for name in dict.fromkeys(names)], 1)


def probe(options: Options, console: Console) -> dict[str, Any]:
    """The evaluation, JSON-able: "bands" {name: {contender: Score}}, "mean_f1" and "mean_val_f1" of single bands."""
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    encoder, cfg, tensors = load_encoder(options.run)
    databases = options.data or cfg.data.data
    identity = {
        "encoder": digest(tensors),
        "data": [str(path) for path in databases],
        "limit": options.limit,
        "size": options.size,
    }
    saved = options.run / JSON
    if saved.is_file() and not options.force:
        found = json.loads(saved.read_text())
        if {key: found.get(key) for key in identity} == identity:
            console.print(f"{saved} holds this evaluation already (--force to repeat it)")
            return found
    rows: dict[str, dict[str, Any]] = {}
    pools = pools_of(cfg.views)
    for modality in labelled_modalities(databases, cfg.views.modality, console):
        bench = Bench(cfg, databases, modality, device, options)
        if report := bench.samples.report():
            console.print(report, style="yellow")
        bench.require()
        if unseen := bench.unseen():
            console.print(
                f"the train split has no sample of {', '.join(unseen)}, which the test split has", style="yellow"
            )
        jobs: list[tuple[str, ...]] = [(name,) for name in pools[modality]]
        jobs += [TRIPLES[modality]] if set(TRIPLES[modality]) <= set(pools[modality]) else []
        compared = contenders(encoder, cfg, device)
        known: dict[str, dict[tuple[str, ...], Tensor]] = {label: {} for label in compared}
        for names in track(jobs, f"probing {modality} bands", console=console, disable=not console.is_terminal):
            rows["+".join(names)] = {
                label: dataclasses.asdict(bench.score(features_of(bench, contender, names, known[label])))
                for label, contender in compared.items()
            }
    single = [row for name, row in rows.items() if "+" not in name]
    means = {
        f"mean_{kind}": {label: float(np.mean([row[label][kind] for row in single])) for label in single[0]}
        for kind in ("f1", "val_f1")
    }
    return {**identity, "run": str(options.run), **means, "bands": rows}


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
        table.add_row(
            name, *[f"[bold]{c}" if row[label]["f1"] == best else c for label, c in zip(labels, cells, strict=True)]
        )
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
    options = tyro.cli(Options, prog="python -m rsdnet.probe", description=__doc__)
    console = Console()
    result = probe(options, console)
    with aside(options.run / JSON) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    chart(result, options.run / CHART)
    show(result, console)


if __name__ == "__main__":
    command(main)
