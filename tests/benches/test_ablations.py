"""Ablations: every recipe is trained and probed with every seed and world; means, intervals and differences by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benches import ablations, learning
from benches.core import rows
from benches.search import work
from rsdnet import config
from rsdnet.errors import DataError
from rsdnet.evaluate.intervals import over_runs
from rsdnet.synthetic import demo

BANDS = {"B04": "mean_ms", "B08": "mean_ms", "VV": "mean_sar"}
GAINS = {"single": 0.0, "three-random+ms": 0.1, "demo": 0.2}
RECIPES = ("single", "three-random+ms")


def scores(recipe: str, seed: int, world: int, label: str) -> dict[str, float]:
    start = 0.3 + 0.02 * seed + 0.05 * world + (GAINS[recipe] if label == "pre-trained" else 0)
    return {band: start + 0.01 * at for at, band in enumerate(BANDS)}


def replicates(score: float, world: int) -> np.ndarray:
    """Of the same draws in every run of a world."""
    return (score + np.random.default_rng(world).normal(0, 0.01, 1000)).astype(np.float32)


class Ended:
    """A process that has ended well."""

    poll = wait = staticmethod(lambda: 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were called; those of the probe leave an evaluation in the run's folder."""
    called: list[list[str]] = []

    def start(argv: list[str], *_: object) -> Ended:
        words = [argv[2].removeprefix("rsdnet."), *argv[3:]]
        called.append(words)
        if words[0] == "train":
            run = Path(words[words.index("--run") + 1])
            (run / "metrics.jsonl").write_text('{"step": 9}\n')
            (run / "config.toml").write_text(config.dumps(config.Config()))
        else:
            evaluate(Path(words[1]), "-segmentation" if "segmentation" in words else "")
        return Ended()

    monkeypatch.setattr(work, "start", start)
    monkeypatch.setattr(work, "LOOK", 0)
    monkeypatch.setattr(demo, "prepare", lambda world=0, places=300: Path(f"data/{world}-{places}"))
    return called


def evaluate(run: Path, ending: str) -> None:
    """probe{ending}.json and its replicates, as rsdnet.probe writes them."""
    recipe, world, seed = run.parent.name, "world7" in run.name, run.name[-1]
    bands: dict[str, dict[str, Any]] = {band: {} for band in BANDS}
    means: dict[str, dict[str, Any]] = {"mean_ms": {}, "mean_sar": {}, "mean_all": {}}
    kept = {}
    for label in ("pre-trained", "random", "raw statistics"):
        own = scores(recipe, int(seed), world, label)
        for band, score in own.items():
            bands[band][label] = {"score": score, "accuracy": 0.5}
            kept[f"all/stages/{band}/{label}"] = replicates(score, world)
        for kind in means:
            of_kind = [score for band, score in own.items() if kind in ("mean_all", BANDS[band])]
            means[kind][label] = {"score": np.mean(of_kind)}
    metric = "mIoU" if ending else "macro F1"
    result = {"metric": metric, "data": ["db"]}
    result["results"] = {"all": {depth: {"bands": bands, **means} for depth in ("stages", "last")}}
    (run / f"probe{ending}.json").write_text(json.dumps(result))
    save_file(kept, run / f"probe{ending}.safetensors")


def compare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: object, name: str = "ablations"
) -> Sequence[rows.Row]:
    argv = ["learning", *words, "--runs", tmp_path / "runs", "--rows", tmp_path / "rows"]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    learning.main()
    return rows.read(tmp_path / "rows" / f"{name}.csv")


def test_recipes_are_compared_over_seeds_and_worlds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--recipe", *RECIPES, "--seeds", 0, 1, "--worlds", 0, 7, "--segmentation", "--bands", "B04", "VV")
    found = compare(monkeypatch, tmp_path, *words, "--pixels", 99)
    trained = [call for call in calls if call[0] == "train"]
    assert len({call[call.index("--run") + 1] for call in trained}) == len(trained) == 8  # recipes, seeds, worlds
    files = [Path(word).stem for word in trained[1][trained[1].index("--config") + 1 : trained[1].index("--data")]]
    assert files == ["three-random", "ms", "demo"]  # the base goes over the recipe
    probes = [call[call.index("--bands") :] for call in calls if call[0] == "probe"]
    asked = ["--bands", "B04", "VV"]
    assert probes == [asked, [*asked, "--task", "segmentation", "--pixels", "99"]] * 8
    assert all(
        call[3] == ("data/7-300" if "world7" in call[1] else "data/0-300") for call in calls if call[0] == "probe"
    )

    told = {(row["unit"], row["contender"], row["what"]): row for row in found}
    assert len(told) == len(found) == 2 * 5 * 3  # metrics; two contenders of each recipe and the raw statistics; means
    row = told["macro F1", "three-random+ms: pre-trained", "mean_ms"]
    of_runs = [scores("three-random+ms", seed, world, "pre-trained") for seed in (0, 1) for world in (0, 1)]
    runs = [np.mean([own["B04"], own["B08"]]) for own in of_runs]
    assert float(row["p50"]) == pytest.approx(np.mean(runs), abs=1e-4)
    also = rows.split(row["also"])
    assert [float(score) for score in also["runs"].split()] == pytest.approx(runs, abs=1e-4)
    drawn = np.stack([replicates(score, at % 2) for at, score in enumerate(runs)]).astype(float)
    low, high = np.quantile(over_runs(drawn), [0.025, 0.975])
    assert (float(also["low"]), float(also["high"])) == pytest.approx((low, high), abs=1e-3)
    # Run by run, of the same draws, the difference has no spread.
    assert [float(also[name]) for name in ("gain", "gain_low", "gain_high")] == pytest.approx([0.1] * 3, abs=1e-4)
    assert "gain" not in rows.split(told["macro F1", "single: pre-trained", "mean_ms"]["also"])
    assert "+0.1000" in capsys.readouterr().out
    assert [title.partition(";")[0] for title, *_ in ablations.tables(found)] == ["macro F1", "mIoU"]


def test_the_demo_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(monkeypatch, tmp_path, "--seeds", 0, 1, "--steps", 10, name="learning")
    assert [call[0] for call in calls] == ["train", "probe"] * 2
    assert all(call[-2:] == ["--steps", "10"] for call in calls if call[0] == "train")
    assert len(found) == 2 * 2 * len(BANDS) * 3  # seeds, depths, bands, contenders
    setting = rows.split(found[-1]["setting"])
    assert {key: setting[key] for key in ("data", "probe", "steps", "seed", "depth")} == {
        "data": "demo", "probe": "db", "steps": "10", "seed": "1", "depth": "last"
    }  # fmt: skip
    of_seeds = [scores("demo", seed, 0, "pre-trained")["B04"] for seed in (0, 1)]
    assert f"{np.mean(of_seeds):.3f} ± {np.std(of_seeds, ddof=1):.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe", "singel"), "--recipe singel: there is no"),
        (("--recipe", "single", "--worlds", 0, "--data", "db"), "leave out --data, or --worlds"),
        (("--worlds", 0), "name them with --recipe"),
    ],
)  # fmt: skip
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]], words: Any, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        compare(monkeypatch, tmp_path, *words)
    assert calls == []
