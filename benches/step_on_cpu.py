"""The step on a CPU beside the one it was, the reference and the peers: `python -m benches.step_on_cpu --rows FOLDER`.

Each contender sits in a process of its own, started as its users start it, and trains on one batch of views that stays
in memory. They take turns; a row is the ratio of two steps of the same round. "views in turn" is rsdnet with one view
after the other, oneDNN's convolutions alone, and neither OpenMP nor malloc set up. On a busy machine OpenMP's spinning
threads slow the others down many times with two threads and more: OMP_WAIT_POLICY=passive in the environment gives all
of them the same, for the step itself.
"""

import contextlib
import dataclasses
from pathlib import Path

from rich.console import Console

from benches.core.peers import Absent
from benches.core.rows import Results
from benches.core.turns import against
from benches.training import PACKAGES, SPEED
from benches.training.remote import Failed, Remote
from benches.training.seat import RESIDENT, step_race
from benches.training.setting import Setting, has_bf16
from rsdnet.console import progress
from rsdnet.errors import command
from rsdnet.options import Positive, Seconds, Threads, parse

OURS, BEFORE = "rsdnet", "rsdnet, views in turn"
OTHERS = (BEFORE, "reference", "lightly", "byol-pytorch")
TARGET = ">= 1"  # of every peer, at equal precision
SHAPES = {
    "resnet18": Setting("resnet18", 64, 64, 32, 4096, 256, "fp32", "bigearthnet", workers=0),
    "narrow": Setting("resnet18", 32, 32, 128, 4096, 256, "fp32", "bigearthnet", workers=0),
    "resnet50": Setting("resnet50", 64, 64, 16, 4096, 256, "fp32", "bigearthnet", workers=0),
    "tiny": Setting("resnet18", 8, 32, 8, 32, 16, "fp32", "tiny", workers=0),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The step on a CPU, in turns."""

    rows: Path | None = None
    """Folder whose training.csv gets the rows; None: they are shown alone."""
    shapes: tuple[str, ...] = ("resnet18", "narrow", "resnet50")
    """Of networks and batches: resnet18, narrow, resnet50, tiny."""
    precisions: tuple[str, ...] = ("fp32", "bf16") if has_bf16() else ("fp32",)
    """fp32, bf16."""
    threads: tuple[Threads, ...] = (1, 2)
    """CPU threads of torch."""
    others: tuple[str, ...] = OTHERS
    """Beside which rsdnet is measured."""
    rounds: Positive = 7
    """Turns of each."""
    seconds: Seconds = 1.5
    """Of a turn: as many steps as take about so long, at least one."""


def settings(options: Options) -> list[Setting]:
    """Of a run."""
    return [
        dataclasses.replace(SHAPES[shape], precision=precision, threads=threads, device="cpu")
        for shape in options.shapes
        for precision in options.precisions
        for threads in options.threads
    ]


def measure(setting: Setting, options: Options, kept: Results) -> None:
    """The rows of a setting. Raises Failed where rsdnet's own step fails."""
    with contextlib.ExitStack() as stack:
        seats = {OURS: stack.enter_context(Remote(OURS, setting, None))}
        for name in options.others:
            try:
                seats[name] = stack.enter_context(Remote(name, setting, None))
            except (Absent, Failed) as why:
                kind = "absent" if isinstance(why, Absent) else "failed"
                kept.tell(setting.conditions(), "step alone", name, None, note=f"{kind}: {why}")
        contest = {name: (seat, RESIDENT) for name, seat in seats.items()}
        times = step_race(contest, rounds=options.rounds, seconds=options.seconds)
    for name, seat in seats.items():
        if name != OURS:
            target, ratio = "" if name == BEFORE else TARGET, against(times, OURS, name)
            kept.tell(setting.conditions(), "step alone", seat.name, ratio, SPEED, target=target, note=seat.note)


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.step_on_cpu", description=__doc__)
    console = Console()

    def show(what: str, contender: str, outcome: str) -> None:
        console.print(f"{what}, beside {contender}: {outcome}", highlight=False, markup=False)

    kept, found = Results("training", options.rows, show, PACKAGES), settings(options)
    with progress("settings", len(found), "settings") as done:
        for number, setting in enumerate(found):
            measure(setting, options, kept)
            done(number + 1)


if __name__ == "__main__":
    command(main)
