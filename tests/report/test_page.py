"""The report's page: the numbers of the run's files, whole and escaped, of one run or two, however odd the run."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsdnet import config
from rsdnet.config import Config, DataConfig, OptimConfig, RunConfig, ViewConfig
from rsdnet.errors import DataError
from rsdnet.report import charts, gallery, record, summary
from rsdnet.report import metrics as report_metrics
from rsdnet.report.__main__ import LIMIT, Options, report
from rsdnet.report.record import Series

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """A page taken apart: attributes by tag, ids, text, rows of its tables; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, key: str) -> list[str]:
        return [attributes[key] or "" for name, attributes in self.tags if name == tag and key in attributes]


def metrics(steps: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "step": step, "loss": 4 * math.exp(-step / 30) + rng.uniform(0, 0.1), "spread": 0.7,
            "samples_per_s": 100.0 if step < steps // 2 else 400.0, "wait": 0.5 if step < steps // 2 else 0.0,
            "lr": 0.1, "tau": 0.99, "epoch": step // 10,
        }
        for step in range(steps)
    ]  # fmt: skip


def scored(shift: float = 0.0) -> dict[str, Any]:
    def score(f1: float) -> dict[str, float]:
        return {"f1": f1, "accuracy": f1 + 0.01, "l2": 0.01, "val_f1": f1}

    bands = {
        name: {"pre-trained": score(f1 + shift), "random": score(0.4111), "raw statistics": score(0.3222)}
        for name, f1 in (("B02", 0.5123), ("VV", 0.3017))
    }
    means = {label: float(np.mean([row[label]["f1"] for row in bands.values()])) for label in bands["B02"]}
    return {"encoder": "ab", "data": ["db"], "limit": 0, "size": 0, "mean_f1": means, "mean_val_f1": means,
            "bands": bands}  # fmt: skip


def write(folder: Path, *, rows: list[dict[str, Any]] | None = None, cfg: Config | None = None,
          probe: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A run's folder as the trainer and the probe leave it."""
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in (metrics(60) if rows is None else rows))
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "config.toml").write_text(config.dumps(cfg or Config(optim=OptimConfig(steps=60, batch=32))))
    if probe is not None:
        (folder / "probe.json").write_text(json.dumps(probe))
    return folder


def page(*runs: Path, samples: int = 0) -> Page:
    return Page(report(Options(runs[0], runs[1] if len(runs) > 1 else None, samples=samples)))


def test_a_run_is_shown_with_the_numbers_of_its_files(tmp_path: Path) -> None:
    run = write(tmp_path / "first", probe=scored())
    (run / "environment.json").write_text(json.dumps({"torch": "2.13.0", "machine": {"gpu": "none", "cores": 2}}))
    made = page(run)
    assert made.all("html", "lang") == ["en"]
    assert [tag for tag, _ in made.tags].count("h1") == 1
    for title in ("Loss", "Learning rate", "Tau", "Spread", "Throughput", "Waiting for data", "Epoch"):
        assert title in made.words
    end = np.mean([row["loss"] for row in metrics(60)][-3:])
    for words in ("60 of 60", f"{end:.4g}", "0.7", "250", "40.0 %", "0:00:12", "still going, or stopped"):
        assert words in made.words, words
    assert ["B02", "0.512 (0.522)", "0.411 (0.421)", "0.322 (0.332)"] in made.rows
    assert ["mean of the bands", "0.407", "0.411", "0.322"] in made.rows
    assert "no better than the baselines" in made.text
    assert ["≠", "optim.steps", "60", "0"] in made.rows
    assert ["", "optim.optimizer", "lars", "lars"] in made.rows
    assert ["machine.gpu", "none"] in made.rows


def test_the_best_of_a_band_is_bold(tmp_path: Path) -> None:
    html = report(Options(write(tmp_path / "a", probe=scored()), samples=0))
    assert re.findall(r"<strong>([^<]*)</strong>", html) == ["0.512 (0.522)", "0.411 (0.421)", "0.411"]


def test_charts_have_words_and_ids_of_their_own(tmp_path: Path) -> None:
    made = page(write(tmp_path / "a", probe=scored()), write(tmp_path / "b", probe=scored(0.1)))
    words = [attributes["aria-label"] for _, attributes in made.tags if attributes.get("role") == "img"]
    svgs = [tag for tag, _ in made.tags if tag == "svg"]
    assert len(words) == len(svgs) == 7 + 3
    loss = [row["loss"] for row in metrics(60)]
    assert f"from {loss[0]:.4g} to {loss[-1]:.4g}, between {min(loss):.4g} and {max(loss):.4g}" in (words[0] or "")
    ids = [attributes["id"] for _, attributes in made.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [link for link in made.all("a", "href") + made.all("use", "xlink:href") if link[1:] not in ids]
    assert not anchors


def path(plot: charts.Plot, kind: str) -> str:
    return next(d for classes, d in plot.paths if kind in classes.split())


def test_a_curve_goes_where_its_values_are() -> None:
    series = Series(np.arange(3), np.array([0.0, 1.0, 0.5]))
    points = path(charts.lines([charts.Curve(series)]), "curve")[1:].split("L")
    (x0, low), (x1, high), (x2, middle) = [tuple(map(float, point.split())) for point in points]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert middle == pytest.approx((low + high) / 2, abs=0.2)
    assert high < low  # down is more in an SVG


def test_bars_are_as_long_as_their_scores_and_a_gap_breaks_a_curve() -> None:
    plot = charts.bars(["B02", "VV"], {"one": [0.25, 1.0], "two": [math.nan, 2.0]}, "bar")
    begin, *ends = (float(x) for x in re.findall(r"[MH]([\d.]+)", path(plot, "bar-1")))
    assert (ends[0] - begin) / (charts.RIGHT - begin) == pytest.approx(0.25, abs=1e-3)
    assert ends[3] == charts.RIGHT
    assert re.findall(r"z|H([\d.]+)v", path(plot, "bar-2"))[::2] == [f"{begin:.1f}", f"{charts.RIGHT:.1f}"]
    series = Series(np.arange(5), np.array([1.0, 2, math.nan, 2, 1]))
    assert path(charts.lines([charts.Curve(series)]), "curve").count("M") == 2
    assert path(charts.lines([charts.Curve(series)]), "lost").count("M") == 1


def test_a_long_run_keeps_its_extremes_in_few_points() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    values[123_456], values[150_000:150_010] = 77.0, np.nan
    steps, kept = charts._envelope(np.arange(len(values)), values)
    assert len(kept) <= 2 * charts.COLUMNS
    assert 123_456 in steps
    assert np.nanmin(kept) == np.nanmin(values)
    assert len(str(charts.lines([charts.Curve(Series(np.arange(len(values)), values), 0, 8000)]))) < 30_000


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_running_mean(size: int) -> None:
    values = np.random.default_rng(0).normal(size=40)
    values[7] = np.nan
    means = charts.smoothed(values, size)
    for at in range(40):
        window = values[max(at - size // 2, 0) : at + (size + 1) // 2]
        assert means[at] == pytest.approx(np.nanmean(window)) if at != 7 else np.isnan(means[at])


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    other = Config(optim=OptimConfig(steps=40, batch=32, lr=0.7))
    made = page(write(tmp_path / "a", probe=scored()), write(tmp_path / "b", rows=metrics(40, 1), cfg=other,
                probe=scored(0.1)))  # fmt: skip
    assert "a and b" in made.words
    assert ["≠", "optim.lr", "0.45", "0.7", "0.45"] in made.rows
    assert ["", "optim.batch", "32", "32", "1024"] in made.rows
    assert ["steps", "60 of 60", "40 of 40"] in made.rows
    row = next(row for row in made.rows if row[0] == "B02")
    assert row == ["B02", "0.512 (0.522)", "0.411 (0.421)", "0.322 (0.332)",
                   "0.612 (0.622)", "0.411 (0.421)", "0.322 (0.332)", "+0.100"]  # fmt: skip
    html = report(Options(tmp_path / "a", tmp_path / "b", samples=0))
    loss = html[html.index("<h4>Loss") : html.index("<h4>Spread")]
    assert loss.count("<svg") == 1
    assert 'class="curve run-1"' in loss
    assert 'class="curve run-2"' in loss
    assert "do not compare" not in made.text


def watched(steps: int, knn_every: int = 20) -> list[dict[str, Any]]:
    """Metrics with all that a run may measure; three steps were skipped."""
    rows = metrics(steps)
    for row in rows:
        step = row["step"]
        row |= {
            "effective_rank": 50.0 - step / 10, "cosine": 0.4, "grad_norm": 2.0, "trust_min": 1e-3 * (1 + step % 2),
            "trust_median": 0.01, "trust_max": 3.0 + step % 2, "skipped": min(step // 10, 3), "left_out": 0,
            "read_mb_per_s": 300.0, "ready": 2, "tflops": 400.0 + step % 3, "mfu": 0.5, "memory_bytes": 3 * 2**30,
        }  # fmt: skip
        if step in (10, 20, 30):
            row["loss"] = None
        if step % knn_every == knn_every - 1:
            row |= {"knn_f1": 0.5, "knn_f1/B04": 0.4 + step / 1000, "knn_f1/VV": 0.6 + step / 1000}
    return rows


def test_all_that_a_run_may_measure_is_shown(tmp_path: Path) -> None:
    made = page(write(tmp_path / "a", rows=watched(60)))
    for group in ("Learning", "Projections", "Schedule", "Speed and cost"):
        assert group in made.words
    drawn = [attributes["aria-label"] or "" for _, attributes in made.tags if attributes.get("role") == "img"]
    titles = [words.split(" over steps.")[0] for words in drawn]
    assert titles == [
        "Loss", "kNN F1", "Gradient norm", "LARS trust ratios", "Steps skipped", "Spread", "Effective rank", "Cosine",
        "Learning rate", "Tau", "Epoch", "Throughput", "Waiting for data", "TFLOP/s", "Share of the peak", "Memory",
        "Reading", "Batches ready",
    ]  # fmt: skip
    assert "from 50 to 44.1, between 44.1 and 50, 60 values." in drawn[6]
    assert "from 3 to 3" in drawn[15]  # GiB
    assert "at the end shaded from 0.002 to 4." in drawn[3]
    assert "from 0.5 to 0.5, between 0.5 and 0.5, 3 values, at the end shaded from 0.459 to 0.659." in drawn[1]
    facts = dict(pairwise([word for word in made.words if word.strip()]))
    told = {"kNN F1, last": "0.500", "cosine at the end": "0.4", "steps skipped": "3", "TFLOP/s (median)": "401"}
    told |= {"share of the peak (median)": "50.0 %", "memory at most": "3.0 GiB", "effective rank at the end": "44.2"}
    assert told.items() <= facts.items()
    assert "3 of 60 values of loss are not finite, first at step 10." in made.text
    assert "3 steps were skipped: their gradient was not finite." in made.text
    plain = page(write(tmp_path / "old"), tmp_path / "a")  # an older run beside it has none of these
    assert ["steps skipped", "–", "3"] in plain.rows


def test_what_went_bad_while_it_trained_is_said(tmp_path: Path) -> None:
    rows = watched(80)
    for row in rows:
        row["spread"] = 0.02 if 30 <= row["step"] < 40 else 0.7 + row["step"] // 10 / 100  # read every ten steps
        row["cosine"] = 0.99 if row["step"] >= 70 else 0.4
    rows[79]["knn_f1"] = 0.1
    made = page(write(tmp_path / "a", rows=rows))
    assert "Step 40: the projections have almost collapsed to one point (spread 0.020" in made.text
    assert "Step 80: the projections of different places are nearly parallel (mean cosine 0.990)" in made.text
    assert "Step 80: kNN F1 is 0.100, its best was 0.500" in made.text
    assert len(re.findall(r"Step \d+: ", made.text)) == 3
    assert summary.watched(record.read(write(tmp_path / "b", rows=watched(80)))) == []


def test_many_warnings_are_counted(tmp_path: Path) -> None:
    rows = [row | {"spread": 0.01 if row["step"] % 2 else 0.7} for row in metrics(60)]
    made = page(write(tmp_path / "a", rows=rows))
    assert made.text.count("almost collapsed") == 5
    assert "And 24 more such warnings later." in made.text


def test_a_chart_that_says_nothing_is_not_drawn(tmp_path: Path) -> None:
    rows = [row | {"skipped": 0} for row in watched(60)]
    made = page(write(tmp_path / "a", rows=rows))
    assert "Steps skipped" not in made.words
    assert "Samples left out" not in made.words
    assert "were skipped" not in made.text


def test_the_band_around_a_curve() -> None:
    steps = np.arange(5)
    low, high = Series(steps, np.array([1.0, 2, 1, 2, 3])), Series(steps + 1, np.array([8.0, 9, 5, 9, 7]))
    run = record.Record(Path(), "r", {"trust_median": low, "trust_min": low, "trust_max": high})
    found = report_metrics.around(run, "trust_median")
    assert found is not None
    assert [part.steps.tolist() for part in found] == [[1, 2, 3, 4]] * 2
    assert [part.values.tolist() for part in found] == [[2, 1, 2, 3], [8, 9, 5, 9]]
    assert report_metrics.around(run, "loss") is None
    long = np.arange(10_000)
    values = np.random.default_rng(0).normal(size=10_000)
    at, least, greatest = charts._pieces(Series(long, values - 9), Series(long, values + 9))
    assert len(at) == charts.COLUMNS
    assert (least.min(), greatest.max()) == (values.min() - 9, values.max() + 9)
    assert path(charts.lines([charts.Curve(low, 0, 0, (low, low))]), "band").endswith("z")


def test_what_goes_far_has_a_logarithmic_axis() -> None:
    def labels(*values: float) -> list[str]:
        curve = charts.Curve(Series(np.arange(len(values)), np.array(values)))
        return [text.words for text in charts.lines([curve], log=True).texts if text.anchor == "end"]

    assert {"0.001", "10"} <= set(labels(0.003, 2.0))
    for near in ([1.0, 20.0], [0.0, 100.0], [-1.0, 100.0], [math.nan]):
        steps = np.diff([float(words) for words in labels(*near)])
        assert steps == pytest.approx(steps[0])


def profiled(*share: float) -> dict[str, Any]:
    phases = [
        {"phase": name, "ms": 40 * each, "share": each, "beside": name == "read"}
        for name, each in zip(("read", "forward", "target"), share, strict=False)
    ]
    return {"phases": phases, "step_ms": 40.0, "steps": 1200}


def test_the_profile_is_a_table_with_bars(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a"), write(tmp_path / "b")
    assert "profile" not in page(one).all("section", "id")
    (two / "profile.json").write_text(json.dumps(profiled(0.1, 0.75, 0.15)))
    made = page(one, two)
    assert ["forward", "30.00", "75.0 %", ""] in made.rows
    assert [(a["class"], a["style"]) for tag, a in made.tags if tag == "i" and "style" in a] == [
        ("run-2", "width:10.0%"), ("run-2", "width:75.0%"), ("run-2", "width:15.0%"),
    ]  # fmt: skip
    assert "b: 40.00 ms, 1,200 steps measured." in made.text
    (one / "profile.json").write_text(json.dumps(profiled(0.2, 0.8)))
    both = page(one, two)
    assert ["read (beside the step)", "8.00", "20.0 %", "", "4.00", "10.0 %", ""] in both.rows
    assert ["target", "–", "–", "", "6.00", "15.0 %", ""] in both.rows


def test_two_runs_of_one_name_and_two_protocols(tmp_path: Path) -> None:
    elsewhere = scored() | {"data": ["another"]}
    one, two = write(tmp_path / "x" / "run", probe=scored()), write(tmp_path / "y" / "run", probe=elsewhere)
    made = page(one, two)
    assert str(one) in made.words
    assert str(two) in made.words
    assert "do not compare" in made.text


def test_one_of_two_is_not_probed(tmp_path: Path) -> None:
    made = page(write(tmp_path / "a"), write(tmp_path / "b", probe=scored()))
    assert "a : Not probed yet" in made.text
    assert ["B02", "0.512 (0.522)", "0.411 (0.421)", "0.322 (0.332)"] in made.rows


def test_runs_of_very_different_speed_share_a_logarithmic_axis(tmp_path: Path) -> None:
    fast = [row | {"samples_per_s": 40_000.0} for row in metrics(60)]
    made = page(write(tmp_path / "a"), write(tmp_path / "b", rows=fast))
    assert "100000" in made.words or "10000" in made.words


def test_all_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x^2$ #010101"
    rows = [row | {evil: float(row["step"])} for row in metrics(30)]
    probe = scored()
    probe["bands"][evil] = probe["bands"]["B02"]
    probe["mean_f1"][evil] = 0.5
    run = write(tmp_path / "<b>&amp;", rows=rows, probe=probe)
    with open(run / "config.toml", "a") as file:
        file.write(f"\n[extra]\n{json.dumps(evil)} = {json.dumps(evil)}\n")
    (run / "environment.json").write_text(json.dumps({evil: evil}))
    for runs in ([run], [run, write(tmp_path / "plain")]):
        made = page(*runs)
        assert [tag for tag, _ in made.tags].count("script") == 1
        assert not [key for _, attributes in made.tags for key in attributes if key.startswith("on")]
        assert made.all("img", "src") == []
        assert evil[:40] in made.text
        assert "<b>&amp;" in made.text


def test_nothing_comes_from_elsewhere(tmp_path: Path, tiny_db: Path) -> None:
    html = report(Options(write(tmp_path / "a", cfg=tiny(tiny_db), probe=scored()), samples=2))
    made = Page(html)
    assert len(html.encode()) < LIMIT
    assert {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in made.tags} == set()
    for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
        for _, attributes in made.tags:
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/webp;base64,")), value
    assert not re.search(r"url\((?!#)|@import", html)
    policy = made.all("meta", "content")
    assert any("default-src 'none'" in content for content in policy)
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)  # only with its own digest does a browser run it
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert any(f"'sha256-{digest}'" in content for content in policy)


def tiny(db: Path, **views: Any) -> Config:
    return Config(data=DataConfig(data=(db,)), views=ViewConfig(size=24, **views), optim=OptimConfig(batch=8))


def test_views_are_those_of_the_run(tmp_path: Path, tiny_db: Path) -> None:
    run = write(tmp_path / "a", cfg=tiny(tiny_db))
    made = page(run, samples=2)
    texts = made.all("img", "alt")
    assert len(texts) == len(made.all("img", "src")) == 2 * (8 + 4)
    assert texts[0] == "db_0, smooth: B04 B03 B02"
    same = write(tmp_path / "b", cfg=tiny(tiny_db))
    assert len(page(run, same, samples=2).all("img", "src")) == 2 * (8 + 4)
    assert "Both runs drew the same views" in page(run, same, samples=2).text
    other = write(tmp_path / "c", cfg=tiny(tiny_db, flip=False))
    assert len(page(run, other, samples=2).all("img", "src")) == 2 * 2 * (8 + 4)


def test_a_database_that_is_gone(tmp_path: Path) -> None:
    assert "is no longer where it was" in page(write(tmp_path / "a", cfg=tiny(tmp_path / "gone")), samples=2).text
    (tmp_path / "empty").mkdir()
    broken = page(write(tmp_path / "b", cfg=tiny(tmp_path / "empty")), samples=2)
    assert "There are no pictures:" in broken.text


def test_a_page_too_large_goes_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = gallery.Gallery("words", [("s", [gallery.Picture("B02", "data:image/webp;base64," + "A" * LIMIT)])])
    monkeypatch.setattr(gallery, "gallery", lambda *_: huge)
    html = report(Options(write(tmp_path / "a")))
    assert len(html.encode()) < LIMIT
    assert "would be too large" in html


def test_many_metrics_of_long_runs_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"step": step} | {f"m{i}": rng.normal() for i in range(40)} for step in range(2000)]
    made = report(Options(write(tmp_path / "a", rows=rows), write(tmp_path / "b", rows=rows), samples=0))
    assert len(made.encode()) < LIMIT
    assert "being too many: m" in made


def odd_empty(run: Path) -> str:
    (run / "metrics.jsonl").write_text("")
    return "holds no values yet"


def odd_missing(run: Path) -> str:
    (run / "metrics.jsonl").unlink()
    return "no step has been logged yet"


def odd_cut(run: Path) -> str:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-20])
    return "cut short"


def odd_damaged(run: Path) -> str:
    text = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(
        b"\xff\x00[]\n[1]\n{}\n\n" + b"[" * 100_000 + b'\n{"step": -1}\n{"step": true}\n' + text
    )
    return "6 lines of metrics.jsonl are damaged"


def odd_not_finite(run: Path) -> str:
    rows = short()
    rows[10]["loss"], rows[11]["loss"], rows[12]["loss"], rows[13]["loss"] = math.nan, math.inf, -math.inf, 1e300
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "4 of 60 values of loss are not finite, first at step 10"


def odd_all_nan(run: Path) -> str:
    rows = [{"step": step, "loss": math.nan, "spread": math.nan, "samples_per_s": 0, "wait": 0} for step in range(5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "5 of 5 values of loss are not finite"


def odd_one_step(run: Path) -> str:
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 3.5, "words": "x", "list": [1], "flag": true}\n')
    return "1 of 60"


def odd_vast(run: Path) -> str:
    lines = f'{{"step": 3, "loss": {"9" * 400}}}\n{{"step": 4, "loss": {"9" * 5000}}}\n{{"step": {2**60}, "loss": 1}}\n'
    (run / "metrics.jsonl").write_text(lines)
    return "2 lines of metrics.jsonl are damaged"


def odd_collapsed(run: Path) -> str:
    rows = [row | {"spread": 0.01} for row in short()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "almost collapsed"


def odd_no_config(run: Path) -> str:
    (run / "config.toml").unlink()
    return "There is no config.toml"


def odd_config(run: Path) -> str:
    (run / "config.toml").write_text("= nonsense")
    return "config.toml is not TOML"


def odd_settings(run: Path) -> str:
    (run / "config.toml").write_text('optim = 3\nmodel = "x"\n[views]\nmodality = [1]\n[later]\nnew = 1979-05-27\n')
    return "later.new"


def odd_probe(run: Path) -> str:
    (run / "probe.json").write_text('{"bands": ')
    return "probe.json is damaged"


def odd_probe_shape(run: Path) -> str:
    (run / "probe.json").write_text('{"bands": {"B02": {"random": {"f1": "high"}}}, "mean_f1": {"random": 0.1}}')
    return "probe.json is damaged"


def odd_probe_holes(run: Path) -> str:
    probe = scored()
    del probe["bands"]["VV"]["random"]
    probe["bands"]["B02"]["random"]["f1"] = math.nan
    (run / "probe.json").write_text(json.dumps(probe))
    return "0.302 (0.312)"


def odd_probe_empty(run: Path) -> str:
    (run / "probe.json").write_text('{"bands": {}, "mean_f1": {}}')
    return "Linear evaluation"


def odd_profile(run: Path) -> str:
    (run / "profile.json").write_text('{"steps": 3, "phases": [{"phase": "read", "ms": null, "share": 1}]}')
    return "profile.json is damaged"


def odd_profile_shares(run: Path) -> str:
    phases = [{"phase": "<b>", "ms": math.nan, "share": 7}, {"phase": "x", "ms": 1e999, "share": -3}]
    (run / "profile.json").write_text(json.dumps({"steps": 3, "phases": phases}))
    return "<b>"


def odd_environment(run: Path) -> str:
    (run / "environment.json").write_text("[]")
    return "environment.json is damaged"


def odd_checkpoint(run: Path) -> str:
    (run / "checkpoint.safetensors").write_bytes(b"\xff" * 100)
    return "60 of 60"


def short() -> list[dict[str, Any]]:
    """Metrics of two charts."""
    return [{key: row[key] for key in ("step", "loss", "spread")} for row in metrics(60)]


ODD = [found for name, found in list(globals().items()) if name.startswith("odd_")]


@pytest.mark.parametrize("spoil", ODD, ids=lambda spoil: spoil.__name__[4:])
def test_an_odd_run_still_gives_a_page_that_says_so(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    run = write(tmp_path / "odd", rows=short())
    words = spoil(run)
    assert words in page(run, samples=1).text
    assert words in page(run, write(tmp_path / "even", rows=short(), probe=scored())).text


def test_a_run_resumed_and_logged_twice_counts_once(tmp_path: Path) -> None:
    rows = [*metrics(20), *({"step": step, "loss": 1.0} for step in range(10, 20))]
    found = record.read(write(tmp_path / "a", rows=rows)).series["loss"]
    assert found.steps.tolist() == list(range(20))
    assert found.values[10:].tolist() == [1.0] * 10


def test_epochs_are_counted_by_the_checkpoint(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    run = write(tmp_path / "a", cfg=Config(optim=OptimConfig(epochs=3, batch=10)))
    save_file({"x": np.zeros(1)}, run / "checkpoint.safetensors", {"meta": json.dumps({"samples": 105})})
    (run / "encoder.safetensors").touch()
    assert {"60 of 30", "complete"} <= set(page(run).words)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        report(Options(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is not a run"):
        report(Options(tmp_path))
    run = write(tmp_path / "a")
    with pytest.raises(DataError, match="the same run"):
        report(Options(run, tmp_path / "." / "a"))


def command(*arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "rsdnet.report", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_command(tmp_path: Path) -> None:
    run = write(tmp_path / "a", cfg=Config(run=RunConfig(seed=3)))
    done = command(run, "--samples", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert Page((tmp_path / "report.html").read_text()).all("html", "lang") == ["en"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    for bad, words in (
        ([tmp_path / "b"], "no such folder"),
        ([run, "--out", tmp_path / "b" / "x.html"], "name a file"),
        ([run, "--out", tmp_path], "name a file"),
        ([run, "--samples", "-1"], "--samples"),
    ):
        done = command(*bad, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_script_filters_the_settings(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium")
    html = report(Options(write(tmp_path / "a", cfg=Config(optim=OptimConfig(steps=60, batch=32))), samples=0))
    asked = "<script>find.value='optim'; marked.checked=true; filter();</script></body>"
    unlocked = re.sub(r"; script-src '[^']*'", "; script-src 'unsafe-inline'", html).replace("</body>", asked)
    (tmp_path / "page.html").write_text(unlocked)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([browser, *flags, (tmp_path / "page.html").as_uri()], capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    shown = re.search(r">2 of (\d+)<", done.stdout)
    assert shown is not None
    assert int(shown[1]) == len([row for row in Page(html).rows if row[0] in ("", "≠")])
