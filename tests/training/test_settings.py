"""Settings that are auto, against DeepMind's presets and numbers computed here; and how far a run can move."""

import dataclasses
import inspect
import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rsdnet.kernels import LARS

from rsdnet import config
from rsdnet.config import Config, OptimConfig
from rsdnet.errors import DataError
from rsdnet.training import reach
from rsdnet.training.optim import peak_of
from rsdnet.training.settings import check, fitted, told

IMAGENET, BATCH = 1_281_167, 4096  # of DeepMind's presets
AUTO = ("optimizer", "lr", "warmup_epochs", "weight_decay", "tau")
WEIGHTS = [torch.full((4, 4), 0.05), torch.full((8, 2), -0.05), torch.full((3, 3), 9.0), torch.ones(50)]


def of(**optim: Any) -> Config:
    return Config(optim=OptimConfig(**optim))


def chosen(samples: int = 1000, **optim: Any) -> OptimConfig:
    return fitted(of(**optim), samples).optim


def rates(steps: int, warmup: int, peak: float) -> float:
    """Sum of a linear warm-up and half a cosine to 0, in closed form but for the discrete cosine's half peak."""
    return peak * ((warmup - 1) / 2 + (steps - warmup + 1) / 2)


@pytest.mark.parametrize(
    ("epochs", "lr", "decay", "tau"), [(100, 0.45, 1e-6, 0.99), (300, 0.3, 1e-6, 0.99), (1000, 0.2, 1.5e-6, 0.996)]
)
def test_deepminds_runs_get_deepminds_presets(epochs: int, lr: float, decay: float, tau: float) -> None:
    """byol/configs/byol.py."""
    found = chosen(IMAGENET, batch=BATCH, epochs=epochs)
    assert (found.optimizer, found.lr, found.weight_decay, found.tau) == ("lars", lr, decay, tau)
    assert found.warmup_epochs == 10


@pytest.mark.parametrize(
    ("batch", "steps", "name", "peak", "tau"),
    [
        (128, 1200, "adamw", 1.5e-3, 0.98),
        (32, 4999, "adamw", 0.75e-3, 0.98),
        (512, 5000, "adamw", 3e-3, 0.99),
        (4096, 9999, "adamw", 3e-3, 0.99),
        (1023, 200_000, "adamw", 3e-3, 0.99),
        (1024, 10_000, "lars", 0.45 * 4, 0.99),
        (1024, 200_001, "lars", 0.2 * 4, 0.996),
        (16_384, 10_000, "lars", 7.2, 0.99),
    ],
)
def test_optimizer_rate_and_tau_by_batch_and_steps(batch: int, steps: int, name: str, peak: float, tau: float) -> None:
    cfg = fitted(of(batch=batch, steps=steps), 10**6)
    assert (cfg.optim.optimizer, cfg.optim.tau) == (name, tau)
    assert cfg.optim.weight_decay == (0.05 if name == "adamw" else 1e-6 if steps <= 200_000 else 1.5e-6)
    assert peak_of(cfg) == pytest.approx(peak, rel=5e-3)
    assert cfg.optim.lr == pytest.approx(peak * 256 / batch, rel=5e-3)


@pytest.mark.parametrize("steps", [200, 1200, 5000])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_lars_gets_a_rate_that_moves_the_weights_by_ten_norms_and_peaks_between_one_and_deepminds_highest(
    steps: int, schedule: str
) -> None:
    samples, batch = 1280, 128  # warm-up of 10 epochs: 100 steps, or a tenth of the run
    found = chosen(samples, batch=batch, steps=steps, optimizer="lars", schedule=schedule)
    warmup = min(100, steps // 10)
    whole = rates(steps, warmup, 1.0) if schedule == "cosine" else steps - (warmup + 1) / 2
    needed = 10 / (whole * batch / 256 * 1e-3 * 10)
    assert found.lr == pytest.approx(min(max(0.45, needed, 256 / batch), 7.2 * 256 / batch), rel=6e-3)


def test_simsiams_sgd() -> None:
    found = chosen(steps=100, batch=64, optimizer="sgd")
    assert (found.lr, found.weight_decay) == (0.05, 1e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("tau", 0.5), ("weight_decay", 0.3), ("warmup_epochs", 2.0), ("optimizer", "sgd")]
)
def test_a_given_value_stays_and_has_no_reason(name: str, value: Any) -> None:
    found = chosen(steps=1200, batch=128, **{name: value})
    assert getattr(found, name) == value
    assert found.chosen.keys() == {*AUTO} - {name}


def test_a_rate_and_its_optimizer_come_together() -> None:
    with pytest.raises(DataError, match=r"--lr 0.1 without --optimizer.*hundred times"):
        fitted(of(lr=0.1), 5000)
    with pytest.raises(DataError, match=r"--optimizer math:sqrt has no learning rate of its own: add --lr"):
        check(OptimConfig(optimizer="math:sqrt"))
    with pytest.raises(DataError, match="unknown optimizer 'adam'"):
        check(OptimConfig(optimizer="adam"))
    mine = chosen(steps=1200, batch=128, optimizer="math:sqrt", lr=0.1)
    assert (mine.lr, mine.weight_decay, mine.tau) == (0.1, 0, 0.98)


@given(
    batch=st.integers(2, 65_536), steps=st.integers(1, 10**6), epochs=st.floats(1, 1000),
    optimizer=st.sampled_from(["auto", "lars", "adamw", "sgd"]), schedule=st.sampled_from(["cosine", "constant"]),
)  # fmt: skip
def test_values_fit_their_options_and_a_second_fit_changes_nothing(
    batch: int, steps: int, epochs: float, optimizer: str, schedule: str
) -> None:
    samples = int(batch * epochs)
    cfg = fitted(of(batch=batch, steps=steps, optimizer=optimizer, schedule=schedule), samples)
    assert config.from_tables(config.to_tables(cfg), "test") == cfg  # in the bounds, finite
    assert "auto" not in (getattr(cfg.optim, name) for name in AUTO)
    assert fitted(cfg, samples) == cfg
    assert cfg.optim.chosen.keys() == {*AUTO} - ({"optimizer"} if optimizer != "auto" else set())
    assert all(cfg.optim.chosen.values())
    most = {"lars": 7.2, "adamw": 3e-3, "sgd": 0.05 * batch / 256}[cfg.optim.optimizer]
    assert 0 < peak_of(cfg) <= most * 1.005
    assert "auto" in told(cfg, samples)


def test_the_line_names_what_was_chosen_alone() -> None:
    line = "settings for 1,200 steps of 128 samples: "
    cfg = of(batch=128, steps=1200)
    assert told(fitted(cfg, 600), 600) == line + "adamw, lr 0.003, warm-up 40 steps, tau 0.98, weight decay 0.05 (auto)"
    given = dataclasses.replace(cfg.optim, optimizer="lars", lr=0.45, weight_decay=0.0)
    cfg = fitted(dataclasses.replace(cfg, optim=given), 600)
    assert told(cfg, 600) == line + "warm-up 40 steps, tau 0.98 (auto)"
    assert told(dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, chosen={})), 600) == ""


# ---- how far a run moves its weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "steps", "norms"), [(4096, 31_200, 1123.2), (128, 1200, 1.35)])
def test_reach_of_deepminds_rate(batch: int, steps: int, norms: float) -> None:
    """In its 100 epochs of 312 steps, 7.2 * 15,600 * 1e-2, and in a short run of small batches, 0.225 * 600 * 1e-2."""
    cfg = fitted(of(batch=batch, steps=steps, optimizer="lars", lr=0.45), IMAGENET)
    assert reach.reach_of(cfg, IMAGENET, []) == pytest.approx(norms, rel=2e-3)


@pytest.mark.parametrize(("batch", "steps", "lr"), [(32, 10_000, 8.0), (32, 60_000, 8.0), (32, 60_001, 0.3)])
def test_lars_peaks_at_one_at_least_in_a_short_run(batch: int, steps: int, lr: float) -> None:
    assert chosen(IMAGENET, batch=batch, steps=steps, optimizer="lars").lr == lr


def test_lars_moves_a_weight_that_far() -> None:
    """Along a gradient that never turns, by the rule (You et al. 2017) with the optimizer's own constants."""
    own = {name: each.default for name, each in inspect.signature(LARS).parameters.items()}
    weight, gradient, momentum, way = np.array([3.0, 4.0]), np.array([4.0, -3.0]), np.zeros(2), 0.0
    for _ in range(1000):
        size = np.linalg.norm(weight)
        momentum = own["momentum"] * momentum + gradient * own["trust"] * size / np.linalg.norm(gradient)
        weight = weight - 0.05 * momentum
        way += 0.05 * np.linalg.norm(momentum) / size
    assert way == pytest.approx(reach.lars_reach(1000 * 0.05), rel=0.02)  # momentum takes 10 steps to build up


def test_reach_of_adamw_is_in_units_of_the_median_matrix() -> None:
    cfg = fitted(of(batch=128, steps=1200), 600)
    expected = rates(1200, 40, 1.5e-3) / 0.05
    assert reach.reach_of(cfg, 600, WEIGHTS) == pytest.approx(expected, rel=2e-3)
    assert reach.reach_of(fitted(of(batch=128, steps=1200, optimizer="sgd"), 600), 600, WEIGHTS) is None


def test_the_sum_of_a_long_schedule_is_that_of_its_steps() -> None:
    cfg = fitted(of(batch=1024, steps=54_321), 100_000)
    assert reach.total(cfg, 100_000) == pytest.approx(rates(54_321, 970, 1.0), rel=1e-3)


@pytest.mark.parametrize(
    ("optim", "ways"),
    [
        ({"optimizer": "lars", "lr": 0.45, "batch": 128, "steps": 1200}, r"use --steps 2700 or --lr 1$"),
        ({"optimizer": "lars", "batch": 128, "steps": 50}, r"use --steps \d+$"),
        ({"batch": 128, "steps": 120}, r"use --steps \d+ or --optimizer adamw --lr 0\.00\d+$"),
    ],
)
def test_a_run_that_cannot_move_is_told_what_would_do(optim: dict[str, Any], ways: str) -> None:
    cfg = fitted(of(**optim), 600)
    line = reach.warning(cfg, 600, WEIGHTS)
    assert f"{reach.reach_of(cfg, 600, WEIGHTS):.2g} times their size" in line
    assert re.search(ways, line), line
    for name, value in re.findall(r"--(steps|lr) (\S+)", line):  # either does
        assert reach.warning(change(cfg, **{name: float(value) if name == "lr" else int(value)}), 600, WEIGHTS) == ""


def change(cfg: Config, **optim: Any) -> Config:
    return dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, **optim))


def test_a_run_that_moves_is_told_nothing() -> None:
    """Of each optimizer, on either side of the bound."""
    for name, lr, quiet in (("lars", 0.9, False), ("lars", 1.1, True), ("adamw", 3e-3, True), ("sgd", 1e-9, True)):
        cfg = fitted(of(optimizer=name, lr=lr, batch=128, steps=1200), 600)
        assert (reach.warning(cfg, 600, WEIGHTS) == "") is quiet, (name, lr)


def test_numbers_count_with_two_digits_and_never_fall() -> None:
    values = [1e-9 * 1.37**n for n in range(80)]
    for value, after in pairwise(values):
        assert value <= reach.rounded_up(value) * (1 + 1e-12)
        assert reach.rounded_up(value) <= value * 1.1 + 1e-15
        assert reach.rounded_up(value) <= reach.rounded_up(after)
    assert math.isclose(reach.rounded_up(0.00123), 0.0013)
