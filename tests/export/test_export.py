"""Exports: read back by their libraries, without rsdnet, with other batches; cards; input that does not serve."""

import dataclasses
import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import rsdnet
from rsdnet.encoder import Encoder
from rsdnet.errors import DataError
from rsdnet.export import card
from rsdnet.export.export import main
from rsdnet.export.targets import TARGETS
from rsdnet.model.encoders import ResNet
from tests.support import encoders
from tests.support.encoders import SIDE
from tests.support.libraries import library

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoders' files, narrow and of torchvision's width."""
    folder = tmp_path_factory.mktemp("encoders")
    made = {views: encoders.write(folder / f"{views}.safetensors", views) for views in ("drawn", "fixed")}
    return made | {"wide": encoders.write(folder / "wide.safetensors", "alone", width=64)}


def run(*words: object) -> None:
    """The command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *map(str, words)])
        main()


def raw(names: tuple[str, ...], batch: int, seed: int = 0) -> np.ndarray:
    """(batch, K, SIDE, SIDE) float32 values, some invalid, some beyond the clip."""
    rng = np.random.default_rng(seed)
    shape = (batch, SIDE, SIDE)
    values = [rng.normal(-12, 9, shape) if name in encoders.SAR else rng.normal(1000, 300, shape) for name in names]
    values = np.stack(values, 1).astype(np.float32)
    values[:, :, 0, :3], values[0, :, 5:7], values[-1, 0, 3, 3], values[-1, -1, 9:12] = np.nan, 0, np.inf, np.nan
    return values


def channel(encoder: Encoder, name: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """(B, H, W) float64 of one channel of a view, by the formula."""
    if "-" in name:
        first, second = name.split("-")
        clipped = {band: values[band].astype(np.float64).clip(-25, 0) for band in (first, second)}
        std = encoder.file.differences[name][1]
        own = encoder.file.bands[first].mean - encoder.file.bands[second].mean  # as training has it
        invalid = ~np.isfinite(values[first]) | ~np.isfinite(values[second])
        for band in (first, second):
            invalid |= clipped[band] == encoder.file.bands[band].mean
        return np.where(invalid, 0, (clipped[first] - clipped[second] - own) / std)
    band, x = encoder.file.bands[name], values[name].astype(np.float64)
    invalid = ~np.isfinite(x) | (x == band.nodata)
    return np.where(invalid, 0, (x.clip(*band.clip) if band.clip else x) - band.mean) / band.std * ~invalid


def by_formula(encoder: Encoder, views: list[tuple[str, ...]], names: tuple[str, ...], values: np.ndarray) -> Tensor:
    """Features of all stages, (B, F): the network on each view made in numpy, side by side."""
    planes = dict(zip(names, values.transpose(1, 0, 2, 3), strict=True))
    found = []
    for view in views:
        shown = torch.from_numpy(np.stack([channel(encoder, name, planes) for name in view], 1)).float()
        with torch.inference_mode():
            _, maps = encoder.network.output_and_maps(shown)
        found += [each.mean((2, 3)) for each in maps]
    return torch.cat(found, 1)


ALONE = """
import json, sys
sys.modules["rsdnet"] = None  # cannot be imported
import numpy as np
import torch
for name in sys.argv[1:]:
    facts = {"facts.json": ""}
    network = torch.jit.load(f"{name}.pt", _extra_files=facts)
    assert json.loads(facts["facts.json"])["preprocessing"] == "inside"
    for batch in (1, 4):
        given = torch.from_numpy(np.load(f"{name}-{batch}.npy"))
        np.save(f"{name}-{batch}-found.npy", network(given).numpy())
"""
CASES: dict[str, tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = {
    "drawn": ("drawn", (*encoders.MS, *encoders.SAR), [(name,) for name in (*encoders.MS, *encoders.SAR)]),
    "fixed": ("fixed", ("B04", "B03", "B02", "VV", "VH"), [("B04", "B03", "B02"), ("VV", "VH", "VV-VH")]),
    "pair": ("fixed", ("B08", "B02"), [("B08",) * 3, ("B02",) * 3]),  # fewer bands than channels
}


def test_torchscript_needs_no_rsdnet_and_takes_any_batch(files: dict[str, Path], tmp_path: Path) -> None:
    """Against the formula in numpy, in a process that cannot import rsdnet."""
    for case, (views, names, _) in CASES.items():
        bands = ("--bands", *names) if case == "pair" else ()
        run(files[views], tmp_path / f"{case}.pt", "--to=torchscript", *bands)
        for batch in (1, 4):
            np.save(tmp_path / f"{case}-{batch}.npy", raw(names, batch))
    subprocess.run([sys.executable, "-c", ALONE, *CASES], cwd=tmp_path, check=True)
    for case, (file, names, views) in CASES.items():
        encoder = rsdnet.load(files[file])
        for batch in (1, 4):
            found = torch.from_numpy(np.load(tmp_path / f"{case}-{batch}-found.npy"))
            expected = by_formula(encoder, views, names, raw(names, batch))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_more_bands_than_channels_go_in_as_one_view(files: dict[str, Path], tmp_path: Path) -> None:
    """As `rsdnet.load` has it, at a depth and with preprocessing outside too."""
    run(files["fixed"], tmp_path / "a.pt", "--to=torchscript", "--bands", *encoders.MS, "--features=layer2")
    values, encoder = raw(encoders.MS, 2), rsdnet.load(files["fixed"])
    values[~np.isfinite(values)] = 0
    expected = encoder.features(values, bands=encoders.MS, depth="layer2", size=SIDE, check=False)
    found = torch.jit.load(tmp_path / "a.pt")(torch.from_numpy(values))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    run(files["fixed"], tmp_path / "b.pt", "--to=torchscript", "--preprocessing=outside", "--features=last")
    views = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(tmp_path / "b.pt")(views), encoder.network(views))


# ---- libraries, where they are installed -----------------------------------------------------------------------------


def torchvisions(encoder: Encoder, path: Path) -> Tensor:
    network = library("torchvision").models.resnet18()
    network.conv1 = torch.nn.Conv2d(encoder.channels, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()
    held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert network.load_state_dict(held).missing_keys == []
    return network.eval()(torch.ones(2, encoder.channels, 32, 32))


def timms(encoder: Encoder, path: Path) -> Tensor:
    timm, views = library("timm"), torch.ones(2, encoder.channels, 32, 32)
    by_folder = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    settings: dict[str, Any] = {"in_chans": encoder.channels, "num_classes": 0}
    by_file = timm.create_model("resnet18", checkpoint_path=path / "model.safetensors", **settings).eval()
    assert torch.equal(by_folder(views), by_file(views))
    known = timm.data.resolve_model_data_config(by_folder)
    assert known["mean"] == [encoder.file.bands[name].mean for name in ("B04", "B03", "B02")]
    assert timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=5)(views).shape == (2, 5)
    return by_file(views)


def torchgeos(encoder: Encoder, path: Path) -> Tensor:
    library("torchgeo.trainers")
    from torchgeo.trainers import ClassificationTask, SemanticSegmentationTask

    views = torch.ones(2, encoder.channels, 32, 32)
    task = ClassificationTask(model="resnet18", weights=str(path), in_channels=encoder.channels, num_classes=4)
    network = task.model.eval()
    found = network.forward_head(network.forward_features(views), pre_logits=True)
    unet = SemanticSegmentationTask(
        model="unet", backbone="resnet18", weights=str(path), in_channels=encoder.channels, num_classes=4
    ).model.encoder.eval()
    torch.testing.assert_close(unet(views)[-1].mean((2, 3)), found)
    return found


@pytest.mark.parametrize(
    ("to", "name", "load"),
    [("torchvision", "a.pth", torchvisions), ("torchvision", "a.safetensors", torchvisions), ("timm", "a", timms),
     ("torchgeo", "a.ckpt", torchgeos)],
)  # fmt: skip
def test_weights_load_in_their_library(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, name: str, load: Any
) -> None:
    library(to)
    run(files["wide"], tmp_path / name, f"--to={to}")
    said = capsys.readouterr().out
    encoder = rsdnet.load(files["wide"])
    with torch.inference_mode():
        found, expected = load(encoder, tmp_path / name), encoder.network(torch.ones(2, 3, 32, 32))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert f"{to} gives the same features, up to " in said


def test_a_model_of_timm_is_timms_again(tmp_path: Path) -> None:
    timm, name = library("timm"), "vit_tiny_patch16_224"
    file = encoders.write(tmp_path / "vit.safetensors", "alone", encoder=f"timm:{name}", width=64, size=32)
    run(file, tmp_path / "vit", "--to=timm")
    views = torch.randn(1, 3, 48, 48)  # a size that it was not made for
    with torch.inference_mode():
        found = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()(views)
        torch.testing.assert_close(found, rsdnet.load(file).network(views))


# ---- the card --------------------------------------------------------------------------------------------------------


def front(text: str) -> dict[str, str]:
    """The front matter's keys with values on their line."""
    return dict(re.findall(r"^(\S+): (.+)$", text.split("---\n")[1], re.MULTILINE))


def test_the_card_tells_of_the_encoder_and_names_no_path(files: dict[str, Path], tmp_path: Path) -> None:
    run(files["drawn"], tmp_path / "a.pt", "--to=torchscript")
    text = (tmp_path / "a.pt.md").read_text()
    assert str(tmp_path) not in text
    assert str(files["drawn"].parent) not in text
    keys = front(text)
    assert (keys["license"], keys["library_name"], json.loads(keys["datasets"])) == ("unknown", "pytorch", ["eurosat"])
    assert "\nUnknown: neither" in text
    assert "\n| B08 | 1030 | 203 | DN | none | 0 or NaN | L2A | yes |\n" in text
    assert "\n| VV | -12 | 4 | dB | -25 to 0 | NaN | unknown | yes |\n" in text
    assert "\n| EuroSAT | eurosat | L1C | 27,000 |\n" in text
    assert "model-index" not in keys


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("LicenseRef-mine", {"license": "other", "license_name": "licenseref-mine"}),
    ],
)
def test_licences_in_the_hubs_words(given: str, expected: dict[str, str]) -> None:
    assert card.licence(given) == expected


def test_a_licence_given_goes_before_the_files(tmp_path: Path) -> None:
    file = encoders.write(tmp_path / "e.safetensors", "drawn", licence="MIT")
    for words, expected in (((), "mit"), (("--licence=CC0-1.0", "--force"), "cc0-1.0")):
        run(file, tmp_path / "a.pt", "--to=torchscript", "--preprocessing=outside", *words)
        assert front((tmp_path / "a.pt.md").read_text())["license"] == expected


# ---- what does not serve ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["drawn", "a.pth", "--to=torchvision"], "torchvision has no resnet18 of width 4: use --to onnx or"),
        (["drawn", "a", "--to=timm"], "timm has no resnet18 of width 4"),
        (["wide", "a.bin", "--to=torchvision"], "name it .pth or .pt or .safetensors"),
        (["wide", ".", "--to=torchvision"], "writes a file"),
        (["wide", "there.pt", "--to=timm"], "is a file: --to timm writes a folder"),
        (["wide", "there.pt", "--to=torchvision"], "there.pt exists: name another, or replace it with --force"),
        (["wide", "card.pt", "--to=torchscript"], "card.pt.md exists"),
        (["wide", "nowhere/a.pt", "--to=torchscript"], "there is no folder"),
        (["wide", "a.pth", "--to=torchvision", "--bands", "B04"], "--bands is of --to onnx and --to torchscript"),
        (["wide", "a.pt", "--to=torchscript", "--bands", "B11"], "the encoder has no statistics of B11"),
        (["wide", "a.pt", "--to=torchscript", "--bands", "B4x"], "unknown band 'B4x'"),
        (["wide", "a.pt", "--to=torchscript", "--preprocessing=outside", "--bands", "B04"], "is of --preprocessing"),
        (["wide", "a.pt", "--to=torchscript", "--features=layer5"], "--features layer5"),
        (["wide", "a.pt", "--to=torchscript", "--licence=my own"], "--licence my own"),
        (["wide", "a.pt", "--to=tensorflow"], "invalid choice 'tensorflow'"),
        (["nowhere", "a.pt", "--to=torchscript"], "nowhere"),
    ],
)
def test_what_does_not_serve_is_one_line(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.pt", "card.pt.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        run(files.get(words[0], words[0]), *words[1:])
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there.pt": "mine", "card.pt.md": "mine"}


def test_a_model_that_reads_back_otherwise_is_not_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(files["drawn"], tmp_path / "a.pt", "--to=torchscript", "--preprocessing=outside")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    target = TARGETS["torchscript"]

    def other(plan: Any, path: Path) -> Any:
        network = target.opened(plan, path)
        return lambda x: network(x) * 1.001

    monkeypatch.setitem(TARGETS, "torchscript", dataclasses.replace(target, opened=other))
    with pytest.raises(DataError, match=r"torch gives other features, by up to .*: nothing was written"):
        run(files["drawn"], tmp_path / "a.pt", "--to=torchscript", "--preprocessing=outside", "--force")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_library_that_cannot_read_the_file_is_one_line(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(plan: Any, path: Path) -> Any:
        raise RuntimeError("unknown form\nof a file")

    monkeypatch.setitem(TARGETS, "torchscript", dataclasses.replace(TARGETS["torchscript"], opened=opened))
    with pytest.raises(DataError, match=r"torch 2\..* cannot read it \(unknown form\): nothing was written"):
        run(files["drawn"], tmp_path / "a.pt", "--to=torchscript")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"a\.pt cannot be written \(No space left on device\)"):
        run(files["drawn"], tmp_path / "a.pt", "--to=torchscript")
    assert not list(tmp_path.iterdir())


def test_force_replaces_own_files_alone(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").write_text("mine")
    run(files["wide"], tmp_path / "t", "--to=timm", "--force")
    names = {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert {path.name for path in (tmp_path / "t").iterdir()} == names
    ResNet("resnet18", 3).load_state_dict(load_file(tmp_path / "t" / "model.safetensors"))
    assert {path.name for path in tmp_path.iterdir()} == {"t"}
