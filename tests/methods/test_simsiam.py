"""SimSiam against the paper's algorithm in float64, its gradient, and collapse."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from rsdnet.config import Config, ModelConfig, OptimConfig, ViewConfig
from rsdnet.methods.simsiam import SimSiam
from rsdnet.training.step import TrainStep

SMALL = Config(
    views=ViewConfig(size=32),
    model=ModelConfig(method="simsiam", encoder="resnet18", width=8, hidden=32, dim=32, variance=0.0, covariance=0.0),
    optim=OptimConfig(optimizer="sgd", batch=16, weight_decay=1e-6),
)


def by_hand(network: SimSiam, views: torch.Tensor) -> torch.Tensor:
    """Chen and He 2021, algorithm 1: D(p1, z2) / 2 + D(p2, z1) / 2 with D(p, z) = -cos(p, stopgrad(z)), meaned."""
    z = [network.online.projector(network.online.encoder(view)) for view in views]
    p = [network.predictor(each) for each in z]
    return sum(-functional.cosine_similarity(p[k], z[1 - k].detach()).mean() / 2 for k in range(2))


def test_loss_and_gradients_are_those_of_the_papers_algorithm() -> None:
    """A gradient through the targets would change the encoder's by far more than rounding."""
    torch.manual_seed(0)
    network, views = SimSiam(SMALL), torch.randn(2, 12, 1, 32, 32)
    twin = SimSiam(SMALL).double()
    twin.load_state_dict(network.state_dict())
    output, expected = network(views), by_hand(twin, views.double())
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    output.loss.backward(), expected.backward()
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        off = (p.grad.double() - q.grad).norm()
        assert off < 1e-2 * q.grad.norm() + 1e-5, name


def test_the_heads_are_those_of_the_authors() -> None:
    """simsiam/builder.py for ResNet-50: parameters of 2048-2048-2048 without affine norm last; 2048-512-2048."""
    with torch.device("meta"):
        network = SimSiam(Config(model=ModelConfig(hidden=2048, dim=2048)))
    projector = 2 * (2048 * 2048 + 2 * 2048) + 2048 * 2048
    assert sum(p.numel() for p in network.online.projector.parameters()) == projector
    assert sum(p.numel() for p in network.predictor.parameters()) == 2048 * 512 + 2 * 512 + 512 * 2048 + 2048


def test_projections_are_normalised_over_the_batch() -> None:
    torch.manual_seed(0)
    z = SimSiam(SMALL)(torch.randn(2, 64, 1, 32, 32)).z1
    torch.testing.assert_close(z.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(32), atol=2e-2, rtol=0)


@pytest.mark.parametrize("concatenate", [False, True])
def test_a_short_training_falls_and_does_not_collapse(concatenate: bool) -> None:
    """Two views are one image under noise: the loss falls, and normalised projections stay spread (section 4.1)."""
    torch.manual_seed(0)
    model = dataclasses.replace(SMALL.model, concatenate_views=concatenate)
    made = TrainStep(dataclasses.replace(SMALL, model=model), torch.device("cpu"), compile=False, dtype=torch.float32)
    made.set(lr=0.05)
    images = torch.randn(16, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    losses = []
    for _ in range(30):
        output = made.step(torch.stack([images + 0.3 * torch.randn_like(images) for _ in range(2)]))
        losses.append(float(output.loss))
    assert all(-1 <= loss <= 1 for loss in losses)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.2
    spread = functional.normalize(output.z1).std(0).mean() * 32**0.5
    assert spread > 0.5  # 1 where projections are spread evenly, 0 where they have collapsed
