"""A part of labelled samples in which every class has its share."""

import numpy as np

from rsdnet.errors import DataError


def stratified(labels: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Indices, ascending, of at most `limit` of the samples with `labels` (n,); 0: all of them.

    Drawn by `seed` from each class in proportion to its samples, at least one of each; by largest remainder, so that
    they add up. Raises DataError on a limit that is negative, or below the number of classes.
    """
    if limit < 0:
        raise DataError(f"a limit of {limit} samples: use 0 for all, or the number of samples")
    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if limit == 0 or limit >= len(labels):
        return np.arange(len(labels))
    if limit < len(classes):
        raise DataError(
            f"a limit of {limit} samples cannot hold one of each of {len(classes)} classes: use at least "
            f"{len(classes)}, or 0 for all"
        )
    quotas = shares(counts, limit)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    taken = [shuffled[own[shuffled] == at][:quota] for at, quota in enumerate(quotas)]
    return np.sort(np.concatenate(taken))


def shares(counts: np.ndarray, limit: int) -> np.ndarray:
    """(C,) int64: `limit` in proportion to `counts` (C,), at least one and at most all of each.

    limit: from C to the sum of counts. Of equal remainders the first class's goes first.
    """
    total = int(counts.sum())
    found = np.maximum(counts * limit // total, 1)
    while (over := int(found.sum()) - limit) != 0:  # fewer turns than classes
        missing = counts * limit - found * total  # in parts of a sample
        if over > 0:
            found[np.where(found > 1, missing, np.iinfo(np.int64).max).argmin()] -= 1
        else:
            found[missing.argmax()] += 1
    return found
