"""A contender in a process of its own, so that none takes the others with it when it fails.

The process is `python -m benches.training.remote JOB`; JOB is JSON: {"setting", "contender", "folder"}. Its answers are
lines of JSON on stdout: first {"ready": its name, "note"}, then {"seconds"} to each line {"steps", "views"} of stdin;
{"absent"} or {"failed"} with the reason end it. Everything else that is printed goes to stderr.
"""

import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch

from benches.core.peers import Absent
from benches.training.contenders import CONTENDERS
from benches.training.seat import Local
from benches.training.setting import Setting

PATIENCE = 20  # seconds for a process to end by itself


class Failed(Exception):
    """A contender that cannot go on; the message is the reason."""


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


class Remote:
    """A seat in a process of its own. left: seconds that the whole run has left, asked before each wait.

    Raises Absent or Failed with the contender's own reason, and Failed where it outlasts the run's time.
    """

    def __init__(self, contender: str, setting: Setting, folder: Path, left: Callable[[], float]) -> None:
        job = {"setting": dataclasses.asdict(setting), "contender": contender, "folder": str(folder)}
        self.left, self.pending = left, b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benches.training.remote", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            told = self._answer()
        except BaseException:
            self.close()
            raise
        self.name, self.note = told["ready"], told["note"]

    def turn(self, steps: int, views: str) -> float:
        """Seconds of `steps` steps."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it has ended: its last answer says why
            self.process.stdin.write(json.dumps({"steps": steps, "views": views}).encode() + b"\n")
            self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        told = json.loads(self._line())
        if "absent" in told:
            raise Absent(told["absent"])
        if "failed" in told:
            raise Failed(told["failed"])
        return told

    def _line(self) -> bytes:
        assert self.process.stdout
        end = time.monotonic() + self.left()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.pending:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise Failed("the run's time was spent before it answered")
                read = self.process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                if not read:
                    raise Failed(f"its process ended with status {self.process.wait()}")
                self.pending += read
        line, _, self.pending = self.pending.partition(b"\n")
        return line

    def close(self) -> None:
        """End the process: by the end of its stdin, or after a while by force."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE if self.left() > 0 else 1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- in that process ----------------------------------------------------------------------------------------


def serve(job: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Make the contender and its loader, then take turns until stdin ends."""
    setting = Setting(**job["setting"])
    torch.set_num_threads(setting.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    seat = Local(lambda: CONTENDERS[job["contender"]](setting, Path(job["folder"])), setting)
    seat.open()
    answer({"ready": seat.name, "note": seat.note})
    for line in sys.stdin:
        answer({"seconds": seat.turn(**json.loads(line))})
    seat.close()


def main() -> None:
    """The command."""
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(told: dict[str, Any]) -> None:
        own.write(json.dumps(told) + "\n")

    try:
        serve(json.loads(sys.argv[1]), answer)
    except Absent as why:
        answer({"absent": str(why)})
    except Exception as error:  # whatever a peer fails with, its row tells and the others go on
        answer({"failed": reason(error)})


if __name__ == "__main__":
    main()
