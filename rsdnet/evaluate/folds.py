"""The samples that choose a hyper-parameter: the validation split, or parts of the train split in turn."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FOLDS = 5


class Fold(NamedTuple):
    """(n,) int64 each: the samples to fit on, and those to judge by."""

    fit: Tensor
    judge: Tensor


def folds_of(train: Tensor, val: Tensor, labels: Tensor, groups: np.ndarray) -> list[Fold]:
    """The validation split as one fold; without one, at most five folds of the train split, by class and by group.

    train, val: (n,) int64 samples of a split. labels, groups: (N,) of all samples. No group lies on both sides of a
    fold; of one group only, samples stand for groups.
    """
    if len(val):
        return [Fold(train, val)]
    from sklearn.model_selection import StratifiedGroupKFold

    own = groups[train.numpy()]
    if len(np.unique(own)) == 1:
        own = np.arange(len(own))
    count = min(FOLDS, len(np.unique(own)))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    strata = labels[train] if labels.dim() == 1 else labels[train].argmax(1)  # of several classes, the first
    parts = splitter.split(np.zeros(len(own)), strata.numpy(), own)
    return [Fold(train[torch.from_numpy(fit)], train[torch.from_numpy(judge)]) for fit, judge in parts]
