"""The reference reads the right pixels, makes the right views, and moves its weights by BYOL's formulas."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load
from torch import Tensor, nn

from benches.core.peers import Absent
from benches.reference import train as reference
from benches.reference.data import Pair, Patches, loader
from benches.reference.model import BYOL, encoder, loss_of
from benches.reference.optim import MOMENTUM, TRUST, optimizer_of
from benches.reference.transforms import Kornia, OneByOne, Plain, TorchVision, standardised
from rsdnet import bands
from rsdnet.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, ViewConfig
from rsdnet.methods import byol
from rsdnet.model.encoders import ResNet
from rsdnet.training import optim
from tests.support import tiny

VIEWS = ViewConfig(size=16)
MODEL = ModelConfig(encoder="resnet18", width=4, hidden=16, dim=8)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("reference") / "db", samples=30)


def config(database: Path, **optim: object) -> Config:
    return Config(
        data=DataConfig(data=(database,)),
        views=VIEWS,
        model=MODEL,
        optim=OptimConfig(batch=4, steps=3, **{"optimizer": "lars", "weight_decay": 1e-6} | optim),  # type: ignore[arg-type]
        run=RunConfig(precision="fp32", device="cpu"),
    )


def entry(database: Path, key: str) -> dict[str, np.ndarray]:
    with lmdb.open(str(database), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return load(transaction.get(key.encode()))


# ---- data -----------------------------------------------------------------------------------------------------------


def test_a_pair_holds_the_pixels_of_the_named_bands(database: Path) -> None:
    patches = Patches(database, VIEWS, tiny.SIDE)
    names = [["B05"], ["VH"]]
    pair = patches.read(2, [0, 1], names)  # of a class that is rough, so that a moved pixel shows
    ms, sar = patches.keys[2]
    del patches  # py-lmdb opens a database once a process
    coarse, fine = entry(database, ms)["B05"], entry(database, sar)["VH"]
    assert coarse.shape == (tiny.SIDE // 2, tiny.SIDE // 2)
    np.testing.assert_array_equal(pair.images[0, 0], coarse.astype(np.float32).repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(pair.images[1, 0], fine)
    assert pair.bands.tolist() == [[bands.band_id("B05")], [bands.band_id("VH")]]


def test_views_are_drawn_from_both_sensors_in_either_order_and_of_the_split_alone(database: Path) -> None:
    patches = Patches(database, VIEWS, tiny.SIDE)
    drawn = [tuple(patches[0].bands[:, 0].tolist()) for _ in range(200)]
    sar = {bands.band_id(name) for name in bands.SAR}
    assert all((first in sar) != (second in sar) for first, second in drawn)
    assert {first in sar for first, _ in drawn} == {True, False}
    assert {band for pair in drawn for band in pair} == {bands.band_id(name) for name in (*bands.MS, *bands.SAR)}
    assert len(patches) == 18  # three of five samples are of the training split


def test_the_loader_goes_through_every_sample_before_one_comes_again(database: Path) -> None:
    patches = Patches(database, VIEWS, tiny.SIDE)
    batches = iter(loader(patches, 6, workers=0, seed=0, pinned=False))
    epochs = [torch.cat([next(batches)[2] for _ in range(3)]) for _ in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(18)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


# ---- views ----------------------------------------------------------------------------------------------------------


def test_standardised_follows_the_table_and_makes_invalid_pixels_the_mean(database: Path) -> None:
    table = reference.table_of(config(database))
    row = table[bands.band_id("B03")]
    images = torch.tensor([[0.0, 1500.0], [math.nan, 3000.0]])
    jitter = torch.tensor([0.25, 0.75])
    found = standardised(images, row, jitter)
    gain, offset = 0.8 + 0.25 * 0.4, 10_000 * (-0.02 + 0.75 * 0.04)
    expected = (gain * images.double() + offset - float(row[0])) / float(row[1])
    assert found[0, 0] == found[1, 0] == 0
    torch.testing.assert_close(found[:, 1].double(), expected[:, 1], rtol=1e-5, atol=1e-5)


STILL = dataclasses.replace(
    VIEWS, size=tiny.SIDE, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False, turn=False,
    ms_gain=(1.0, 1.0), ms_offset=(0.0, 0.0), sar_offset=(0.0, 0.0),
)  # fmt: skip


def batch_of(database: Path, views: ViewConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Images, bands and indices of three samples; and the table."""
    patches = Patches(database, views, tiny.SIDE)
    pairs = [patches[index] for index in range(3)]
    table = reference.table_of(dataclasses.replace(config(database), views=views))
    return torch.stack([pair.images for pair in pairs]), torch.stack([pair.bands for pair in pairs]), table


@pytest.mark.parametrize("provider", [Plain, Kornia, TorchVision])
def test_views_without_augmentation_are_the_standardised_bands(provider: Any, database: Path) -> None:
    images, ids, table = batch_of(database, STILL)
    expected = standardised(images, table[ids], torch.zeros(*ids.shape, 2)).transpose(0, 1)
    try:
        made = provider(STILL, table)
        if provider is not TorchVision:
            torch.testing.assert_close(made(images, ids, torch.arange(3)), expected, rtol=1e-4, atol=1e-4)
        if provider is not Kornia:  # in a worker
            each = OneByOne(made) if provider is Plain else made
            views = each(Pair(images[0], ids[0], 0)).images
            torch.testing.assert_close(views, expected[:, 0], rtol=1e-4, atol=1e-4)
    except Absent as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("provider", [Plain, Kornia])
def test_a_turned_view_holds_the_same_pixels(provider: Any, database: Path) -> None:
    """Flips and turns move pixels and change none: eight ways, and each is drawn."""
    moved = dataclasses.replace(STILL, flip=True, turn=True)
    table = batch_of(database, moved)[2]
    many = 60
    image = torch.arange(tiny.SIDE**2, dtype=torch.float32).view(tiny.SIDE, tiny.SIDE) + 1
    images = image.expand(many, 2, 1, -1, -1).contiguous()
    ids = torch.full((many, 2, 1), bands.band_id("B03"))
    try:
        views = provider(moved, table)(images, ids, torch.arange(many))
    except Absent as why:
        pytest.skip(str(why))
    whole = standardised(image, table[ids[0, 0, 0]], torch.zeros(2))
    ways = [torch.rot90(side, k) for side in (whole, whole.flip(-1)) for k in range(4)]
    found = {min(range(8), key=lambda way: float((ways[way] - view[0]).abs().max())) for view in views[0]}
    assert all(min(float((way - view[0]).abs().max()) for way in ways) < 1e-3 for view in views[0])
    assert found == set(range(8))


# ---- networks, loss, optimizer --------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_loss_is_that_of_the_paper_in_float64(b: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, z = (torch.randn(b, d, generator=generator, dtype=torch.float64) for _ in range(2))
    cosines = [
        sum(x * y for x, y in zip(a, c, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in c))
        for a, c in zip(q.tolist(), z.tolist(), strict=True)
    ]
    expected = sum(2 - 2 * cosine for cosine in cosines) / b
    assert float(loss_of(q.float(), z.float())) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_forward_is_symmetric_and_gives_no_gradient_to_the_target() -> None:
    torch.manual_seed(0)
    byol = BYOL(MODEL, 1)
    views = torch.randn(2, 6, 1, 32, 32)
    loss = byol(views)
    loss.backward()
    assert float(byol(views.flip(0)).detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert all(p.grad is None for p in byol.target.parameters())
    assert all(p.grad is not None for p in [*byol.online.parameters(), *byol.predictor.parameters()])


def test_torchvisions_encoder_is_rsdnets_by_name_and_shape() -> None:
    made_of, own, features = encoder(dataclasses.replace(MODEL, width=64), channels=1)
    if not made_of.startswith("torchvision"):
        pytest.skip("torchvision cannot be imported here")
    other = ResNet("resnet18", 1)
    assert features == other.features
    shapes = {name: value.shape for name, value in own.state_dict().items()}
    assert shapes == {name: value.shape for name, value in other.state_dict().items()}
    fresh = float(own.conv1.weight.std()), float(other.conv1.weight.std())
    assert fresh[0] == pytest.approx(fresh[1], rel=0.1)


def test_lars_follows_the_rule_in_float64() -> None:
    """Weights by the rule; a weight of norm 0 and parameters of one dimension without adaptation and decay."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    network[2].weight.data.zero_()
    optimizer, params = optimizer_of("lars", [network], 0.1, on_gpu=False), list(network.parameters())
    wanted = [(p.detach().double(), torch.zeros_like(p, dtype=torch.float64)) for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for _ in range(3):
        for n, (param, momentum) in enumerate(wanted):
            params[n].grad = torch.randn_like(params[n])
            update = params[n].grad.double()  # type: ignore[union-attr]
            if param.ndim > 1:
                update = update + 0.1 * param
                update = update * (TRUST * param.norm() / update.norm() if param.norm() > 0 else 1.0)
            momentum = MOMENTUM * momentum + update
            wanted[n] = param - 0.5 * momentum, momentum
        optimizer.step()
    for param, (want, _) in zip(params, wanted, strict=True):
        torch.testing.assert_close(param.detach().double(), want, rtol=1e-5, atol=1e-7)


@given(st.integers(2, 300), st.integers(0, 300), st.floats(0.1, 2), st.floats(0.9, 1))
def test_schedules_are_rsdnets(steps: int, step: int, base: float, tau: float) -> None:
    step, warmup = min(step, steps - 1), steps // 10
    ours = optim.cosine(step, steps, base * 2, warmup)
    assert reference.learning_rate(step, steps, base * 2, warmup) == pytest.approx(ours)
    assert reference.tau_at(step, steps, tau) == pytest.approx(byol.tau(step, steps, tau))


def test_a_run_leaves_what_the_probe_reads(database: Path, tmp_path: Path) -> None:
    from rsdnet.evaluate.contenders import load_encoder

    reference.train(config(database), tmp_path / "run", workers=0)
    encoder, cfg, weights, *_ = load_encoder(tmp_path / "run")
    assert cfg.model == MODEL
    assert encoder(torch.randn(2, 1, 32, 32)).shape == (2, encoder.features)
    assert weights.keys() == encoder.state_dict().keys()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
