"""Encoders: ResNets against torchvision's published counts and names; timm's by name."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.errors import DataError
from rsdnet.model.batchnorm import synchronise
from rsdnet.model.encoders import ResNet, encoder_of


# torchvision's published parameter counts (docs, models table), less its layer `fc` of 1000 classes.
@pytest.mark.parametrize(
    ("name", "total", "features"),
    [("resnet18", 11_689_512, 512), ("resnet34", 21_797_672, 512), ("resnet50", 25_557_032, 2048)],
)
def test_encoders_have_torchvisions_parameters(name: str, total: int, features: int) -> None:
    encoder = encoder_of(Config(views=ViewConfig(channels=3), model=ModelConfig(encoder=name)))
    assert encoder.features == features
    assert sum(p.numel() for p in encoder.parameters()) == total - (features + 1) * 1000


def test_parameter_names_are_torchvisions() -> None:
    names = ResNet("resnet50", 3).state_dict().keys()
    for name in (
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer3.5.conv3.weight",
        "layer4.2.bn3.bias",
    ):
        assert name in names
    assert not [name for name in names if name.startswith("fc")]
    assert "layer1.0.downsample.0.weight" not in ResNet("resnet18", 3).state_dict()


@pytest.mark.parametrize("channels", [1, 2, 3, 12])
@pytest.mark.parametrize("size", [17, 32])
def test_any_number_of_channels(channels: int, size: int) -> None:
    encoder = ResNet("resnet18", channels, width=8)
    assert encoder(torch.randn(2, channels, size, size)).shape == (2, 64)


def of_timm(name: str, channels: int = 2, size: int = 32) -> Config:
    return Config(views=ViewConfig(channels=channels, size=size), model=ModelConfig(encoder=f"timm:{name}"))


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> dict:
    """As much of timm as is asked for; the returned dict holds the arguments of the last create_model."""
    asked: dict = {}

    def create_model(name: str, **options: object) -> nn.Module:
        if name == "plainnet" and "dynamic_img_size" in options:
            raise TypeError("unexpected keyword argument 'dynamic_img_size'")
        asked.clear(), asked.update(options)
        return nn.Sequential(nn.Conv2d(options["in_chans"], 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    models = ["plainnet", "vit_fake"]
    timm = SimpleNamespace(create_model=create_model, is_model=models.__contains__, list_models=lambda: models)
    monkeypatch.setitem(sys.modules, "timm", timm)
    return asked


@pytest.mark.parametrize("name", ["plainnet", "vit_fake"])
def test_timms_models_are_made_pooled_for_our_channels(fake_timm: dict, name: str) -> None:
    encoder = encoder_of(of_timm(name))
    assert encoder.features == 5
    assert encoder.training
    assert encoder(torch.zeros(3, 2, 32, 32)).shape == (3, 5)
    assert (fake_timm["in_chans"], fake_timm["num_classes"], fake_timm["pretrained"]) == (2, 0, False)
    assert fake_timm.get("dynamic_img_size", False) == (name == "vit_fake")


def test_a_name_that_timm_lacks(fake_timm: dict) -> None:
    with pytest.raises(DataError, match="timm has no model planenet: did you mean plainnet"):
        encoder_of(of_timm("planenet"))


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"timm:resnet18 needs timm .*pip install 'rsdnet\[timm\]'"):
        encoder_of(of_timm("resnet18"))


def test_a_norm_that_does_more_than_normalise_is_not_synchronised() -> None:
    """As timm's BatchNormAct2d, whose activation would be lost."""

    class Activated(nn.BatchNorm2d):
        pass

    with pytest.raises(DataError, match="Activated cannot be synchronised over ranks: use --batchnorm local"):
        synchronise(nn.Sequential(Activated(3)), world=2)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "convnext_atto"])
def test_real_timm(name: str) -> None:
    try:
        import timm
    except (ImportError, RuntimeError):
        pytest.skip("timm does not import here")
    encoder = encoder_of(of_timm(name, channels=3, size=64))
    assert isinstance(encoder, nn.Module)
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.features)
    assert timm.is_model(name)
