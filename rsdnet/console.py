"""Output of commands: a progress bar, and formats of bytes, shares and durations."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
EVERY = 10.0  # seconds between two lines where there is no terminal


class Show(Protocol):
    """Shows how far the work is: items done so far, and a remark to print behind the rate."""

    def __call__(self, done: float, remark: str = "") -> None: ...


@contextlib.contextmanager
def progress(
    title: str, total: float, unit: str = "", *, done: float = 0, console: "Console | None" = None
) -> Iterator[Show]:
    """A progress bar on a terminal, elsewhere a line every ten seconds: title, items, rate, remark, time to go.

    unit: of the items, in the plural; "": no rate is shown. done: items that were done before.
    console: None: stderr, so that a report on stdout stays whole.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    to = console or Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=to)
    task = bar.add_task("", total=total, completed=int(done), words="")
    first, began = done, time.monotonic()
    last = began

    def show(done: float, remark: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        rate = (done - first) / max(now - began, 1e-9)
        words = ", ".join(filter(None, (f"{rate:,.0f} {unit}/s" if unit else "", remark)))
        bar.update(task, completed=done, words=words)
        if not to.is_terminal and now - last >= EVERY:
            last = now
            left = duration((total - done) / max(rate, 1e-9))
            line = ", ".join(filter(None, (f"{title} {done:,.0f}/{total:,.0f}", words, f"{left} to go")))
            to.print(line, soft_wrap=True, markup=False, highlight=False)

    with bar if to.is_terminal else contextlib.nullcontext():
        yield show


def track(steps: Sequence[T], title: str, unit: str = "", *, console: "Console | None" = None) -> Iterator[T]:
    """Iterate over `steps` and show `progress`."""
    with progress(title, len(steps), unit, console=console) as show:
        for done, step in enumerate(steps, 1):
            yield step
            show(done)


def size(count: float, *, binary: bool = False) -> str:
    """Bytes: 3.2 GB; binary: in powers of 1024, as memory is sold: 3.0 GiB."""
    step, prefixes = (1024, ("", "Ki", "Mi", "Gi", "Ti")) if binary else (1000, ("", "K", "M", "G", "T"))
    power = 0
    while abs(count) >= step and power < len(prefixes) - 1:
        count, power = count / step, power + 1
    return f"{count:,.1f} {prefixes[power]}B" if power else f"{count:.0f} bytes"


def percent(share: float, digits: int = 0) -> str:
    """A share of 1: 83 %; a dash where it is not finite."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else "–"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03; a dash where it is not finite."""
    if not math.isfinite(seconds):
        return "–"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
