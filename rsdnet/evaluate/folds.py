"""The samples that choose a hyper-parameter: the validation split, or parts of the train split in turn."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsdnet.errors import DataError

FOLDS = 5


class Fold(NamedTuple):
    """(n,) int64 each: the samples to fit on, and those to judge by."""

    fit: Tensor
    judge: Tensor


def folds_of(train: Tensor, val: Tensor, labels: Tensor, groups: np.ndarray) -> list[Fold]:
    """The validation split as one fold; without one, at most five folds of the train split, by class and by group.

    train, val: (n,) int64 samples of a split. labels, groups: (N,) of all samples; of several labels a sample, those of
    `targets.strata`. No group lies on both sides of a fold; of one group only, samples stand for groups. Where no class
    has two samples, by group alone.
    Raises DataError where one sample is all that there is.
    """
    if len(val):
        return [Fold(train, val)]
    if len(train) < 2:
        raise DataError("one training sample and no val split, so nothing can be chosen: use more --labels")
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    own = groups[train.numpy()]
    if len(np.unique(own)) == 1:
        own = np.arange(len(own))
    strata = labels[train]
    count, most = min(FOLDS, len(np.unique(own))), int(strata.bincount().max())
    stratified = StratifiedGroupKFold(min(count, most), shuffle=True, random_state=0) if most > 1 else GroupKFold(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer samples than folds
        parts = list(stratified.split(np.zeros(len(own)), strata.numpy(), own))
    return [Fold(train[torch.from_numpy(fit)], train[torch.from_numpy(judge)]) for fit, judge in parts]
