"""The step's benchmark: turns are fair, work is counted as by hand, every contender has a row or a reason."""

import dataclasses
import json
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benches import bench_step, end_to_end, step_on_cpu
from benches.core import rows
from benches.core.peers import Absent
from benches.end_to_end import Options, comparisons
from benches.reference.model import BYOL
from benches.training import ceilings, contenders, curves
from benches.training.contenders import Contender
from benches.training.remote import Failed, Remote
from benches.training.seat import LOADED, RESIDENT, Local, lasting, step_race
from benches.training.setting import Setting, resident, settings
from rsdnet.errors import DataError
from rsdnet.monitor.flops import step_flops
from rsdnet.training.step import TrainStep
from tests.benches.conftest import REPO, Kept, Run

pytest.importorskip("pytest_benchmark")

GPU = torch.cuda.is_available()
TINY = settings("tiny", workers=1, threads=1)[0]


# ---- the whole ------------------------------------------------------------------------------------------------------


def check(found: list[rows.Row]) -> None:
    """Each row has a figure or a reason, and on a CPU no absolute speed."""
    for row in found:
        assert row["p50"] or row["note"].startswith("absent: "), row
        assert bool(row["met"]) == bool(row["target"] and row["p50"])
        assert float(row["p20"] or 0) <= float(row["p50"] or 0) <= float(row["p80"] or "inf")
        assert GPU or not row["also"]


def test_every_contender_of_the_step_has_a_row(kept: Kept) -> None:
    with torch.compiler.set_stance("force_eager"):  # nothing is compiled
        bench_step.measure(TINY, kept, bench_step.SCALES["tiny"], lambda turns: None)
    told = {row["contender"].rstrip(" .0123456789") for row in kept.rows if row["what"] == "step alone"}
    assert told >= set(bench_step.ORDER) - {"rsdnet"}
    check(kept.rows)


def test_the_step_on_a_cpu_has_a_row_beside_the_one_it_was(tmp_path: Path, bench: Run) -> None:
    words = ["--shapes", "tiny", "--precisions", "fp32", "--threads", 1, "--rounds", 3, "--seconds", 0.01]
    done = bench("benches.step_on_cpu", *words, "--others", step_on_cpu.BEFORE, "--rows", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows.read(tmp_path / "training.csv")
    assert (row["contender"], row["target"]) == (step_on_cpu.BEFORE, "")
    assert rows.split(row["setting"])["threads"] == "1"
    check([row])


def test_end_to_end_has_a_row_beside_itself_and_the_reference(tmp_path: Path, bench: Run) -> None:
    words = ["--shapes", "tiny", "--workers", 0, "--threads", 1, "--only", "resident", "reference", "--rows", tmp_path]
    done = bench("benches.end_to_end", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows.read(tmp_path / "training.csv")
    assert {row["contender"] for row in found} == {"reference", end_to_end.STAYS}
    check(found)


def test_rows_are_chosen_by_setting_and_contender() -> None:
    chosen = comparisons(Options(only=("reference", "lightly"), setting=(1,)), 2)
    assert {(row.which, row.other) for row in chosen} == {(1, "reference"), (1, "lightly")}
    assert {row.which for row in comparisons(Options(), 2)} == {0, 1}
    assert comparisons(Options(setting=(1,)), 1) == []


def test_a_setting_that_there_is_not(tmp_path: Path, kept: Kept) -> None:
    with pytest.raises(DataError, match="--setting 3: the settings of these shapes are 0 to 0"):
        end_to_end.measure(Options(shapes="tiny", setting=(0, 3), folder=tmp_path), kept)
    assert not kept.rows


def test_a_row_without_a_figure_has_its_reason(tmp_path: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(shapes="tiny", budget=0, workers=1, threads=1, folder=tmp_path)
    end_to_end.measure(options, kept)
    assert [row["note"] for row in kept.rows] == ["failed: the budget was spent before its turn"] * len(kept.rows)
    assert len(kept.rows) == len(comparisons(options, 1))
    kept.rows.clear()

    def absent(name: str) -> None:
        raise Absent(f"import {name}: not here")

    monkeypatch.setattr(end_to_end, "peer", absent)
    end_to_end.measure(options, kept)
    assert {row["note"] for row in kept.rows} == {"absent: import lmdb: not here"}


def test_rsdnet_leaves_its_seat_after_its_last_row(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the memory of two settings is not taken at once, if rows allow it."""
    seated: list[tuple[str, str]] = []
    order = [end_to_end.Comparison(which, "resident", "") for which in (0, 1, 1)]

    class Seated(Remote):
        name, note = "rsdnet", ""

        def __init__(self, contender: str, setting: Setting, folder: Path, left: Any) -> None:
            self.at = setting.precision
            seated.append(("sits", self.at))

        def turn(self, steps: int, views: str) -> float:
            return 1.0

        def close(self) -> None:
            seated.append(("leaves", self.at))

    monkeypatch.setattr(end_to_end, "Remote", Seated)
    monkeypatch.setattr(end_to_end, "comparisons", lambda options, found: order)
    both = [dataclasses.replace(TINY, precision=precision) for precision in ("bf16", "fp32")]
    monkeypatch.setattr(end_to_end, "settings", lambda *_, **__: both)
    monkeypatch.setattr(end_to_end, "database", lambda *_: tmp_path)
    end_to_end.measure(Options(shapes="tiny", workers=1, threads=1, folder=tmp_path), kept)
    assert seated[:4] == [("sits", "bf16"), ("leaves", "bf16"), ("sits", "fp32"), ("leaves", "fp32")]
    assert len(kept.rows) == 3


def test_a_contender_that_fails_or_outlasts_the_run_ends_alone(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="KeyError: 'nobody'"):
        Remote("nobody", TINY, tmp_path, lambda: 120.0)
    with pytest.raises(Failed, match="time was spent"):
        Remote("rsdnet", TINY, tmp_path, lambda: 0.0)


def test_a_contender_that_fails_has_a_row_with_the_reason(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(setting: Setting, folder: Path | None) -> Contender:
        raise Absent("no such package")

    def broken(setting: Setting, folder: Path | None) -> Contender:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(bench_step, "ORDER", ("rsdnet, eager", "lightly", "reference"))
    monkeypatch.setattr(bench_step, "OURS", "rsdnet, eager")
    monkeypatch.setitem(contenders.CONTENDERS, "lightly", absent)
    monkeypatch.setitem(contenders.CONTENDERS, "reference", broken)
    assert list(bench_step.seated(TINY, kept)) == ["rsdnet, eager"]
    notes = {row["contender"]: row["note"] for row in kept.rows}
    assert notes == {"lightly": "absent: no such package", "reference": "failed: RuntimeError: out of memory"}


def test_a_step_with_little_time_has_the_first_contenders_and_a_round(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on by a contender's making: of 10 s, the third comes after the half."""
    spent = []
    monkeypatch.setattr(bench_step, "ORDER", ("rsdnet, eager", "reference", "lightly"))
    monkeypatch.setattr(bench_step, "OURS", "rsdnet, eager")
    make = {name: contenders.CONTENDERS[name] for name in ("rsdnet, eager", "reference")}
    for name in make:
        monkeypatch.setitem(
            contenders.CONTENDERS, name, lambda *args, name=name: spent.append(name) or make[name](*args)
        )
    scale, rounds = bench_step.Scale(50, 0.001), []
    bench_step.measure(TINY, kept, scale, rounds.append, lambda: 10 - 4 * len(spent) - 3 * (len(spent) > 1), 10)
    assert rounds[-1] == len(bench_step.ORDER) + 1
    notes = {row["contender"]: row["note"] for row in kept.rows if not row["p50"]}
    assert notes == {"lightly": "absent: half of the time was spent before its turn"}


# ---- contenders and turns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rsdnet, eager", "reference", "lightly", "byol-pytorch"])
def test_contenders_learn(name: str) -> None:
    try:
        contender = contenders.CONTENDERS[name](TINY, None)
    except Absent as why:
        pytest.skip(str(why))
    views = resident(TINY)
    losses = [float(contender.step(views)) for _ in range(30)]
    assert losses[-1] < losses[0]  # one batch again and again, at a rate that rises from 0


def test_rsdnet_and_the_reference_take_the_same_step() -> None:
    """The same weights, views, learning rate and tau give the same loss, weights and target."""
    from benches.reference.train import Trainer
    from rsdnet.training.step import TrainStep

    cfg, cpu = TINY.config(), torch.device("cpu")
    trainer = Trainer(cfg, cpu, "fp32")
    ours = TrainStep(cfg, cpu, compile=False, dtype=torch.float32)
    weights = trainer.byol.state_dict()  # the same tensors in the same order, under other names
    ours.method.load_state_dict(dict(zip(ours.method.state_dict(), weights.values(), strict=True)))
    for step in range(3):
        views = torch.randn(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        ours.set(lr=0.3, tau=0.9)
        assert float(trainer.step(views, 0.3, 0.9)) == pytest.approx(float(ours.step(views).loss), rel=1e-5)
    for found, want in zip(ours.method.state_dict().values(), trainer.byol.state_dict().values(), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-5)


def test_views_in_turn_is_the_step_of_torchs_own_layers() -> None:
    """The same losses, and none of what makes it faster."""
    ours, before = (contenders.CONTENDERS[name](TINY, None) for name in ("rsdnet", "rsdnet, views in turn"))
    views = resident(TINY)
    torch.testing.assert_close([float(ours.step(views))], [float(before.step(views))], rtol=1e-5, atol=1e-5)
    steps = [cell.cell_contents for cell in before.step.__closure__ or () if isinstance(cell.cell_contents, TrainStep)]
    (method,) = [step.method for step in steps]
    assert not method.one_pass
    assert {type(part) for part in method.modules() if isinstance(part, nn.Conv2d)} == {nn.Conv2d}


def numbered(step: Callable[[Tensor], Tensor], ahead: int = 2) -> Contender:
    """A contender whose batches are their numbers."""

    @contextmanager
    def opened() -> Iterator[Iterator[Tensor]]:
        yield (torch.tensor(number) for number in range(1000))

    return Contender("one", step, opened, ahead)


def test_a_turn_skips_the_batches_that_were_ready() -> None:
    stepped: list[int] = []

    def step(views: Tensor) -> Tensor:
        stepped.append(int(views) if views.ndim == 0 else -1)
        return torch.zeros(())

    seat = Local(lambda: numbered(step), TINY)
    seat.open()
    first = stepped[-1] + 1
    stepped.clear()
    seat.turn(4, LOADED)
    assert stepped == list(range(first + 2, first + 2 + 1 + 4))  # two skipped, one under way, four timed
    seat.turn(2, RESIDENT)
    assert stepped[-2:] == [-1, -1]


def test_a_loss_that_is_not_finite_gets_no_figure() -> None:
    with pytest.raises(FloatingPointError, match="nan"):
        Local(lambda: numbered(lambda views: torch.tensor(float("nan"))), TINY)


class Clocked:
    """A seat that takes two seconds a step."""

    name, note = "clocked", ""

    def turn(self, steps: int, views: str) -> float:
        return 2.0 * steps


def test_a_turn_is_as_many_steps_as_take_its_seconds() -> None:
    assert step_race({"one": (Clocked(), LOADED)}, rounds=2, seconds=7.0) == {"one": [2.0, 2.0]}


@pytest.mark.parametrize(
    ("ready", "each", "seconds", "steps"),
    [(0, 2.0, 7.0, 4), (0, 2.0, 1.0, 1), (1, 0.1, 2.0, 21), (8, 0.1, 2.0, 26), (0, 0.001, 2.0, 2000)],
)
def test_batches_that_were_ready_hardly_lengthen_a_turn(ready: int, each: float, seconds: float, steps: int) -> None:
    """A step takes 4 ms, and its batch `each` seconds, but for the first `ready` of a turn."""
    assert lasting(lambda n: 0.004 * min(n, ready) + each * max(0, n - ready), seconds) == steps


# ---- counted work ---------------------------------------------------------------------------------------------------


def test_work_of_a_convolution_and_a_norm_is_as_by_hand() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
        x = torch.empty(2, 3, 8, 8, requires_grad=True)
    with ceilings.Counting() as counting:
        network(x).sum().backward()
    products = [work for work in counting.works if work.kind == "products"]
    inputs, weights, outputs = 2 * 3 * 64, 5 * 3 * 9, 2 * 5 * 64
    macs = outputs * 3 * 9
    assert [work.flops for work in products] == [2 * macs, 4 * macs]
    forward, backward = inputs + weights + outputs, outputs + 2 * (inputs + weights)
    assert [work.bytes for work in products] == [4 * forward, 4 * backward]
    assert [work.bytes for work in counting.works if work.kind == "norms"] == [3 * 4 * outputs, 5 * 4 * outputs]


def test_flops_are_those_of_torchs_counter_and_updates_move_seven_and_three_words_a_parameter() -> None:
    cfg = TINY.config()
    byol = BYOL(cfg.model, 1)
    with FlopCounterMode(display=False) as counter:
        byol(torch.randn(2, TINY.batch, 1, TINY.size, TINY.size)).backward()
    counted = ceilings.count(TINY)
    assert counted.flops == counter.get_total_flops() == TINY.batch * step_flops(cfg)
    online = sum(p.numel() for p in byol.online.parameters())
    trained = online + sum(p.numel() for p in byol.predictor.parameters())
    moved = {work.kind: work.bytes for work in counted.works}
    assert (moved["optimizer"], moved["target"]) == (28 * trained, 12 * online)
    half = ceilings.count(dataclasses.replace(TINY, precision="bf16"))
    assert {work.kind: work.bytes for work in half.works}["casts"] == 6 * (trained + online)


def test_least_time_takes_the_nearer_ceiling_for_each_operation() -> None:
    counted = ceilings.Counted([ceilings.Work("a", 100.0, 10.0), ceilings.Work("b", 0.0, 30.0)])
    assert counted.seconds(ceilings.Ceilings(flops=10.0, bytes=5.0)) == 10.0 + 6.0


def test_kernels_are_grouped_by_name_and_shares_with_idle_make_the_whole() -> None:
    assert (
        ceilings.group_of("triton_red_fused_convolution_backward_native_batch_norm_backward_7") == ceilings.ELEMENTWISE
    )
    assert ceilings.group_of("cosine_backward_kernel") == "loss"
    assert ceilings.group_of("update_target_kernel") == "target"
    assert ceilings.group_of("something_new") == ceilings.OTHER
    found = ceilings.shares([("lars_norms_kernel", 1.0), ("gemm", 5.0), ("nvjet_sm90_tst_192x128", 1.0)], wall=10.0)
    assert list(found) == ["convolutions and matrix products", "optimizer", ceilings.IDLE]
    assert list(found.values()) == pytest.approx([0.6, 0.1, 0.3])


# ---- loss curves ----------------------------------------------------------------------------------------------------


def test_apart_is_welchs_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = [1.0, 1.4, 0.9], [1.1, 2.0, 1.7]
    assert curves.welch(first, second) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).statistic)
    for seeds, threshold in curves.TWO_SIDED.items():
        assert threshold == pytest.approx(stats.t.ppf(0.975, 2 * seeds - 2), abs=0.01)
        assert curves.ONE_SIDED[seeds] == pytest.approx(stats.t.ppf(0.95, 2 * seeds - 2), abs=0.01)


def test_a_curve_is_the_mean_loss_of_each_part(tmp_path: Path) -> None:
    losses = [4.0, 2.0, None, 3.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.75, 0.0]  # a skipped step has none
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
    assert curves.curve(tmp_path) == [3.0, 2.0, 0.75, 0.375, 0.375]


def test_rows_say_who_is_worse_beyond_the_seeds_noise(kept: Kept) -> None:
    ours = [[3.0, 2.0, 1.0, 1.0, 1.0], [3.1, 2.1, 1.1, 1.1, 1.1], [2.9, 1.9, 0.9, 0.9, 0.9]]
    high, low = [0.9, 0.92, 0.91], [0.5, 0.52, 0.48]
    for shift, mine, theirs in ((0.05, low, high), (1.0, high, low)):
        other = [[value + shift for value in run] for run in ours]
        scores = {depth: {"rsdnet": mine, "reference": theirs} for depth in curves.DEPTHS}
        curves.tell(kept, TINY, {"rsdnet": ours, "reference": other}, scores)
    # curves alike and F1 far below the reference's; curves apart and F1 above it, which is not worse
    assert [row["met"] for row in kept.rows] == ["yes"] * 5 + ["no"] * 2 + ["no"] * 5 + ["yes"] * 2


# ---- many GPUs on paper ---------------------------------------------------------------------------------------------


def test_the_scaling_page_holds_the_table_of_its_script() -> None:
    script, page = runpy.run_path(str(REPO / "docs" / "scaling.py")), (REPO / "docs" / "scaling.md").read_text()
    parameters, forward, backward, statistics = script["counted"]()
    assert f"<!-- scaling -->\n\n{script['table']()}\n\n<!-- end -->" in page
    assert f"{parameters:,}" in page
    assert f"{script['SAMPLE']:,.0f} bytes" in page
    # ResNet-50 has 53 convolutions, each with a norm; channels by He et al. 2016, table 1
    stages = ((64, 3), (128, 4), (256, 6), (512, 3))
    encoder = 64 + sum(blocks * (2 * planes + 4 * planes) + 4 * planes for planes, blocks in stages)
    assert (forward, backward) == (2 * 54 + 1, 55)
    assert statistics == 16 * (2 * (2 * (encoder + 4096) + 4096) + 2 * (encoder + 2 * 4096))
    size = 8e9
    assert script["all_reduce"](size, 1) == 0
    assert script["all_reduce"](size, 1024) == pytest.approx(2 * 7 / 8 * size / 450e9 + 2 * 127 / 128 * 1e9 / 50e9)
    assert "| 8 | 8,192 | 95.6% | the GPU |" in script["plan"](0.1, 2.8e-5)
    assert "BatchNorm's latency" in script["plan"](0.01, 1e-4)
