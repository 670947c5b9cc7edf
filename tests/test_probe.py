"""Linear evaluation against scikit-learn, and on data whose answer is known."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from rsdnet.config import Config
from rsdnet.data.catalog import COLUMNS, Catalog
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate import contenders, linear
from rsdnet.evaluate.features import Labelled, scaled_side
from rsdnet.evaluate.folds import Fold
from rsdnet.evaluate.outcomes import Evaluation, Outcome
from rsdnet.probe import Options, probe
from tests.support import tiny

FAST = ("--size=20", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu",
        "--precision=fp32", "--threads=1")  # fmt: skip


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_the_classifier_is_scikit_learns(l2: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    x = (rng.normal(size=(4, 6))[y] + rng.normal(size=(300, 6))).astype(np.float32)
    weights = linear.fit(torch.from_numpy(x), torch.from_numpy(y), 4, l2)
    peer = LogisticRegression(C=1 / (l2 * len(x)), max_iter=2000, tol=1e-8).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(weights[:-1].T, peer.coef_, atol=2e-3)
    assert (linear.predict(weights, torch.from_numpy(x)).numpy() == peer.predict(x)).mean() > 0.995


def problem(labels: torch.Tensor, groups: np.ndarray, train: int, test: int, *folds: Fold) -> linear.Problem:
    """The first `train` samples to train on, the next `test` to test on."""
    parts = torch.arange(train + test).split([train, test])
    return linear.Problem(labels, groups, [*map(str, range(int(labels.max()) + 1))], *parts, list(folds))


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth, predicted, groups = rng.integers(0, 5, 200), rng.integers(0, 6, 200), rng.integers(0, 30, 200)
    labels = torch.from_numpy(np.concatenate(([5], truth)))  # a class that the test split lacks
    asked = problem(labels, np.concatenate(([0], groups)), 1, 200)
    found = linear.outcome(predicted, asked, {"l2": 0.1}, 0.7)
    assert found.details == {"accuracy": pytest.approx(accuracy_score(truth, predicted)), "l2": 0.1}
    f1 = f1_score(truth, predicted, average="macro", labels=np.unique(truth))
    assert found.score == pytest.approx(f1, abs=1e-6)
    low, high = found.row()["interval"]
    assert low < f1 < high
    assert high - low == pytest.approx(2 * 1.96 * found.replicates.std(), rel=0.1)


def test_the_whole_classifier_is_within_noise_of_scikit_learns() -> None:
    """Its penalty by the validation samples, of the same ones."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 4, 900)
    x = (0.7 * rng.normal(size=(4, 12))[y] + rng.normal(size=(900, 12))).astype(np.float32)
    train, val, test = np.split(np.arange(900), [300, 500])
    asked = linear.Problem(
        torch.from_numpy(y), np.arange(900), [*"abcd"], torch.from_numpy(train), torch.from_numpy(test),
        [Fold(torch.from_numpy(train), torch.from_numpy(val))],
    )  # fmt: skip
    found = linear.score(torch.from_numpy(x), asked)
    z = (x - x[train].mean(0)) / x[train].std(0, ddof=1)
    peers = [LogisticRegression(C=1 / (l2 * 300), max_iter=2000).fit(z[train], y[train]) for l2 in linear.L2]
    vals = [f1_score(y[val], peer.predict(z[val]), average="macro") for peer in peers]
    best = peers[int(np.argmax(vals))]
    assert found.val == pytest.approx(max(vals), abs=0.01)
    assert found.score == pytest.approx(f1_score(y[test], best.predict(z[test]), average="macro"), abs=0.01)


def test_without_validation_samples_folds_by_group_choose_the_penalty() -> None:
    """A feature that tells the group tells the class within it, and nothing of other groups."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), 10)
    y = (groups % 2).astype(np.int64)
    noise = rng.normal(size=(400, 8)) + 1.2 * y[:, None]
    x = np.concatenate((3 * np.eye(40)[groups], noise), 1).astype(np.float32)
    labels, train, test = torch.from_numpy(y), torch.arange(300), torch.arange(300, 400)
    folds = linear.folds_of(train, torch.arange(0), labels, groups)
    assert len(folds) == 5
    for fit, judge in folds:
        assert not set(groups[fit]) & set(groups[judge])
        assert sorted([*fit.tolist(), *judge.tolist()]) == train.tolist()
    found = linear.score(torch.from_numpy(x), linear.Problem(labels, groups, ["a", "b"], train, test, folds))
    assert 0.8 < found.val < 1.0
    assert found.val == pytest.approx(found.score, abs=0.1)


def test_whole_patches_are_scaled_as_the_mean_crop_of_training() -> None:
    rng = np.random.default_rng(0)
    sides = np.sqrt(rng.uniform(0.2, 1.0, 10**6)) * 120
    views = Config().views
    assert scaled_side(views, 120, 120) == pytest.approx(views.size / sides.mean() * 120, abs=1)
    assert scaled_side(views, 120, 240) == pytest.approx(views.size / sides.mean() * 240, abs=1)


def test_band_statistics_are_numpys() -> None:
    views = torch.randn(3, 2, 9, 9)
    features = contenders.band_statistics(views).numpy().reshape(3, 2, 9)
    pixels = views.numpy().reshape(3, 2, 81)
    expected = [pixels.mean(2), pixels.std(2), pixels.min(2), pixels.max(2)]
    expected += list(np.quantile(pixels, contenders.QUANTILES, axis=2))
    np.testing.assert_allclose(features, np.stack(expected, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spoilt", "score", "val"), [("val", 1.0, 0.0), ("test", 0.0, 1.0)])
def test_val_is_of_the_val_split(tiny_db: Path, spoilt: str, score: float, val: float) -> None:
    labelled = Labelled(Config(), (tiny_db,), "ms", ALONE)
    shown = labelled.labels.clone()
    shown[labelled.part(spoilt)] += 1
    found = linear.score(
        torch.nn.functional.one_hot(shown % 3).float(), linear.problem_of(labelled, labelled.part("train"))
    )
    assert (found.score, found.val) == (score, val)


@pytest.fixture(scope="module")
def run(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    argv = [sys.executable, "-m", "rsdnet.train", "--data", tiny_db, "--run", folder, "--steps=3", *FAST]
    subprocess.run(argv, check=True, capture_output=True)
    return folder


def command(*argv: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "rsdnet.probe", *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_probe_writes_table_json_and_chart(run: Path) -> None:
    done = command(run)
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "probe.json").read_text())
    assert set(result["results"]["all"]) == {"stages", "last"}
    for shown in result["results"]["all"].values():
        assert list(shown["bands"])[:2] == ["B02", "B03"]
        assert {"VV", "VH", "B04+B03+B02", "VV+VH+VV"} <= shown["bands"].keys()
        single = {name: row for name, row in shown["bands"].items() if "+" not in name}
        assert len(single) == 12
        for label in ("pre-trained", "random", "raw statistics"):
            every = {name: row[label]["score"] for name, row in single.items()}
            assert shown["mean_all"][label]["score"] == pytest.approx(np.mean(list(every.values())))
            assert shown["mean_sar"][label]["score"] == pytest.approx((every["VV"] + every["VH"]) / 2)
            low, high = shown["mean_all"][label]["interval"]
            assert low <= shown["mean_all"][label]["score"] <= high
            assert label in done.stdout
    assert (run / "probe.png").read_bytes().startswith(b"\x89PNG")
    # The three textures differ in their deviation, so statistics of the raw band tell them apart.
    assert result["results"]["all"]["stages"]["mean_all"]["raw statistics"]["score"] > 0.8
    kept = load_file(run / "probe.safetensors")
    assert kept["all/last/VV/random"].shape == (1000,)
    assert "already" in command(run).stdout


@pytest.mark.parametrize("keep", [0, 60 * 4 * 128**2 + 1, 1 << 30])
def test_views_kept_for_the_next_variant_are_of_the_band_asked_for(tiny_db: Path, keep: int) -> None:
    """With room for no band, for one, and for all."""
    labelled = Labelled(Config(), (tiny_db,), "ms", ALONE, batch=10, keep=keep)
    for name in ("B02", "B08", "B02"):
        alone = Labelled(Config(), (tiny_db,), "ms", ALONE, batch=10)
        expected = torch.cat(list(alone.views((name,))))
        assert len(expected) == 60
        for _ in range(2):  # rendered, then kept
            assert torch.equal(torch.cat(list(labelled.views((name,)))), expected)


def test_a_checkpoint_of_an_unfinished_run_can_be_probed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())
    early, final = (contenders.load_encoder(folder) for folder in (tmp_path, run))
    assert final.cfg.views.size == 20
    for name, tensor in final.encoder.state_dict().items():
        assert torch.equal(tensor, early.encoder.state_dict()[name])


def test_the_newest_sound_checkpoint_is_evaluated_and_told(run: Path, tmp_path: Path) -> None:
    """Also of a run that was killed before the checkpoint had its second name."""
    sound = (run / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint-000000003.safetensors").write_bytes(sound)
    expected = contenders.load_encoder(run)
    assert expected.damaged == []
    for newest in (b"", sound[: len(sound) // 2], None):
        path = tmp_path / "checkpoint-000000006.safetensors"
        path.write_bytes(newest) if newest is not None else path.unlink()
        found = contenders.load_encoder(tmp_path)
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())
        assert [str(path) in line for line in found.damaged] == [True] * (newest is not None)


def test_data_without_a_name_is_not_the_runs_own(run: Path) -> None:
    done = command(run, "--data", "--force")
    assert (done.returncode, done.stderr[:27]) == (2, "error: --data has no value:")


def relabelled(folder: Path, change: Callable[[Catalog], object]) -> Path:
    """The tiny database with another catalog."""
    db = tiny.make(folder / "db")
    catalog = Catalog.read(db)
    change(catalog)
    catalog.write(db)
    return db


def probed(run: Path, db: Path) -> dict[str, Any]:
    """The results by stages and with all labels."""
    return probe(Options(run, (db,), device="cpu", force=True), Console()).result["results"]["all"]["stages"]


def test_a_class_never_seen_in_training_counts_as_missed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlearn(catalog: Catalog) -> None:
        catalog.label[(catalog.split == "train") & (catalog.label == 2)] = 1

    result = probed(run, relabelled(tmp_path, unlearn))
    assert "rough" in capsys.readouterr().out
    assert result["mean_all"]["raw statistics"]["score"] < 0.7


def test_a_database_of_one_sensor_is_probed_on_its_bands(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EuroSAT, the paper's first evaluation, has no SAR."""
    bands = probed(run, relabelled(tmp_path, lambda catalog: catalog.sar.fill(None)))["bands"]
    assert "no labelled sar patches" in capsys.readouterr().out
    assert "B12" in bands
    assert "VV" not in bands


def test_a_run_of_one_sensor_is_probed_on_every_band_of_the_database(tiny_db: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "rsdnet.train", "--data", tiny_db, "--run", tmp_path, "--steps=1", "--modality=ms"]
    subprocess.run([*argv, "--ms-bands", "B04", "B08", *FAST], check=True, capture_output=True)
    bands = probed(tmp_path, tiny_db)["bands"]
    assert {"B04", "B12", "VV", "VH", "B04+B03+B02"} <= bands.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda catalog: catalog.label.fill(-1), "no labelled samples"),
        (lambda catalog: catalog.split.fill("train"), "no labelled sample in the test split"),
        (lambda catalog: catalog.label.fill(1), "one class only"),
    ],
    ids=["no label", "no test split", "one class"],
)
def test_a_database_that_cannot_judge(run: Path, tmp_path: Path, change: Callable[[Catalog], None], words: str) -> None:
    with pytest.raises(DataError, match=words):
        probed(run, relabelled(tmp_path, change))


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "no encoder" in line


def test_two_ranks_give_the_evaluation_of_one(run: Path, tmp_path: Path) -> None:
    """60 samples in nine batches, the last short: five and four a rank; 33 and 9 classifiers, one over in each."""
    assert command(run, "--force", "--batch=7").returncode == 0
    alone = (run / "probe.json").read_text()
    (run / "probe.json").unlink()
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    argv = [sys.executable, "-m", *torchrun, "-m", "rsdnet.probe", str(run), "--batch=7", "--device=cpu"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (run / "probe.json").read_text() == alone
    assert done.stdout.count("mean_all, stages") == 1


def test_two_ranks_say_what_is_wrong_once(tmp_path: Path) -> None:
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    argv = [sys.executable, "-m", *torchrun, "-m", "rsdnet.probe", str(tmp_path), "--device=cpu"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("holds no encoder") == 1


# ---- the same evaluation again, and another one ----------------------------------------------------------------------


def by_class(catalog: Catalog) -> None:
    """The samples of each class together, as a data set of folders gives them."""
    order = np.argsort(catalog.label, kind="stable")
    for name in COLUMNS:
        getattr(catalog, name)[:] = getattr(catalog, name)[order]


def test_a_share_of_the_labels_has_every_class_of_data_that_are_sorted_by_class(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """36 training samples, 12 of each class."""
    trained: list[list[int]] = []

    def score(features: torch.Tensor, asked: linear.Problem, task: linear.Task) -> Outcome:
        trained.append(asked.train.tolist())
        assert asked.labels[asked.train].bincount().tolist() == [len(asked.train) // 3] * 3
        assert [len(fold.judge) for fold in asked.folds] == [12]  # val stays whole
        return Outcome(1.0, 1.0, np.ones(2), {})

    monkeypatch.setattr(linear, "score", score)
    db = relabelled(tmp_path, by_class)
    shares = ("25%", "12", "all")
    result = probe(Options(run, (db,), device="cpu", labels=shares), Console()).result
    assert (result["labels"], result["seed"], result["protocol"]) == (list(shares), 0, 3)
    assert list(result["results"]) == list(shares)
    assert {len(each) for each in trained} == {9, 12, 36}
    (first,) = {tuple(each) for each in trained if len(each) == 12}
    trained.clear()
    probe(Options(run, (db,), device="cpu", labels=("12",), seed=5), Console())
    assert set(map(tuple, trained)) != {first}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"labels": ("-1",)}, "--labels -1: string should match"),
        ({"labels": ("x%",)}, "--labels x%: string should match"),
        ({"labels": ("2",)}, "a limit of 2 samples cannot hold one of each of 3 classes: use at least 3"),
        ({"features": "layer5"}, "--features layer5: string should match"),
        ({"size": -5}, "--size -5: input"),
        ({"size": 10**9}, "--size 1000000000: input"),
        ({"size": 4096, "batch": 2**16}, r"60 views of 4096 pixels a side take .* are free: use a smaller --size"),
        ({"batch": 0}, "--batch 0: input"),
        ({"seed": -1}, "--seed -1: input"),
    ],
)
def test_numbers_out_of_range(
    run: Path, tiny_db: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("rsdnet.evaluate.features.free_bytes", lambda device: 10**9)
    with pytest.raises(DataError, match=said):
        probe(Options(run, (tiny_db,), device="cpu", **option), Console())


@pytest.fixture
def held(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether a run holds the evaluation on a database already, whose results it is given here."""
    evaluated = 0

    def evaluate(labelled: Any, views: Any, compared: Any, trains: Any, depths: Any, *_: Any) -> dict[str, Any]:
        nonlocal evaluated
        evaluated += 1
        row = {"B02": {"pre-trained": Outcome(0.5, 0.5, np.full(3, 0.5), {})}}
        return {share: dict.fromkeys(depths, row) for share in trains}

    monkeypatch.setattr(linear, "evaluate", evaluate)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "encoder.safetensors", folder)

    def held(*databases: Path, **options: Any) -> bool:
        before = evaluated
        found: Evaluation = probe(Options(folder, databases, device="cpu", **options), Console())
        found.save(folder / "probe.json")
        return evaluated == before

    return held


def test_an_evaluation_is_known_again_under_any_path(held: Callable[..., bool], tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db")
    assert not held(db)
    assert held(db)
    (tmp_path / "link").symlink_to(db)
    assert held(tmp_path / "link")
    db.rename(tmp_path / "moved")
    assert held(tmp_path / "moved")
    assert json.loads((tmp_path / "run" / "probe.json").read_text())["data"] == [str(db)]


def other_labels(catalog: Catalog) -> None:
    catalog.label[0] = (catalog.label[0] + 1) % 3


def other_splits(catalog: Catalog) -> None:
    catalog.split[:] = np.roll(catalog.split, 3)


def other_order(catalog: Catalog) -> None:
    for name in COLUMNS:
        getattr(catalog, name)[[0, 9]] = getattr(catalog, name)[[9, 0]]


def other_names(catalog: Catalog) -> None:
    object.__setattr__(catalog, "classes", ("smooth", "striped", "coarse"))


@pytest.mark.parametrize("change", [other_labels, other_splits, other_order, other_names])
def test_another_catalog_is_another_evaluation(
    held: Callable[..., bool], tmp_path: Path, change: Callable[[Catalog], None]
) -> None:
    db = tiny.make(tmp_path / "db")
    assert not held(db)
    catalog = Catalog.read(db)
    change(catalog)
    catalog.write(db)
    assert not held(db)
    assert held(db)


def test_other_pixels_statistics_and_options_are_another_evaluation(held: Callable[..., bool], tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db")
    assert not held(db)
    stats = (db / "stats.json").read_text()
    (db / "stats.json").write_text(stats.replace('"std": ', '"std": 1'))
    assert not held(db)
    shutil.copy(tiny.make(tmp_path / "other" / "db", seed=1) / "data.mdb", db)
    assert not held(db)
    for options in ({"labels": ("12",)}, {"labels": ("12",), "seed": 1}, {"labels": ("12",), "seed": 1, "size": 30}):
        assert not held(db, **options)
        assert held(db, **options)


@pytest.mark.parametrize("old", ['{"encoder": "ab", "data": ["db"], "limit": 0, "size": 0, "bands": {}}', "[]", "{"])
def test_results_from_before_or_damaged_are_made_anew(held: Callable[..., bool], tmp_path: Path, old: str) -> None:
    (tmp_path / "run" / "probe.json").write_text(old)
    assert not held(tiny.make(tmp_path / "db"))


def test_class_lists_that_differ_are_told(run: Path, tmp_path: Path) -> None:
    def rename(catalog: Catalog) -> None:
        other_names(catalog)
        catalog.samples[:] = [f"other {name}" for name in catalog.samples]

    one, two = tiny.make(tmp_path / "one"), relabelled(tmp_path, rename)
    with pytest.raises(
        DataError, match=r"class lists differ: .*label 2 is 'rough' in the one and 'coarse' in the other"
    ):
        probe(Options(run, (one, two), device="cpu"), Console())
