"""The step alone, beside the reference and the peers: `pytest benches/bench_step.py --rows=FOLDER`.

    --rows=FOLDER   append the rows to FOLDER/training.csv; without it nothing is written
    --shapes=NAME   tiny, small or full: full on a GPU (ResNet-50 at 128 px, ResNet-18 at 64 px), small on a CPU
    --seconds=N     time of a setting: of the contenders and rounds, as many as it allows

All train on one batch of views that stays on the device. They sit in one process and take turns; a row is the ratio of
two steps of the same round. On a GPU also: peak memory; the step over its roofline, FLOPs and bytes counted, over the
ceilings of a matrix product and a copy measured in the run; and the share of each group of kernels in the step's time.
"""

import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import pytest
import torch

from benches.core.clock import GPU
from benches.core.peers import Absent
from benches.core.rows import Results
from benches.core.turns import against, quantiles
from benches.training import PACKAGES, SHARE, SPEED, ceilings
from benches.training.contenders import CONTENDERS
from benches.training.remote import reason
from benches.training.seat import RESIDENT, Local, step_race
from benches.training.setting import Setting, settings
from rsdnet.console import progress

OURS, REFERENCE, ALONE = "rsdnet", "reference", "step alone"
OTHERWISE = "rsdnet, eager" if GPU else "rsdnet, compiled"  # the choice that a run does not take here
ORDER = (OURS, REFERENCE, "lightly", "byol-pytorch", OTHERWISE, "reference, compiled")  # compiles for minutes: last
# The targets of ResNet-50 at 128 px on an H200; on a CPU: at least as fast as every peer at equal precision.
TARGETS = {REFERENCE: ">= 1.8", "reference, compiled": ">= 1.1"} if GPU else {}
LEAST = "" if GPU else ">= 1"
LEAST_MEMORY, LEAST_SHARE = "<= 0.85", ">= 0.6"
LARGE = "resnet50"  # the encoder that the targets of a GPU are for
PROFILED = 5  # steps
LAST = 60 if GPU else 0  # seconds for what is counted and profiled after the race
Left = Callable[[], float]


class Scale(NamedTuple):
    """Length of a run: rounds, and seconds of a turn."""

    rounds: int
    seconds: float


SCALES = {"tiny": Scale(3, 0.01), "small": Scale(9, 2.0), "full": Scale(15, 1.0)}


@pytest.mark.parametrize("which", [0, 1])
def bench_step(pytestconfig: pytest.Config, results: Callable[..., Results], which: int) -> None:
    """One setting: every contender's step in turns."""
    shapes, backend = pytestconfig.getoption("shapes"), pytestconfig.getoption("backend")
    found = settings(shapes, workers=0, threads=0, backend=backend)
    if which >= len(found):
        pytest.skip(f"shapes {shapes} have {len(found)} setting here")
    setting, scale, kept = found[which], SCALES[shapes], results("training", PACKAGES)
    seconds = pytestconfig.getoption("seconds")
    end = time.monotonic() + seconds
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    title = f"{setting.shape}, {setting.precision}"
    with capture.global_and_fixture_disabled(), progress(title, len(ORDER) + scale.rounds, "turns") as done:
        measure(setting, kept, scale, done, lambda: end - time.monotonic(), seconds)


def measure(
    setting: Setting, kept: Results, scale: Scale, done: Callable[[int], None], left: Left = lambda: inf,
    seconds: float = inf,
) -> None:  # fmt: skip
    """All rows of a setting. done: called with the number of seated contenders and finished rounds. left: seconds until
    all should be told, of `seconds`.

    Raises the exception of rsdnet's own step.
    """
    torch.backends.cudnn.benchmark = True
    seats = seated(setting, kept, done, lambda: left() > seconds / 2)
    times = step_race(
        {name: (seat, RESIDENT) for name, seat in seats.items()},
        rounds=scale.rounds, seconds=scale.seconds, left=lambda: left() - LAST,
        done=lambda rounds: done(len(ORDER) + rounds),
    )  # fmt: skip
    own = quantiles(times[OURS]).p50
    for name, seat in seats.items():
        if name == OURS:
            continue
        target = "" if name == OTHERWISE or (GPU and setting.encoder != LARGE) else TARGETS.get(name, LEAST)
        note = "; ".join(filter(None, [f"ours {seats[OURS].note}" if seats[OURS].note else "", seat.note]))
        also = setting.speeds(own, quantiles(times[name]).p50)
        ratio = against(times, OURS, name)
        kept.tell(setting.conditions(), ALONE, seat.name, ratio, SPEED, target=target, note=note, also=also)
    if GPU:
        tell_gpu(kept, setting, seats, times[OURS])


def seated(
    setting: Setting, kept: Results, done: Callable[[int], None] = lambda seats: None,
    may: Callable[[], bool] = lambda: True,
) -> dict[str, Local]:  # fmt: skip
    """Every contender that can take part, warmed; for each other one a row with the reason. may: whether there is time
    for one more, beside ours."""
    seats: dict[str, Local] = {}
    for number, name in enumerate(ORDER):
        done(number)
        try:
            if name != OURS and not may():
                raise Absent("half of the time was spent before its turn")
            seats[name] = Local(lambda name=name: CONTENDERS[name](setting, None), setting)  # type: ignore[misc]
        except Exception as error:
            if name == OURS:
                raise
            why = f"absent: {error}" if isinstance(error, Absent) else f"failed: {reason(error)}"
            kept.tell(setting.conditions(), ALONE, name, None, note=why)
    return seats


def tell_gpu(kept: Results, setting: Setting, seats: dict[str, Local], steps: list[float]) -> None:
    """Peak memory beside the reference's; the step over its roofline; shares of the step by kernel, largest first."""
    ours, conditions, large = seats[OURS], setting.conditions(), setting.encoder == LARGE
    if REFERENCE in seats:
        mine, theirs = ours.bytes, seats[REFERENCE].bytes  # of all that is allocated, parameters and the batch included
        note, target = f"{mine / 2**30:.2f} against {theirs / 2**30:.2f} GiB", LEAST_MEMORY if large else ""
        kept.tell(conditions, "peak memory", REFERENCE, mine / theirs, "x memory", target=target, note=note)
    found = ceilings.measured(setting.dtype)
    counted = ceilings.count(setting)
    least = counted.seconds(found)
    note = (
        f"{counted.flops / 1e12:.3g} TFLOP at {found.flops / 1e12:.0f} TFLOP/s and {counted.bytes / 1e9:.3g} GB at "
        f"{found.bytes / 1e12:.2f} TB/s, each operation at the nearer ceiling: {1e3 * least:.2f} ms"
    )
    ratio, target = quantiles([least / seconds for seconds in steps]), LEAST_SHARE if large else ""
    kept.tell(conditions, ALONE, "its roofline", ratio, "of the roofline", target=target, note=note)
    wall = quantiles([ours.turn(PROFILED, RESIDENT) for _ in range(3)]).p50
    kernels = ceilings.profiled(lambda: ours.contender.step(ours.views), PROFILED)
    if kernels is None:
        kept.tell(conditions, "share of the step", "the step", None, note="absent: the profiler counts nothing")
        return
    for group, share in ceilings.shares(kernels, wall).items():
        kept.tell(conditions, f"share of the step: {group}", "the step", share, SHARE)
