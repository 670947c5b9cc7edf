"""Scores from counts against scikit-learn's from the classes themselves."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

from rsdnet.evaluate import metrics

RNG = np.random.default_rng(0)
TRUTH, PREDICTED = RNG.integers(0, 5, 400), RNG.integers(0, 6, 400)  # the truth lacks class 5
PREDICTED[:200] = TRUTH[:200]
GROUPS = RNG.integers(0, 7, 400)
SEEN = np.unique(TRUTH)


def test_scores_of_a_confusion_matrix_are_scikit_learns() -> None:
    matrix = metrics.confusion(TRUTH, PREDICTED, 6)
    np.testing.assert_array_equal(matrix, confusion_matrix(TRUTH, PREDICTED, labels=range(6)))
    f1 = f1_score(TRUTH, PREDICTED, labels=range(6), average=None, zero_division=0)
    iou = jaccard_score(TRUTH, PREDICTED, labels=range(6), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.class_f1(matrix)[:5], f1[:5], atol=1e-12)
    np.testing.assert_allclose(metrics.class_iou(matrix)[:5], iou[:5], atol=1e-12)
    assert np.isnan(metrics.class_f1(matrix)[5])
    assert metrics.accuracy(matrix) == pytest.approx(accuracy_score(TRUTH, PREDICTED), abs=1e-12)
    assert metrics.macro_f1(matrix) == pytest.approx(
        f1_score(TRUTH, PREDICTED, labels=SEEN, average="macro"), abs=1e-12
    )
    assert metrics.mean_iou(matrix) == pytest.approx(
        jaccard_score(TRUTH, PREDICTED, labels=SEEN, average="macro"), abs=1e-12
    )


def test_confusions_by_group_are_those_of_the_groups() -> None:
    by_group = metrics.confusions(TRUTH, PREDICTED, 6, GROUPS)
    for group in range(7):
        own = group == GROUPS
        np.testing.assert_array_equal(by_group[group], confusion_matrix(TRUTH[own], PREDICTED[own], labels=range(6)))
    np.testing.assert_allclose(
        metrics.macro_f1(by_group), [metrics.macro_f1(matrix) for matrix in by_group], atol=1e-12
    )


def test_a_class_that_is_never_found_scores_nothing() -> None:
    matrix = np.array([[3, 0], [2, 0]])
    np.testing.assert_allclose(metrics.class_f1(matrix), [2 * 3 / 8, 0])
    np.testing.assert_allclose(metrics.class_iou(matrix), [3 / 5, 0])
