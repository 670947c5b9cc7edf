"""Training end to end, from a warm database to moved weights: `python -m benches.end_to_end --rows benches/results`.

Makes a database of random patches by py-lmdb and safetensors, then lets rsdnet (stream, views, engine) take turns with
its own step on a batch that stays on the device, with the reference, with lightly and with byol-pytorch, each in a
process of its own. The most important rows come first; what the budget leaves no time for says so in its row.
`--learn` measures instead whether the reference learns the same: loss curves and F1 over several seeds.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import tyro
from rich.console import Console

from benches.clock import GPU
from benches.peers import Absent, peer
from benches.reading.measure import quantiles
from benches.steps.record import FILE, Book, notes
from benches.steps.remote import Failed, Remote
from benches.steps.setting import Setting, settings
from benches.steps.turns import RESIDENT, STREAM, Seat, against, race
from rsdnet.console import progress
from rsdnet.errors import DataError, command

OURS = "rsdnet"
WHAT = "end to end"
STAYS = "its step on a batch that stays on the device"
MARGIN = 15  # seconds of the budget that ending takes


Other = Literal["resident", "reference", "lightly", "byol-pytorch", "reference, transforms on the CPU"]


@dataclasses.dataclass(frozen=True)
class Options:
    """End to end beside the reference and the peers."""

    rows: Path | None = None
    """Folder whose training.csv gets the rows; None: they are shown alone."""
    budget: float = 540
    """Seconds the run may take; --learn knows no budget."""
    shapes: Literal["tiny", "small", "full"] = "full" if GPU else "small"
    """Size of networks and views: full on a GPU, small on a CPU, tiny to try it out."""
    workers: int = min(16, len(os.sched_getaffinity(0)))
    """Processes of the peers' DataLoaders, and threads of our reader."""
    threads: int = 0
    """CPU threads of torch in each process; 0: torch's choice."""
    pairs: int = 0
    """Pairs of patches in the database; 0: by the shapes."""
    folder: Path | None = None
    """Where the database is made and found again; None: a temporary folder."""
    only: tuple[Other, ...] = ()
    """Rows to measure, by who is beside: resident is the step on a batch that stays on the device; none: all."""
    learn: bool = False
    """Measure loss curves and F1 of rsdnet and the reference instead."""
    data: Path | None = None
    """--learn: labelled database; None: the embedded synthetic data, which needs rasterio to be made."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """--learn: seeds of weights, order and views."""
    steps: int = 400
    """--learn: steps of a run."""


class Scale(NamedTuple):
    """How long comparisons are: pairs of the database, rounds, seconds of a turn."""

    pairs: int
    rounds: int
    seconds: float


SCALES = {"tiny": Scale(64, 3, 0.01), "small": Scale(512, 5, 2.0), "full": Scale(8192, 5, 2.0)}


class Comparison(NamedTuple):
    """A row to be measured. which: the setting's number; other: a contender, or resident; target: of the ratio."""

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


class Clock:
    """What is left of a budget of seconds."""

    def __init__(self, budget: float) -> None:
        self.end = time.monotonic() + budget - MARGIN

    def left(self) -> float:
        """Seconds, 0 at the least."""
        return max(0.0, self.end - time.monotonic())


def planned(options: Options, found: int) -> list[Comparison]:
    """The comparisons of a run with so many settings, the most important first."""
    rows = ON_A_GPU if GPU else ON_A_CPU
    return [row for row in rows if row.which < found and (not options.only or row.other in options.only)]


def measure(options: Options, book: Book) -> None:
    """All comparisons that the budget has time for; a row for each of the others says why it has no figure."""
    scale, clock = SCALES[options.shapes], Clock(options.budget)
    found = settings(options.shapes, workers=options.workers, threads=options.threads)
    plan = planned(options, len(found))
    with contextlib.ExitStack() as stack, progress("comparisons", len(plan), "rows") as done:
        place = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="rsdnet-bench-")))
        try:
            folder = database(place, found[0], options.pairs or scale.pairs)
        except Absent as why:
            for row in plan:
                book.tell(found[row.which], WHAT, beside(row.other), None, target=row.target, note=f"absent: {why}")
            return
        seats: dict[int, Remote | str] = {}
        for number, row in enumerate(plan):
            setting = found[row.which]
            try:
                with_time(clock)
                if row.which not in seats:
                    seats[row.which] = opened(stack, setting, folder, clock)
                compare(book, setting, sound(seats[row.which]), row, folder, scale, clock)
            except (Absent, Failed) as why:
                kind = "absent" if isinstance(why, Absent) else "failed"
                book.tell(setting, WHAT, beside(row.other), None, target=row.target, note=f"{kind}: {why}")
            done(number + 1)


def opened(stack: contextlib.ExitStack, setting: Setting, folder: Path, clock: Clock) -> Remote | str:
    """Ours at a setting, for all rows of it; or why it cannot take part, so that it is tried once."""
    try:
        return stack.enter_context(Remote(OURS, setting, folder, clock.left))
    except (Absent, Failed) as why:
        return f"{OURS}: {why}"


def sound(seat: Remote | str) -> Remote:
    """A seat that could be opened. Raises Failed with the reason of one that could not."""
    if isinstance(seat, str):
        raise Failed(seat)
    return seat


def with_time(clock: Clock) -> None:
    """Raise Failed where the budget is spent."""
    if not clock.left():
        raise Failed("the budget was spent before its turn")


def compare(
    book: Book, setting: Setting, ours: Remote, row: Comparison, folder: Path, scale: Scale, clock: Clock
) -> None:
    """One comparison and its row."""
    with other_seat(ours, row.other, setting, folder, clock) as (other, source):
        seats = [(ours, STREAM), (other, source)]
        times = race(seats, rounds=scale.rounds, seconds=scale.seconds, left=clock.left)
        mine, theirs = (ours.name, STREAM), (other.name, source)
        seconds = quantiles(times[mine]).p50, quantiles(times[theirs]).p50
        own = row.other == RESIDENT
        told = f"ours {ours.note}" if ours.note else ""
        name, note = (STAYS, told) if own else (other.name, notes(told, other.note))
        book.tell(setting, WHAT, name, against(times, mine, theirs), target=row.target, note=note, seconds=seconds)


def beside(other: str) -> str:
    """What a row without a figure calls the other."""
    return STAYS if other == RESIDENT else other


@contextlib.contextmanager
def other_seat(ours: Remote, name: str, setting: Setting, folder: Path, clock: Clock) -> Iterator[tuple[Seat, str]]:
    """Who ours is beside, and where its views come from: itself with a resident batch, or a contender's process."""
    if name == RESIDENT:
        yield ours, RESIDENT
        return
    with Remote(name, setting, folder, clock.left) as other:
        yield other, STREAM


def database(place: Path, setting: Setting, count: int) -> Path:
    """The folder of a database of `count` pairs in the page cache, made where it is not there.

    Raises Absent without py-lmdb, DataError without room.
    """
    peer("lmdb")
    from benches.reading.pairs import BIGEARTHNET, COARSE, FINE, Shape, make

    if count < setting.batch:
        raise DataError(f"--pairs {count}: a batch has {setting.batch}, so give at least as many")
    side = setting.side
    tiny = Shape(
        "tiny", dict.fromkeys(FINE, side) | dict.fromkeys(COARSE, side // 2), dict.fromkeys(("VH", "VV"), side)
    )
    with progress("pairs", count, "pairs") as done:
        folder = make(place, BIGEARTHNET if side == 120 else tiny, count, lambda what, at, of: done(at)).folder
    with open(folder / "data.mdb", "rb") as file:  # warms the page cache
        while file.read(1 << 24):
            pass
    return folder


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m benches.end_to_end", description=__doc__)
    console = Console()

    def show(what: str, beside: str, outcome: str) -> None:
        console.print(f"{what}, beside {beside}: {outcome}", highlight=False, markup=False)

    book = Book(options.rows, show)
    console.print(f"{book.shared['device']}; {book.shared['versions']}", highlight=False, markup=False)
    if options.learn:
        from benches.steps.curves import learn

        learn(options.data, options.seeds, options.steps, options.threads, book)
    else:
        measure(options, book)
    if options.rows:
        console.print(f"{len(book.rows)} rows appended to {options.rows / FILE}", highlight=False)


if __name__ == "__main__":
    command(main)
