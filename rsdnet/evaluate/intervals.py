"""95 % intervals by the bootstrap over groups: scenes or places, whose samples are not independent of each other.

Every score of one evaluation is resampled with the same draws, so that replicates of two rows are paired.
"""

from collections.abc import Callable, Iterator

import numpy as np

REPLICATES = 1000
LEVEL = 0.95
AT_ONCE = 1 << 22  # numbers of a block of draws


def numbered(groups: np.ndarray) -> np.ndarray:
    """(N,) int64 in range(number of groups) of groups (N,) str or None; None is a group of its own, each time."""
    own = np.array([f"\0{index}" if group is None else group for index, group in enumerate(groups)], object)
    return np.unique(own.astype(str), return_inverse=True)[1]


def apart(groups: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(N,) int64 groups (N,), but of a part (N,) that has one group only each sample is a group of its own.

    DFC2020's published test part is one folder: without this its interval would have no width.
    """
    found = groups.copy()
    for part in np.unique(parts.astype(str)):
        own = np.flatnonzero(parts == part)
        if len(np.unique(groups[own])) == 1:
            found[own] = found.max() + 1 + np.arange(len(own))
    return np.unique(found, return_inverse=True)[1]


def draws(groups: int, replicates: int = REPLICATES, seed: int = 0) -> Iterator[np.ndarray]:
    """(R, groups) int64, in blocks of replicates: how often each group is drawn, with replacement, `groups` in all."""
    rng = np.random.default_rng(seed)
    block = max(1, AT_ONCE // max(groups, 1))
    for start in range(0, replicates, block):
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=min(block, replicates - start))


def replicates_of(
    counts: np.ndarray, score: Callable[[np.ndarray], np.ndarray], replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """(R,) float64: `score` of counts (G, ...) summed over the groups of each draw.

    counts: whole numbers by group, such as a confusion matrix. score: from counts (r, ...) to scores (r,).
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    shape = counts.shape[1:]
    parts = [score((drawn @ flat).reshape(len(drawn), *shape)) for drawn in draws(len(counts), replicates, seed)]
    return np.concatenate(parts)


def over_runs(replicates: np.ndarray, seed: int = 0) -> np.ndarray:
    """(R,) means over the runs of S seeds, drawn with replacement, of their replicates (S, R): both spreads at once."""
    seeds, count = replicates.shape
    drawn = np.random.default_rng(seed).integers(seeds, size=(seeds, count))
    return np.take_along_axis(replicates, drawn, 0).mean(0)


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles of replicates (R,) that hold `level` of them (Efron and Tibshirani 1993, section 13.3)."""
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
