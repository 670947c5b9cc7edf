"""A limit takes of every class its share, by largest remainder, and one at least."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet.errors import DataError
from rsdnet.evaluate.stratified import shares, stratified

COUNTS = st.lists(st.integers(1, 400), min_size=1, max_size=12)


@given(COUNTS, st.integers(0, 10**4), st.integers(0, 2**63 - 1), st.booleans())
def test_every_class_has_its_share(counts: list[int], more: int, seed: int, shuffled: bool) -> None:
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    if shuffled:
        labels = np.random.default_rng(1).permutation(labels)
    limit = len(counts) + more
    found = stratified(labels, limit, seed)
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == min(limit, len(labels))
    assert np.array_equal(found, stratified(labels, limit, seed))
    own = np.bincount(labels[found] // 3, minlength=len(counts))
    assert (own >= 1).all()
    exact = np.array(counts) * len(found) / len(labels)
    if (exact >= 1).all():
        assert (np.abs(own - exact) < 1).all()


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([100, 100, 100], 12, [4, 4, 4]),
        ([90, 9, 1], 10, [8, 1, 1]),  # 9, 0.9, 0.1
        ([50, 30, 20], 7, [4, 2, 1]),  # 3.5, 2.1, 1.4
        ([10, 10, 10], 4, [2, 1, 1]),
        ([1, 1, 1000], 3, [1, 1, 1]),
        ([5, 5], 10, [5, 5]),
    ],
)
def test_shares_are_those_of_largest_remainder(counts: list[int], limit: int, expected: list[int]) -> None:
    assert shares(np.array(counts), limit).tolist() == expected


def test_a_draw_is_by_its_seed_and_no_limit_takes_all() -> None:
    labels = np.repeat([0, 1], 50)
    assert stratified(labels, 10, 1).tolist() != stratified(labels, 10, 2).tolist()
    assert stratified(labels, 0).tolist() == list(range(100))
    first = [stratified(labels, 2, seed)[0] for seed in range(400)]
    assert len(set(first)) == 50  # not the first ones: any of its class


@pytest.mark.parametrize(("limit", "said"), [(-1, "a limit of -1 samples"), (2, "each of 3 classes: use at least 3")])
def test_limits_that_cannot_be(limit: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        stratified(np.array([0, 1, 1, 5]), limit)
