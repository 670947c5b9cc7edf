"""The other end of child.py: a contender in a process of its own, so that none takes the others with it."""

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benches.core.peers import Absent
from benches.training.setting import Setting

PATIENCE = 20  # seconds for a process to end by itself


class Failed(Exception):
    """A contender that cannot go on; the message is the reason."""


class Remote:
    """A seat in a process of its own. left: seconds that are left to the whole run, asked before each wait.

    Raises Absent or Failed with the contender's own reason, and Failed where it outlasts the run's time.
    """

    def __init__(self, contender: str, setting: Setting, folder: Path, left: Callable[[], float]) -> None:
        job = {"setting": setting.to_json(), "contender": contender, "folder": str(folder)}
        self.left = left
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benches.training.child", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        self.pending = b""
        try:
            told = self._answer()
        except BaseException:
            self.close()
            raise
        self.name, self.note = told["ready"], told["note"]

    def turn(self, steps: int, source: str) -> float:
        """Seconds of `steps` steps."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it has ended: its last answer says why
            self.process.stdin.write(json.dumps({"steps": steps, "source": source}).encode() + b"\n")
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
