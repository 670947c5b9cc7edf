"""The step alone, beside the reference and the peers: `pytest benches/bench_step.py --rows=FOLDER`.

    --rows=FOLDER   append what was measured to FOLDER/training.csv; without it nothing is written
    --shapes=NAME   tiny, small or full: full on a GPU (ResNet-50 at 128 px, ResNet-18 at 64 px), small on a CPU

All train on one batch of views that stays on the device. They sit in one process and take turns; a row is the ratio of
two steps of the same round. On a GPU also: peak memory; the step over its roofline, FLOPs and bytes counted, over the
ceilings of a matrix product and a copy measured in the run; and where the step's time goes, kernel by kernel.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from benches.clock import GPU
from benches.peers import Absent
from benches.reading.measure import quantiles, single
from benches.steps import ceilings
from benches.steps.child import reason
from benches.steps.contenders import CONTENDERS, Contender
from benches.steps.record import MEMORY, SHARE, Book, notes
from benches.steps.setting import Setting, settings
from benches.steps.turns import RESIDENT, Local, Times, against, race
from rsdnet.console import progress

OURS, REFERENCE = "rsdnet", "reference"
OTHERWISE = "rsdnet, eager" if GPU else "rsdnet, compiled"  # what a run does not do here
ORDER = (OURS, REFERENCE, "reference, compiled", "lightly", "byol-pytorch", OTHERWISE)
# The targets of ResNet-50 at 128 px on an H200; on a CPU: at least as fast as every peer at equal precision.
SPEEDS = {REFERENCE: ">= 1.8", "reference, compiled": ">= 1.1"}
ON_A_CPU = ">= 1"
LEAST_MEMORY, LEAST_SHARE = "<= 0.85", ">= 0.6"
PROFILED = 5  # steps


class Scale(NamedTuple):
    """How long a run is: rounds, and seconds of a turn."""

    rounds: int
    seconds: float


SCALES = {"tiny": Scale(3, 0.01), "small": Scale(9, 2.0), "full": Scale(15, 1.0)}


@pytest.mark.parametrize("which", [0, 1])
def bench_step(pytestconfig: pytest.Config, shapes: str, backend: str, which: int) -> None:
    """One setting: every contender's step in turns."""
    found = settings(shapes, workers=0, threads=0, backend=backend)
    if which >= len(found):
        pytest.skip(f"shapes {shapes} have {len(found)} setting here")

    def show(what: str, beside: str, outcome: str) -> None:
        pytestconfig.told.append((what, beside, outcome))  # type: ignore[attr-defined]

    setting, scale = found[which], SCALES[shapes]
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    title = f"{setting.shape}, {setting.precision}"
    with capture.global_and_fixture_disabled(), progress(title, len(ORDER) + scale.rounds, "turns") as done:
        measure(setting, Book(pytestconfig.getoption("rows"), show), scale, done)


def measure(setting: Setting, book: Book, scale: Scale, done: Callable[[int], None]) -> None:
    """All rows of a setting. done: called with how many contenders are seated and rounds behind. Raises what ours
    fails with."""
    torch.backends.cudnn.benchmark = True
    seats = seated(setting, book, done)
    times = race(
        [(seat, RESIDENT) for seat in seats.values()],
        rounds=scale.rounds,
        seconds=scale.seconds,
        done=lambda rounds: done(len(ORDER) + rounds),
    )
    for name, seat in seats.items():
        if name != OURS:
            tell_speed(book, setting, times, seats[OURS], name, seat)
    if GPU:
        tell_memory(book, setting, seats)
        tell_roofline(book, setting, times[OURS, RESIDENT])
        tell_kernels(book, setting, seats[OURS])


def seated(setting: Setting, book: Book, done: Callable[[int], None] = lambda seats: None) -> dict[str, Local]:
    """Every contender that can take part, warmed; for each other one a row that says why not."""
    seats: dict[str, Local] = {}
    for number, name in enumerate(ORDER):
        done(number)
        try:
            seats[name] = Local(maker(name, setting), setting)
        except Exception as error:
            if name == OURS:
                raise
            why = f"absent: {error}" if isinstance(error, Absent) else f"failed: {reason(error)}"
            book.tell(setting, "step alone", name, None, note=why)
    return seats


def maker(name: str, setting: Setting) -> Callable[[], Contender]:
    """Makes a contender without a source of batches."""
    return lambda: CONTENDERS[name](setting, None)


def tell_speed(book: Book, setting: Setting, times: Times, ours: Local, name: str, seat: Local) -> None:
    """How many times the other's speed ours is."""
    mine, theirs = (ours.name, RESIDENT), (seat.name, RESIDENT)
    target = "" if name == OTHERWISE else SPEEDS.get(name, "") if GPU else ON_A_CPU
    if GPU and setting.encoder != "resnet50":
        target = ""
    seconds = quantiles(times[mine]).p50, quantiles(times[theirs]).p50
    ratio = against(times, mine, theirs)
    told = f"ours {ours.note}" if ours.note else ""
    book.tell(setting, "step alone", seat.name, ratio, target=target, note=notes(told, seat.note), seconds=seconds)


def tell_memory(book: Book, setting: Setting, seats: dict[str, Local]) -> None:
    """Ours beside the reference's: all that is allocated at the peak, parameters and the batch among it."""
    if REFERENCE not in seats:
        return
    mine, theirs = seats[OURS].bytes, seats[REFERENCE].bytes
    target = LEAST_MEMORY if setting.encoder == "resnet50" else ""
    note = f"{mine / 2**30:.2f} against {theirs / 2**30:.2f} GiB"
    book.tell(setting, "peak memory", REFERENCE, single(mine / theirs), unit=MEMORY, target=target, note=note)


def tell_roofline(book: Book, setting: Setting, steps: list[float]) -> None:
    """The least time that FLOPs and bytes take at the ceilings, over the step's."""
    found = ceilings.measured(setting.dtype)
    assert found
    counted = ceilings.count(setting)
    least = counted.seconds(found)
    ratio = quantiles([least / seconds for seconds in steps])
    note = (
        f"{counted.flops / 1e12:.3g} TFLOP at {found.flops / 1e12:.0f} TFLOP/s and {counted.bytes / 1e9:.3g} GB at "
        f"{found.bytes / 1e12:.2f} TB/s, each operation at the nearer ceiling: {1e3 * least:.2f} ms"
    )
    target = LEAST_SHARE if setting.encoder == "resnet50" else ""
    book.tell(setting, "step alone", "its roofline", ratio, unit="of the roofline", target=target, note=note)


def tell_kernels(book: Book, setting: Setting, ours: Local) -> None:
    """Shares of the step by what runs, the largest first."""
    seconds = [ours.turn(PROFILED, RESIDENT) for _ in range(3)]
    kernels = ceilings.profiled(lambda: ours.contender.step(ours.views), PROFILED)
    if kernels is None:
        book.tell(
            setting, "where the step goes", "the step", None, unit=SHARE, note="absent: the profiler counts nothing"
        )
        return
    for group, share in ceilings.shares(kernels, quantiles(seconds).p50).items():
        book.tell(setting, f"where the step goes: {group}", "the step", single(share), unit=SHARE)
