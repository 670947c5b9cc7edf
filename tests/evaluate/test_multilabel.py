"""Evaluation of any number of labels a patch: against scikit-learn, and from BigEarthNet v2's files to its score."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier

from rsdnet import bands, runfolder
from rsdnet.config import Config, ModelConfig, ViewConfig, to_tables
from rsdnet.data.catalog import Catalog
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate import linear, multilabel
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.folds import Fold
from rsdnet.evaluate.knn import KNN
from rsdnet.evaluate.linear import Problem
from rsdnet.evaluate.targets import strata
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.bigearthnet import CLASSES, BigEarthNet
from rsdnet.model.encoders import encoder_of
from rsdnet.probe import Options, probe
from rsdnet.training import checkpoint
from tests.support import geotiffs

S2, S1 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{}_43", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{}_48"
NAMES = tuple(CLASSES)
SHOWN = {"B04": NAMES[2], "B03": NAMES[8]}
"""The class that a band tells of: bright where the patch has it."""
ALWAYS = NAMES[17]
CFG = Config(views=ViewConfig(size=12, channels=1), model=ModelConfig(encoder="resnet18", width=8))


def tree(root: Path, count: int = 48) -> BigEarthNet:
    """BigEarthNet v2's layout, of classes that two bands tell; the second table has a patch each with snow, clouds."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count + 2):
        s2, s1 = S2.format(number), S1.format(number)
        labels = [name for at, name in enumerate(SHOWN.values()) if number >> at & 1]
        level = {band: 2000 if name in labels else 600 for band, name in SHOWN.items()}
        for band in bands.S2L2A:
            side = 120 // bands.BANDS[band].resolution
            layer = rng.normal(level.get(band, 1000), 50, (1, side, side)).astype(np.uint16)
            geotiffs.write(root / f"BigEarthNet-S2/tile{number // 4}" / s2 / f"{s2}_{band}.tif", layer)
        for band in ("VV", "VH"):
            layer = rng.normal(-12, 3, (1, 12, 12)).astype(np.float32)
            geotiffs.write(root / f"BigEarthNet-S1/scene{number // 4}" / s1 / f"{s1}_{band}.tif", layer)
        rows.append({
            "patch_id": s2, "labels": [*labels, ALWAYS], "s1_name": s1, "country": "Austria",
            "split": ("train", "train", "validation", "test")[number // 4 % 4],
            "contains_seasonal_snow": number == count, "contains_cloud_or_shadow": number == count + 1,
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows[:count]), root / "metadata.parquet")
    pq.write_table(pa.Table.from_pylist(rows[count:]), root / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    return BigEarthNet(root, root / "db", unlisted="keep", workers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ben")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ingest(tree(root))
    return root


@pytest.fixture(scope="module")
def run(source: Path) -> Path:
    """An encoder that was never trained, as a finished run has it."""
    folder = source / "run"
    folder.mkdir()
    tensors = dict(encoder_of(CFG).state_dict())
    checkpoint.save(folder / runfolder.ENCODER, tensors, {"config": to_tables(CFG)})
    return folder


def quiet() -> Console:
    return Console(file=io.StringIO(), width=1000)


def said(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


# ---- from files to a score -------------------------------------------------------------------------------------------


def test_labels_snow_and_clouds_stand_in_the_catalog(source: Path) -> None:
    made = Catalog.read(source / "db")
    assert made.classes == NAMES
    by_name = dict(zip(made.samples, made.labels, strict=True))
    for number in range(50):
        wanted = [2] * (number & 1) + [8] * (number >> 1 & 1) + [17]
        assert by_name[S2.format(number)] == tuple(wanted)
    snow = made.contains_seasonal_snow.tolist()
    assert (sum(snow), made.samples[snow.index(True)]) == (1, S2.format(48))
    assert made.contains_cloud_or_shadow.tolist().count(True) == 1
    table = pq.read_table(source / "db" / "catalog.parquet")
    assert table.schema.field("labels").type.value_type == pa.int32()
    assert table.schema.field("contains_seasonal_snow").type == pa.bool_()


def test_a_probe_finds_the_classes_that_the_pixels_tell(
    source: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {"ms": ("B02", "B03", "B04", "B11"), "sar": ("VV",)}  # for the sake of time
    monkeypatch.setattr("rsdnet.probe.bands_of", lambda _, modality: some[modality])
    monkeypatch.setattr(linear, "L2", (1e-3,))
    console = quiet()
    found = probe(Options(run, data=(source / "db",), task="multilabel", features="last", device="cpu"), console)
    assert found.result["metric"] == "macro mAP"
    shown = found.result["results"]["all"]["last"]["bands"]
    raw = {band: shown[band]["raw statistics"] for band in ("B04", "B03", "B11", "B04+B03+B02")}
    for band, name in SHOWN.items():
        assert raw[band]["average_precision"][name] == 1
        assert raw["B11"]["average_precision"][name] < 0.9
    assert raw["B04+B03+B02"]["score"] == pytest.approx(1)
    assert raw["B04+B03+B02"]["f1_macro"] == pytest.approx(raw["B04+B03+B02"]["map_micro"]) == 1
    assert raw["B04+B03+B02"]["average_precision"][NAMES[0]] is None
    assert "the test split has no sample of Urban fabric, " in said(console)
    assert f", {ALWAYS}" not in said(console)
    low, high = raw["B04"]["interval"]
    assert low < raw["B04"]["score"] < high
    left = "samples left out, as published figures have it: 1 with snow (--snow keep takes them), 1 with clouds"
    assert left in said(console)
    assert json.dumps(found.result)


def test_snow_and_clouds_are_kept_on_request(source: Path) -> None:
    everything = {name: S2.format(number) for name, number in (("snow", 48), ("clouds", 49))}
    names = Catalog.read(source / "db").samples
    for kept in ((), ("snow",), ("clouds",), ("snow", "clouds")):
        labelled = Labelled(CFG, (source / "db",), "ms", ALONE, pool=("B04",), labelling="several", kept=kept)
        held = set(names[labelled.samples.rows[labelled.positions]])
        assert len(held) == 48 + len(kept) == len(labelled.labels)
        assert {name for name, patch in everything.items() if patch in held} == set(kept)
        assert all(f"--{name} keep" in labelled.left_out for name in everything.keys() - set(kept))


# ---- one line --------------------------------------------------------------------------------------------------------


def test_labels_of_another_kind_are_refused(source: Path, run: Path, tiny_db: Path) -> None:
    with pytest.raises(DataError, match="samples have any number of labels each, not one: use --task multilabel"):
        probe(Options(run, data=(source / "db",)), quiet())
    with pytest.raises(DataError, match="samples have one label each, not any number: use --task classes"):
        probe(Options(run, data=(tiny_db,), task="multilabel"), quiet())
    with pytest.raises(DataError, match=r"no labelled samples .*they have any number of labels each, not one"):
        KNN(CFG, (source / "db",), torch.device("cpu"))


@pytest.mark.parametrize("labels", [["Pastures", "Ship"], ["pastures"]])
def test_a_label_outside_the_class_list(tmp_path: Path, labels: list[str]) -> None:
    (tmp_path / "BigEarthNet-S2" / "tile" / "a").mkdir(parents=True)
    rows = [{"patch_id": "a", "s1_name": "b", "split": "train", "labels": labels}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    with pytest.raises(
        DataError, match=f"gives a the label '{labels[-1]}', which is none of BigEarthNet v2's 19 class"
    ):
        ingest(BigEarthNet(tmp_path, tmp_path / "db"))


def test_a_class_without_a_training_sample_is_named(source: Path) -> None:
    labelled = Labelled(CFG, (source / "db",), "ms", ALONE, pool=("B04",), labelling="several")
    assert labelled.unseen() == []
    labelled.labels[labelled.part("train"), 8] = False
    assert labelled.unseen() == [NAMES[8]]


# ---- against scikit-learn --------------------------------------------------------------------------------------------


def problem(samples: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, Problem]:
    """Features (N, 6) that tell the classes in part, the last of which the test split lacks."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 6))
    labels = x @ rng.normal(size=(6, classes)) + rng.normal(size=(samples, classes)) > np.linspace(0, 3, classes)
    parts = np.split(np.arange(samples), [samples // 2, samples * 3 // 4])
    labels[parts[2], -1] = False
    train, val, test = map(torch.from_numpy, parts)
    names = [f"class {at}" for at in range(classes)]
    groups = rng.integers(0, 20, samples)
    return torch.from_numpy(x).float(), Problem(
        torch.from_numpy(labels), groups, names, train, test, [Fold(train, val)]
    )


def test_scores_are_scikit_learns() -> None:
    _, task = problem(400, 5)
    rng = np.random.default_rng(1)
    logits = (rng.normal(size=(100, 5)) + task.labels[task.test].numpy()).round(1)  # with ties
    row = multilabel.outcome(torch.from_numpy(logits), task, {"l2": 1e-3}, 0.5).row()
    truth, logits = task.labels[task.test].numpy()[:, :4], logits.astype(np.float32)[:, :4]
    each = average_precision_score(truth, logits, average=None)
    assert row["score"] == pytest.approx(each.mean(), abs=1e-6)
    assert row["average_precision"] == {**{f"class {at}": pytest.approx(each[at]) for at in range(4)}, "class 4": None}
    assert row["map_micro"] == pytest.approx(average_precision_score(truth, logits, average="micro"), abs=1e-6)
    positive = 1 / (1 + np.exp(-logits)) > 0.5
    for average in ("macro", "micro"):
        assert row[f"f1_{average}"] == pytest.approx(f1_score(truth, positive, average=average), abs=1e-6)
    assert (row["val"], row["l2"]) == (0.5, 1e-3)
    assert row["interval"][0] < row["score"] < row["interval"][1]


@pytest.mark.parametrize("decimals", [0, 6])
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_weighted_average_precision_is_scikit_learns(
    monkeypatch: pytest.MonkeyPatch, decimals: int, at_once: int
) -> None:
    monkeypatch.setattr(multilabel, "AT_ONCE", at_once)
    rng = np.random.default_rng(2)
    truth, groups = rng.random((150, 4)) < (0, 0.02, 0.3, 0.9), rng.integers(0, 9, 150)
    scores = (rng.normal(size=truth.shape) + truth).round(decimals)
    weights = rng.multinomial(9, np.full(9, 1 / 9), size=6)
    found = multilabel.average_precision(truth, scores, groups, weights)
    assert found.shape == (6, 4)
    assert np.isnan(found[:, 0]).all()
    for weight, row in zip(weights, found, strict=True):
        own = weight[groups]
        for at in range(1, 4):
            if own[truth[:, at]].any():
                expected = average_precision_score(truth[:, at], scores[:, at], sample_weight=own)
                assert row[at] == pytest.approx(expected, abs=1e-12)
            else:
                assert np.isnan(row[at])


def test_the_classifier_is_scikit_learns() -> None:
    x, task = problem(2000, 6)
    found = linear.score(x, task, multilabel.SEVERAL)
    l2 = found.details["l2"]
    scale = linear.Standard.of(x[task.train])
    train, test = scale(x[task.train]).numpy(), scale(x[task.test]).numpy()
    peer = OneVsRestClassifier(LogisticRegression(C=1 / (l2 * len(train)), max_iter=1000))
    peer.fit(train, task.labels[task.train].numpy().astype(int))
    truth = task.labels[task.test].numpy()[:, :5]
    expected = average_precision_score(truth, peer.decision_function(test)[:, :5])
    assert found.score == pytest.approx(expected, abs=2e-3)
    assert found.score > 0.6
    weights = linear.fit(torch.from_numpy(train), task.labels[task.train], 6, l2, loss=multilabel.binary_cross_entropy)
    coefficients = np.stack([each.coef_[0] for each in peer.estimators_], 1)
    np.testing.assert_allclose(weights[:-1], coefficients, atol=5e-3)


def test_samples_are_drawn_by_their_rarest_class() -> None:
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    assert strata(labels).tolist() == [1, 0, 2, 2, 3, 1]
    assert strata(torch.tensor([2, 0])).tolist() == [2, 0]
