"""Learning rate by step as DeepMind and SimSiam's paper write it, and optimizers that cannot skip a step."""

import pytest
import torch

from rsdnet.config import Config, OptimConfig
from rsdnet.errors import DataError
from rsdnet.training import optim


def slow_sgd(groups: list, lr: torch.Tensor) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def test_learning_rate_as_deepmind_wrote_it() -> None:
    """Grill et al. 2020, section 3.3: linear warm-up, then cosine to 0; lr = base * batch / 256."""
    peak = optim.peak_of(Config(optim=OptimConfig(lr=0.45, batch=1024)))
    rate = [optim.SCHEDULES.find("cosine")(step, 1000, peak, 100) for step in range(1001)]
    assert rate[0] == 0
    assert rate[50] == pytest.approx(0.9)
    assert rate[100] == pytest.approx(1.8) == max(rate)
    assert rate[550] == pytest.approx(0.9)
    assert rate[1000] == pytest.approx(0, abs=1e-12)
    assert optim.cosine(0, 10, 0.2, 0) == pytest.approx(0.2)


def test_a_constant_rate_warms_up_and_stays() -> None:
    assert [optim.constant(step, 9, 0.4, 2) for step in (0, 1, 2, 8)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert optim.constant(0, 9, 0.4, 0) == 0.4


def test_an_optimizer_that_cannot_skip_a_step_is_refused() -> None:
    cfg = Config(optim=OptimConfig(optimizer=f"{__name__}:slow_sgd", weight_decay=0.0))
    with pytest.raises(DataError, match=r"slow_sgd does not take found_inf.*fused=True"):
        optim.optimizer_of(cfg, torch.nn.Linear(2, 2), torch.zeros(()))
