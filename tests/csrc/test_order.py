"""The order of samples: the reader against plain Python, golden values, and what a fair shuffle must be."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet._reader import order, permute
from rsdnet.data import databases
from rsdnet.errors import DataError
from tests.support import order_oracle as oracle

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 2**32 - 1)


def whole(seed: int, epoch: int, which: int, n: int) -> np.ndarray:
    return permute(seed, epoch, which, n, np.arange(n, dtype=np.int64))


@given(SEEDS, EPOCHS, st.integers(0, 70000), st.integers(1, 2**32), st.data())
def test_the_permutation_is_what_it_is_described_to_be(
    seed: int, epoch: int, which: int, n: int, data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    expected = [oracle.permute(seed, epoch, which, n, position) for position in positions]
    assert permute(seed, epoch, which, n, np.array(positions, np.int64)).tolist() == expected


def test_golden_values() -> None:
    """Fixed for ever: a run resumes under a later version. Made with tests/support/order_oracle.py."""
    assert whole(0, 0, 0, 10).tolist() == [7, 1, 2, 8, 9, 5, 0, 4, 3, 6]
    assert whole(0, 1, 0, 10).tolist() == [9, 6, 8, 2, 1, 3, 0, 5, 7, 4]
    assert permute(2**63 - 1, 2**32 - 1, 3, 1000, np.array([0, 1, 2, 999])).tolist() == [143, 814, 213, 977]
    far = permute(42, 7, 0, 2**32, np.array([0, 1, 2**31, 2**32 - 1]))
    assert far.tolist() == [4236815148, 1019908822, 1897406614, 1687582424]
    samples, repeats = order(1, 2, [5, 3], [4, 4], np.arange(8))
    assert samples.tolist() == [6, 5, 4, 4, 1, 1, 7, 7]
    assert repeats.tolist() == [1, 1, 1, 0, 0, 1, 0, 1]


def chi_squared(counts: np.ndarray, freedom: int = 0) -> float:
    """Deviations of Pearson's statistic of equally likely cells from its mean. freedom: 0 for cells - 1."""
    expected, freedom = counts.mean(), freedom or counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("n", [7, 20, 100, 300])
def test_every_sample_is_as_likely_at_every_position(n: int) -> None:
    table = np.zeros((n, n))
    for seed in range(4000):
        table[np.arange(n), whole(seed, 0, 0, n)] += 1
    assert abs(chi_squared(table, (n - 1) ** 2)) < 5


def test_epochs_and_seeds_are_not_correlated() -> None:
    n = 1001
    orders = [whole(seed, epoch, which, n) for seed in (0, 1, 1 << 40) for epoch in (0, 1, 2) for which in (0, 1)]
    ranks = np.array(orders, np.float64)
    correlation = np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)]
    assert abs(correlation).max() < 5 / math.sqrt(n)
    same = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    assert max(same) < 1 + 6  # about one position in common by chance


def test_neighbours_are_not_neighbours_afterwards() -> None:
    n = 1000
    gaps = np.concatenate([np.diff(whole(seed, 3, 0, n)) % n for seed in range(300)])
    assert abs(chi_squared(np.bincount(gaps, minlength=n)[1:])) < 5
    pairs = Counter(tuple(whole(seed, 0, 0, 4)) for seed in range(24000))
    assert len(pairs) == 24  # all orders of four occur, equally often
    assert abs(chi_squared(np.array(list(pairs.values()), np.float64))) < 5


# ---- several databases ----------------------------------------------------------------------------------------------

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(SEEDS, st.integers(0, 50), COUNTS, st.data())
def test_the_order_over_databases_is_what_it_is_described_to_be(
    seed: int, epoch: int, counts: list[int], data: st.DataObject
) -> None:
    quotas = data.draw(st.lists(st.integers(0, 90), min_size=len(counts), max_size=len(counts)).filter(any))
    positions = np.arange(sum(quotas))
    samples, repeats = order(seed, epoch, counts, quotas, positions)
    expected = [oracle.order(seed, epoch, counts, quotas, int(position)) for position in positions]
    assert list(zip(samples.tolist(), repeats.tolist(), strict=True)) == expected


# ---- weights --------------------------------------------------------------------------------------------------------


def quotas(weights: list[float], counts: list[int]) -> list[int]:
    return databases.quotas(weights, counts, [Path(f"db{d}") for d in range(len(counts))])


@given(COUNTS, st.data())
def test_weights_become_shares_that_add_up(counts: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0, 1e6), min_size=len(counts), max_size=len(counts)).filter(any))
    found = quotas(weights, counts)
    assert sum(found) == sum(counts)
    for share, weight in zip(found, weights, strict=True):
        exact = sum(counts) * (weight / max(weights)) / math.fsum(other / max(weights) for other in weights)
        assert abs(share - exact) < 1 + 1e-6


def test_shares_by_hand() -> None:
    assert quotas([1, 1], [10, 30]) == [20, 20]
    assert quotas([10, 30], [10, 30]) == [10, 30]
    assert quotas([1, 1, 1], [1, 2, 2]) == [2, 2, 1]  # of equal remainders the earlier first
    assert quotas([1, 2], [2, 2]) == [1, 3]  # 1.33 and 2.67: the larger remainder gets the one left
    assert quotas([2, 1, 2], [1, 1, 2]) == [2, 1, 1]  # 1.6, 0.8, 1.6
    assert quotas([0, 2.5], [3, 4]) == [0, 7]


@pytest.mark.parametrize(
    ("weights", "counts", "said"),
    [
        ([1], [2, 3], "1 weights for 2 databases"),
        ([1, -1], [2, 3], "negative"),
        ([0, 0], [2, 3], "above 0"),
        ([math.nan, 1], [2, 3], "weights nan"),
        ([math.inf, 1], [2, 3], "weights inf"),
        ([1, 1], [2, 0], "db1, which has no samples"),
    ],
)
def test_weights_that_cannot_be_had(weights: list[float], counts: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        quotas(weights, counts)
