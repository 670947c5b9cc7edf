"""The trainer's command in processes of their own that start at once: forked from one that has imported it already."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rsdnet.train", "torch.distributed", "torch._dynamo"])
PATIENCE = 120.0  # seconds until a process that should have ended is taken for hung

Prepare = Callable[[], None]


class Trainer:
    """`python -m rsdnet.train ARGV` on one rank or several; what they print goes to files in `folder`.

    prepare: a picklable function, called in each process first.
    """

    def __init__(self, folder: Path, *argv: object, ranks: int = 1, prepare: Prepare | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.said = [folder / f"rank{rank}" for rank in range(ranks)]
        words = [str(word) for word in argv]
        self.processes = [
            CONTEXT.Process(target=_main, args=(words, environment, said, prepare))
            for environment, said in zip(environments(ranks), self.said, strict=True)
        ]
        for process in self.processes:
            process.start()

    def kill(self, rank: int = 0, number: int = signal.SIGKILL) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self) -> list[int]:
        """The exit statuses of the ranks; minus the signal's number of one that was killed."""
        end = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0))
        statuses = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        assert None not in statuses, f"hung: {statuses}"
        return [status for status in statuses if status is not None]

    def shown(self) -> str:
        """What the main rank has printed so far."""
        path = self.said[0].with_suffix(".out")
        return path.read_text() if path.is_file() else ""

    def text(self, stream: str, rank: int = 0) -> str:
        """What a rank printed on "out" or "err", in one line."""
        return " ".join(self.said[rank].with_suffix(f".{stream}").read_text().split())


def train(
    folder: Path, *argv: object, ranks: int = 1, prepare: Prepare | None = None, expect: int | None = 0
) -> Trainer:
    """Run the command until it ends. expect: the exit status of all ranks; None: any."""
    trainer = Trainer(folder, *argv, ranks=ranks, prepare=prepare)
    statuses = trainer.wait()
    assert expect is None or statuses == [expect] * ranks, (statuses, trainer.text("out"), trainer.text("err"))
    return trainer


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; none before the first."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def losses(run: Path) -> list[float]:
    """A run's losses, each step's once and in order."""
    assert [line["step"] for line in metrics(run)] == list(range(len(metrics(run))))
    return [line["loss"] for line in metrics(run)]


def error(trainer: Trainer) -> str:
    """The one line that a run ended with, of all its ranks together."""
    (line,) = [line for said in trainer.said for line in said.with_suffix(".err").read_text().splitlines()]
    assert line.startswith("error: ")
    return line


def environments(ranks: int) -> Iterator[dict[str, str]]:
    """What torchrun tells each rank; nothing where there is one."""
    if ranks == 1:
        yield {}
        return
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    for rank in range(ranks):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        yield {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in names.items()}


def _main(argv: list[str], environment: dict[str, str], said: Path, prepare: Prepare | None) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    for name in [name for name in os.environ if name.startswith("TORCHELASTIC")]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["train", *argv]
    from rsdnet import train
    from rsdnet.errors import command

    for name in ("step_flops", "matmul_peak"):  # not measured here: it takes a second
        mock.patch.object(train, name, return_value=1).start()
    if prepare is not None:
        prepare()
    command(train.main)
