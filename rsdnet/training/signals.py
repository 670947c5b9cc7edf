"""SIGINT and SIGTERM end a run after its step, with a checkpoint."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

# Seconds; signals sooner after the first are the same one: a cluster sends it to torchrun, which passes it on.
IMPATIENT = 1.0


class Stopper:
    """While entered, the first SIGINT or SIGTERM is noted in `signal` and nothing else, and so is every later SIGTERM.

    A later SIGINT acts as without it: a second Ctrl-C ends the run at once. Clusters follow SIGTERM by SIGKILL.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._noted = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._noted = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._noted > IMPATIENT:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def __enter__(self) -> Self:
        for which in (signal.SIGINT, signal.SIGTERM):
            self._before[which] = signal.signal(which, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
