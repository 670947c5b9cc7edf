"""Commands with a limit, and the note of those that are done."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benches.gpu.stages import CHECK, STAGES, Stage
from rsdnet.provenance import ROOT

STATE, LOG = "stages.jsonl", "gpu.log"
GRACE = 10  # seconds that a command which is cut has for its summary
LEAST = 20  # seconds left for which no command is begun
CUT = -1  # in place of an exit status


class Folder(NamedTuple):
    """Where the rows go, and what is done there: a line of STATE for each command that ended, in this commit."""

    rows: Path
    commit: str

    def ended(self) -> dict[tuple[str, int], int]:
        """The last exit status, or CUT, by stage and number of the command."""
        path = self.rows / STATE
        notes = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return {(n["stage"], n["command"]): n["status"] for n in notes if n["commit"] == self.commit}

    def note(self, stage: str, command: int, status: int, seconds: float) -> None:
        """Add a line."""
        told = {"stage": stage, "command": command, "status": status, "seconds": round(seconds, 1)}
        with open(self.rows / STATE, "a") as file:
            file.write(json.dumps(told | {"commit": self.commit}) + "\n")

    def pending(self, stage: Stage) -> list[int]:
        """The commands of a stage that are to be run: a check until it passes, others until they end by themselves."""
        ended = self.ended()
        done = (0,) if stage.name == CHECK else (0, 1)
        return [n for n in range(len(stage.commands)) if ended.get((stage.name, n), CUT) not in done]


def run_stages(
    wanted: Sequence[str], folder: Folder, values: Mapping[str, object], environment: Mapping[str, str], end: float,
    say: Callable[[str], None],
) -> int:  # fmt: skip
    """Run the named stages, or those that are not done, until `end` on the monotonic clock.

    Returns the exit status: 1 where a command failed or was cut. A stage is begun only if the time left is its limit,
    except the first one, and none that was not named after a check that fails.
    """
    worst, begun = 0, False
    stages = [stage for stage in STAGES if (stage.name in wanted if wanted else folder.pending(stage))]
    for stage in stages:
        left = end - time.monotonic()
        if begun and left < stage.seconds:
            say(f"{stage.name} needs up to {stage.seconds} s, and {max(left, 0):.0f} s are left")
            break
        begun, stop = True, min(end, time.monotonic() + stage.seconds)
        for number in range(len(stage.commands)) if wanted else folder.pending(stage):
            status = _run(stage, number, folder, values, environment, stop, say)
            worst = max(worst, abs(status))
            if status and stage.name == CHECK and not wanted:
                return 1
            if status == CUT:
                break
    if not wanted:
        open_ = [stage.name for stage in STAGES if folder.pending(stage)]
        say(f"left for the next call: {', '.join(open_)}" if open_ else f"every stage is done in {folder.commit}")
    return min(worst, 1)


def _run(
    stage: Stage, number: int, folder: Folder, values: Mapping[str, object], environment: Mapping[str, str],
    stop: float, say: Callable[[str], None],
) -> int:  # fmt: skip
    """Run a command of a stage, note its status and return it."""
    left = stop - time.monotonic()
    if left < LEAST:
        say(f"{stage.name}: its time is over")
        return CUT
    text = stage.commands[number].format_map({**values, "left": int(left - GRACE)})
    say(f"{stage.name}, {left:.0f} s at most: {text}")
    began = time.monotonic()
    status = run(words_of(text), left - GRACE, environment, folder.rows / LOG)
    folder.note(stage.name, number, status, time.monotonic() - began)
    told = "cut" if status == CUT else "done" if not status else f"exit status {status}"
    say(f"{stage.name}: {told} after {time.monotonic() - began:.0f} s")
    return status


def words_of(text: str) -> list[str]:
    """A command's words: pytest and python are those of this Python."""
    first, *others = shlex.split(text)
    return [sys.executable, *(["-m", "pytest"] if first == "pytest" else []), *others]


def run(words: Sequence[str], limit: float, environment: Mapping[str, str], log: Path) -> int:
    """Run a command in the clone, in a process group of its own, which ends with it. Returns its exit status, or CUT.

    limit: seconds, and then GRACE to end by itself. What it prints goes to stdout and to the end of `log`.
    """
    cut = threading.Event()
    with open(log, "ab", buffering=0) as kept:
        process = subprocess.Popen(
            words, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, process_group=0,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

        def end() -> None:
            cut.set()
            _signal(process, signal.SIGINT)

        timers = [threading.Timer(limit, end), threading.Timer(limit + GRACE, _signal, (process, signal.SIGKILL))]
        try:
            for timer in timers:
                timer.start()
            assert process.stdout
            while data := os.read(process.stdout.fileno(), 1 << 16):  # as it comes
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                kept.write(data)
            status = process.wait()
        finally:
            for timer in timers:
                timer.cancel()
            _signal(process, signal.SIGKILL)
            process.wait()
    return CUT if cut.is_set() else status


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a command and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
