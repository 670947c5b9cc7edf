"""Segmentation on label maps that are known: from files in DFC2020's layout, against scikit-learn and torch alone."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torch.nn.functional import interpolate

import rsdnet.probe
from rsdnet import config
from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.data.catalog import Catalog
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError
from rsdnet.evaluate import dense, fcn, folds, linear, pixels, segmentation
from rsdnet.evaluate.contenders import Contender, contenders, pixel_statistics
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.linear import Standard, by_confusion, choose
from rsdnet.evaluate.metrics import mean_iou
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from rsdnet.model.encoders import encoder_of
from rsdnet.probe import Options, probe
from rsdnet.synthetic.geotiffs import World, write_scenes
from rsdnet.training import checkpoint
from tests.support import geotiffs
from tests.support.databases import write_database

SIDE, BLOCK = 32, 8  # pixels
FOREST, SAVANNA, GRASS, WETLANDS, WATER = 1, 3, 4, 5, 10  # DFC2020's numbers
TRAIN, TEST = (0, FOREST, SAVANNA, GRASS, WATER), (0, FOREST, SAVANNA, GRASS, WETLANDS, WATER)
IGNORED = ("Savanna", "Snow/Ice")
CFG = Config(views=ViewConfig(size=SIDE), model=ModelConfig(encoder="resnet18", width=4))
QUIET = Console(quiet=True)


def dfc2020(root: Path) -> Path:
    """Ten patches to train and eight to test; B02 and VV tell the class of a pixel, the other bands nothing."""
    rng = np.random.default_rng(0)
    for part, scene, count, numbers in (("validation", "validation", 10, TRAIN), ("test", "0", 8, TEST)):
        for number in range(count):
            blocks = rng.choice(numbers, (SIDE // BLOCK, SIDE // BLOCK))
            truth = blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
            s2 = rng.normal(3000, 600, (13, SIDE, SIDE))
            s2[1] = 1000 + 500 * truth + rng.normal(0, 50, truth.shape)
            s1 = rng.normal(-14, 3, (2, SIDE, SIDE))
            s1[0] = 2 * truth - 30
            layers = {"s2": s2.astype(np.uint16), "s1": s1.astype(np.float32), "dfc": truth[None].astype(np.uint8)}
            for kind, pixels_of in layers.items():
                name = f"ROIs0000_{part}_{kind}_{scene}_p{number}.tif"
                geotiffs.write(root / f"ROIs0000_{part}" / f"{kind}_{scene}" / name, pixels_of)
    return root


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dfc2020")
    assert ingest(Sen12ms(dfc2020(folder / "source"), folder / "db")) == 0
    return folder / "db"


@pytest.fixture(scope="module")
def truth(db: Path) -> dict[str, np.ndarray]:
    """DFC2020's numbers of all pixels by split, from the files."""
    parts = {"train": "validation", "test": "test"}
    folder = db.parent / "source"
    return {
        split: np.stack([geotiffs.read(path)[0] for path in sorted(folder.rglob(f"*_{part}_dfc_*.tif"))])
        for split, part in parts.items()
    }


def maps_of(db: Path, ignore: tuple[str, ...] = IGNORED, modality: str = "ms") -> LabelMaps:
    pool = {"ms": ("B02", "B03"), "sar": ("VV", "VH")}[modality]
    return LabelMaps(Labelled(CFG, (db,), modality, ALONE, pool=pool, size=SIDE, batch=7), ignore)


@pytest.fixture(scope="module")
def maps(db: Path) -> LabelMaps:
    return maps_of(db)


@pytest.fixture(autouse=True)
def two_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a val split, two folds in place of five, for speed."""
    monkeypatch.setattr(folds, "FOLDS", 2)


@pytest.fixture(scope="module")
def compared() -> dict[str, Contender]:
    torch.manual_seed(1)
    return contenders(encoder_of(CFG), CFG, torch.device("cpu"), rsdnet.probe.DEPTHS)


def evaluate(maps: LabelMaps, views: list[tuple[str, ...]], compared: dict[str, Contender], **options: Any) -> Any:
    trains = {"all": maps.labelled.part("train")}
    return segmentation.evaluate(maps, views, compared, trains, ("stages", "last"), QUIET, **options)["all"]


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_maps_are_those_of_the_files(maps: LabelMaps, truth: dict[str, np.ndarray]) -> None:
    numbers = {"Forest": FOREST, "Grassland": GRASS, "Wetlands": WETLANDS, "Water": WATER}
    assert maps.classes == tuple(numbers)
    for split, known in truth.items():
        samples = maps.part(split)
        found = maps.read(samples).numpy()
        expected = np.full(known.shape, -1)
        for at, number in enumerate(numbers.values()):
            expected[known == number] = at
        order = np.argsort(maps.labelled.samples.catalog.samples[maps.labelled.positions[samples]])
        np.testing.assert_array_equal(found[order], expected)
        np.testing.assert_array_equal(maps.pixels(split), [(known == number).sum() for number in numbers.values()])
    assert maps.without("test") == ["Shrubland", "Croplands", "Urban/Built-up", "Barren"]
    assert maps.unseen() == ["Wetlands"]


def test_pixels_are_drawn_in_proportion_and_once(maps: LabelMaps) -> None:
    samples = maps.part("train")
    drawn = pixels.drawn(maps, samples, 500, seed=3)
    assert len(drawn.sample) == 500
    assert len(set(zip(drawn.sample.tolist(), drawn.place.tolist(), strict=True))) == 500
    np.testing.assert_array_equal(maps.read(drawn.sample).flatten(1)[range(500), drawn.place], drawn.label)
    share = maps.pixels("train") / maps.pixels("train").sum()
    np.testing.assert_allclose(np.bincount(drawn.label, minlength=len(share)), 500 * share, atol=1)
    assert (pixels.drawn(maps, samples, 500, seed=4).place != drawn.place).any()
    every = pixels.drawn(maps, samples, 10**6)
    assert len(every.sample) == maps.pixels("train").sum()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 8), (32, 32)])
def test_values_at_pixels_are_those_of_enlarged_maps(shape: tuple[int, int]) -> None:
    stage = torch.randn(3, 5, *shape)
    expected = interpolate(stage, (16, 16), mode="bilinear", align_corners=False).flatten(2)
    rows, places = torch.randint(3, (200,)), torch.randint(256, (200,))
    np.testing.assert_allclose(pixels.at_pixels(stage, rows, places, 16), expected[rows, :, places], atol=1e-5)


def test_pixel_statistics_are_of_windows() -> None:
    views = torch.randn(2, 1, 9, 9)
    found = pixel_statistics(views)
    assert found.shape == (2, 5, 9, 9)
    for at, (row, column) in {1: (4, 5), 3: (0, 8)}.items():
        half = (at + 2) // 2 if at == 1 else 3
        window = views[0, 0, max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        expected = [window.mean().item(), window.std(correction=0).item()]
        np.testing.assert_allclose(found[0, at : at + 2, row, column], expected, atol=1e-5)


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_a_linear_head_on_maps_is_one_on_enlarged_maps() -> None:
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    weights = torch.randn(9, 4)
    wide = torch.cat([interpolate(each, (16, 16), mode="bilinear", align_corners=False) for each in maps], 1)
    expected = torch.einsum("bfhw,fc->bchw", wide, weights[:-1]) + weights[-1][:, None, None]
    torch.testing.assert_close(segmentation.Linear(weights, [3, 5])(maps, 16), expected, atol=1e-4, rtol=1e-4)


def test_the_linear_head_is_scikit_learns(maps: LabelMaps, compared: dict[str, Contender]) -> None:
    drawn = pixels.drawn(maps, maps.part("train"), 1500)
    every = torch.arange(len(drawn.sample))
    x = torch.cat(pixels.features(maps, compared["random"], ("B02",), drawn), 1)
    parts = folds.folds_of(every, every[:0], torch.from_numpy(drawn.label), maps.labelled.groups[drawn.sample])
    chosen = choose(x, torch.from_numpy(drawn.label), len(maps.classes), every, parts, by_confusion(mean_iou))
    scaled = Standard.of(x)(x).numpy().astype(np.float64)
    peer = LogisticRegression(C=1 / (chosen.l2 * len(x)), max_iter=500).fit(scaled, drawn.label)
    ours = (torch.cat((x, torch.ones(len(x), 1)), 1) @ chosen.scale.folded(chosen.weights)).argmax(1).numpy()
    theirs = peer.predict(scaled)
    assert (ours == theirs).mean() > 0.98
    scores = [jaccard_score(drawn.label, found, average="macro") for found in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.parametrize("head", ["linear", "fcn"])
def test_scores_are_scikit_learns_on_every_pixel(
    maps: LabelMaps, compared: dict[str, Contender], head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcn, "EPOCHS", 1)
    heads: dict[tuple[str, str], torch.nn.Module] = {}
    judged = segmentation.confusions

    def kept(*arguments: Any) -> dict[tuple[str, str], np.ndarray]:
        heads.update(arguments[-1])
        return judged(*arguments)

    monkeypatch.setattr(segmentation, "confusions", kept)
    outcome = evaluate(maps, [("B02",)], {"random": compared["random"]}, head=head, limit=400)["last"]["B02"]["random"]
    samples = maps.part("test")
    shown = compared["random"].maps_of_bands(maps.labelled, ("B02",), samples)
    predicted = heads["all", "last"](shown[-1:], SIDE).argmax(1)
    known = maps.read(samples).numpy()
    pair = known[known >= 0], predicted.numpy()[known >= 0]
    np.testing.assert_array_equal(outcome.details["confusion"], confusion_matrix(*pair, labels=range(4)))
    iou = jaccard_score(*pair, labels=range(4), average=None)
    np.testing.assert_allclose(list(outcome.details["iou"].values()), iou, atol=1e-12)
    assert outcome.score == pytest.approx(iou.mean(), abs=1e-12)
    assert outcome.details["accuracy"] == pytest.approx(accuracy_score(*pair))
    low, high = outcome.row()["interval"]
    assert low <= outcome.score <= high
    assert low < high


@pytest.mark.parametrize(("modality", "telling", "idle"), [("ms", "B02", "B03"), ("sar", "VV", "VH")])
def test_bands_that_tell_the_class_score_near_one(
    db: Path, compared: dict[str, Contender], modality: str, telling: str, idle: str
) -> None:
    raw = {"raw statistics": compared["raw statistics"]}
    seen = maps_of(db, (*IGNORED, "Wetlands"), modality)
    found = evaluate(seen, [(telling,), (idle,)], raw, limit=500)["stages"]
    assert found[telling]["raw statistics"].score > 0.98
    assert found[idle]["raw statistics"].score < 0.4


def test_a_class_without_a_training_pixel_counts_as_missed(maps: LabelMaps, compared: dict[str, Contender]) -> None:
    raw = {"raw statistics": compared["raw statistics"]}
    found = evaluate(maps, [("B02",)], raw, limit=500)["last"]["B02"]["raw statistics"]
    assert found.details["iou"]["Wetlands"] == 0
    assert found.score == pytest.approx(sum(found.details["iou"].values()) / 4)
    assert 0.5 < found.score < 0.75


def test_the_convolutional_head_learns(
    db: Path, compared: dict[str, Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH": 2, "EPOCHS": 12, "LEARNING_RATE": 1e-2}.items():
        monkeypatch.setattr(fcn, name, value)
    raw = {"raw statistics": compared["raw statistics"]}
    found = evaluate(maps_of(db, (*IGNORED, "Wetlands")), [("B02",)], raw, head="fcn")["last"]["B02"]["raw statistics"]
    assert found.score > 0.9
    assert found.details["epochs"] > 1


def test_several_bands_of_one_channel_stand_side_by_side(maps: LabelMaps, compared: dict[str, Contender]) -> None:
    single = [compared["random"].maps_of_bands(maps.labelled, (name,), np.arange(3)) for name in ("B02", "B03")]
    both = compared["random"].maps_of_bands(maps.labelled, ("B02", "B03", "B02"), np.arange(3))
    for one, two, joined in zip(*single, both, strict=True):
        assert torch.equal(joined, torch.cat((one, two), 1))


def test_depths_of_maps() -> None:
    assert dense.maps_at("abcd", "stages") == "abcd"
    assert [dense.maps_at("abcd", depth) for depth in ("last", "layer1", "layer3")] == ["d", "a", "c"]
    assert dense.depths_of(1, ("stages", "last")) == ["last"]
    assert dense.depths_of(4, ("layer2", "stages", "last")) == ["layer2", "stages", "last"]


def test_synthetic_scenes_are_segmented_better_than_by_the_most_frequent_class(
    tmp_path: Path, compared: dict[str, Contender]
) -> None:
    write_scenes(tmp_path / "scenes", 12, World(5, 48), 1)
    ingest(Sen12ms(tmp_path / "scenes", tmp_path / "db"))
    labelled = Labelled(CFG, (tmp_path / "db",), "ms", ALONE, pool=("B03", "B08", "B11"), size=24)
    maps = LabelMaps(labelled)
    assert maps.side == 48
    raw = {"raw statistics": compared["raw statistics"]}
    found = evaluate(maps, [("B03", "B08", "B11")], raw, limit=1000)["stages"]["B03+B08+B11"]["raw statistics"]
    counts = maps.pixels("test")
    assert np.sum(found.details["confusion"]) == counts.sum() == len(maps.part("test")) * 48**2
    assert found.score > 2 * counts.max() / counts.sum() / np.count_nonzero(counts)


def test_a_sample_is_too_few_for_the_convolutional_head(maps: LabelMaps, compared: dict[str, Contender]) -> None:
    with pytest.raises(DataError, match="fewer than two samples"):
        next(fcn.epochs(maps, compared["random"], ("B02",), np.arange(1), ("last",), 0))


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an untrained encoder."""
    folder = tmp_path_factory.mktemp("run")
    cfg = dataclasses.replace(CFG, data=dataclasses.replace(CFG.data, data=(db,)))
    meta = {"step": 0, "inputs": {}, "config": config.to_tables(cfg)}
    checkpoint.save(folder / "encoder.safetensors", encoder_of(cfg).state_dict(), meta)
    return folder


def test_a_probe_of_segmentation(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rsdnet.probe, "bands_of", lambda _, modality: ("B02",) if modality == "ms" else ("VV",))
    monkeypatch.setattr(linear, "L2", (1e-2,))  # for speed, as the next
    monkeypatch.setattr(linear, "ITERATIONS", 10)
    words = ["--task", "segmentation", "--ignore", *IGNORED, "--labels", "all", "6", "--pixels", "100", "--size", "32"]
    monkeypatch.setattr("sys.argv", ["probe", str(run), *words, "--device", "cpu"])
    rsdnet.probe.main()
    result = json.loads((run / "probe-segmentation.json").read_text())
    assert (result["metric"], list(result["results"])) == ("mIoU", ["all", "6"])
    for shown in result["results"].values():
        row = shown["stages"]["bands"]["B02"]["pre-trained"]
        assert row["iou"].keys() == {"Forest", "Grassland", "Wetlands", "Water"}
        assert {"mean_ms", "mean_sar", "mean_all"} <= shown["last"].keys()
    assert result["samples"]["ms"]["absent from test"] == ["Shrubland", "Croplands", "Urban/Built-up", "Barren"]
    told = " ".join(capsys.readouterr().out.split())
    assert "the train split has no pixel of Wetlands, which the test split has" in told
    assert "the test split has no pixel of Shrubland, Croplands, Urban/Built-up, Barren" in told
    assert (run / "probe-segmentation.png").is_file()
    rsdnet.probe.main()
    assert "already" in capsys.readouterr().out


def changed(db: Path, folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """The database with other label maps."""
    values = {key: dict(value) for key, value in geotiffs.tensors(db).items()}
    for key in set(Catalog.read(db).map):
        change(values[key])
    write_database(folder, values)
    for name in ("catalog.parquet", "stats.json"):
        (folder / name).write_bytes((db / name).read_bytes())
    return folder


def of_value(value: int) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors["Data"].fill(value)


def of_shape(*shape: int) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update(Data=np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_value(10), "a label map holds 10, and there are 10 classes"),
        (of_value(0), "pixels of one class only in the train split"),
        (of_value(255), "no pixel of a class in the train split"),
        (of_shape(24, 24), "has 24 x 24 pixels, its patch has 32 x 32"),
        (of_shape(64, 32), "has 64 x 32 pixels, its patch has 32 x 32"),
        (lambda tensors: tensors.update(Other=tensors.pop("Data")), "no label map of a labelled sample"),
    ],
)
def test_bad_maps_are_told_in_a_line(db: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        maps_of(changed(db, tmp_path / "db", change)).require("train", "test")
    assert "\n" not in str(error.value)


def test_finer_maps_are_judged_in_their_own_pixels(
    db: Path, maps: LabelMaps, compared: dict[str, Contender], tmp_path: Path
) -> None:
    def finer(tensors: dict[str, np.ndarray]) -> None:
        tensors["Data"] = tensors["Data"].repeat(2, 0).repeat(2, 1)

    fine = maps_of(changed(db, tmp_path / "db", finer))
    assert fine.side == 2 * maps.side
    np.testing.assert_array_equal(fine.counts, 4 * maps.counts)
    raw = {"raw statistics": compared["raw statistics"]}
    (own,) = (evaluate(fine, [("B02",)], raw, limit=1000)["last"]["B02"].values(),)
    assert next(iter(own)).score > 0.6


def test_an_unknown_class_to_ignore_is_told(db: Path) -> None:
    with pytest.raises(DataError, match="'Snow': no such class; known: Forest, Shrubland, Savanna"):
        maps_of(db, ("Snow",))


@pytest.mark.parametrize("options", [{"ignore": ("Savanna",)}, {"head": "fcn"}])
def test_options_of_label_maps_alone_are_told(run: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="add --task segmentation"):
        probe(Options(run, **options), QUIET)


def test_samples_without_a_map_are_left_out(db: Path, run: Path, tiny_db: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no label map of a labelled sample"):
        probe(Options(run, (tiny_db,), task="segmentation", device="cpu"), QUIET)
    folder = changed(db, tmp_path / "db", lambda tensors: tensors)
    catalog = Catalog.read(folder)
    catalog.map[3] = None
    catalog.write(folder)
    some, every = maps_of(folder), maps_of(db)
    np.testing.assert_array_equal(some.counts, np.delete(every.counts, 3, 0))
    np.testing.assert_array_equal(some.labelled.positions, np.delete(np.arange(18), 3))
    few = Labelled(CFG, (folder,), "ms", ALONE, pool=("B02",), size=SIDE)
    few.take(np.arange(2, 18, 2))
    few.take(np.arange(1, 8))
    np.testing.assert_array_equal(LabelMaps(few, IGNORED).counts, every.counts[4::2])
