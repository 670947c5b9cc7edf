"""Linear evaluation of features: logistic regression, its penalty chosen on validation samples alone.

`CLASSES` tells one class a sample, multinomially; another `Task` brings its own loss and scores.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy

from rsdnet.console import track
from rsdnet.evaluate import metrics
from rsdnet.evaluate.contenders import Contender
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.folds import Fold, folds_of
from rsdnet.evaluate.intervals import replicates_of
from rsdnet.evaluate.outcomes import Outcome, Outcomes, arranged
from rsdnet.evaluate.targets import strata

# Weight penalties to choose from, for all features alike; each fit starts from the last one's.
L2 = (1e-2, 1e-3, 1e-4)
ITERATIONS = 100  # of L-BFGS, at each penalty


class Problem(NamedTuple):
    """Labels and groups (N,) of all samples, names of the classes, and the samples (n,) of each part.

    labels: (N,) int64 in range(classes), or of several (N, classes) bool.
    """

    labels: Tensor
    groups: np.ndarray
    names: list[str]
    train: Tensor
    test: Tensor
    folds: list[Fold]

    @property
    def classes(self) -> int:
        """Their number."""
        return len(self.names)

    def test_groups(self) -> np.ndarray:
        """(n,) int64 in range(number of groups), of the test samples."""
        return np.unique(self.groups[self.test.numpy()], return_inverse=True)[1]


class Task(NamedTuple):
    """The labels' part in an evaluation, by logits (n, C) of samples and their labels, (n,) or (n, C).

    loss: the mean over samples, to minimise. judge: the score that chooses a setting. outcome: of the logits of the
    test samples, with the settings chosen and their score.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], float]
    outcome: Callable[[Tensor, Problem, dict[str, float], float], Outcome]


def problem_of(labelled: Labelled, train: Tensor) -> Problem:
    """To tell the classes of `labelled` apart by its samples `train` (n,) int64."""
    folds = folds_of(train, labelled.part("val"), strata(labelled.labels), labelled.groups)
    return Problem(labelled.labels, labelled.groups, labelled.names, train, labelled.part("test"), folds)


def evaluate(
    labelled: Labelled, views: Sequence[tuple[str, ...]], contenders: Mapping[str, Contender],
    trains: Mapping[str, Tensor], depths: Sequence[str], console: Console, task: Task | None = None,
) -> dict[str, Outcomes]:  # fmt: skip
    """Outcomes by share of the labels, of `views`, each the bands of a view, at `depths` of every contender.

    trains: (n,) int64 samples to train on, by share. task: None: `CLASSES`. Each rank fits its part of the classifiers.
    """
    ranks, problems = labelled.ranks, {share: problem_of(labelled, train) for share, train in trains.items()}
    jobs = [(names, label) for names in views for label in contenders]
    turns = [jobs[start : start + ranks.world] for start in range(0, len(jobs), ranks.world)]
    known: dict[str, dict[str, dict[str, Tensor]]] = {label: {} for label in contenders}
    scored: dict[tuple[tuple[str, ...], str], dict[str, dict[str, Outcome]]] = {}
    for turn in track(turns, f"probing {labelled.samples.modality} bands", console=console):
        # All ranks encode for all of these, then each fits one.
        features = [contenders[label].of_bands(labelled, names, known[label]) for names, label in turn]
        if ranks.rank < len(turn):
            own = {depth: each.to(ranks.device) for depth, each in features[ranks.rank].items()}
            scored[turn[ranks.rank]] = {
                share: {depth: score(each, problem, task or CLASSES) for depth, each in own.items()}
                for share, problem in problems.items()
            }
    scored = {job: found for part in ranks.collect(scored) for job, found in part.items()}
    return arranged(scored, views, list(contenders), list(trains), depths)


def score(features: Tensor, problem: Problem, task: Task | None = None) -> Outcome:
    """Test scores of a linear classifier on `features` (N, F), float32, fitted on their device."""
    labels, task = problem.labels.to(features.device), task or CLASSES
    chosen = choose(features, labels, problem.classes, problem.train, problem.folds, task.judge, task.loss)
    found = logits(chosen.weights, chosen.scale(features[problem.test]))
    return task.outcome(found, problem, {"l2": chosen.l2}, chosen.val)


class Choice(NamedTuple):
    """A classifier of standardised features, its penalty, and the score by which that was chosen."""

    weights: Tensor
    scale: "Standard"
    l2: float
    val: float


def choose(
    features: Tensor, labels: Tensor, classes: int, train: Tensor, folds: Sequence[Fold],
    judge: Callable[[Tensor, Tensor], float], loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Choice:  # fmt: skip
    """The classifier of `features` (N, F) by `labels` (N,) or (N, C), fitted on their device, by the best penalty.

    judge, loss: see `Task`. Each fold stands for the whole while the penalty is chosen; of several, the samples
    `train` (n,) are fitted again with it.
    """

    def judged(fold: Fold) -> tuple[list[float], list[Tensor], Standard]:
        """Scores on the fold's judges and weights, of every penalty."""
        scale, weights, found = Standard.of(features[fold.fit]), None, list[Tensor]()
        x, shown = scale(features[fold.fit]), scale(features[fold.judge])
        for l2 in L2:
            weights = fit(x, labels[fold.fit], classes, l2, weights, loss)
            found.append(weights)
        return [judge(logits(each, shown), labels[fold.judge]) for each in found], found, scale

    outcomes = [judged(fold) for fold in folds]
    means = np.mean([scores for scores, _, _ in outcomes], axis=0)
    best = int(means.argmax())
    if len(outcomes) == 1:
        _, found, scale = outcomes[0]
        return Choice(found[best], scale, L2[best], float(means[best]))
    scale = Standard.of(features[train])
    weights = fit(scale(features[train]), labels[train], classes, L2[best], loss=loss)
    return Choice(weights, scale, L2[best], float(means[best]))


def outcome(predicted: np.ndarray, problem: Problem, settings: dict[str, float], val: float) -> Outcome:
    """Of classes `predicted` (n,) for the test samples; settings: of the classifier."""
    truth = problem.labels[problem.test].numpy()
    matrices = metrics.confusions(truth, predicted, problem.classes, problem.test_groups())
    replicates, whole = replicates_of(matrices, metrics.macro_f1), matrices.sum(0)
    details = {"accuracy": float(metrics.accuracy(whole)), **settings}
    return Outcome(float(metrics.macro_f1(whole)), val, replicates, details)


class Standard(NamedTuple):
    """Standardises features (n, F) by the mean and deviation of others."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        """By those of `features`; a constant feature stays so."""
        std = features.std(0)
        return cls(features.mean(0), torch.where(std > 1e-6, std, 1.0))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def folded(self, weights: Tensor) -> Tensor:
        """(F + 1, classes): `weights` of standardised features, for features as they are."""
        own = weights[:-1] / self.std[:, None]
        return torch.cat((own, (weights[-1] - self.mean @ own)[None]))


def fit(
    x: Tensor, y: Tensor, classes: int, l2: float, start: Tensor | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:  # fmt: skip
    """Weights (F + 1, classes) of logistic regression: loss + l2/2 * |weights|^2.

    x: (N, F) standardised features. y: labels. start: weights to start from; None: zeros. loss: see `Task`.
    The last row is the bias, not penalised.
    """
    x = torch.cat((x, x.new_ones(len(x), 1)), 1)
    weights = x.new_zeros(x.shape[1], classes) if start is None else start.clone()
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(x @ weights, y) + 0.5 * l2 * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(closure)
    return weights.detach()


def logits(weights: Tensor, x: Tensor) -> Tensor:
    """(N, C) of standardised features x (N, F)."""
    return x @ weights[:-1] + weights[-1]


def predict(weights: Tensor, x: Tensor) -> Tensor:
    """Classes (N,) of standardised features x (N, F)."""
    return logits(weights, x).argmax(1)


def by_confusion(score: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor, Tensor], float]:
    """A judge of logits (n, C) and labels (n,): `score` of the confusion matrix of the likeliest classes."""

    def judge(found: Tensor, labels: Tensor) -> float:
        return float(score(metrics.confusion(labels.cpu().numpy(), found.argmax(1).cpu().numpy(), found.shape[1])))

    return judge


CLASSES = Task(
    cross_entropy, by_confusion(metrics.macro_f1),
    lambda found, problem, settings, val: outcome(found.argmax(1).cpu().numpy(), problem, settings, val),
)  # fmt: skip
"""One class a sample."""
