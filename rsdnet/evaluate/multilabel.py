"""Linear evaluation of any number of classes a sample: one logistic regression a class, against all others.

Scores are scikit-learn's, over the classes that the test split has: mean average precision (macro, the score, and
micro) and F1 at a probability of 0.5.
"""

import numpy as np
import torch
from torch import Tensor

from rsdnet.evaluate import metrics
from rsdnet.evaluate.intervals import draws
from rsdnet.evaluate.linear import Problem, Task
from rsdnet.evaluate.outcomes import Outcome

AT_ONCE = 1 << 20  # numbers of a block of replicates
_TINY = np.finfo(np.float64).tiny


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over samples of the sum over classes, so that a penalty is that of each class's own regression."""
    found = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
    return found / len(labels)


def macro_map(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of labels (n, C) of their average precision."""
    from sklearn.metrics import average_precision_score

    truth, found = labels.cpu().numpy(), logits.float().cpu().numpy()
    there = truth.any(0)
    return float(average_precision_score(truth[:, there], found[:, there])) if there.any() else 0.0


def outcome(logits: Tensor, problem: Problem, settings: dict[str, float], val: float) -> Outcome:
    """Scores of the test samples' logits (n, C); settings: of the classifier."""
    from sklearn.metrics import average_precision_score, f1_score

    truth, found = problem.labels[problem.test].numpy(), logits.float().cpu().numpy()
    there, count = truth.any(0), truth.any(0).sum()
    precision = np.full(problem.classes, np.nan)
    precision[there] = [average_precision_score(truth[:, at], found[:, at]) for at in np.flatnonzero(there)]
    own, positive = truth[:, there], found[:, there] > 0
    details = {
        "map_micro": float(average_precision_score(own.ravel(), found[:, there].ravel())) if count else 0.0,
        "f1_macro": float(f1_score(own, positive, average="macro", zero_division=0)) if count else 0.0,
        "f1_micro": float(f1_score(own, positive, average="micro", zero_division=0)) if count else 0.0,
        "average_precision": {
            name: None if np.isnan(each) else float(each) for name, each in zip(problem.names, precision, strict=True)
        },
        **settings,
    }
    groups = problem.test_groups()
    replicates = [
        metrics.macro(average_precision(truth, found, groups, weights)) for weights in draws(int(groups.max()) + 1)
    ]
    return Outcome(float(metrics.macro(precision)), val, np.concatenate(replicates), details)


SEVERAL = Task(binary_cross_entropy, macro_map, outcome)
"""Any number of classes a sample."""


def average_precision(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, C) average precision of each class by samples that count as often as their groups: scikit-learn's, with
    sample_weight, of R weightings at once; NaN for a class without a positive sample of weight.

    truth: (N, C) bool. scores: (N, C). groups: (N,) int64 in range(G). weights: (R, G), not negative.
    """
    columns = [_weighted(truth[:, at], scores[:, at], groups, weights) for at in range(truth.shape[1])]
    return np.stack(columns, 1)


def _weighted(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) of one class. Precision is asked for at the scores of positive samples alone, so counts by such a threshold
    and group, times the weights, and summed from the highest threshold on, hold all that it takes."""
    from scipy.sparse import coo_array

    thresholds = np.unique(-scores[truth])  # ascending: the highest score first
    reached = np.searchsorted(thresholds, -scores)  # the first threshold that a sample reaches
    shape, found = (len(thresholds), weights.shape[1]), np.full(len(weights), np.nan)

    def counts(chosen: np.ndarray) -> coo_array:
        return coo_array((np.ones(chosen.sum()), (reached[chosen], groups[chosen])), shape).tocsr()

    positive, every = counts(truth), counts(reached < len(thresholds))
    step = max(AT_ONCE // max(len(thresholds), 1), 1)
    for start in range(0, len(weights), step):
        block = np.ascontiguousarray(weights[start : start + step].T, dtype=np.float64)  # (G, r)
        hits = positive @ block
        recalled, shown = hits.cumsum(0), (every @ block).cumsum(0)
        area = (hits * recalled / np.maximum(shown, _TINY)).sum(0)
        total = hits.sum(0)
        found[start : start + step] = np.where(total > 0, area / np.maximum(total, _TINY), np.nan)
    return found
