"""How far something is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[str], None]]:
    """A function to call with a remark after each source: a bar on a terminal, else a line every ten seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    began = last = time.monotonic()
    first = done

    def rate() -> float:
        return (done - first) / max(time.monotonic() - began, 1e-9)

    console = Console()
    if console.is_terminal:
        columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=total, completed=done, rate="")

            def advance(remark: str) -> None:
                nonlocal done
                done += 1
                bar.update(task, completed=done, rate=f"{rate():,.0f}/s, {remark}")

            yield advance
        return

    def line(remark: str) -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            seconds = (total - done) / max(rate(), 1e-9)
            print(f"ingest {done:,}/{total:,}, {rate():,.0f}/s, {seconds:,.0f} s to go, {remark}", flush=True)

    yield line


@contextlib.contextmanager
def bar(title: str, total: float, unit: str = "entries") -> Iterator[Callable[[float, int | None], None]]:
    """A function to call with what is done, of `total`, and the bytes read so far (None: not told).

    On stderr, so that a report on stdout stays whole: a bar with rates and the time to go, else a line every ten
    seconds.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    began = last = time.monotonic()
    console = Console(stderr=True)

    def rates(done: float, read: int | None) -> str:
        seconds = max(time.monotonic() - began, 1e-9)
        return f"{done / seconds:,.0f} {unit}/s" + ("" if read is None else f", {read / seconds / 1e6:,.0f} MB/s")

    if console.is_terminal:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as shown:
            task = shown.add_task("", total=total, rate="")
            yield lambda done, read: shown.update(task, completed=done, rate=rates(done, read))
        return

    def line(done: float, read: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            seconds = (total - done) * (last - began) / max(done, 1e-9)
            text = f"{title} {done:,}/{total:,}, {rates(done, read)}, {seconds:,.0f} s to go"
            print(text, file=sys.stderr, flush=True)

    yield line


def size(count: float) -> str:
    """Bytes as people read them: 3.2 GB."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def percent(share: float) -> str:
    """A share as people read it: 83 %."""
    return f"{100 * share:.0f} %"
