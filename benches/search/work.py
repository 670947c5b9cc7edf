"""Runs side by side: each in processes of its own, with a log in its folder, until all have ended."""

import collections
import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import torch
from rich.console import Console

from benches.core.turns import cores
from benches.search.options import Options
from benches.search.runs import Run, commands, finished
from rsdnet.console import progress
from rsdnet.errors import DataError
from rsdnet.files import lock
from rsdnet.runfolder import LOCK

LOG = "search.log"
LOOK = 0.2  # seconds between two looks at the processes; our choice


class Job:
    """A run in work: its commands, one after another, whose output goes to `RUN/search.log`.

    Raises DataError where another process has the run. The lock is the log's, and the commands inherit it: it is held
    as long as one of them runs, even if this process is killed.
    """

    def __init__(self, run: Run, words: Sequence[list[str]], environment: dict[str, str]) -> None:
        self.run, self.waiting, self.environment = run, collections.deque(words), environment
        run.folder.mkdir(parents=True, exist_ok=True)
        require_free(run.folder / LOCK)
        self.log = open(run.folder / LOG, "ab", buffering=0)  # noqa: SIM115 - until the job ends
        try:
            with contextlib.suppress(OSError):  # a file system without locks holds nobody off
                lock(self.log, "in use")
            self.process = self.next()
        except BaseException:
            self.log.close()
            raise

    def next(self) -> subprocess.Popen[bytes]:
        """The process of the next command."""
        words = self.waiting.popleft()
        self.log.write(f"$ {shlex.join(words)}\n".encode())
        return start(words, self.log, self.environment)

    def status(self) -> int | None:
        """The exit status of the command that failed, 0 after the last one, None before."""
        status = self.process.poll()
        if status == 0 and self.waiting:
            self.process = self.next()
            return None
        if status is not None:
            self.log.close()
        return status

    def said(self) -> str:
        """The last line of the log."""
        lines = (self.run.folder / LOG).read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def start(words: list[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own: a Ctrl-C reaches it by `stop` alone, once."""
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
    )


def require_free(path: Path) -> None:
    """Raise DataError where another process holds the lock file `path`."""
    with contextlib.suppress(OSError), open(path, "rb+") as file:
        lock(file, "in use")


def at_a_time(options: Options) -> int:
    """Runs at a time: those asked for, or as many as have cores of their own; on a GPU one."""
    alone = not options.threads or torch.cuda.is_available()
    return options.jobs or (1 if alone else max(cores() // options.threads, 1))


def work(options: Options, runs: Sequence[Run], console: Console) -> dict[Path, str]:
    """Do the `runs` that are not finished; the folders of those that have not ended, with the reason.

    Raises KeyboardInterrupt on SIGINT and SIGTERM, after the trainings have written their checkpoints.
    """
    waiting = collections.deque(run for run in runs if not finished(options, run))
    before, began = len(runs) - len(waiting), time.monotonic()
    active: list[Job] = []
    left: dict[Path, str] = {}
    environment = os.environ | ({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})
    shown = before
    with progress("runs", len(runs), done=before, console=console) as show, stopping(active):
        while waiting or active:
            while waiting and len(active) < at_a_time(options):
                run = waiting.popleft()
                try:
                    active.append(Job(run, commands(options, run), environment))
                except DataError:
                    left[run.folder] = "in progress elsewhere"
            for job in tuple(active):
                if (status := job.status()) is None:
                    continue
                active.remove(job)
                if status:
                    left[job.run.folder] = "failed"
                    line = f"{job.run.folder} failed: {job.said()}; see {job.run.folder / LOG}"
                    console.print(line, style="yellow", soft_wrap=True, markup=False, highlight=False)
            if (done := len(runs) - len(waiting) - len(active)) == shown:
                time.sleep(LOOK)
                continue
            shown = done
            rate = (done - before - len(left)) / (time.monotonic() - began) * 3600
            failed = sum(reason == "failed" for reason in left.values())
            show(done, ", ".join([f"{rate:,.1f} runs/h", *([f"{failed} failed"] if failed else [])]))
    return left


@contextlib.contextmanager
def stopping(active: list[Job]) -> Iterator[None]:
    """Stop the active jobs when the block ends early: SIGTERM, on which a training writes a checkpoint.

    SIGTERM to this process raises KeyboardInterrupt, as SIGINT does; a second one ends the jobs at once.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for job in active:
            job.process.terminate()
        try:
            for job in active:
                job.process.wait()
        except KeyboardInterrupt:
            for job in active:
                job.process.kill()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
