"""What a run keeps and shows of its steps, under a clock that the test turns."""

import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rsdnet.distributed import Ranks
from rsdnet.errors import DataError
from rsdnet.monitor import display, flops, metrics, projections
from rsdnet.monitor.metrics import Monitor
from rsdnet.report import record, summary
from rsdnet.training.step import StepOutput

CPU = torch.device("cpu")
KNOBS = {"lr": 0.1, "tau": 0.99, "epoch": 2}


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def output(loss: float, skipped: int = 0, in_a_row: int = 0, norm: float = 3.0) -> StepOutput:
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(8, 4, generator=generator) for _ in range(2))
    return StepOutput(torch.tensor(loss), z1, z2, torch.tensor(norm), torch.tensor(skipped), torch.tensor(in_a_row))


def stats(waited: float = 0.0, read: int = 0) -> dict[str, Any]:
    return {"waited": waited, "bytes": read, "ready": 3, "left_out": 1, "stand_ins": 2}


def open_monitor(folder: Path, **changes: Any) -> Monitor:
    settings = {"start": 0, "steps": 100, "batch": 64, "every": 2, "console": Console(width=120), "tensorboard": False}
    return Monitor(folder, **(settings | changes))  # type: ignore[arg-type]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / metrics.METRICS).read_text().splitlines()]


def test_the_lines_hold_what_a_step_took(tmp_path: Path, clock: Clock) -> None:
    losses = torch.zeros(())
    with open_monitor(tmp_path, every=4, flops=10**9, peak=2e12) as shown:
        for step in range(4):
            losses.fill_(step)  # the tensor of a captured step: each replay writes it in place
            clock.now += 0.5
            given = output(0.0)._replace(loss=losses)
            shown.log(step, given, lambda: torch.tensor([0.5, 0.1, 0.2]), lambda: stats(0.4, 6_000_000), **KNOBS)
        written = lines(tmp_path)
    assert [line["step"] for line in written] == [line["loss"] for line in written] == [0, 1, 2, 3]
    expected = {
        "grad_norm": 3.0, "skipped": 0, "trust_min": 0.1, "trust_median": 0.2, "trust_max": 0.5, "ready": 3,
        "samples_per_s": 4 * 64 / 2.0, "wait": 0.4 / 2.0, "read_mb_per_s": 3.0, "left_out": 3,
        "tflops": 128 * 1e9 / 1e12, "mfu": 128 * 1e9 / 2e12, **KNOBS,
    }  # fmt: skip
    measured = {name: float(value) for name, value in projections.measures(given.z1, given.z2).items()}
    for line in written:
        assert line.keys() == {"step", "loss", "memory_bytes", *expected, *measured}
        assert {name: line[name] for name in expected} == pytest.approx(expected)
        assert {name: line[name] for name in measured} == pytest.approx(measured)
        assert line["memory_bytes"] <= flops.peak_memory(CPU)


def test_the_device_is_read_once_at_a_log_step_and_never_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        ask = getattr(Tensor, name)

        def asked(*arguments: Any) -> Any:
            reads.append(name)
            return ask(*arguments)

        return asked

    for name in ("tolist", "item", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, counted(name))
    with open_monitor(tmp_path, every=5) as shown:
        for step in range(5):
            assert not reads
            shown.log(step, output(1.0), lambda: torch.ones(3), stats, **KNOBS)
    assert reads == ["tolist"]


def test_what_lacks_is_left_out(tmp_path: Path) -> None:
    with open_monitor(tmp_path, every=1) as shown:
        shown.log(0, output(1.0), None, stats, **KNOBS)
        shown.log(1, output(1.0), lambda: torch.empty(0), stats, **KNOBS)
    for line in lines(tmp_path):
        assert not line.keys() & {"trust_min", "tflops", "mfu", "knn_f1"}


def test_flush_writes_what_is_pending_and_nothing_twice(tmp_path: Path) -> None:
    with open_monitor(tmp_path, every=10) as shown:
        shown.flush(stats())
        shown.log(0, output(1.0), None, stats, **KNOBS)
        assert not lines(tmp_path)
        shown.flush(stats())
        shown.flush(stats())
        shown.log(1, output(2.0), None, stats, **KNOBS)
        shown.flush(stats())
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(0, 1.0), (1, 2.0)]


def test_the_last_step_is_written(tmp_path: Path) -> None:
    with open_monitor(tmp_path, every=10, steps=3) as shown:
        for step in range(3):
            shown.log(step, output(1.0), None, stats, **KNOBS)
    assert len(lines(tmp_path)) == 3


def test_a_note_is_on_the_line_of_the_step_that_is_logged_next(tmp_path: Path) -> None:
    with open_monitor(tmp_path, every=3) as shown:
        for step in range(3):
            if step == 1:
                shown.note(knn_f1=0.5, **{"knn_f1/B04": 0.6})
            shown.log(step, output(1.0), None, stats, **KNOBS)
    found = lines(tmp_path)
    assert (found[1]["knn_f1"], found[1]["knn_f1/B04"]) == (0.5, 0.6)
    assert "knn_f1" not in found[0].keys() | found[2].keys()


def test_a_pause_is_left_out_of_the_rate(tmp_path: Path, clock: Clock) -> None:
    with open_monitor(tmp_path) as shown:
        clock.now += 1
        shown.log(0, output(1.0), None, stats, **KNOBS)
        with shown.pause():
            clock.now += 50
        clock.now += 1
        shown.log(1, output(1.0), None, stats, **KNOBS)
    assert lines(tmp_path)[1]["samples_per_s"] == pytest.approx(2 * 64 / 2)


def test_a_skipped_step_has_no_loss_and_the_mean_is_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_monitor(tmp_path, every=3) as shown:
        for step, loss in enumerate((1.0, math.nan, 2.0)):
            shown.log(step, output(loss, skipped=1), None, stats, **KNOBS)
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, None, 2.0]
    said = capsys.readouterr().out
    assert "loss 1.5000" in said
    assert "1 skipped" in said


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    broken = output(math.inf, 1, 1, math.inf)._replace(z1=torch.full((8, 4), math.nan))
    with open_monitor(tmp_path) as shown:
        for step in range(2):
            shown.log(step, broken, None, stats, **KNOBS)
    text = (tmp_path / metrics.METRICS).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert lines(tmp_path)[0]["spread"] is lines(tmp_path)[0]["grad_norm"] is None


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    with open_monitor(tmp_path, max_skipped=3) as shown:
        for step in (0, 1):
            shown.log(step, output(math.nan, skipped=2, in_a_row=2), None, stats, **KNOBS)
        shown.log(2, output(math.nan, skipped=3, in_a_row=3), None, stats, **KNOBS)
        with pytest.raises(DataError, match=r"3 steps in a row, up to step 4: .*checkpoint is untouched"):
            shown.log(3, output(math.nan, skipped=3, in_a_row=3), None, stats, **KNOBS)
    assert len(lines(tmp_path)) == 4
    with open_monitor(tmp_path, max_skipped=0) as shown:
        for step in (4, 5):
            shown.log(step, output(math.nan, skipped=9, in_a_row=9), None, stats, **KNOBS)


class Pair(Ranks):
    """One of two ranks, the other of which has losses higher by 1 and projections in another direction."""

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.add_(tensor + 1)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor, tensor.roll(1, dims=1)]


def test_the_main_rank_writes_what_is_of_all_and_the_others_are_quiet(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in (1, 0):
        folder = tmp_path / str(rank)
        folder.mkdir()
        ranks = Pair(rank, 2, rank, CPU)
        with open_monitor(folder, ranks=ranks, flops=10**9, peak=1e12, max_skipped=3, tensorboard=rank == 1) as shown:
            for step in range(2):
                clock.now += 0.5
                axis = torch.eye(4)[:1].expand(8, 4)
                given = output(2.0)._replace(z1=axis, z2=axis)
                shown.log(step, given, lambda: torch.ones(2), stats, **KNOBS)
            if rank == 1:
                shown.log(2, output(math.nan, 3, 3), None, stats, **KNOBS)
                with pytest.raises(DataError, match="in a row"):
                    shown.flush(stats())
                assert not list(folder.iterdir())
                assert not capsys.readouterr().out
    line = lines(tmp_path / "0")[0]
    assert line["loss"] == 2.5
    assert line["effective_rank"] == pytest.approx(2)
    assert line["samples_per_s"] == pytest.approx(128)  # the batch is that of all ranks
    assert line["mfu"] == pytest.approx(128 * 1e9 / 2 / 1e12)  # of two devices


def test_a_full_disk_is_one_line_that_says_what_is_safe(tmp_path: Path) -> None:
    (tmp_path / metrics.METRICS).symlink_to("/dev/full")
    with open_monitor(tmp_path) as shown:
        shown.log(0, output(1.0), None, stats, **KNOBS)
        with pytest.raises(DataError, match=r"No space left on device.*--resume goes on"):
            shown.flush(stats())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        open_monitor(tmp_path / "none")


def test_a_warning_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    point = output(1.0)._replace(z1=torch.ones(8, 4), z2=torch.ones(8, 4))
    with open_monitor(tmp_path, console=Console(width=80)) as shown:
        for step in range(8):
            shown.log(step, point, None, stats, **KNOBS)
    said = capsys.readouterr().out
    assert said.count("collapsed") == 1
    assert "step 4: the projections have almost collapsed to one point (spread 0.000, 1 is even)" in said


def test_a_run_that_goes_on_remembers_its_best_and_what_it_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_monitor(tmp_path) as shown:
        for step in range(4):
            if step == 1:
                shown.note(knn_f1=0.8)
            shown.log(step, output(1.0, norm=math.nan, skipped=7 if step == 3 else 0), None, stats, **KNOBS)
    text = capsys.readouterr().out
    with open_monitor(tmp_path, start=4) as shown:
        for step in range(4, 8):
            if step == 5:
                shown.note(knn_f1=0.5)
            shown.log(step, output(1.0, skipped=7), None, stats, **KNOBS)
    said = capsys.readouterr().out
    assert "skipped since" in text
    assert "skipped since" not in said
    assert "kNN F1 is 0.500, its best was 0.800" in said
    (tmp_path / metrics.METRICS).unlink()
    with open_monitor(tmp_path, start=8):
        pass


def warnings(folder: Path, capsys: pytest.CaptureFixture[str], *ends: int) -> list[str]:
    """Warnings of a run of 24 steps that was interrupted after each of `ends`."""
    folder.mkdir()
    capsys.readouterr()
    for start, end in zip((0, *ends), (*ends, 24), strict=True):
        with open_monitor(folder, start=start) as shown:
            for step in range(start, end):
                if step % 4 == 2:  # within a log interval, which it ends
                    shown.note(knn_f1=0.5, feature_rank=40.0 if step < 18 else 8.0, classes=9)
                shown.log(
                    step, output(4 / (step + 1), norm=100.0 if step == 21 else 1 + step / 100), None, stats, **KNOBS
                )
    return [line for line in capsys.readouterr().out.splitlines() if re.match(r"step \d+:", line)]


def test_a_run_that_goes_on_is_judged_as_one_that_was_not_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = warnings(tmp_path / "whole", capsys)
    assert [line.split(": ")[0] for line in whole] == ["step 3", "step 15", "step 19", "step 22"]
    assert "fewer than there are classes (9)" in whole[0]
    assert (
        "the loss fell since step 3 (2.167, now 0.299), but kNN F1 did not clearly rise (0.500, lately 0.500)"
        in whole[1]
    )
    for ends in ((2,), (8, 10), (14,), (20, 22)):
        assert warnings(tmp_path / str(ends), capsys, *ends) == whole
    assert summary.watched(record.read(tmp_path / "whole")) == whole


LONG = {
    "step": 99_999, "spread": 0.91, "effective_rank": 123.4, "cosine": 0.1, "grad_norm": 1.23e-5, "lr": 0.4545,
    "tau": 0.9912, "knn_f1": 0.612, "skipped": 12, "samples_per_s": 123_456.0, "wait": 0.03, "tflops": 1234.0,
    "mfu": 0.61, "memory_bytes": 101 << 30, "read_mb_per_s": 12_345.0, "ready": 12, "left_out": 3,
}  # fmt: skip


def test_both_groups_fit_a_terminal_of_120_columns() -> None:
    file = io.StringIO()
    console = Console(width=120, force_terminal=True, file=file, color_system=None)
    shown = display.Display(console, steps=100_000, start=0)
    shown.show(LONG, [1.5, 2.5, math.nan], left=3600.0)
    console.print(shown.get_renderable())
    drawn = file.getvalue()
    assert "…" not in drawn
    for words in ("loss 2.0000", "rank 123.4", "kNN F1 0.612", "12 skipped", "61 % of peak", "101.0 GiB", "3 left out"):
        assert words in drawn


def test_plain_lines_fit_120_columns_too(capsys: pytest.CaptureFixture[str]) -> None:
    display.Display(Console(file=sys.stderr), steps=100_000, start=0).show(LONG, [1.5], left=3661.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 100000/100000  loss 1.5000  spread 0.91")
    assert second.endswith("1:01:01 left")
    assert max(len(first), len(second)) <= 120
