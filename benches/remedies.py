"""Remedies that were tried: methods and optimizers by `--method benches.remedies:Name`, `--optimizer ...`."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.kernels import LARS, byol_loss
from rsdnet.methods.base import Forward, Network
from rsdnet.methods.byol import BYOL
from rsdnet.model.heads import BN_EPS, BN_MOMENTUM


def three_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A projector with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden, eps=BN_EPS, momentum=BN_MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden, eps=BN_EPS, momentum=BN_MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )


class ThreeLayers(BYOL):
    """BYOL whose projector has three layers."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        encoder = self.online.encoder
        self.online = Network(encoder, three_layers(encoder.features, cfg.model.hidden, cfg.model.dim))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.averaged = list(self.target.parameters()), list(self.online.parameters())


def variance_term(z: Tensor) -> Tensor:
    """Bardes et al. 2022, eq. 1: mean over dimensions of max(0, 1 - std), of unit projections times sqrt(D)."""
    return torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """Bardes et al. 2022, eq. 4: sum of squared covariances off the diagonal, over D."""
    z = z - z.mean(0)
    cov = z.T @ z / (len(z) - 1)
    return (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]


class Variance(BYOL):
    """BYOL with VICReg's variance and covariance terms on the online projections."""

    variance, covariance = 1.0, 0.0

    def forward(self, views: Tensor) -> Forward:
        with torch.no_grad():
            t1, t2 = self.both(self.target, views)
        z = self.both(self.online, views)
        q1, q2 = self.both(self.predictor, z)
        z1, z2 = z
        loss = byol_loss(q1, q2, t1, t2)
        for own in (z1, z2):
            unit = nn.functional.normalize(own.float(), dim=1) * own.shape[1] ** 0.5
            loss = loss + self.variance * variance_term(unit)
            if self.covariance:
                loss = loss + self.covariance * covariance_term(unit)
        return Forward(loss, z1.detach(), z2.detach())


class Covariance(Variance):
    covariance = 0.01


class MoreCovariance(Variance):
    covariance = 0.04


class CovarianceAlone(Variance):
    variance, covariance = 0.0, 0.01


def lars_slow(factor: float) -> Any:
    """LARS whose excluded parameters (biases and norms) move by `factor` of the rate."""

    def made(groups: Any, lr: Tensor) -> LARS:
        optimizer = LARS(groups, lr)
        excluded = groups[1]["params"]

        def scaled(*_: Any) -> None:
            torch._foreach_mul_([p.grad for p in excluded if p.grad is not None], factor)

        optimizer.register_step_pre_hook(scaled)
        return optimizer

    return made


lars_tenth, lars_fortieth = lars_slow(0.1), lars_slow(0.024)

# ---- BatchNorm a sensor: pairs in order, the first view MS ----

_sensor = 0


@contextlib.contextmanager
def sensor(which: int) -> Iterator[None]:
    global _sensor
    before, _sensor = _sensor, which
    try:
        yield
    finally:
        _sensor = before


class SensorNorm(nn.Module):
    """A BatchNorm for each sensor."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm, copy.deepcopy(norm)])

    def forward(self, x: Tensor) -> Tensor:
        return self.norms[_sensor](x)


def per_sensor(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SensorNorm(child))
        else:
            per_sensor(child)


class PerSensor(BYOL):
    """BYOL whose encoder has statistics and affine of BatchNorm a sensor; for pairs in order."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        per_sensor(self.online.encoder)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.averaged = list(self.target.parameters()), list(self.online.parameters())

    def both(self, network: nn.Module, pair: Tensor) -> Tensor:
        out = []
        for which, view in enumerate(pair):
            with sensor(which):
                out.append(network(view))
        return torch.stack(out)


class ThreeLayersCovariance(Covariance, ThreeLayers):
    """Both."""
