"""Fine-tuning: it learns, chooses its learning rate on validation samples, and leaves what it starts from as it is."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.distributed import ALONE
from rsdnet.evaluate import finetune
from rsdnet.evaluate.contenders import contenders
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.linear import CLASSES, problem_of
from rsdnet.model.encoders import encoder_of
from rsdnet.probe import Options, path_of, probe
from tests.support.runs import run_of


def job_of(labelled: Labelled, names: tuple[str, ...] = ("B02",), channels: int = 1, epochs: int = 1) -> finetune.Job:
    cfg = Config(views=ViewConfig(size=20, channels=channels), model=ModelConfig(encoder="resnet18", width=4))
    start = contenders(encoder_of(cfg), cfg, ALONE.device, ("last",))["random"]
    problem = problem_of(labelled, labelled.part("train"))
    return finetune.Job(start, labelled, names, problem, CLASSES, epochs, 0, lambda: None)


@pytest.fixture
def labelled(tiny_db: Path) -> Labelled:
    return Labelled(Config(), (tiny_db,), "ms", ALONE, size=24)


def test_it_learns_and_leaves_the_run_as_it_was(tmp_path: Path, tiny_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three textures: chance is a third."""
    monkeypatch.setattr(finetune, "LRS", (1e-3,))
    run = run_of(tmp_path / "run")
    before = hashlib.sha256((run / "encoder.safetensors").read_bytes()).hexdigest()
    options = Options(run, (tiny_db,), device="cpu", size=24, finetune=True, epochs=5, bands=("B02",))
    found = probe(options, Console(quiet=True))
    assert path_of(options) == run / "probe-finetune.json"
    (table,) = found.result["results"]["all"].values()
    assert list(table["bands"]["B02"]) == ["pre-trained", "random"]  # raw statistics have nothing to tune
    for row in table["bands"]["B02"].values():
        assert row["score"] > 0.6
        assert row["lr"] == 1e-3
    assert hashlib.sha256((run / "encoder.safetensors").read_bytes()).hexdigest() == before
    assert found.result["finetune"]["epochs"] == 5
    json.dumps(found.result)


def test_the_rate_is_chosen_on_validation_samples_alone(labelled: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rate's network tells the same class always; val is of class 1, and test of class 2."""
    labelled.labels[labelled.part("val")], labelled.labels[labelled.part("test")] = 1, 2
    trained: list[tuple[list[int], float]] = []

    def fit(job: finetune.Job, samples: Tensor, lr: float) -> int:
        trained.append((samples.tolist(), lr))
        return finetune.LRS.index(lr)

    def predict(tuned: int, job: finetune.Job, samples: Tensor) -> Tensor:
        return torch.eye(3)[tuned].expand(len(samples), 3)

    monkeypatch.setattr(finetune, "fit", fit)
    monkeypatch.setattr(finetune, "predict", predict)
    found = finetune.score(job_of(labelled))
    assert (found.details["lr"], found.val, found.score) == (finetune.LRS[1], 1.0, 0.0)
    assert trained == [(labelled.part("train").tolist(), lr) for lr in finetune.LRS]


def test_without_a_val_split_a_part_of_train_chooses_and_all_of_it_is_fitted(
    labelled: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled.split[labelled.split == "val"] = "train"
    train, test = set(labelled.part("train").tolist()), set(labelled.part("test").tolist())
    trained, judged = list[set[int]](), list[set[int]]()
    monkeypatch.setattr(finetune, "fit", lambda job, samples, lr: trained.append(set(samples.tolist())))
    monkeypatch.setattr(
        finetune,
        "predict",
        lambda tuned, job, samples: judged.append(set(samples.tolist())) or torch.eye(3)[samples % 3],
    )
    finetune.score(job_of(labelled))
    assert trained[-1] == train
    assert judged[-1] == test
    for fit, judge in zip(trained[:-1], judged[:-1], strict=True):
        assert fit | judge == train
        assert not fit & judge


@pytest.mark.parametrize(("names", "channels"), [(("B04", "B03", "B04"), 1), (("B04", "B03", "B02"), 3)])
def test_a_seed_repeats_a_training(labelled: Labelled, names: tuple[str, ...], channels: int) -> None:
    """Also of bands that go through the network one by one, and as one view."""
    job, some = job_of(labelled, names, channels), torch.arange(8)
    first, second = (finetune.fit(job, some, 1e-3) for _ in range(2))
    assert torch.equal(finetune.predict(first, job, some), finetune.predict(second, job, some))
    assert first.head[1].in_features == 32 * (2 if channels == 1 else 1)
    start, other = job.contender.network, finetune.fit(job._replace(seed=1), some, 1e-3)
    assert not torch.equal(finetune.predict(first, job, some), finetune.predict(other, job, some))
    assert start is not None
    assert all(not part.equal(was) for part, was in zip(first.network.parameters(), start.parameters(), strict=True))


def test_the_views_of_training_are_flipped_and_turned(labelled: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = labelled.rendered(("B02",), np.arange(8)), list[Tensor]()
    rendered = labelled.rendered
    monkeypatch.setattr(labelled, "rendered", lambda *words: seen.append(found := rendered(*words)) or found)
    job = job_of(labelled)._replace(epochs=2)
    finetune.fit(job, torch.arange(8), 1e-3)
    views = torch.cat(seen)
    assert len(views) == 16
    totals = whole.sum((1, 2, 3)).sort().values
    for epoch in views.split(8):  # the pixels of a flipped patch are the same in another order
        torch.testing.assert_close(epoch.sum((1, 2, 3)).sort().values, totals, rtol=1e-4, atol=1e-2)
    assert sum(any(torch.equal(view, other) for other in whole) for view in views) < 16
