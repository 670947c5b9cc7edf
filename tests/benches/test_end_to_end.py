"""The benchmark end to end: rows for what ran and for what did not, a process that fails alone, curves compared."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benches import end_to_end, networks, rows, scaling
from benches.core.peers import Absent
from benches.end_to_end import Clock, Options, planned
from benches.reader.measure import single
from benches.reference import train as reference
from benches.training import curves, record
from benches.training.remote import Failed, Remote
from benches.training.setting import settings
from rsdnet import probe
from rsdnet.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, ViewConfig
from rsdnet.errors import DataError
from tests.benches.test_bench_step import REPO, book, environment
from tests.support import tiny

TINY = settings("tiny", workers=1, threads=1)[0]


def test_a_run_compares_ours_with_itself_and_with_the_reference(tmp_path: Path) -> None:
    words = ["--shapes", "tiny", "--workers", 1, "--threads", 1, "--only", "resident", "reference", "--rows", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "benches.end_to_end", *map(str, words)],
        cwd=REPO, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / record.FILE, newline="") as file:
        measured = list(csv.DictReader(file))
    assert {row["beside"] for row in measured} == {"reference", end_to_end.STAYS}
    for row in measured:
        assert float(row["p20"]) <= float(row["p50"]) <= float(row["p80"])
        assert torch.cuda.is_available() or not row["samples_per_s"]
        assert row["commit"]
        assert "torch" in row["versions"]


def test_what_the_budget_leaves_no_time_for_says_so(tmp_path: Path) -> None:
    kept, _ = book()
    end_to_end.measure(Options(shapes="tiny", budget=0, workers=1, threads=1, folder=tmp_path), kept)
    assert [row["note"] for row in kept.rows] == ["failed: the budget was spent before its turn"] * len(kept.rows)
    assert len(kept.rows) == len(planned(Options(shapes="tiny"), 1))


def test_without_py_lmdb_every_row_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise Absent(f"import {name}: not here")

    monkeypatch.setattr(end_to_end, "peer", absent)
    kept, _ = book()
    end_to_end.measure(Options(shapes="tiny", workers=1, threads=1, folder=tmp_path), kept)
    assert kept.rows
    assert {row["note"] for row in kept.rows} == {"absent: import lmdb: not here"}


def test_a_contender_that_fails_tells_why_and_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", environment())
    with pytest.raises(Failed, match="KeyError: 'nobody'"):
        Remote("nobody", TINY, tmp_path, Clock(120).left)


def test_a_contender_that_outlasts_the_run_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", environment())
    with pytest.raises(Failed, match="time was spent"):
        Remote("rsdnet", TINY, tmp_path, lambda: 0.0)


def test_the_most_important_rows_come_first() -> None:
    gpu = [(row.which, row.other, row.target) for row in end_to_end.ON_A_GPU[:4]]
    assert gpu == [
        (0, "resident", ">= 0.97"),
        (0, "reference", ">= 1.8"),
        (1, "reference", ">= 4"),
        (0, "lightly", ">= 3"),
    ]
    assert all(row.target == ">= 1" for row in end_to_end.ON_A_CPU if row.other != "resident")
    assert [row.other for row in planned(Options(only=("lightly",)), 2)] == ["lightly", "lightly"]


# ---- loss curves ----------------------------------------------------------------------------------------------------


def test_apart_is_welchs_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [1.0, 1.4, 0.9], [1.1, 2.0, 1.7]
    assert curves.apart(first, second) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).statistic)
    for seeds, threshold in curves.TWO_SIDED.items():
        assert threshold == pytest.approx(stats.t.ppf(0.975, 2 * seeds - 2), abs=0.01)
        assert curves.ONE_SIDED[seeds] == pytest.approx(stats.t.ppf(0.95, 2 * seeds - 2), abs=0.01)


def test_a_curve_is_the_mean_loss_of_each_part(tmp_path: Path) -> None:
    losses = [4.0, 2.0, None, 3.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.75, 0.0]  # a step that was skipped has none
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
    assert curves.curve(tmp_path) == [3.0, 2.0, 0.75, 0.375, 0.375]


def test_rows_say_who_is_worse_beyond_the_seeds_noise() -> None:
    kept, _ = book()
    ours = [[3.0, 2.0, 1.0, 1.0, 1.0], [3.1, 2.1, 1.1, 1.1, 1.1], [2.9, 1.9, 0.9, 0.9, 0.9]]
    same = [[value + 0.05 for value in run] for run in ours]
    worse = [[value + 1.0 for value in run] for run in ours]
    curves.tell(
        kept, TINY, {"rsdnet": ours, "reference": same}, {"rsdnet": [0.5, 0.52, 0.48], "reference": [0.9, 0.91, 0.92]}
    )
    assert [row["met"] for row in kept.rows] == ["yes"] * 5 + ["no"]  # F1 is far below the reference's
    kept.rows.clear()
    curves.tell(
        kept, TINY, {"rsdnet": ours, "reference": worse}, {"rsdnet": [0.9, 0.92, 0.91], "reference": [0.5, 0.52, 0.48]}
    )
    assert [row["met"] for row in kept.rows] == ["no"] * 5 + ["yes"]  # F1 above the reference's is not worse


def test_scores_are_those_of_the_probe(tmp_path: Path) -> None:
    database = tiny.make(tmp_path / "db", samples=45)
    cfg = Config(
        data=DataConfig(data=(database,)), views=ViewConfig(size=16, ms_bands=("B02", "B11"), sar_bands=("VV",)),
        model=ModelConfig(encoder="resnet18", width=4, hidden=16, dim=8), optim=OptimConfig(batch=4, steps=2),
        run=RunConfig(precision="fp32", device="cpu"),
    )  # fmt: skip
    run = tmp_path / "run"
    reference.train(cfg, run, workers=0)
    found = curves.scored({"rsdnet": run, "reference": run}, database, threads=1)
    expected = probe.probe(probe.Options(run), Console(quiet=True))["mean_f1"]["pre-trained"]
    assert found == {"rsdnet": pytest.approx(expected), "reference": pytest.approx(expected)}


# ---- many GPUs on paper ---------------------------------------------------------------------------------------------


def test_what_ranks_share_is_counted_over_the_model() -> None:
    """ResNet-50 has 53 convolutions, each with a norm; the channels are those of He et al. 2016, table 1."""
    counts = scaling.counted(Config())
    encoder = 64 + sum(blocks * (2 * planes + 4 * planes) + 4 * planes for planes, blocks in networks.STAGES)
    assert counts.parameters == sum(math.prod(shape) for shape in networks.parameters("full"))
    assert (counts.forward, counts.backward) == (2 * (2 * 54 + 1), 2 * 55)
    assert counts.forward_channels == 2 * (2 * (encoder + 4096) + 4096)
    assert counts.backward_channels == 2 * (encoder + 4096 + 4096)
    assert counts.statistics == 16 * (counts.forward_channels + counts.backward_channels)


def test_an_all_reduce_is_as_long_as_its_links_take() -> None:
    size = 8e9
    assert scaling.all_reduce(size, 1) == 0
    assert scaling.all_reduce(size, 8) == pytest.approx(2 * 7 / 8 * size / 450e9)
    assert scaling.all_reduce(size, 1024) == pytest.approx(2 * 7 / 8 * size / 450e9 + 2 * 127 / 128 * 1e9 / 50e9)


def test_the_bottleneck_moves_with_step_and_latency() -> None:
    counts = scaling.counted(Config())
    eight, many = scaling.costs(counts, 8), scaling.costs(counts, 1024)
    assert scaling.bottleneck(scaling.costs(counts, 1), counts, 0.1, 1e-5) == ("the GPU", 1.0)
    assert scaling.bottleneck(eight, counts, 1.0, 1e-5)[0] == "the GPU"
    assert scaling.bottleneck(eight, counts, 0.01, 1e-4)[0] == "BatchNorm's latency"
    assert scaling.bottleneck(many._replace(norms=0.1), counts, 0.01, 1e-6)[0] == "BatchNorm's bytes"
    name, kept = scaling.bottleneck(many._replace(norms=0.0, gradient=0.1), counts, 0.1, 0.0)
    assert (name, kept) == ("the gradient", pytest.approx(0.1 / 0.15))  # half of the step hides half of it


def test_the_page_holds_the_table_that_the_command_prints() -> None:
    page = (REPO / "docs" / "scaling.md").read_text()
    assert f"<!-- scaling -->\n\n{scaling.table(scaling.counted(Config()))}\n\n<!-- end -->" in page
    assert f"{scaling.counted(Config()).parameters:,}" in page
    assert f"{scaling.SAMPLE:,.0f} bytes" in page


def test_the_step_comes_from_a_measured_row(tmp_path: Path) -> None:
    kept, _ = book(tmp_path)
    kept.tell(TINY, "step alone", "reference", single(1.0))
    with pytest.raises(DataError, match="no step of ResNet-50"):
        scaling.measured_step(tmp_path / record.FILE, 1024)
    row = kept.rows[0] | {"shape": "ResNet-50, 1 channel, 128 px", "batch": 1024, "samples_per_s": "8192"}
    rows.append(tmp_path / record.FILE, record.COLUMNS, [row])
    assert scaling.measured_step(tmp_path / record.FILE, 1024) == 0.125
