"""VICReg's terms beside the formulas in float64, and what they do to a batch."""

import dataclasses

import numpy as np
import pytest
import torch

from rsdnet.config import Config, ModelConfig
from rsdnet.methods import METHODS
from rsdnet.methods.vicreg import vicreg_terms

SMALL = ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16, variance=0.0, covariance=0.0)


def by_formula(z: np.ndarray) -> tuple[float, float]:
    """Equations 1 to 4 of Bardes et al. 2022, on projections of length sqrt(D)."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True) * z.shape[1] ** 0.5
    variance = np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean()
    matrix = np.cov(z.T)
    return variance, (np.square(matrix).sum() - np.square(np.diag(matrix)).sum()) / z.shape[1]


def test_the_terms_are_those_of_the_paper() -> None:
    z = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))
    z[:, 6:] = z[:, :6] + 0.1 * z[:, 6:]  # correlated
    torch.testing.assert_close([float(t) for t in vicreg_terms(z[None])], list(by_formula(z.double().numpy())))
    torch.testing.assert_close(vicreg_terms(7 * z[None]), vicreg_terms(z[None]))  # directions alone count


def test_in_half_precision_one_direction_of_a_large_batch_is_finite() -> None:
    z = torch.zeros(4096, 64)
    z[:, 0] = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.float16):
        torch.testing.assert_close(
            torch.stack(vicreg_terms(z[None])),
            torch.tensor(by_formula(z.numpy())),
            rtol=1e-2,
            atol=1e-2,
            check_dtype=False,
        )


def test_one_point_has_the_most_variance_term_and_few_directions_more_covariance_term() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4096, 16, generator=generator)
    few = z[:, :2] @ torch.randn(2, 16, generator=generator)
    assert max(map(float, vicreg_terms(z[None]))) < 0.03
    assert float(vicreg_terms(torch.ones(1, 8, 16))[0]) == pytest.approx(1 - 1e-2)
    assert float(vicreg_terms(few[None])[1]) > 3


@pytest.mark.parametrize("method", ["byol", "simsiam"])
def test_a_method_adds_its_weights_times_the_terms_of_both_views(method: str) -> None:
    torch.manual_seed(0)
    views = torch.randn(2, 8, 1, 16, 16)
    plain = METHODS.find(method)(Config(model=SMALL))
    weighted = METHODS.find(method)(Config(model=dataclasses.replace(SMALL, variance=2.0, covariance=0.5)))
    weighted.load_state_dict(plain.state_dict())
    loss, *projections = plain(views)
    terms = np.sum([by_formula(z.double().numpy()) for z in projections], 0)
    found = weighted(views).loss
    torch.testing.assert_close(
        float(found.detach()), float(loss.detach()) + float(terms @ [2.0, 0.5]), rtol=1e-4, atol=1e-5
    )
    found.backward()
    last = [p for p in weighted.online.projector.parameters() if p.ndim > 1][-1]
    assert float(last.grad.norm()) > 0
