"""How far an ingest is: a bar on a terminal, plain lines elsewhere."""

import contextlib
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
