"""The step's benchmark: turns are fair, work is counted as by hand, every contender has a row."""

import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benches import bench_step, report
from benches.peers import Absent
from benches.reading.measure import Ratio
from benches.reference.model import BYOL
from benches.steps import ceilings, contenders, record
from benches.steps.contenders import Contender
from benches.steps.setting import Setting, resident, settings
from benches.steps.turns import RESIDENT, STREAM, Local, against, race
from rsdnet.monitor.flops import step_flops

pytest.importorskip("pytest_benchmark")

REPO = Path(__file__).resolve().parents[2]
TINY = settings("tiny", workers=1, threads=1)[0]


def environment() -> dict[str, str]:
    """For the benchmarks in processes of their own: nothing is compiled, and pytest-xdist is not told of."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = os.pathsep.join(folder for folder in (str(REPO), kept.get("PYTHONPATH", "")) if folder)
    return kept | {"PYTHONPATH": path, "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def book(folder: Path | None = None) -> tuple[record.Book, list[tuple[str, str, str]]]:
    """A book, and what it shows."""
    shown: list[tuple[str, str, str]] = []
    return record.Book(folder, lambda *told: shown.append(told)), shown


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_every_contender_has_a_row_and_no_absolute_time_on_a_cpu(tmp_path: Path) -> None:
    words = ["benches/bench_step.py", "--shapes=tiny", f"--rows={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=REPO, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / record.FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == record.COLUMNS
    told = {row["beside"].rstrip(" .0123456789") for row in rows if row["what"] == "step alone"}
    assert told >= set(bench_step.ORDER) - {"rsdnet"}
    for row in rows:
        assert row["p50"] or row["note"].startswith("absent: "), row
        assert bool(row["met"]) == bool(row["target"] and row["p50"])
        if row["p50"]:
            assert float(row["p20"]) <= float(row["p50"]) <= float(row["p80"])
        if not torch.cuda.is_available():
            assert not row["samples_per_s"]
    table = report.training(rows)
    assert all(row["beside"] in table for row in rows)


# ---- contenders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rsdnet, eager", "reference", "lightly", "byol-pytorch"])
def test_contenders_learn_and_move_their_weights(name: str) -> None:
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
    engine = TrainStep(cfg, cpu, compile=False, dtype=torch.float32)
    names = {theirs: ours for ours, theirs in zip(engine.method.state_dict(), trainer.byol.state_dict(), strict=True)}
    engine.method.load_state_dict({ours: trainer.byol.state_dict()[theirs] for theirs, ours in names.items()})
    for step in range(3):
        views = torch.randn(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        engine.set(lr=0.3, tau=0.9)
        assert float(trainer.step(views, 0.3, 0.9)) == pytest.approx(float(engine.step(views).loss), rel=1e-5)
    for theirs, ours in names.items():
        found, want = trainer.byol.state_dict()[theirs], engine.method.state_dict()[ours]
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-5)


def contender(step: Callable[[Tensor], Tensor], batches: list[int], ahead: int = 2) -> Contender:
    """A contender whose batches are numbered, and noted when they are taken."""

    def numbered() -> Iterator[Tensor]:
        number = 0
        while True:
            batches.append(number)
            yield torch.tensor(number)
            number += 1

    @contextmanager
    def opened() -> Iterator[Iterator[Tensor]]:
        yield numbered()

    return Contender("one", step, opened, ahead)


def test_a_turn_passes_over_the_batches_that_lay_ready() -> None:
    batches: list[int] = []
    stepped: list[int] = []

    def step(views: Tensor) -> Tensor:
        stepped.append(int(views) if views.ndim == 0 else -1)
        return torch.zeros(())

    seat = Local(lambda: contender(step, batches), TINY)
    seat.open()
    stepped.clear()
    first = len(batches)
    seat.turn(4, STREAM)
    assert stepped == list(range(first + 2, first + 2 + 1 + 4))  # two passed over, one under way, four timed
    seat.turn(2, RESIDENT)
    assert stepped[-2:] == [-1, -1]


def test_a_loss_that_is_not_finite_gets_no_figure() -> None:
    with pytest.raises(FloatingPointError, match="nan"):
        Local(lambda: contender(lambda views: torch.tensor(float("nan")), []), TINY)


def test_a_contender_that_fails_has_a_row_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(setting: Setting, folder: Path | None) -> Contender:
        raise Absent("no such package")

    def broken(setting: Setting, folder: Path | None) -> Contender:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(bench_step, "ORDER", ("rsdnet, eager", "lightly", "reference"))
    monkeypatch.setattr(bench_step, "OURS", "rsdnet, eager")
    monkeypatch.setitem(contenders.CONTENDERS, "lightly", absent)
    monkeypatch.setitem(contenders.CONTENDERS, "reference", broken)
    kept, _ = book()
    seats = bench_step.seated(TINY, kept)
    assert list(seats) == ["rsdnet, eager"]
    notes = {row["beside"]: row["note"] for row in kept.rows}
    assert notes == {"lightly": "absent: no such package", "reference": "failed: RuntimeError: out of memory"}


# ---- turns ----------------------------------------------------------------------------------------------------------


class Clocked:
    """A seat that takes what it is told to, a number a turn."""

    note = ""

    def __init__(self, name: str, seconds: list[float], order: list[str]) -> None:
        self.name, self.seconds, self.order, self.turns = name, seconds, order, 0

    def turn(self, steps: int, source: str) -> float:
        self.order.append(self.name)
        taken = self.seconds[self.turns % len(self.seconds)] * steps
        self.turns += 1
        return taken


def test_ratios_are_of_the_same_round_and_who_is_first_changes() -> None:
    order: list[str] = []
    ours = Clocked("ours", [1.0, 1.0, 2.0, 4.0], order)  # the first turn of each is for the number of steps
    other = Clocked("other", [2.0, 3.0, 6.0, 12.0], order)
    times = race([(ours, STREAM), (other, STREAM)], rounds=3, seconds=4.0)
    assert times["ours", STREAM] == [1.0, 2.0, 4.0]
    assert against(times, ("ours", STREAM), ("other", STREAM)) == Ratio(3.0, 3.0, 3.0)
    assert order[2:] == ["ours", "other", "other", "ours", "ours", "other"]


def test_a_race_ends_before_the_run_does() -> None:
    order: list[str] = []
    seats = [Clocked("ours", [1.0], order), Clocked("other", [2.0], order)]
    times = race([(seat, STREAM) for seat in seats], rounds=9, seconds=1.0, left=lambda: -1.0)
    assert times == {("ours", STREAM): [1.0], ("other", STREAM): [2.0]}


# ---- counted work ---------------------------------------------------------------------------------------------------


def test_work_of_a_convolution_and_a_norm_is_as_by_hand() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
        x = torch.empty(2, 3, 8, 8, requires_grad=True)
    with ceilings.Counting() as counting:
        network(x).sum().backward()
    products = [work for work in counting.works if work.kind == "products"]
    norms = [work for work in counting.works if work.kind == "norms"]
    inputs, weights, outputs = 2 * 3 * 64, 5 * 3 * 9, 2 * 5 * 64
    macs = outputs * 3 * 9
    assert [work.flops for work in products] == [2 * macs, 4 * macs]
    assert [work.bytes for work in products] == [
        4 * (inputs + weights + outputs),
        4 * (outputs + inputs + weights + inputs + weights),
    ]
    assert [work.bytes for work in norms] == [3 * 4 * outputs, 5 * 4 * outputs]


def test_flops_of_a_step_are_those_of_torchs_counter() -> None:
    cfg = TINY.config()
    byol = BYOL(cfg.model, 1)
    with FlopCounterMode(display=False) as counter:
        byol(torch.randn(2, TINY.batch, 1, TINY.size, TINY.size)).backward()
    assert ceilings.count(TINY).flops == counter.get_total_flops() == TINY.batch * step_flops(cfg)


def test_bytes_of_the_updates_are_seven_and_three_words_a_parameter() -> None:
    byol = BYOL(TINY.config().model, 1)
    online = sum(p.numel() for p in byol.online.parameters())
    trained = online + sum(p.numel() for p in byol.predictor.parameters())
    moved = {
        work.kind: work.bytes for work in ceilings.count(TINY).works if work.kind in ("optimizer", "target", "casts")
    }
    assert moved == {"optimizer": 28 * trained, "target": 12 * online}
    half = dataclasses.replace(TINY, precision="bf16")
    assert sum(work.bytes for work in ceilings.count(half).works if work.kind == "casts") == 6 * (trained + online)


def test_least_time_takes_the_nearer_ceiling_for_each_operation() -> None:
    counted = ceilings.Counted([ceilings.Work("a", 100.0, 10.0), ceilings.Work("b", 0.0, 30.0)])
    assert counted.seconds(ceilings.Ceilings(flops=10.0, bytes=5.0)) == 10.0 + 6.0


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolutions and matrix products"),
        ("nvjet_sm90_tst_192x128_64x5_1x2_h_bz_coopA_TNT", "convolutions and matrix products"),
        ("cudnn::bn_fw_tr_1C11_kernel_NCHW", "BatchNorm, ReLU and other elementwise"),
        ("triton_red_fused_convolution_backward_native_batch_norm_backward_7", "BatchNorm, ReLU and other elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "BatchNorm, ReLU and other elementwise"),
        ("lars_update_kernel", "optimizer"),
        ("update_target_kernel", "target"),
        ("cosine_backward_kernel", "loss"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("something_new", "other kernels"),
    ],
)
def test_kernels_are_grouped_by_name(kernel: str, group: str) -> None:
    assert ceilings.group_of(kernel) == group


def test_shares_and_idle_make_the_whole() -> None:
    found = ceilings.shares([("lars_norms_kernel", 1.0), ("gemm", 5.0), ("gemm_2", 1.0)], wall=10.0)
    assert list(found) == ["convolutions and matrix products", "optimizer", ceilings.IDLE]
    assert sum(found.values()) == pytest.approx(1)
    assert found[ceilings.IDLE] == pytest.approx(0.3)


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_tells_whether_its_target_is_met(tmp_path: Path) -> None:
    kept, shown = book(tmp_path)
    kept.tell(TINY, "step alone", "reference", Ratio(1.5, 1.79, 1.9), target=">= 1.8")
    kept.tell(TINY, "peak memory", "reference", Ratio(0.8, 0.8, 0.8), unit=record.MEMORY, target="<= 0.85")
    kept.tell(TINY, "step alone", "lightly", None, target=">= 3", note="absent: no package")
    with open(tmp_path / record.FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["met"] for row in rows] == ["no", "yes", ""]
    assert "MISSED" in shown[0][2]
    assert "missed" in report.training(rows)


def test_settings_of_a_cpu_have_both_precisions_where_the_processor_has_bf16() -> None:
    found: list[Any] = [setting.precision for setting in settings("small", workers=1, threads=1)]
    assert found in (["fp32"], ["fp32", "bf16"])
    assert {setting.encoder for setting in settings("full", workers=1, threads=1)} == {"resnet50", "resnet18"}
