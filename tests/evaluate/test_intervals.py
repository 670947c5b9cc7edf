"""Bootstrap intervals against formulas, and over groups whose samples are copies."""

import numpy as np
import pytest

from rsdnet.evaluate import intervals


def share(counts: np.ndarray) -> np.ndarray:
    """Of hits among (r, 2): hits, samples."""
    return counts[:, 0] / counts[:, 1]


def test_an_interval_of_a_share_is_the_binomials() -> None:
    hits = np.random.default_rng(1).random(2000) < 0.8
    counts = np.stack((hits, np.ones_like(hits)), 1)
    low, high = intervals.interval(intervals.replicates_of(counts, share, 4000))
    half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits))
    assert low == pytest.approx(hits.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(hits.mean() + half, abs=0.1 * half)


def test_copies_within_a_group_do_not_narrow_the_interval() -> None:
    hits = np.random.default_rng(2).random(50) < 0.7
    once = np.stack((hits, np.ones_like(hits)), 1).astype(int)
    groups = intervals.numbered(np.repeat([f"scene {index}" for index in range(50)], 9).astype(object))
    nine = np.zeros((50, 2), int)
    np.add.at(nine, groups, np.repeat(once, 9, axis=0))
    spread = {intervals.interval(intervals.replicates_of(each, share)) for each in (once, nine[NAMES])}
    assert len(spread) == 1


NAMES = np.argsort(np.argsort([f"scene {index}" for index in range(50)]))  # of the scenes in the order of their names


def test_a_sample_without_a_group_is_its_own() -> None:
    found = intervals.numbered(np.array(["b", None, "a", None, "b"], object))
    assert found[0] == found[4]
    assert len(set(found.tolist())) == 4


def test_draws_are_seeded_and_each_draws_as_many_groups_as_there_are() -> None:
    first = np.concatenate(list(intervals.draws(30, 200, seed=3)))
    assert first.shape == (200, 30)
    assert (first.sum(1) == 30).all()
    assert np.array_equal(first, np.concatenate(list(intervals.draws(30, 200, seed=3))))
    assert not np.array_equal(first, np.concatenate(list(intervals.draws(30, 200, seed=4))))
    assert first.mean(0) == pytest.approx(np.ones(30), abs=0.3)


def test_blocks_of_draws_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(intervals.draws(30, 50)))
    monkeypatch.setattr(intervals, "AT_ONCE", 100)
    assert np.array_equal(whole, np.concatenate(list(intervals.draws(30, 50))))


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Three runs of .7, .8, .9 without any spread of their own: 27 equally likely means."""
    replicates = np.repeat([[0.7], [0.8], [0.9]], 9000, axis=1)
    found = intervals.over_runs(replicates)
    assert found.mean() == pytest.approx(0.8, abs=0.003)
    assert found.std() == pytest.approx(np.sqrt(0.02 / 3 / 3), abs=0.002)
    # one in 27 means is .7, one in 27 .9: more than the tails of 2.5 %
    assert intervals.interval(found) == pytest.approx((0.7, 0.9), abs=1e-9)


def test_samples_of_a_part_of_one_group_stand_for_groups() -> None:
    groups, parts = np.array([0, 0, 1, 2, 0, 2]), np.array(["a", "a", "b", "b", "a", "b"])
    found = intervals.apart(groups, parts)
    own = [set(found[parts == part].tolist()) for part in ("a", "b")]
    assert [len(each) for each in own] == [3, 2]
    assert own[0].isdisjoint(own[1])
    assert found[3] == found[5]
