"""Measures of projections against float64 and against projections whose answer is known; warnings that come once."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rsdnet.monitor import health

SOUND = {
    "loss": 1.0, "spread": 0.8, "effective_rank": 40.0, "cosine": 0.3, "grad_norm": 1.0, "skipped": 0,
    "trust_min": 0.002, "trust_median": 0.05, "trust_max": 0.2, "knn_f1": 0.6,
}  # fmt: skip


def numbers(z1: Tensor, z2: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in health.projections(z1, z2).items()}


def units(z: Tensor) -> np.ndarray:
    rows = z.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_measures_against_float64_and_every_pair(samples: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = (torch.randn(samples, dim, generator=generator) + 0.5 for _ in range(2))
    a, b = units(z1), units(z2)
    shared = (a + b) / 2
    values = np.linalg.svd(shared, compute_uv=False)
    shares = values / max(values.sum(), 1e-300)
    rank = np.exp(-sum(p * np.log(p) for p in shares if p > 0))
    pairs = [(u[i] @ v[j]) for u in (a, b) for v in (a, b) for i in range(samples) for j in range(samples) if i != j]
    found = numbers(z1, z2)
    assert found["effective_rank"] == pytest.approx(rank, rel=1e-4)
    assert found["cosine"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found["spread"] == pytest.approx(shared.std(axis=0).mean() * math.sqrt(dim), rel=1e-4, abs=1e-6)


def test_projections_that_fill_every_direction_evenly() -> None:
    z = torch.cat((torch.eye(16), -torch.eye(16)))
    found = numbers(z, z)
    assert found["effective_rank"] == pytest.approx(16)
    assert found["cosine"] == pytest.approx(-1 / 31, abs=1e-6)  # each is opposite to one of the 31 others
    assert found["spread"] == pytest.approx(1)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)])
def test_projections_fallen_into_a_point(shape: tuple[int, int]) -> None:
    point = torch.ones(shape) + 1e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = numbers(point, point)
    assert found["effective_rank"] == pytest.approx(1, abs=0.05)
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["spread"] < health.COLLAPSED


def test_rounding_adds_no_directions() -> None:
    """Of two directions and 254 empty ones, whose squares in float32 would not be empty."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(512, 2, generator=generator) @ torch.randn(2, 256, generator=generator)
    assert numbers(z, z)["effective_rank"] <= 2.001


def test_a_network_that_encodes_the_sensor_alone_has_collapsed() -> None:
    """One view is MS and the other SAR, in random order, as training draws them."""
    ms, sar = torch.eye(8)[0], torch.eye(8)[1]
    first = torch.stack([ms if index % 3 else sar for index in range(32)])
    second = torch.stack([sar if index % 3 else ms for index in range(32)])
    found = numbers(first, second)
    assert found["spread"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)


def test_projections_that_are_not_finite_are_no_error() -> None:
    z = torch.ones(4, 3)
    z[1, 2] = torch.nan
    assert all(math.isnan(value) for value in numbers(z, z).values())
    assert math.isfinite(numbers(torch.zeros(4, 3), torch.zeros(4, 3))["effective_rank"])


def test_half_projections_with_a_gradient_give_float32_without_one() -> None:
    z = torch.randn(8, 4, dtype=torch.bfloat16, requires_grad=True)
    for value in health.projections(z, z).values():
        assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float32, False)


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
