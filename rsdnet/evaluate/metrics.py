"""Scores from counts: confusion matrices of one class a sample or pixel, and hits and misses of several.

All take leading dimensions, so that the replicates of a bootstrap are scored at once.
"""

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64 counts, by true class and predicted class, of classes (N,) in range(C)."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusions(truth: np.ndarray, predicted: np.ndarray, classes: int, groups: np.ndarray) -> np.ndarray:
    """(G, C, C) int64: `confusion` of each group; groups: (N,) int64 in range(G)."""
    count = int(groups.max(initial=-1)) + 1
    cells = (groups * classes + truth) * classes + predicted
    return np.bincount(cells, minlength=count * classes**2).reshape(count, classes, classes)


def class_f1(matrix: np.ndarray) -> np.ndarray:
    """(..., C) F1 of each class of confusion matrices (..., C, C); NaN for one that the truth lacks."""
    hits, true, found = _marginals(matrix)
    return np.where(true > 0, 2 * hits / np.maximum(true + found, 1), np.nan)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """(..., C) intersection over union of each class of confusion matrices; NaN for one that the truth lacks."""
    hits, true, found = _marginals(matrix)
    return np.where(true > 0, hits / np.maximum(true + found - hits, 1), np.nan)


def macro(scores: np.ndarray) -> np.ndarray:
    """(...) means of scores (..., C) over the classes that have one."""
    known = ~np.isnan(scores)
    return np.where(known, scores, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)


def macro_f1(matrix: np.ndarray) -> np.ndarray:
    """(...) macro F1 over the classes of the truth, of confusion matrices (..., C, C)."""
    return macro(class_f1(matrix))


def mean_iou(matrix: np.ndarray) -> np.ndarray:
    """(...) mean intersection over union over the classes of the truth, of confusion matrices (..., C, C)."""
    return macro(class_iou(matrix))


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """(...) share of samples or pixels whose class is found, of confusion matrices (..., C, C)."""
    return np.trace(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum((-2, -1)), 1)


def _marginals(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, true counts and found counts (..., C)."""
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)
