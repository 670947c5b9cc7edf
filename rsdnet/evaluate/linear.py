"""Linear evaluation of features: multinomial logistic regression, its penalty chosen on the validation split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from rsdnet.console import track
from rsdnet.data.catalog import SPLITS
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.variants import Variant

# Weight penalties to choose from on the validation split, for all features alike; each fit starts from the last one's.
L2 = (1e-2, 1e-3, 1e-4)
ITERATIONS = 100  # of L-BFGS, at each penalty


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


def evaluate(
    labelled: Labelled, views: Sequence[tuple[str, ...]], compared: dict[str, Variant], train: Tensor, console: Console
) -> dict[str, dict[str, Any]]:
    """{bands joined by +: {variant: Score as a dict}} of `views`, each the bands of a view.

    train: (n,) int64, where the samples to train on are. Each rank fits its share of the classifiers.
    """
    ranks, parts = labelled.ranks, {name: labelled.part(name) for name in SPLITS} | {"train": train}
    jobs = [(names, label) for names in views for label in compared]
    turns = [jobs[start : start + ranks.world] for start in range(0, len(jobs), ranks.world)]
    known: dict[str, dict[str, Tensor]] = {label: {} for label in compared}
    scored: dict[tuple[tuple[str, ...], str], dict[str, float]] = {}
    for turn in track(turns, f"probing {labelled.samples.modality} bands", console=console):
        # All ranks encode for all of these, then each fits one.
        features = [compared[label].of_bands(labelled, names, known[label]) for names, label in turn]
        if ranks.rank < len(turn):
            found = score(features[ranks.rank], labelled.labels, parts, len(labelled.classes))
            scored[turn[ranks.rank]] = dataclasses.asdict(found)
    scored = {job: found for part in ranks.collect(scored) for job, found in part.items()}
    return {"+".join(names): {label: scored[names, label] for label in compared} for names in views}


def score(features: Tensor, labels: Tensor, parts: dict[str, Tensor], classes: int) -> Score:
    """Test scores of a linear classifier on `features` (N, F): fitted on train, its penalty chosen on val.

    labels: (N,) int64 in range(classes). parts: {"train", "val", "test"}: (n,) int64 rows of each split; val may be
    empty.
    """
    train, test = parts["train"], parts["test"]
    mean, std = features[train].mean(0), features[train].std(0)
    x = (features - mean) / torch.where(std > 1e-6, std, 1.0)
    judge = parts["val"] if len(parts["val"]) else train
    best: tuple[float, float, Tensor] | None = None
    weights = None
    for l2 in L2:
        weights = fit(x[train], labels[train], classes, l2, weights)
        f1, _ = scores(predict(weights, x[judge]), labels[judge], classes)
        if best is None or f1 > best[0]:
            best = f1, l2, weights
    assert best is not None
    f1, accuracy = scores(predict(best[2], x[test]), labels[test], classes)
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
