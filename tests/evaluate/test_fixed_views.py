"""A run with views of fixed bands: it trains, goes on bit for bit, and is probed on its own views."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rsdnet.distributed import ALONE
from rsdnet.evaluate.contenders import Contender, Scale, load_encoder
from rsdnet.evaluate.features import Labelled
from rsdnet.probe import Options, probe
from tests.support import tiny
from tests.support.forked import losses, metrics, train

FAST = ("--size=16", "--encoder=resnet18", "--width=4", "--hidden=16", "--dim=8", "--batch=8", "--device=cpu",
        "--precision=fp32", "--threads=1", "--log-every=1")  # fmt: skip
TWELVE = "B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12,B04,B03"
RATIO = ("--ms-view", "B04,B03,B02", "--sar-view", "VV,VH,VV-VH")


def test_twelve_channels_of_one_sensor_train_and_go_on_bit_for_bit(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--modality", "ms", "--ms-view", TWELVE, "--checkpoint-every=2", "--steps=5", *FAST)
    train(tmp_path / "whole", *argv, "--run", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in ("encoder.safetensors", "checkpoint.safetensors", "checkpoint-000000005.safetensors"):
        (tmp_path / "two" / name).unlink()
    assert "from step 4" in train(tmp_path / "more", *argv, "--run", tmp_path / "two", "--resume").text("out")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    one, two = (load_file(tmp_path / run / "encoder.safetensors") for run in ("one", "two"))
    assert one["conv1.weight"].shape[1] == 12
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on true colour and the ratio of polarisations of a database with three MS bands."""
    folder = tmp_path_factory.mktemp("fixed")
    db = tiny.make(folder / "db", ms_bands=("B02", "B03", "B04"))
    train(folder / "said", "--data", db, "--run", folder / "run", "--steps=4", "--knn-every=1", *RATIO, *FAST)
    return folder / "run"


def test_the_deviation_of_a_difference_is_kept_and_compared(run: Path, tmp_path: Path) -> None:
    kept = load_encoder(run).inputs["statistics"]
    assert list(kept) == ["B04", "B03", "B02", "VV", "VH", "VV-VH"]
    assert kept["VV-VH"][0] == pytest.approx(kept["VV"][0] - kept["VH"][0])
    assert {name for name in metrics(run)[-1] if name.startswith("knn_f1/")} == {
        "knn_f1/B04+B03+B02", "knn_f1/VV+VH+VV-VH",
    }  # fmt: skip
    argv = ("--data", run.parent / "db", "--run", run, "--resume", "--steps=4", *FAST)
    other = train(tmp_path / "other", *argv, *RATIO[:3], "VV,VH,VH-VV", expect=2)
    assert "views.sar_view" in other.text("err")


def test_the_probe_has_a_row_of_each_fixed_view(run: Path) -> None:
    found = probe(Options(run=run, size=16), Console(file=io.StringIO()))
    for depth in ("stages", "last"):
        rows = found.result["results"]["all"][depth]["bands"]
        assert list(rows) == ["B02", "B03", "B04", "B04+B03+B02", "VV", "VH", "VV+VH+VV", "VV+VH+VV-VH"]
        assert set(rows["VV+VH+VV-VH"]) == {"pre-trained", "random", "raw statistics"}
    statistics = found.result["samples"]["sar"]["statistics"]
    assert statistics["VV-VH"] == load_encoder(run).inputs["statistics"]["VV-VH"]
    json.dumps(found.result)


def test_a_contender_with_bytes_of_its_own_sees_a_difference_as_it_is_rendered(run: Path) -> None:
    trained = load_encoder(run)
    labelled = Labelled(trained.cfg, trained.cfg.data.data, "sar", ALONE, pool=("VV", "VH"), trained=trained.inputs)
    byte = Contender(3, lambda views: {"last": views.mean((2, 3))}, scales={"VV": Scale(-12.0, 3.0)})
    names = ("VV", "VH", "VV-VH")
    plain = labelled.rendered(names, np.arange(4))
    (mean, std), seen = labelled.scale("VV"), byte.scaling(labelled, names)(plain)
    torch.testing.assert_close(seen[:, 0], (plain[:, 0] * std + mean + 12) / 3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[:, 1:], plain[:, 1:], rtol=1e-4, atol=1e-4)
