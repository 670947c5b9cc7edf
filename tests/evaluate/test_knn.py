"""Nearest neighbours against scikit-learn; an evaluation that leaves training as it was, on one rank and on several."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.data.catalog import Catalog
from rsdnet.distributed import ALONE, Ranks
from rsdnet.errors import DataError
from rsdnet.evaluate import knn
from rsdnet.evaluate.features import Labelled
from rsdnet.model.encoders import ResNet
from tests.support import tiny

CPU = torch.device("cpu")
CFG = Config(views=ViewConfig(size=24), model=ModelConfig(encoder="resnet18", width=8))


class Crew:
    """What the threads of `together` exchange."""

    def __init__(self, world: int) -> None:
        self.barrier, self.things = threading.Barrier(world, timeout=60), list[Any]([None] * world)

    def exchange(self, rank: int, thing: Any) -> list[Any]:
        self.things[rank] = thing
        self.barrier.wait()
        found = list(self.things)
        self.barrier.wait()
        return found


@dataclasses.dataclass(frozen=True)
class Mate(Ranks):
    """A rank that is a thread of this process."""

    crew: Crew

    def gather(self, tensor: Tensor) -> list[Tensor]:
        found = self.crew.exchange(self.rank, tensor)
        assert len({(each.shape, each.dtype) for each in found}) == 1
        return found

    def collect(self, thing: Any) -> list[Any]:
        return self.crew.exchange(self.rank, thing)


def together(world: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns on each of `world` ranks."""
    crew, done = Crew(world), list[Any]([None] * world)

    def one(rank: int) -> None:
        done[rank] = work(Mate(rank, world, rank, CPU, crew))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def encoder(channels: int = 1) -> ResNet:
    torch.manual_seed(0)
    return ResNet("resnet18", channels, 8)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(2, 5), st.integers(0, 2**31))
def test_the_vote_is_scikit_learns(queries: int, samples: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank, asked = rng.normal(size=(samples, 6)), rng.normal(size=(queries, 6))
    labels = rng.integers(0, classes, samples)
    peer = KNeighborsClassifier(
        min(20, samples), metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank, labels)
    queried = torch.from_numpy(asked)
    found = knn.predict(queried, torch.from_numpy(bank), torch.from_numpy(labels), classes)
    assert found.tolist() == peer.predict(asked).tolist()


def test_blocks_of_queries_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    asked, bank, labels = torch.randn(50, 4), torch.randn(90, 4), torch.randint(0, 3, (90,))
    whole = knn.predict(asked, bank, labels, 3)
    monkeypatch.setattr(knn, "BLOCK", 7)
    assert torch.equal(knn.predict(asked, bank, labels, 3), whole)


class Textures(nn.Module):
    """Features by which tests/support/tiny.py's classes can be told apart: a direction for each of its patterns."""

    def forward(self, views: Tensor) -> Tensor:
        columns, pixels = views.mean((1, 2)).std(1), views.flatten(1).std(1)
        rough = pixels > 0.3
        striped = columns > 0.7 * pixels
        return torch.stack([~rough, rough & striped, rough & ~striped], 1).float()


def test_features_that_tell_the_classes_apart_and_features_that_do_not(tiny_db: Path) -> None:
    judge = knn.KNN(CFG, (tiny_db,), CPU)
    found = judge(Textures(), torch.float32)
    bands = [*CFG.views.ms_bands, *CFG.views.sar_bands]
    assert list(found) == ["knn_f1", "feature_rank", "classes", *(f"knn_f1/{name}" for name in bands)]
    assert found["knn_f1"] == pytest.approx(np.mean([found[f"knn_f1/{name}"] for name in bands]))
    assert found["knn_f1"] > 0.9
    assert found["classes"] == 3
    assert found["feature_rank"] == pytest.approx(3, abs=0.2)  # three directions, of about as many samples each
    alike = judge(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)), torch.float32)
    assert alike["knn_f1"] == pytest.approx(1 / 6)  # one class for all: F1 1/2 of it, 0 of two others
    assert alike["feature_rank"] == pytest.approx(1)


class Stages(Textures):
    """Maps of which one tells the classes and is drowned by another, a thousand times as large."""

    def output_and_maps(self, views: Tensor) -> tuple[Tensor, list[Tensor]]:
        told = self(views)
        loud = 1000 * torch.rand(len(views), 3, 1, 1, generator=torch.Generator().manual_seed(0))
        return told, [told[..., None, None], loud]


def test_a_stage_of_large_values_does_not_drown_the_others(tiny_db: Path) -> None:
    assert knn.KNN(CFG, (tiny_db,), CPU)(Stages(), torch.float32)["knn_f1"] > 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_training_goes_on_as_if_nothing_had_been(tiny_db: Path, channels: int) -> None:
    cfg = dataclasses.replace(CFG, views=dataclasses.replace(CFG.views, channels=channels))
    judge, network = knn.KNN(cfg, (tiny_db,), CPU), encoder(channels)
    network.layer1.eval()  # type: ignore[union-attr, operator]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    found = [judge(network, torch.float32) for _ in range(2)]
    assert torch.equal(torch.rand(4), expected)
    assert found[0] == found[1]
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    network(torch.randn(4, channels, 24, 24)).sum().backward()  # the weights are no inference tensors


def test_modes_come_back_after_an_error() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())

    def fails() -> None:
        with knn.evaluating(network):
            assert not network[0].training
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [module.training for module in network.modules()] == [True, True, False]


@pytest.mark.parametrize("world", [2, 3])
def test_every_rank_finds_what_one_process_finds(tiny_db: Path, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Labelled.__init__.__kwdefaults__, "batch", 8)  # type: ignore[arg-type]
    alone = knn.KNN(CFG, (tiny_db,), CPU)(encoder(), torch.float32)
    network = encoder()
    network.eval()  # one network for all threads: its modes stay
    found = together(world, lambda ranks: knn.KNN(CFG, (tiny_db,), CPU, ranks)(network, torch.float32))
    assert found == [alone] * world


@pytest.mark.parametrize(("world", "batch"), [(2, 7), (3, 20), (3, 59), (2, 64)])
def test_uneven_shares_are_joined_in_order(tiny_db: Path, world: int, batch: int) -> None:
    """Of 60 samples; in the last case one rank has them all."""

    def features(ranks: Ranks) -> Tensor:
        labelled = Labelled(CFG, (tiny_db,), "sar", ranks, batch=batch)
        assert ranks.world == 1 or sum(map(len, labelled.views(("VV",)))) < 60 or batch > 60
        return labelled.features(("VV",), lambda views: {"last": views.flatten(1)[:, :5]})["last"]

    alone = features(ALONE)
    assert len(alone) == 60
    for found in together(world, features):
        assert torch.equal(found, alone)


def test_a_limit_takes_the_same_samples_of_each_split_every_time(tiny_db: Path) -> None:
    (ms, _, queries), _ = knn.KNN(CFG, (tiny_db,), CPU, limit=8).parts
    (again, _, _), _ = knn.KNN(CFG, (tiny_db,), CPU, limit=8).parts
    assert queries == "val"
    assert Counter(ms.split) == {"train": 8, "val": 8}
    assert list(ms.positions) == list(again.positions) == sorted(set(ms.positions))
    assert len(ms.labels[ms.part("train")].unique()) == 3
    assert list(ms.classes[ms.labels]) == list(ms.samples.catalog.label[ms.positions])


def test_a_limit_takes_every_class_by_its_share(tmp_path: Path) -> None:
    """Of 18 training samples of 30: one of a rare class, twelve of another."""

    def rare(catalog: Catalog) -> None:
        train = np.flatnonzero(catalog.split == "train")
        catalog.label[train] = np.repeat([0, 1, 2], [1, 5, 12])

    db = changed(tmp_path, rare)
    for limit, expected in ((9, [1, 2, 6]), (2, [1, 1, 1])):
        ms, _, _ = knn.KNN(CFG, (db,), CPU, limit=limit).parts[0]
        assert ms.labels[ms.part("train")].bincount().tolist() == expected


def changed(folder: Path, change: Callable[[Catalog], None]) -> Path:
    """A tiny database whose catalog has been changed."""
    db = tiny.make(folder / "db", samples=30)
    catalog = Catalog.read(db)
    change(catalog)
    catalog.write(db)
    return db


def no_labels(catalog: Catalog) -> None:
    catalog.label[:] = -1


def no_train(catalog: Catalog) -> None:
    catalog.split[:] = "val"


def no_queries(catalog: Catalog) -> None:
    catalog.split[:] = "train"


def one_class(catalog: Catalog) -> None:
    catalog.label[:] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [(no_labels, "no labelled"), (no_train, "train split"), (no_queries, "test split"), (one_class, "one class")],
)
def test_a_database_to_no_purpose_is_told_before_training(
    tmp_path: Path, change: Callable[[Catalog], None], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        knn.KNN(CFG, (changed(tmp_path, change),), CPU)


def test_without_a_val_split_the_test_split_is_asked(tmp_path: Path) -> None:
    def no_val(catalog: Catalog) -> None:
        catalog.split[catalog.split == "val"] = "train"

    judge = knn.KNN(CFG, (changed(tmp_path, no_val),), CPU)
    assert {queries for _, _, queries in judge.parts} == {"test"}
    assert judge(Textures(), torch.float32)["knn_f1"] > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_finds_what_a_cpu_finds(tiny_db: Path) -> None:
    device = torch.device("cuda")
    expected = knn.KNN(CFG, (tiny_db,), CPU)(Textures(), torch.float32)
    assert knn.KNN(CFG, (tiny_db,), device)(Textures(), torch.float32) == pytest.approx(expected, abs=0.2)
    assert 0 <= knn.KNN(CFG, (tiny_db,), device)(encoder().to(device), torch.bfloat16)["knn_f1"] <= 1
