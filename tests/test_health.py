"""Warnings come once, with the number, its meaning and the remedy."""

import math
from typing import Any

import pytest

from rsdnet import health

SOUND = {
    "loss": 1.0, "spread": 0.8, "effective_rank": 40.0, "cosine": 0.3, "grad_norm": 1.0, "skipped": 0,
    "trust_min": 0.002, "trust_median": 0.05, "trust_max": 0.2, "knn_f1": 0.6, "feature_rank": 40.0, "classes": 9,
}  # fmt: skip


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("spread", {"spread": 0.02}, "spread 0.020"),
    ("rank", {"effective_rank": 9.0}, "9.0 directions (effective rank; lately 40.0)"),
    ("few", {"effective_rank": 11.0, "classes": 12}, "11.0 directions (effective rank), fewer than there are classes"),
    ("cosine", {"cosine": 0.97}, "mean cosine 0.970"),
    ("skipped", {"skipped": 3}, "3 skipped"),
    ("norm", {"grad_norm": 21.0}, "norm is 21, its usual 1"),
    ("norm that is not finite", {"grad_norm": math.inf}, "norm is inf"),
    ("tiny trust", {"trust_min": 1e-9, "trust_median": 1e-8, "trust_max": 1e-6}, "below 1e-06"),
    ("huge trust", {"trust_min": 1e3, "trust_median": 1e4, "trust_max": 1e5}, "above 1e+03"),
    ("knn", {"knn_f1": 0.5}, "kNN F1 is 0.500, its best was 0.600"),
    (
        "features",
        {"feature_rank": 19.0},
        "19.0 directions (effective rank; at best 40.0), and kNN F1, 0.600, is not",
    ),
    ("classes", {"feature_rank": 8.9}, "8.9 directions (effective rank), fewer than there are classes (9)"),
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
    assert not any(watch(*[{"grad_norm": 1.05**index, "effective_rank": 10 + 80 * 0.95**index} for index in range(99)]))


# Evaluations of 300 steps of the demo's data at a quarter of its settings' width: step, mean loss since the evaluation
# before, kNN F1, effective rank of the features; and the warnings. Where they were measured: rsdnet/health.py.
RUNS: dict[str, tuple[list[tuple[int, float, float, float]], dict[int, str]]] = {}


def evaluations(*lines: tuple[int, float, float, float]) -> list[dict[str, float]]:
    names = ("step", "loss", "knn_f1", "feature_rank")
    return [dict(zip(names, line, strict=True)) | {"step": line[0] - 1, "classes": 9} for line in lines]


@pytest.mark.parametrize("run", RUNS)
def test_runs_that_do_not_learn_are_told_from_those_that_do(run: str) -> None:
    lines, expected = RUNS[run]
    watched = health.Watch()
    said = {line[0]: watched.look(each) for line, each in zip(lines, evaluations(*lines), strict=True)}
    assert {step: len(each) for step, each in said.items() if each} == dict.fromkeys(expected, 1)
    for step, words in expected.items():
        assert words in said[step][0]


def test_a_loss_that_falls_or_an_f1_that_stays_is_no_news_alone() -> None:
    steady = [(step, 1.0, 0.5, 40.0) for step in range(10, 100, 10)]
    rising = [(step, 10 / step, 0.5 + step / 200, 40.0) for step in range(10, 100, 10)]
    below_zero = [(step, -0.9, 0.5, 40.0) for step in range(10, 100, 10)]  # SimSiam's
    for lines in (steady, rising, below_zero):
        watched = health.Watch()
        assert not any(watched.look(line) for line in evaluations(*lines))
    watched = health.Watch()
    falling = evaluations((10, -0.5, 0.5, 40.0), *below_zero[1:])
    assert [len(watched.look(line)) for line in falling] == [0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_rise_is_beyond_chance_and_clears_the_warning() -> None:
    """Chance moves an F1 of 0.5 by 0.0158 on 1,000 samples: three times that is the bound, 0.0474."""
    watched = health.Watch()
    f1s = [0.5, *[0.546] * 3, *[0.57] * 3, *[0.5] * 3]
    said = [watched.look(line) for line in evaluations(*((10 * i, 1 / i, f1, 40.0) for i, f1 in enumerate(f1s, 1)))]
    assert [len(each) for each in said] == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    watched = health.Watch()
    higher = evaluations(*((10 * i, 1 / i, 0.5 + 0.049 * (i > 1), 40.0) for i in range(1, 9)))
    assert not any(watched.look(line) for line in higher)


def test_features_that_lose_directions_while_f1_rises_are_no_news() -> None:
    assert not any(watch({"feature_rank": 19.0, "knn_f1": 0.7}, {"feature_rank": 12.0, "knn_f1": 0.75}))


def test_without_an_evaluation_of_the_start_there_is_none_to_compare_with() -> None:
    """As of a run that was resumed with --knn-every, or is older."""
    watched = health.Watch()
    late = evaluations(*((100 * i, 1 / i, 0.5, 40.0 if i < 6 else 15.0) for i in range(1, 9)))
    assert not any(watched.look(line) for line in late)


def test_of_one_cause_the_gravest_is_told() -> None:
    """Features of fewer directions than classes have lost more than half, too, and F1 has fallen."""
    (said, later) = watch({"feature_rank": 5.0, "knn_f1": 0.3}, {"feature_rank": 15.0, "knn_f1": 0.3})
    assert len(said) == 1
    assert "classes (9)" in said[0]
    assert not later
    (said,) = watch({"spread": 0.01, "effective_rank": 1.1, "cosine": 0.99, "knn_f1": 0.3})
    assert ["collapsed" in said[0], "kNN F1 is" in said[1], len(said)] == [True, True, 2]


def test_lines_of_steps_join_to_those_of_the_log() -> None:
    lines = [{"step": step, "loss": float(step), "spread": step // 4 / 10} for step in range(8)]
    lines[1] |= {"knn_f1": 0.5}
    del lines[3]["loss"]  # was not finite
    assert list(health.intervals(lines)) == [
        {"step": 3, "loss": 1.0, "spread": 0.0, "knn_f1": 0.5}, {"step": 7, "loss": 5.5, "spread": 0.1},
    ]  # fmt: skip
