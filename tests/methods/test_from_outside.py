"""A method and an encoder from outside the package train, resume and are probed by name, without an edit of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rsdnet.config import Config, ModelConfig, OptimConfig, ViewConfig
from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import load_encoder
from rsdnet.methods import METHODS
from rsdnet.model.encoders import ENCODERS, encoder_of
from rsdnet.train import main
from rsdnet.training.step import TrainStep
from tests.support.torchrun import REPO
from tests.support.toys import ToyMethod, toy_encoder

TOYS = ("--method=tests.support.toys:ToyMethod", "--encoder=tests.support.toys:toy_encoder")
FAST = ("--size=20", "--dim=8", "--batch=8", "--device=cpu", "--precision=fp32", "--threads=1", "--log-every=1")


def train(*argv: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsdnet.train", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def test_by_name_on_the_command_line(tiny_db: Path, tmp_path: Path) -> None:
    """Its own number is in the metrics, BYOL's is not; the checkpoint goes on; the encoder is exported and loaded."""
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--optimizer=sgd", "--schedule=constant")
    train(*argv, *TOYS, "--steps=4", "--knn-every=1", "--profile=1")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["pace"] for line in lines] == [1 / (step + 2) for step in range(4)]
    assert "tau" not in lines[0]
    assert "knn_f1" in lines[-1]
    assert "complete" in train("--run", tmp_path / "run", "--resume").stdout
    encoder, cfg, tensors, *_ = load_encoder(tmp_path / "run")
    assert cfg.model.encoder == "tests.support.toys:toy_encoder"
    assert tensors.keys() == load_file(tmp_path / "run" / "encoder.safetensors").keys() == {"0.weight", "0.bias"}
    assert encoder(torch.zeros(2, 1, 20, 20)).shape == (2, 7)
    other = train("--run", tmp_path / "run", "--resume", "--method=byol", expect=2)
    assert "model.method (tests.support.toys:ToyMethod in the run, byol asked)" in other.stderr


def test_by_the_registries_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step moves the toy's network and its centre, but not by a batch that is not finite."""
    monkeypatch.setitem(METHODS, "toy", ToyMethod)
    monkeypatch.setitem(ENCODERS, "toy", toy_encoder)
    model, optim = ModelConfig(method="toy", encoder="toy"), OptimConfig(optimizer="sgd", weight_decay=1e-6)
    cfg = Config(views=ViewConfig(size=16), model=model, optim=optim)
    made = TrainStep(cfg, torch.device("cpu"), compile=False, dtype=torch.float32)
    made.set(lr=0.1, pace=0.5)
    views, centre = torch.randn(2, 4, 1, 16, 16), made.method.centre.clone()
    made.step(views)
    bias = made.method.online.projector.bias
    torch.testing.assert_close(made.method.centre.data, (centre + bias.data) / 2)
    before = {name: tensor.clone() for name, tensor in made.method.state_dict().items()}
    assert int(made.step(views * torch.inf).skipped) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in made.method.state_dict().items())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            {"encoder": "resnet19"},
            r"unknown encoder 'resnet19' \(did you mean resnet18\?\): use resnet18, .*timm:NAME",
        ),
        ({"encoder": "tests.support.toys:toy_encoder", "width": 8}, "has no width to set: leave --width at .*64"),
        ({"encoder": "tests.support.toys:toy_encoder", "recompute": True}, "has no recompute to set"),
        ({"encoder": "tests.support.toys:toy_transformer"}, r"gives shape \(1, 1, 16384\) for one view"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(model: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        encoder_of(Config(model=ModelConfig(**model)))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--method=moco", "unknown method 'moco': use byol, simsiam or your own"),
        ("--encoder=resnet10", "unknown encoder 'resnet10'"),
        ("--optimizer=adam", r"unknown optimizer 'adam' (did you mean adamw?)"),
        ("--schedule=step", "unknown schedule 'step': use cosine, constant"),
        ("--encoder=tests.support.toys:none", "cannot be imported"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_made(
    option: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", option])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        main()
    assert says in str(caught.value)
    assert not [*tmp_path.iterdir()]  # without --data: not even the demo's database
