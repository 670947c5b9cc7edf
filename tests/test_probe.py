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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from rsdnet.config import Config
from rsdnet.data.catalog import COLUMNS, Catalog
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate import linear, variants
from rsdnet.evaluate.features import Labelled
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


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 5, 200), rng.integers(0, 6, 200)
    f1, accuracy = linear.scores(torch.from_numpy(predicted), torch.from_numpy(truth), 6)
    assert accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert f1 == pytest.approx(f1_score(truth, predicted, average="macro", labels=np.unique(truth)), abs=1e-6)


def test_band_statistics_are_numpys() -> None:
    views = torch.randn(3, 2, 9, 9)
    features = variants.band_statistics(views).numpy().reshape(3, 2, 9)
    pixels = views.numpy().reshape(3, 2, 81)
    expected = [pixels.mean(2), pixels.std(2), pixels.min(2), pixels.max(2)]
    expected += list(np.quantile(pixels, variants.QUANTILES, axis=2))
    np.testing.assert_allclose(features, np.stack(expected, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spoilt", "f1", "val_f1"), [("val", 1.0, 0.0), ("test", 0.0, 1.0)])
def test_val_f1_is_of_the_val_split(tiny_db: Path, spoilt: str, f1: float, val_f1: float) -> None:
    labelled = Labelled(Config(), (tiny_db,), "ms", ALONE)
    shown, parts = labelled.labels.clone(), {name: labelled.part(name) for name in ("train", "val", "test")}
    shown[parts[spoilt]] += 1
    score = linear.score(torch.nn.functional.one_hot(shown % 3).float(), labelled.labels, parts, 3)
    assert (score.f1, score.val_f1) == (f1, val_f1)


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
    assert list(result["bands"])[:2] == ["B02", "B03"]
    assert {"VV", "VH", "B04+B03+B02"} <= result["bands"].keys()
    single = [row for name, row in result["bands"].items() if "+" not in name]
    assert len(single) == 12
    for label in ("pre-trained", "random", "raw statistics"):
        assert result["mean_f1"][label] == pytest.approx(np.mean([row[label]["f1"] for row in single]))
        assert label in done.stdout
    assert (run / "probe.png").read_bytes().startswith(b"\x89PNG")
    # The three textures differ in their deviation, so statistics of the raw band tell them apart.
    assert result["mean_f1"]["raw statistics"] > 0.8
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
    early, final = (variants.load_encoder(folder) for folder in (tmp_path, run))
    assert final.cfg.views.size == 20
    for name, tensor in final.encoder.state_dict().items():
        assert torch.equal(tensor, early.encoder.state_dict()[name])


def test_the_newest_sound_checkpoint_is_evaluated_and_told(run: Path, tmp_path: Path) -> None:
    """Also of a run that was killed before the checkpoint had its second name."""
    sound = (run / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint-000000003.safetensors").write_bytes(sound)
    expected = variants.load_encoder(run)
    assert expected.damaged == []
    for newest in (b"", sound[: len(sound) // 2], None):
        path = tmp_path / "checkpoint-000000006.safetensors"
        path.write_bytes(newest) if newest is not None else path.unlink()
        found = variants.load_encoder(tmp_path)
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
    return probe(Options(run, (db,), device="cpu", force=True), Console())


def test_a_class_never_seen_in_training_counts_as_missed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlearn(catalog: Catalog) -> None:
        catalog.label[(catalog.split == "train") & (catalog.label == 2)] = 1

    result = probed(run, relabelled(tmp_path, unlearn))
    assert "rough" in capsys.readouterr().out
    assert result["mean_f1"]["raw statistics"] < 0.7


def test_a_database_of_one_sensor_is_probed_on_its_bands(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EuroSAT, the paper's first evaluation, has no SAR."""
    bands = probed(run, relabelled(tmp_path, lambda catalog: catalog.sar.fill(None)))["bands"]
    assert "no labelled sar patches" in capsys.readouterr().out
    assert "B12" in bands
    assert "VV" not in bands


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
    assert done.stdout.count("mean of bands") == 1


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


def test_a_limit_takes_every_class_of_data_that_are_sorted_by_class(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[list[int], list[int]]] = []

    def score(features: torch.Tensor, labels: torch.Tensor, parts: dict[str, torch.Tensor], classes: int) -> Any:
        trained.append((parts["train"].tolist(), labels[parts["train"]].bincount().tolist()))
        return linear.Score(1.0, 1.0, 0.1, 1.0)

    monkeypatch.setattr(linear, "score", score)
    db = relabelled(tmp_path, by_class)
    result = probe(Options(run, (db,), device="cpu", limit=12), Console())
    assert (result["limit"], result["seed"], result["protocol"]) == (12, 0, 2)
    assert {tuple(counts) for _, counts in trained} == {(4, 4, 4)}
    first = trained.pop()[0]
    probe(Options(run, (db,), device="cpu", limit=12, seed=5), Console())
    assert trained.pop()[0] != first


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"limit": -1}, "--limit -1: input"),
        ({"limit": 2}, "a limit of 2 samples cannot hold one of each of 3 classes: use at least 3"),
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

    def evaluate(*_: Any) -> dict[str, Any]:
        nonlocal evaluated
        evaluated += 1
        return {"B02": {"pre-trained": {"f1": 0.5, "val_f1": 0.5}}}

    monkeypatch.setattr(linear, "evaluate", evaluate)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "encoder.safetensors", folder)

    def held(*databases: Path, **options: Any) -> bool:
        before = evaluated
        result = probe(Options(folder, databases, device="cpu", **options), Console())
        (folder / "probe.json").write_text(json.dumps(result))
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
    for options in ({"limit": 12}, {"limit": 12, "seed": 1}, {"limit": 12, "seed": 1, "size": 30}):
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
