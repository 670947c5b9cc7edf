"""The report's page: the numbers of the run's files, whole and escaped, of one run or two, however odd the run."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from rsdnet import config
from rsdnet.config import Config, DataConfig, OptimConfig, ViewConfig
from rsdnet.errors import DataError
from rsdnet.report import gallery, record, summary
from rsdnet.report.__main__ import LIMIT, Options, report

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """A page taken apart: attributes by tag, ids, text, rows of its tables; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.marks: list[bool] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.marks.append(dict(attrs).get("class") == "marked")
        if tag in ("td", "th"):
            self.rows[-1].append("")

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

    @property
    def marked(self) -> list[str]:
        return [row[0] for row, mark in zip(self.rows, self.marks, strict=True) if mark]

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


def scored(shift: float = 0.0, metric: str = "macro F1") -> dict[str, Any]:
    """An evaluation: the features of the last stage score 0.6 of those of all."""

    def score(value: float) -> dict[str, Any]:
        return {"score": value, "interval": [value - 0.02, value + 0.03], "val": value, "accuracy": 0.9, "l2": 0.01}

    def depth(share: float) -> dict[str, Any]:
        rows = {
            "B02": {"pre-trained": 0.5123 + shift, "random": 0.4111, "raw statistics": 0.3222},
            "VV": {"pre-trained": 0.3017 + shift, "random": 0.4111, "raw statistics": 0.3222},
        }
        means = {label: float(np.mean([row[label] for row in rows.values()])) for label in rows["B02"]}
        named = rows | {"mean_all": means}
        found = {name: {label: score(share * each) for label, each in row.items()} for name, row in named.items()}
        return {"mean_all": found.pop("mean_all"), "bands": found}

    samples = {"ms": {"samples": "ab", "labels": "cd", "classes": ["a", "b"]}}
    return {"protocol": 3, "metric": metric, "encoder": "ab", "data": ["db"], "labels": ["all"], "seed": 0, "size": 0,
            "samples": samples, "results": {"all": {"stages": depth(1), "last": depth(0.6)}}}  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, *, rows: list[dict[str, Any]] | None = None, cfg: Config | None = None,
          probe: dict[str, Any] | None = None) -> Path:  # fmt: skip
    """A run's folder as the trainer and the probe leave it."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(lines(metrics(60) if rows is None else rows))
    (folder / "config.toml").write_text(config.dumps(cfg or Config(optim=OptimConfig(steps=60, batch=32))))
    if probe is not None:
        (folder / "probe.json").write_text(json.dumps(probe))
    return folder


def page(*runs: Path, samples: int = 0) -> Page:
    return Page(report(Options(runs[0], runs[1] if len(runs) > 1 else None, samples=samples)))


def test_a_run_is_shown_with_the_numbers_of_its_files(tmp_path: Path) -> None:
    run = write(tmp_path / "first", probe=scored())
    (run / "environment.json").write_text(json.dumps({"torch": "2.13.0", "machine": {"gpu": "none", "cores": 2}}))
    html = report(Options(run, samples=0))
    made = Page(html)
    assert made.all("html", "lang") == ["en"]
    assert sorted(link[1:] for link in made.all("a", "href")) == sorted(made.all("section", "id"))
    end = np.mean([row["loss"] for row in metrics(60)][-3:])
    told = {
        "state": "still going, or stopped", "steps": "60 of 60", "Loss, at the end": f"{end:.4g}",
        "Spread, at the end": "0.7", "Throughput, median": "250", "waiting for data": "40.0 %",
        "time in steps": "0:00:12",
    }  # fmt: skip
    assert told.items() <= {row[0]: row[-1] for row in made.rows}.items()
    random = "0.411 (0.391 to 0.441)"
    assert ["B02", "0.512 (0.492 to 0.542)", random, "0.322 (0.302 to 0.352)"] in made.rows
    assert ["mean_all, stages", "0.407 (0.387 to 0.437)", random, "0.322 (0.302 to 0.352)"] in made.rows
    lower = "0.247 (0.227 to 0.277)"
    assert ["mean_all, last", "0.244 (0.224 to 0.274)", lower, "0.193 (0.173 to 0.223)"] in made.rows
    best = ["0.512 (0.492 to 0.542)", random, random, lower]
    assert re.findall(r"<strong>([^<]*)</strong>", html) == best
    assert ["mean macro F1, pre-trained, stages", "0.407 (0.387 to 0.437)"] in made.rows  # of the summary
    assert ["mean macro F1, pre-trained, last", "0.244 (0.224 to 0.274)"] in made.rows
    assert "Mean of the bands, stages and last: the pre-trained features are no better than the baselines." in made.text
    assert ["optim.steps", "60", "0"] in made.rows
    assert ["optim.optimizer", "auto", "auto"] in made.rows
    assert [key for key in made.marked if "." in key] == ["optim.steps", "optim.batch"]
    assert ["machine.gpu", "none"] in made.rows


def test_settings_that_training_chose_are_shown_with_their_reasons_and_not_marked(tmp_path: Path) -> None:
    def of(lr: float) -> Config:
        return Config(optim=OptimConfig(steps=60, optimizer="adamw", lr=lr, chosen={"lr": f"by {lr}"}))

    made = page(write(tmp_path / "a", cfg=of(0.1)))
    assert ["optim.lr", "0.1", "auto"] in made.rows
    assert ["optim.chosen.lr", "by 0.1", "–"] in made.rows
    assert [key for key in made.marked if "." in key] == ["optim.steps", "optim.optimizer"]
    made = page(tmp_path / "a", write(tmp_path / "b", cfg=of(0.2)))
    assert [key for key in made.marked if "." in key] == ["optim.lr"]


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    other = Config(optim=OptimConfig(steps=40, batch=32, lr=0.7))
    write(tmp_path / "b", rows=metrics(40, 1), cfg=other, probe=scored(0.1))
    made = page(write(tmp_path / "a", probe=scored()), tmp_path / "b")
    assert "a and b" in made.words
    assert ["optim.lr", "auto", "0.7", "auto"] in made.rows
    assert ["optim.batch", "32", "32", "1024"] in made.rows
    assert [key for key in made.marked if "." in key] == ["optim.steps", "optim.lr"]
    assert ["steps", "60 of 60", "40 of 40"] in made.rows
    row = next(row for row in made.rows if row[0] == "B02")
    random, raw = "0.411 (0.391 to 0.441)", "0.322 (0.302 to 0.352)"
    assert row == ["B02", "0.512 (0.492 to 0.542)", random, raw,
                   "0.612 (0.592 to 0.642)", random, raw, "+0.100"]  # fmt: skip
    html = report(Options(tmp_path / "a", tmp_path / "b", samples=0))
    loss = html[html.index("<h4>Loss") : html.index("<h4>Spread")]
    assert (loss.count("<svg"), loss.count("curve run-1"), loss.count("curve run-2")) == (1, 1, 1)
    assert "do not compare" not in made.text


def watched(steps: int) -> list[dict[str, Any]]:
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
        if step % 20 == 19:
            row |= {"classes": 9, "knn_f1": 0.5, "knn_f1/B04": 0.4 + step / 1000, "knn_f1/VV": 0.6 + step / 1000}
    return rows


def test_all_that_a_run_may_measure_is_shown(tmp_path: Path) -> None:
    html = report(Options(write(tmp_path / "a", rows=watched(60)), samples=0))
    made = Page(html)
    drawn = made.all("svg", "aria-label")
    assert [words.split(" over steps.")[0] for words in drawn] == [
        "Loss", "kNN F1", "Gradient norm", "LARS trust ratios", "Steps skipped", "Spread", "Effective rank", "Cosine",
        "Learning rate", "Tau", "Epoch", "Throughput", "Waiting for data", "TFLOP/s", "Share of the peak", "Memory",
        "Reading", "Batches ready",
    ]  # fmt: skip
    assert "from 50 to 44.1, between 44.1 and 50, 60 values." in drawn[6]
    assert "from 3 to 3" in drawn[15]  # GiB
    assert html.count('class="band') == 2  # around kNN F1 and the trust ratios
    told = {
        "kNN F1, last": "0.500", "Cosine, at the end": "0.4", "Steps skipped, last": "3", "TFLOP/s, median": "401",
        "Share of the peak, median": "50.0 %", "Memory, at most": "3.0 GiB", "Effective rank, at the end": "44.2",
    }  # fmt: skip
    assert told.items() <= {row[0]: row[-1] for row in made.rows}.items()
    assert "3 of 60 values of loss are not finite, first at step 10." in made.text
    assert "3 steps were skipped: their gradient was not finite." in made.text
    plain = page(write(tmp_path / "old"), tmp_path / "a")  # an older run beside it has none of these
    assert ["Steps skipped, last", "–", "3"] in plain.rows


def test_warnings_of_training_are_told(tmp_path: Path) -> None:
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


def test_the_profile_is_a_table_with_bars(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a"), write(tmp_path / "b")
    read, forward = {"phase": "read", "ms": 4, "share": 0.1, "beside": True}, {"phase": "go", "ms": 30, "share": 0.75}
    (two / "profile.json").write_text(json.dumps({"phases": [read, forward], "step_ms": 40.0, "steps": 1200}))
    made = page(one, two)
    for row in (["", "ms, b", "share, b"], ["read (beside the step)", "4", "10.0 %"], ["go", "30", "75.0 %"]):
        assert row in made.rows
    assert made.all("td", "style") == ["--bar:10.0%", "--bar:75.0%"]
    assert "b: 40.00 ms, mean of 1200 steps." in made.text


def test_two_runs_of_one_name_and_two_protocols(tmp_path: Path) -> None:
    elsewhere = scored() | {"samples": {"ms": {"samples": "ab", "labels": "other", "classes": ["a", "b"]}}}
    one, two = write(tmp_path / "x" / "run", probe=scored()), write(tmp_path / "y" / "run", probe=elsewhere)
    made = page(one, two)
    assert ["", str(one), str(two)] in made.rows
    assert "do not compare" in made.text


def test_every_evaluation_of_a_run_is_shown(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", probe=scored()), write(tmp_path / "b")
    (one / "probe-segmentation.json").write_text(json.dumps(scored(0.2, "mIoU")))
    (one / "probe_copy.json").write_text("no evaluation")
    made = page(one, two)
    for title in ("macro F1, stages, all labels", "segmentation: mIoU, stages, all labels"):
        assert title in made.words
    assert ["segmentation: mean mIoU, pre-trained, stages", "0.607 (0.587 to 0.637)", "–"] in made.rows
    assert "b: Not probed yet" in made.text
    assert "a: Mean of the bands, stages and last: the" in made.text
    assert made.text.count("no better than the baselines") == 1


def test_all_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$x^2$ #010101"
    rows = [row | {evil: float(row["step"])} for row in metrics(30)]
    probe = scored()
    stages = probe["results"]["all"]["stages"]
    stages["bands"][evil] = stages["bands"]["B02"]
    stages["mean_all"][evil] = stages["mean_all"]["random"]
    probe["results"][evil], probe["metric"] = probe["results"]["all"], evil
    run = write(tmp_path / "<b>&amp;", rows=rows, probe=probe)
    with open(run / "config.toml", "a") as file:
        file.write(f"\n[extra]\n{json.dumps(evil)} = {json.dumps(evil)}\n")
    (run / "environment.json").write_text(json.dumps({evil: evil}))
    for runs in ([run], [run, write(tmp_path / "plain")]):
        made = page(*runs)
        assert "script" not in [tag for tag, _ in made.tags]
        assert not [key for _, attributes in made.tags for key in attributes if key.startswith("on")]
        assert made.all("img", "src") == []
        assert evil[:40] in made.text
        assert "<b>&amp;" in made.text


def test_nothing_comes_from_elsewhere(tmp_path: Path, tiny_db: Path) -> None:
    html = report(Options(write(tmp_path / "a", cfg=tiny(tiny_db), probe=scored()), samples=2))
    made = Page(html)
    assert {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in made.tags} == set()
    for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
        for _, attributes in made.tags:
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/webp;base64,")), value
    assert not re.search(r"url\((?!#)|@import", html)
    assert any("default-src 'none'" in content for content in made.all("meta", "content"))


def tiny(db: Path, **views: Any) -> Config:
    return Config(data=DataConfig(data=(db,)), views=ViewConfig(size=24, **views), optim=OptimConfig(batch=8))


def test_views_are_those_of_the_run(tmp_path: Path, tiny_db: Path) -> None:
    run = write(tmp_path / "a", cfg=tiny(tiny_db))
    made = page(run, samples=2)
    texts = made.all("img", "alt")
    assert len(texts) == len(made.all("img", "src")) == 2 * (8 + 4)
    assert texts[0] == "db_0, smooth: B04 B03 B02"
    same = write(tmp_path / "b", cfg=tiny(tiny_db))
    both = page(run, same, samples=2)
    assert len(both.all("img", "src")) == 2 * (8 + 4)
    assert "Both runs drew the same views" in both.text
    other = write(tmp_path / "c", cfg=tiny(tiny_db, flip=False))
    assert len(page(run, other, samples=2).all("img", "src")) == 2 * 2 * (8 + 4)


def test_a_database_that_is_gone(tmp_path: Path) -> None:
    assert "is no longer where it was" in page(write(tmp_path / "a", cfg=tiny(tmp_path / "gone")), samples=2).text
    (tmp_path / "empty").mkdir()
    broken = page(write(tmp_path / "b", cfg=tiny(tmp_path / "empty")), samples=2)
    assert "There are no pictures:" in broken.text


def test_a_page_too_large_goes_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = gallery.Gallery("words", [("s", [("B02", Markup("data:image/webp;base64," + "A" * LIMIT))])])
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


SHORT = [{key: row[key] for key in ("step", "loss", "spread")} for row in metrics(60)]  # two charts
NOT_FINITE = [row | {"loss": bad} for row, bad in zip(SHORT[10:], (math.nan, math.inf, -math.inf, 1e300), strict=False)]
JUNK = "\0[]\n[1]\n{}\n\n" + "[" * 100_000 + '\n{"step": -1}\n{"step": true}\n'
VAST = f'{{"step": 3, "loss": {"9" * 400}}}\n{{"step": 4, "loss": {"9" * 5000}}}\n{{"step": {2**60}, "loss": 1}}\n'
HOLES = scored()
HOLES["results"]["all"]["stages"]["bands"]["VV"].pop("random")
HOLES["results"]["all"]["stages"]["bands"]["B02"]["random"] |= {"score": math.nan, "interval": [math.nan] * 2}
NOTHING = {"protocol": 3, "metric": "mIoU", "results": {}, "samples": {}}
PHASES = [{"phase": "<b>", "ms": math.nan, "share": 7}, {"phase": "x", "ms": 1e999, "share": -3}]
ODD = {  # file of the run, its content (None: there is none), words of the page
    "empty": ("metrics.jsonl", "", "holds no values yet"),
    "missing": ("metrics.jsonl", None, "no step has been logged yet"),
    "cut": ("metrics.jsonl", lines(SHORT)[:-20], "The last line of metrics.jsonl is cut short"),
    "damaged": ("metrics.jsonl", JUNK + lines(SHORT), "6 lines of metrics.jsonl are damaged"),
    "not finite": (
        "metrics.jsonl",
        lines(SHORT + NOT_FINITE),
        "4 of 60 values of loss are not finite",
    ),
    "all NaN": ("metrics.jsonl", '{"step": 0, "loss": NaN, "samples_per_s": 0, "wait": 0}', "1 of 1 values of loss"),
    "one step": ("metrics.jsonl", '{"step": 0, "loss": 3.5, "words": "x", "list": [1], "flag": true}\n', "1 of 60"),
    "vast": ("metrics.jsonl", VAST, "2 lines of metrics.jsonl are damaged"),
    "no config": ("config.toml", None, "There is no config.toml"),
    "config": ("config.toml", "= nonsense", "config.toml is not TOML"),
    "settings": ("config.toml", 'optim = 3\nmodel = "x"\n[views]\nmodality = [1]\n[a]\nb = 1979-05-27\n', "1979-05-27"),
    "probe": ("probe.json", '{"bands": ', "probe.json is damaged"),
    "probe's shape": (
        "probe.json",
        json.dumps(NOTHING | {"results": {"all": {"stages": {"bands": {"B02": {"x": {"score": "y"}}}}}}}),
        "probe.json is damaged",
    ),
    "probe's holes": ("probe.json", json.dumps(HOLES), "0.302 (0.282 to 0.332)"),
    "probe of nothing": ("probe.json", json.dumps(NOTHING), "Linear evaluation"),
    "probe of no depth": ("probe.json", json.dumps(NOTHING | {"results": {"5%": {}}}), "mIoU, stages, 5% labels"),
    "earlier probe": (
        "probe.json",
        '{"protocol": 2, "bands": {}, "mean_f1": {}}',
        "probe.json is of another protocol of evaluation (2, here 3): run python -m rsdnet.probe again with --force.",
    ),
    "probe without protocol": ("probe.json", '{"bands": {}, "mean_f1": {}}', "evaluation (none, here 3): run"),
    "other probe": ("probe-finetune.json", "[]", "probe-finetune.json is damaged: run"),
    "profile": ("profile.json", '{"steps": 3, "phases": [{"phase": "x", "ms": null}]}', "profile.json is damaged"),
    "shares": ("profile.json", json.dumps({"steps": 3, "step_ms": 1, "phases": PHASES}), "<b>"),
    "environment": ("environment.json", "[]", "environment.json is damaged"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_run_still_gives_a_page_that_says_so(tmp_path: Path, name: str) -> None:
    run = write(tmp_path / "odd", rows=SHORT)
    file, content, words = ODD[name]
    (run / file).unlink(missing_ok=True)
    if content is not None:
        (run / file).write_bytes(content.encode().replace(b"\0", b"\xff\0"))
    assert words in page(run, samples=1).text
    assert words in page(run, write(tmp_path / "even", rows=SHORT, probe=scored())).text


def test_a_run_resumed_and_logged_twice_counts_once(tmp_path: Path) -> None:
    rows = [*metrics(20), *({"step": step, "loss": 1.0} for step in range(10, 20))]
    found = record.read(write(tmp_path / "a", rows=rows)).series["loss"]
    assert found.steps.tolist() == list(range(20))
    assert found.values[10:].tolist() == [1.0] * 10


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
    run = write(tmp_path / "a", cfg=Config())
    done = command(run, "--samples", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert Page((tmp_path / "report.html").read_text()).all("html", "lang") == ["en"]
    for bad, words in (
        ([tmp_path / "b"], "no such folder"),
        ([run, "--out", tmp_path / "b" / "x.html"], "there is no folder"),
        ([run, "--out", tmp_path], "is a folder: name a file to write, HTML"),
        ([run, "--samples", "-1"], "--samples"),
    ):
        done = command(*bad, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
