"""Stopping on SIGINT and SIGTERM at a point where nothing is lost."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Stopper:
    """While entered, the first SIGINT or SIGTERM is only noted in `signal`; a second one acts as it always did."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

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
