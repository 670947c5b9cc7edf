"""A contender in a process of its own, so that none takes the others with it when it fails."""

import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch

from benches.core.peers import Absent
from benches.training.contenders import CONTENDERS
from benches.training.seat import Local
from benches.training.setting import Setting

HOUR = 3600.0
# What a command sets before torch is imported (rsdnet/train.py).
ENVIRONMENTS = {"rsdnet": {"OMP_WAIT_POLICY": "passive"}}
PATIENCE = 20  # seconds for a process to end by itself


class Failed(Exception):
    """A contender that cannot go on; the message is the reason."""


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


class Remote:
    """A seat in a process of its own. folder: of the database; None: it has no loader. left: seconds that the whole run
    has left, asked before each wait.

    Raises Absent or Failed with the contender's own reason, and Failed where it outlasts the run's time.
    """

    def __init__(
        self, contender: str, setting: Setting, folder: Path | None, left: Callable[[], float] = lambda: HOUR
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.left = left
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, contender, setting, folder))
        with mock.patch.dict(os.environ, ENVIRONMENTS.get(contender, {})):
            self.process.start()
        theirs.close()
        try:
            self.name, self.note = self._answer()
        except BaseException:
            self.close()
            raise

    def turn(self, steps: int, views: str) -> float:
        """Seconds of `steps` steps."""
        with suppress(BrokenPipeError):  # it has ended: its last answer says why
            self.connection.send((steps, views))
        return self._answer()

    def _answer(self) -> Any:
        if not self.connection.poll(self.left()):
            raise Failed("the run's time was spent before it answered")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join(PATIENCE)
            raise Failed(f"its process ended with status {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process: by the end of its connection, or after a while by force."""
        self.connection.close()
        self.process.join(PATIENCE if self.left() > 0 else 1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(connection: Connection, contender: str, setting: Setting, folder: Path | None) -> None:
    """In that process: make the contender and its loader, if any, then take turns until the connection ends.

    Answers (name, note), then the seconds of each turn; Absent or Failed ends it.
    """
    torch.set_num_threads(setting.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    try:
        seat = Local(lambda: CONTENDERS[contender](setting, folder), setting)
        if folder:
            seat.open()
        connection.send((seat.name, seat.note))
        while True:
            try:
                steps, views = connection.recv()
            except EOFError:
                break
            connection.send(seat.turn(steps, views))
        seat.close()
    except Absent as why:
        connection.send(why)
    except Exception as error:  # whatever a peer fails with, its row tells and the others go on
        connection.send(Failed(reason(error)))
