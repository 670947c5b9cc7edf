"""Warnings come once, with the number, its meaning and the remedy."""

import math
from typing import Any

import pytest

from rsdnet import health

SOUND = {
    "loss": 1.0, "spread": 0.8, "effective_rank": 40.0, "cosine": 0.3, "grad_norm": 1.0, "skipped": 0,
    "trust_min": 0.002, "trust_median": 0.05, "trust_max": 0.2, "knn_f1": 0.6,
}  # fmt: skip


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("spread", {"spread": 0.02}, "spread 0.020"),
    ("rank", {"effective_rank": 9.0}, "9.0 directions (effective rank; lately 40.0)"),
    ("cosine", {"cosine": 0.97}, "mean cosine 0.970"),
    ("skipped", {"skipped": 3}, "3 skipped"),
    ("norm", {"grad_norm": 21.0}, "norm is 21, its usual 1"),
    ("norm that is not finite", {"grad_norm": math.inf}, "norm is inf"),
    ("tiny trust", {"trust_min": 1e-9, "trust_median": 1e-8, "trust_max": 1e-6}, "below 1e-06"),
    ("huge trust", {"trust_min": 1e3, "trust_median": 1e4, "trust_max": 1e5}, "above 1e+03"),
    ("knn", {"knn_f1": 0.5}, "kNN F1 is 0.500, its best was 0.600"),
]


def watch(*changes: dict[str, Any]) -> list[list[str]]:
    """What is said after ten sound lines of each line that is SOUND but for its changes."""
    watched = health.Watch()
    lines = [SOUND] * 10 + [SOUND | change for change in changes]
    said = [watched.look({"step": 10 * index + 9} | line) for index, line in enumerate(lines)]
    assert not any(said[:10])
    return said[10:]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_warning_comes_once_until_its_number_is_well(change: dict[str, Any], words: str) -> None:
    """A skipped step shows in a count that does not fall again, so the second time it is higher."""
    again = {name: 2 * value if name == "skipped" else value for name, value in change.items()}
    rest = {name: value for name, value in change.items() if name == "skipped"}
    steady = change | ({"skipped": 4} if rest else {})
    first, still, sound, more = watch(change, steady, {"skipped": 4} if rest else {}, again)
    assert len(first) == len(more) == 1
    assert first[0].startswith("step 110: ")
    assert more[0].startswith("step 140: ")
    assert words in first[0]
    assert not still
    assert not sound


@pytest.mark.parametrize(
    ("name", "bad", "between"), [("spread", 0.04, 0.055), ("cosine", 0.96, 0.945), ("knn_f1", 0.5, 0.52)]
)
def test_a_number_about_its_bound_does_not_flood(name: str, bad: float, between: float) -> None:
    said = watch(*[{name: value} for value in (bad, between) * 5])
    assert sum(map(len, said)) == 1


def test_what_is_sound_or_absent_or_not_a_number_says_nothing() -> None:
    assert not any(watch({}, *[{name: math.nan} for name in SOUND if name not in ("grad_norm", "skipped")]))
    assert health.Watch().look({"step": 50}) == []
    assert health.Watch().look({"step": 0, "spread": 0.0}) == []  # of weights just drawn


def test_a_skipped_step_is_told_once_not_by_its_norm_too() -> None:
    (said,) = watch({"skipped": 1, "grad_norm": math.inf})
    assert len(said) == 1
    assert "skipped" in said[0]


def test_a_slow_rise_of_the_gradient_and_a_slow_fall_of_the_rank_are_no_news() -> None:
    assert not any(watch(*[{"grad_norm": 1.05**index, "effective_rank": 2 + 88 * 0.95**index} for index in range(99)]))
