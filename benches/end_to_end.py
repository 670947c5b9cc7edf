"""Training end to end, from a warm database to updated weights: `python -m benches.end_to_end --rows benches/results`.

Makes a database of random patches by py-lmdb and safetensors, then lets rsdnet (loader, views, step) take turns with
its own step on a batch that stays on the device, with the reference, with lightly and with byol-pytorch, each in a
process of its own. The most important rows come first; a row that the budget leaves no time for says so.
`--learn` measures instead whether the reference learns the same: loss curves and F1 over several seeds.
"""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from rich.console import Console

from benches.core.clock import GPU
from benches.core.peers import Absent, peer
from benches.core.rows import Results
from benches.core.turns import against, quantiles
from benches.training import PACKAGES, SPEED
from benches.training.remote import Failed, Remote
from benches.training.seat import LOADED, RESIDENT, Seat, step_race
from benches.training.setting import Setting, settings
from rsdnet.console import progress
from rsdnet.errors import DataError, command
from rsdnet.options import Count, Positive, Seconds, Seed, Workers, parse

OURS = "rsdnet"
STAYS = "its step on a batch that stays on the device"
MARGIN = 15  # seconds of the budget for the end

Other = Literal["resident", "reference", "lightly", "byol-pytorch", "reference, transforms on the CPU"]

CORES = min(16, len(os.sched_getaffinity(0)))


@dataclasses.dataclass(frozen=True)
class Options:
    """End to end beside the reference and the peers."""

    rows: Path | None = None
    """Folder whose training.csv gets the rows; None: they are shown alone."""
    budget: Seconds = 540
    """Seconds the run may take; --learn has no budget."""
    shapes: Literal["tiny", "small", "full"] = "full" if GPU else "small"
    """Size of networks and views: full on a GPU, small on a CPU, tiny to try it out."""
    workers: Workers = CORES
    """Processes of the peers' DataLoaders, and threads of our reader."""
    threads: Workers = 0
    """CPU threads of torch in each process; 0: torch's choice."""
    pairs: Count = 0
    """Pairs of patches in the database; 0: by the shapes."""
    folder: Path | None = None
    """Where the database is made and found again; None: a temporary folder."""
    only: tuple[Other, ...] = ()
    """Contenders to measure; resident is the step on a batch that stays on the device; none: all."""
    setting: tuple[Count, ...] = ()
    """Numbers of the settings to measure: on a GPU 0 is ResNet-50 at 128 px, 1 ResNet-18 at 64 px; none: all."""
    learn: bool = False
    """Measure loss curves and F1 of rsdnet and the reference instead."""
    data: Path | None = None
    """--learn: labelled database; None: the embedded synthetic data, which needs rasterio to be made."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """--learn: seeds of weights, order and views."""
    steps: Positive = 400
    """--learn: steps of a run."""


class Scale(NamedTuple):
    """Length of the comparisons: pairs of the database, rounds, seconds of a turn."""

    pairs: int
    rounds: int
    seconds: float


SCALES = {"tiny": Scale(64, 3, 0.01), "small": Scale(512, 5, 2.0), "full": Scale(8192, 5, 2.0)}


class Comparison(NamedTuple):
    """A row to be measured. which: number of the setting; other: a contender, or resident; target: of the ratio."""

    which: int
    other: Other
    target: str


# On an H200: ResNet-50 at 128 px is setting 0, ResNet-18 at 64 px setting 1.
ON_A_GPU = (
    Comparison(0, "resident", ">= 0.97"),
    Comparison(0, "reference", ">= 1.8"),
    Comparison(1, "reference", ">= 4"),
    Comparison(0, "lightly", ">= 3"),
    Comparison(0, "byol-pytorch", ""),
    Comparison(1, "resident", ""),
    Comparison(1, "lightly", ""),
    Comparison(0, "reference, transforms on the CPU", ""),
    Comparison(1, "byol-pytorch", ""),
)
# On a CPU: at least as fast as every peer, at equal precision; fp32 is setting 0, bf16 setting 1.
OTHERS: tuple[Other, ...] = ("reference", "lightly", "byol-pytorch", "reference, transforms on the CPU")
ON_A_CPU = (
    *(Comparison(which, other, ">= 1") for other in OTHERS for which in (1, 0)),
    *(Comparison(which, "resident", "") for which in (1, 0)),
)


def comparisons(options: Options, found: int) -> list[Comparison]:
    """The comparisons of a run with so many settings, the most important first."""
    rows = ON_A_GPU if GPU else ON_A_CPU
    wanted = options.setting or range(found)
    return [
        row for row in rows
        if row.which < found and row.which in wanted and (not options.only or row.other in options.only)
    ]  # fmt: skip


class Run:
    """Comparisons within a budget. Each setting's rsdnet sits in one process until its last row."""

    def __init__(self, options: Options, kept: Results, stack: contextlib.ExitStack) -> None:
        self.kept, self.stack, self.scale = kept, stack, SCALES[options.shapes]
        self.settings = settings(options.shapes, workers=options.workers, threads=options.threads)
        self.seats: dict[
            int, Remote | str
        ] = {}  # by setting; or the reason why there is none, so that it is tried once
        self.end = time.monotonic() + options.budget - MARGIN
        place = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="rsdnet-bench-")))
        self.make = lambda: database(place, self.settings[0], options.pairs or self.scale.pairs)

    def left(self) -> float:
        """Seconds of the budget that are left, 0 at the least."""
        return max(0.0, self.end - time.monotonic())

    def ours(self, which: int, folder: Path) -> Remote:
        """rsdnet's seat at a setting. Raises Failed where it could not be opened, or the budget is spent."""
        if not self.left():
            raise Failed("the budget was spent before its turn")
        if which not in self.seats:
            try:
                remote = Remote(OURS, self.settings[which], folder, self.left)
                self.seats[which] = self.stack.enter_context(remote)
            except (Absent, Failed) as why:
                self.seats[which] = f"{OURS}: {why}"
        seat = self.seats[which]
        if isinstance(seat, str):
            raise Failed(seat)
        return seat

    def release(self, which: int) -> None:
        """End rsdnet's process at a setting, with its memory: on a GPU tens of GB."""
        seat = self.seats.pop(which, None)
        if isinstance(seat, Remote):
            seat.close()

    def compare(self, row: Comparison, folder: Path) -> None:
        """One comparison and its row; the row has no figure, but the reason, where one of the two cannot take part."""
        setting = self.settings[row.which]
        try:
            ours = self.ours(row.which, folder)
            with contextlib.ExitStack() as stack:
                own = row.other == RESIDENT
                other: Seat = ours if own else stack.enter_context(Remote(row.other, setting, folder, self.left))
                seats = {"ours": (ours, LOADED), "other": (other, RESIDENT if own else LOADED)}
                times = step_race(seats, rounds=self.scale.rounds, seconds=self.scale.seconds, left=self.left)
        except (Absent, Failed) as why:
            self.without(row, why)
            return
        notes = [f"ours {ours.note}" if ours.note else "", "" if own else other.note]
        also = setting.speeds(*(quantiles(times[name]).p50 for name in seats))
        self.kept.tell(
            setting.conditions(), "end to end", STAYS if own else other.name, against(times, "ours", "other"), SPEED,
            target=row.target, note="; ".join(filter(None, notes)), also=also,
        )  # fmt: skip

    def without(self, row: Comparison, why: Exception) -> None:
        """A row without a figure."""
        kind, name = "absent" if isinstance(why, Absent) else "failed", STAYS if row.other == RESIDENT else row.other
        conditions = self.settings[row.which].conditions()
        self.kept.tell(conditions, "end to end", name, None, target=row.target, note=f"{kind}: {why}")


def measure(options: Options, kept: Results) -> None:
    """All comparisons that the budget has time for, and a row for each of the others."""
    with contextlib.ExitStack() as stack:
        run = Run(options, kept, stack)
        if beyond := [number for number in options.setting if number >= len(run.settings)]:
            raise DataError(f"--setting {beyond[0]}: the settings of these shapes are 0 to {len(run.settings) - 1}")
        wanted = comparisons(options, len(run.settings))
        try:
            folder = run.make()
        except Absent as why:
            for row in wanted:
                run.without(row, why)
            return
        with progress("comparisons", len(wanted), "rows") as done:
            for number, row in enumerate(wanted):
                run.compare(row, folder)
                if row.which not in [later.which for later in wanted[number + 1 :]]:
                    run.release(row.which)
                done(number + 1)


def database(place: Path, setting: Setting, count: int) -> Path:
    """The folder of a database of `count` pairs in the page cache, made where it is not there.

    Raises Absent without py-lmdb, DataError without room.
    """
    peer("lmdb")
    from benches.reader.pairs import BIGEARTHNET, COARSE, FINE, Shape, make

    if count < setting.batch:
        raise DataError(f"--pairs {count}: a batch has {setting.batch}, so give at least as many")
    side = setting.side
    tiny = Shape(
        "tiny", dict.fromkeys(FINE, side) | dict.fromkeys(COARSE, side // 2), dict.fromkeys(("VH", "VV"), side)
    )
    with progress("pairs", count, "pairs") as done:
        folder = make(place, BIGEARTHNET if side == 120 else tiny, count, done).folder
    with open(folder / "data.mdb", "rb") as file:  # warms the page cache
        while file.read(1 << 24):
            pass
    return folder


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.end_to_end", description=__doc__)
    console = Console()

    def show(what: str, contender: str, outcome: str) -> None:
        console.print(f"{what}, beside {contender}: {outcome}", highlight=False, markup=False)

    kept = Results("training", options.rows, show, PACKAGES)
    console.print(f"{kept.provenance['machine']}; {kept.provenance['versions']}", highlight=False, markup=False)
    if options.learn:
        from benches.training.curves import learn

        learn(options.data, options.seeds, options.steps, options.threads, kept)
    else:
        measure(options, kept)
    if kept.path:
        console.print(f"{len(kept.rows)} rows appended to {kept.path}", highlight=False)


if __name__ == "__main__":
    command(main)
