"""Measures of projections against float64 and against projections whose answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rsdnet.health import COLLAPSED
from rsdnet.monitor import projections


def numbers(z1: Tensor, z2: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in projections.measures(z1, z2).items()}


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
    assert found["spread"] < COLLAPSED


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
    for value in projections.measures(z, z).values():
        assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float32, False)
