"""How far the databases are, seen while pytest holds back what tests print."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 10  # seconds from a line to the next, where there is no terminal


@contextmanager
def making(config: pytest.Config) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with what is made, how many are done, of how many: a bar on a terminal, else lines."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        console = Console()
        if not console.is_terminal:
            yield Lines(console)
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("")
            yield lambda what, done, of: bar.update(task, description=f"making {what}", completed=done, total=of)


class Lines:
    """A line every so often."""

    def __init__(self, console: Console) -> None:
        self.console, self.last = console, time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            self.console.print(f"making {what}: {done:,} of {of:,} pairs")
