"""The comparison of runs: its numbers against numpy on made-up evaluations, each of its forms, and what it refuses."""

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file

from rsdnet import config, table
from rsdnet.comparison import published, screen, texts
from rsdnet.comparison.gather import Comparison, gather
from rsdnet.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, ViewConfig
from rsdnet.errors import DataError
from rsdnet.ingest.layouts.eurosat import CLASSES
from rsdnet.ingest.layouts.sen12ms import DFC

BANDS = ("B02", "B04", "VV", "B04+B03+B02")
SAMPLES = {"count": 9, "samples": "ab", "labels": "cd", "classes": list(CLASSES)}
RANDOM, RAW = {"B02": 0.3, "B04": 0.4, "VV": 0.5, "B04+B03+B02": 0.45}, {"B02": 0.2, "B04": 0.6, "VV": 0.1}
DRAWS = 300


def evaluated(
    run: Path, scores: Mapping[str, float], cfg: Config | None = None, *, name: str = "",
    shares: tuple[str, ...] = ("all",), others: Mapping[str, Mapping[str, float]] | None = None, **also: Any,
) -> Path:  # fmt: skip
    """A run's folder with a made-up evaluation: test scores of the pre-trained encoder and the others by bands."""
    others = {"random": RANDOM, "raw statistics": RAW} if others is None else others
    by_label = {"pre-trained": scores, **others}
    drawn, results = {}, dict[str, Any]()
    for share in shares:
        for depth, shift in (("stages", 0.0), ("last", -0.1)):
            rows = dict[str, Any]()
            for bands in scores:
                rng = np.random.default_rng(len(drawn))  # paired: the same for every run
                for label, own in by_label.items():
                    score = own.get(bands, 0.25) + shift
                    drawn[f"{share}/{depth}/{bands}/{label}"] = (score + rng.normal(0, 0.02, DRAWS)).astype(np.float32)
                    row = {"score": score, "interval": [score - 0.1, score + 0.1], "val": score + 0.01, "l2": 0.01}
                    rows.setdefault(bands, {})[label] = row
            results.setdefault(share, {})[depth] = {"bands": rows, "mean_all": rows[next(iter(scores))]}
    content = {"protocol": 3, "metric": "macro F1", "encoder": str(run), "labels": list(shares), "seed": 0, "size": 0,
               "samples": {"ms": SAMPLES}, "run": str(run), "data": ["db"], "results": results} | also  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(config.dumps(cfg or Config()))
    stem = run / f"probe{'-' * bool(name)}{name}"
    stem.with_suffix(".json").write_text(json.dumps(content))
    save_file(drawn, stem.with_suffix(".safetensors"))
    return run


def seeded(seed: int, channels: int = 1) -> Config:
    return Config(views=ViewConfig(channels=channels), run=RunConfig(seed=seed, threads=seed))


def flat(value: float) -> dict[str, float]:
    return dict.fromkeys(BANDS, value)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of one channel, the second better, and one run of three channels without VV."""
    three = {"B02": 0.7, "B04": 0.5, "B04+B03+B02": 0.9}
    return [
        evaluated(tmp_path / "one-0", flat(0.5), seeded(0), shares=("all", "10%")),
        evaluated(tmp_path / "one-1", flat(0.6), seeded(1), shares=("10%", "all", "1%")),
        evaluated(tmp_path / "three", three, seeded(0, 3), shares=("all", "10%")),
    ]


def rows_of(comparison: Comparison, share: str = "all") -> dict[str, list[Any]]:
    return {row["row"]: row["cells"] for row in comparison["tables"][share]}


def test_rows_are_bands_and_columns_are_runs_and_contenders(runs: list[Path]) -> None:
    found = gather(runs)
    heads = ["1 channel (2 seeds)", "3 channels", "random", "raw statistics"]
    assert [column["head"] for column in found["columns"]] == heads
    assert found["columns"][0]["runs"] == [str(run) for run in runs[:2]]
    assert list(found["tables"]) == ["all", "10%"]  # the shares of all runs
    rows = rows_of(found)
    assert list(rows) == ["B02", "B04", "VV", "mean_ms", "B04+B03+B02"]  # VV, not common, is in no mean
    assert [cell and round(cell["score"], 9) for cell in rows["VV"]] == [0.55, None, 0.5, 0.1]
    assert [round(cell["score"], 9) for cell in rows["mean_ms"]] == [0.55, 0.6, 0.35, 0.4]
    assert [cell["best"] for cell in rows["B04"]] == [False, False, False, True]
    assert rows["B02"][0]["seeds"] == [0.5, 0.6]
    assert found["left_out"] == {"VV": ["3 channels"]}
    assert rows_of(gather(runs, features="last"))["B02"][0]["score"] == pytest.approx(0.45)


def test_intervals_are_over_samples_and_seeds(runs: list[Path]) -> None:
    """By a loop over the replicates: a run for each seed is drawn with replacement, the same for every row."""
    found = rows_of(gather(runs))
    files = [load_file(run / "probe.safetensors") for run in runs[:2]]
    chosen = np.random.default_rng(0).integers(2, size=(2, DRAWS))
    for row, bands in (("B02", ["B02"]), ("mean_ms", ["B02", "B04"])):
        means = []
        for index in range(DRAWS):
            drawn = [np.mean([files[run][f"all/stages/{band}/pre-trained"][index] for band in bands])
                     for run in chosen[:, index]]  # fmt: skip
            means.append(np.mean(drawn))
        assert found[row][0]["interval"] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1e-6)
    alone = files[0]["all/stages/B02/raw statistics"]
    assert found["B02"][3]["interval"] == pytest.approx(np.percentile(alone, [2.5, 97.5]), abs=1e-6)
    low, high = found["B02"][0]["interval"]
    assert high - low > 0.1  # the seeds are that far apart, and the samples' spread is less


def test_a_contender_of_other_scores_has_a_column_for_each_run(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "a", flat(0.5), seeded(0), others={"random": RANDOM, "ImageNet": RAW})
    other = evaluated(tmp_path / "b", flat(0.5), seeded(0, 3), others={"random": flat(0.3)})
    heads = [column["head"] for column in gather([one, other])["columns"]]
    assert heads == ["1 channel", "3 channels", "random, 1 channel", "random, 3 channels", "ImageNet"]
    assert [column["head"] for column in gather([one])["columns"]] == ["pre-trained", "random", "ImageNet"]


def test_titles_are_the_settings_that_differ_or_folders(tmp_path: Path) -> None:
    def titles(*configurations: Config) -> list[str]:
        runs = [evaluated(tmp_path / f"{number}", flat(0.5), each) for number, each in enumerate(configurations)]
        return [column["title"] for column in gather(runs)["columns"]][: len(runs)]

    byol = Config(views=ViewConfig(modality="ms"))
    simsiam = Config(model=ModelConfig(method="simsiam"))
    assert titles(byol, simsiam) == ["ms, byol", "ms+sar, simsiam"]
    assert titles(byol, dataclasses.replace(byol, data=DataConfig(data=(Path("x/db"),)))) == ["embedded data", "db"]
    long = Config(views=ViewConfig(size=64), optim=OptimConfig(epochs=300, batch=64, lr=0.1))
    assert titles(Config(), long) == ["0", "1"]


def test_every_form_holds_the_same_numbers(runs: list[Path], tmp_path: Path) -> None:
    found = gather(runs)
    (tmp_path / "out").mkdir()
    paths = table.write(found, tmp_path / "out")
    assert [path.name for path in paths] == [f"table.{ending}" for ending in ("json", "md", "csv", "tex", "png")]
    assert json.loads(paths[0].read_text()) == found
    cells = rows_of(found)["B04"]
    shown = [f"{cell['score']:.3f} ({cell['interval'][0]:.3f}-{cell['interval'][1]:.3f})" for cell in cells]
    bold = shown[3].replace("0.600", "**0.600**")
    assert f"| B04 | {' | '.join([*shown[:3], bold])} |" in paths[1].read_text()

    head, *lines = csv.reader(io.StringIO(paths[2].read_text()))
    assert head[:6] == [
        "labels",
        "band",
        *(f"1 channel (2 seeds){end}" for end in ("", ", low", ", high")),
        "3 channels",
    ]
    read = {(line[0], line[1]): line[2:] for line in lines}
    for share in found["tables"]:
        for name, row in rows_of(found, share).items():
            values = [value for cell in row for value in ((cell["score"], *cell["interval"]) if cell else (None,) * 3)]
            assert [float(value) if value else None for value in read[share, name]] == values
    assert lines[-1][2] == "0.92"

    assert Image.open(paths[4]).size[0] > 600
    with pytest.raises(DataError, match="there is no folder"):
        table.write(found, tmp_path / "nowhere" / "x")
    console = Console(width=200, record=True, file=io.StringIO())
    screen.show(found, console)
    text = console.export_text()
    assert all(each in text for each in [*shown, "mean_ms", "3 channels", texts.notes(found)[0]])


def test_latex_is_whole_and_escaped(runs: list[Path]) -> None:
    found = gather(runs, labels=("10%",))
    found["columns"][1]["head"] = "50% & {x}_1"
    text = texts.latex(found)
    comment, body = text.split("\n", 1)
    assert comment == "% macro F1 by stages, 10% labels, 95 % intervals"
    assert r"50\% \& \{x\}\_1" in body
    assert not re.search(r"(?<!\\)%", body)
    plain = re.sub(r"\\[&%$#_{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert re.findall(r"\\(begin|end)\{(\w+)\}", plain) == [("begin", "tabular"), ("end", "tabular")]
    assert r"\begin{tabular}{lrrrr}" in plain
    rows = [line for line in plain.splitlines() if line.endswith(r"\\")]
    assert [row.count("&") for row in rows] == [4] * 6 + [0]
    assert rows[-1].startswith(r"\multicolumn{5}{l}{published, protocol unknown: EuroSAT")
    bold = [[r"\textbf{" in cell for cell in row.split("&")[1:]] for row in rows[1:-1]]
    assert bold == [[bool(cell and cell["best"]) for cell in row] for row in rows_of(found, "10%").values()]
    assert "without VV (not in 3 channels)" in body


def test_published_figures_stand_beside_the_papers_data_alone(runs: list[Path]) -> None:
    note = "published, protocol unknown: EuroSAT, F1 of certain single bands: 0.92 (arXiv 2205.02049)"
    assert note in texts.markdown(gather(runs))
    (figure,) = published.published("mIoU", {"Forest", "Water", "Barren"})
    assert published.line(figure).endswith("DFC2020, mIoU of certain single bands: 0.596 (arXiv 2205.02049)")
    for metric, classes in (("macro F1", CLASSES[1:]), ("mIoU", CLASSES), ("mIoU", DFC), ("macro F1", DFC)):
        assert published.published(metric, classes) == []
    assert set(published.EUROSAT) == set(CLASSES)
    assert set(published.DFC2020) < set(DFC)


def test_another_task_is_read_from_its_own_file(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "a", flat(0.5), name="segmentation", metric="mIoU")
    tuned = run / "probe-finetune.json"
    last = {"all": {"last": json.loads((run / "probe-segmentation.json").read_text())["results"]["all"]["last"]}}
    content = {"protocol": 3, "metric": "macro F1", "features": "last", "samples": {"ms": {}}, "results": last}
    tuned.write_text(json.dumps(content))
    tuned.with_suffix(".safetensors").hardlink_to(run / "probe-segmentation.safetensors")
    assert gather([run], "finetune")["features"] == "last"
    assert gather([run], "segmentation")["metric"] == "mIoU"
    with pytest.raises(DataError, match=r"there is no .*/a/probe\.json: run python -m rsdnet\.probe first"):
        gather([run])


OTHER = {
    "classes": (
        {"samples": {"ms": SAMPLES | {"classes": ["a", "b"]}}},
        r"their classes are 10 \(.*\) against 2 \(a, b\)",
    ),
    "splits": (
        {"samples": {"ms": SAMPLES | {"labels": "x"}}},
        r"their labels or splits \(ms\) differ; evaluate both on",
    ),
    "samples": ({"samples": {"ms": SAMPLES | {"samples": "x"}}}, r"their samples \(ms\) differ"),
    "pixels": ({"samples": {"ms": SAMPLES | {"data": "x"}}}, r"their pixels \(ms\) differ"),
    "ignored": ({"samples": {"ms": SAMPLES | {"ignored": ["Savanna"]}}}, r"their ignored \(ms\) differ"),
    "sensors": ({"samples": {"sar": SAMPLES}}, "no sensor in common"),
    "metric": ({"metric": "mIoU"}, "the metric is macro F1 against mIoU"),
    "statistics": ({"statistics": "run"}, "statistics is None against run; evaluate both with one --statistics"),
    "size": ({"size": 64}, "size is 0 against 64"),
    "shares": ({"shares": ("5%",)}, "no share of the labels is in every run"),
}


@pytest.mark.parametrize("name", OTHER)
def test_runs_that_do_not_compare_are_refused(tmp_path: Path, name: str) -> None:
    also, said = OTHER[name]
    one = evaluated(tmp_path / "a", flat(0.5))
    other = evaluated(tmp_path / "b", flat(0.6), seeded(3), **also)
    with pytest.raises(DataError, match=said) as caught:
        gather([one, other])
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_databases_of_more_bands_compare_by_those_of_both(tmp_path: Path) -> None:
    held = {"samples": {"ms": SAMPLES | {"bands": {"ms": ["B02"]}, "data": "x", "statistics": {"B02": [0, 1]}}}}
    one, other = evaluated(tmp_path / "a", flat(0.5)), evaluated(tmp_path / "b", {"B02": 0.6}, seeded(0, 3), **held)
    found = gather([one, other])
    assert rows_of(found)["mean_ms"][1]["score"] == pytest.approx(0.6)
    assert found["left_out"] == {"B04": ["3 channels"], "VV": ["3 channels"]}
    seeds = gather([one, evaluated(tmp_path / "c", {"B02": 0.7}, seeded(1))])
    assert rows_of(seeds)["B04"][0] is None  # a mean over the seeds is of all of them


def test_options_that_the_runs_cannot_meet(runs: list[Path]) -> None:
    with pytest.raises(DataError, match=r"--labels 1% is not in every run .*one-0 has all, 10%"):
        gather(runs, labels=("1%",))
    with pytest.raises(DataError, match=r"--features layer2: .*one-0 has stages, last"):
        gather(runs, features="layer2")
    with pytest.raises(DataError, match="named twice"):
        gather([*runs, runs[0] / ".." / "one-0"])
    again = evaluated(runs[0].with_name("again"), flat(0.5), seeded(1), shares=("all", "10%"))
    with pytest.raises(DataError, match="the same settings and seed"):
        gather([*runs, again])
    drawn = evaluated(runs[0].with_name("drawn"), flat(0.5), seeded(2), shares=("all", "10%"), seed=1)
    assert list(gather([*runs, drawn], labels=("all",))["tables"]) == ["all"]
    with pytest.raises(DataError, match="the seed of --labels is 0 against 1"):
        gather([*runs, drawn])


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("probe.json", "{", "probe.json is damaged: run"),
        ("probe.json", '{"protocol": 3, "results": {"all": 1}}', "probe.json is damaged: run"),
        ("probe.json", '{"protocol": 2, "bands": {}}', r"of another protocol of evaluation \(2, here 3\): run"),
        ("probe.json", None, "there is no"),
        ("probe.safetensors", None, "probe.safetensors is absent or damaged"),
        ("probe.safetensors", "text", "probe.safetensors is absent or damaged"),
        ("config.toml", "= x", "config.toml is not TOML"),
    ],
)
def test_files_that_cannot_be_read_are_named(runs: list[Path], file: str, content: str | None, said: str) -> None:
    path = runs[1] / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        gather(runs)
    assert str(runs[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_shows_and_writes(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*map(str, runs), "--labels", "all", "--features", "last", "--out", str(tmp_path / "mine")]
    monkeypatch.setattr(sys, "argv", ["table", *words])
    table.main()
    shown = capsys.readouterr().out
    assert "macro F1 by last, all labels, 95 % intervals" in shown
    assert f"{tmp_path / 'mine'}.tex" in shown.replace("\n", "")
    assert json.loads((tmp_path / "mine.json").read_text())["features"] == "last"
    monkeypatch.setattr(sys, "argv", ["table", "--out", str(tmp_path)])
    with pytest.raises(DataError, match="no run is named"):
        table.main()
