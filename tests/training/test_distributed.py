"""Many ranks are one run: the same views in the same order, the same losses; ranks come, go and are lost.

Two gloo processes on a CPU, started as torchrun would (tests/support/forked.py), and by torchrun where it has a part.
"""

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.support.forked import Trainer, error, losses, metrics, train
from tests.support.torchrun import environment, words

FAST = (
    "--size=20", "--encoder=resnet18", "--width=8", "--hidden=64", "--dim=16", "--batch=16", "--device=cpu",
    "--precision=fp32", "--threads=1", "--log-every=1", "--steps=6", "--warmup-epochs=0",
    "--optimizer=lars", "--lr=0.45",
)  # fmt: skip
# Of two orders of summation. A sum by itself keeps six digits, but where one is near the kink of a ReLU the gradient
# jumps by that unit's share, and steps drift apart from there: so many parts of the loss are allowed at each step.
CLOSE = np.array([1e-4, 3e-3, 3e-2, 3e-2, 3e-2, 3e-2])


def assert_close(run: Path, other: Path, steps: int = 6) -> None:
    """The same losses and the same first gradient, to rounding."""
    found, expected = np.array(losses(run)[:steps]), np.array(losses(other)[:steps])
    assert np.all(np.abs(found - expected) <= CLOSE[:steps] * expected), (found, expected)
    norms = [metrics(folder)[0]["grad_norm"] for folder in (run, other)]
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)


def noted(folder: Path) -> None:
    """Note the samples of every step of this rank and a digest of each one's views."""
    from rsdnet import train as module

    rendered, rank = module.rendered, os.environ.get("RANK", "0")

    def noting(*about: Any) -> Iterator[Any]:
        with open(folder / f"views{rank}", "a") as file:
            for batch, views in rendered(*about):
                each = [hashlib.sha256(view.contiguous().numpy().tobytes()).hexdigest() for view in views.unbind(1)]
                print(json.dumps([batch.step, [*zip(batch.samples.tolist(), each, strict=True)]]), file=file)
                yield batch, views

    mock.patch.object(module, "rendered", noting).start()


def seen(folder: Path, rank: int) -> dict[int, list[list[Any]]]:
    """By step, what a rank saw."""
    return dict(json.loads(line) for line in (folder / f"views{rank}").read_text().splitlines())


def begun(tmp: Path, db: Path, *argv: object, ranks: int) -> Path:
    """A run from its first step to its last; beside it, what it saw."""
    tmp.mkdir()
    prepare = functools.partial(noted, tmp)
    train(tmp / "said", "--data", db, "--run", tmp / "run", *FAST, *argv, ranks=ranks, prepare=prepare)
    return tmp / "run"


@pytest.fixture(scope="module")
def alone(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one rank."""
    return begun(tmp_path_factory.mktemp("ranks") / "alone", tiny_db, ranks=1)


@pytest.fixture(scope="module")
def pair(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two."""
    return begun(tmp_path_factory.mktemp("ranks") / "pair", tiny_db, ranks=2)


def test_two_ranks_compute_what_one_does(alone: Path, pair: Path) -> None:
    assert_close(pair, alone)


def test_they_see_the_same_views_in_the_same_order(alone: Path, pair: Path) -> None:
    one, ranks = seen(alone.parent, 0), [seen(pair.parent, rank) for rank in range(2)]
    for step, views in one.items():
        assert ranks[0][step] + ranks[1][step] == views


def in_halves() -> None:
    """Two micro-batches, each of the samples that a rank of two has."""
    from rsdnet.training.step import TrainStep

    step, order = TrainStep.step, [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    mock.patch.object(TrainStep, "step", lambda self, views: step(self, views[:, order])).start()


def test_micro_batches_of_ranks_add_up_to_the_batch(tiny_db: Path, tmp_path: Path, alone: Path) -> None:
    argv = ("--data", tiny_db, *FAST, "--steps=3", "--accumulate=2", "--run")
    train(tmp_path / "said", *argv, tmp_path / "two", ranks=2)
    train(tmp_path / "said", *argv, tmp_path / "one")
    assert_close(tmp_path / "two", tmp_path / "one", 3)
    assert abs(losses(tmp_path / "one")[0] - losses(alone)[0]) > 1e-2


def test_a_micro_batch_is_to_one_rank_what_a_rank_of_its_own_statistics_is_to_two(
    tiny_db: Path, tmp_path: Path, alone: Path
) -> None:
    """But for VICReg's terms, which are of all ranks' batches."""
    argv = ("--data", tiny_db, *FAST, "--steps=3", "--batchnorm=local", "--variance=0", "--covariance=0", "--run")
    train(tmp_path / "said", *argv, tmp_path / "two", ranks=2)
    train(tmp_path / "said", *argv, tmp_path / "one", "--accumulate=2", prepare=in_halves)
    assert_close(tmp_path / "two", tmp_path / "one", 3)
    assert abs(losses(tmp_path / "two")[0] - losses(alone)[0]) > 1e-2


def traced() -> None:
    """Trace a network of a block a stage as torch.compile does; generate no code, which takes a minute."""
    mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="eager")).start()
    shallow()


def shallow() -> None:
    from rsdnet.model import encoders

    mock.patch.dict(encoders.DEPTHS, resnet18=(encoders.BasicBlock, (1, 1, 1, 1))).start()


def test_compiled_in_regions_they_compute_the_same(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, *FAST, "--steps=3", "--run")
    train(tmp_path / "said", *argv, tmp_path / "eager", prepare=shallow)
    train(tmp_path / "said", *argv, tmp_path / "compiled", "--compile=on", ranks=2, prepare=traced)
    assert_close(tmp_path / "compiled", tmp_path / "eager", 3)


# ---- ranks come and go -----------------------------------------------------------------------------------------------


def told_to_stop(rank: int, step: int) -> None:
    """One rank alone gets a SIGTERM at a step."""
    from rsdnet.monitor.metrics import Monitor

    log = Monitor.log

    def logged(self: Monitor, now: int, *about: Any, **knobs: Any) -> None:
        if now == step and int(os.environ["RANK"]) == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, now, *about, **knobs)

    mock.patch.object(Monitor, "log", logged).start()


def test_stopped_on_two_ranks_it_goes_on_on_any_number(tiny_db: Path, tmp_path: Path, alone: Path, pair: Path) -> None:
    argv, stop = ("--data", tiny_db, "--run", tmp_path / "run", *FAST), functools.partial(told_to_stop, 1, 2)
    stopped = train(tmp_path / "said", *argv, ranks=2, prepare=stop, expect=128 + signal.SIGTERM)
    assert "stopped at step 3 of 6" in stopped.text("out")
    shutil.copytree(tmp_path / "run", tmp_path / "run2")
    for ranks, run in ((1, "run"), (2, "run2")):
        (tmp_path / f"views{ranks}").mkdir()
        prepare = functools.partial(noted, tmp_path / f"views{ranks}")
        done = train(tmp_path / "said", "--run", tmp_path / run, "--resume", ranks=ranks, prepare=prepare)
        assert "from step 3" in done.text("out")
        assert_close(tmp_path / run, alone)
    assert seen(tmp_path / "views1", 0) == {step: views for step, views in seen(alone.parent, 0).items() if step >= 3}
    for rank in range(2):
        whole = seen(pair.parent, rank)
        assert seen(tmp_path / "views2", rank) == {step: views for step, views in whole.items() if step >= 3}


def test_a_rank_that_is_lost_ends_the_others_soon(tiny_db: Path, tmp_path: Path, alone: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--checkpoint-every=2")
    trainer = Trainer(tmp_path / "said", *argv, ranks=2)
    while trainer.shown().count("samples/s") < 3:
        time.sleep(0.01)
    trainer.kill(rank=1)
    assert trainer.wait() == [2, -signal.SIGKILL]
    assert "go on with --resume" in error(trainer)
    train(tmp_path / "said", "--run", tmp_path / "run", "--resume")
    assert_close(tmp_path / "run", alone)


def test_torchrun_starts_the_lost_again_and_stops_all(tiny_db: Path, tmp_path: Path, alone: Path) -> None:
    """A worker is killed: the run goes on by itself. Then torchrun is told to stop: there is a checkpoint."""
    run = tmp_path / "run"
    argv = ("rsdnet.train", "--data", tiny_db, "--out", run, *FAST, "--steps=4000", "--checkpoint-every=2")
    with open(tmp_path / "said", "w+") as said:
        torchrun = subprocess.Popen(words(2, *argv, restarts=1), stdout=said, stderr=said, env=environment())
        try:
            until(lambda: shown(tmp_path / "said", "step 4/"), torchrun)
            os.kill(workers(torchrun.pid)[-1], signal.SIGKILL)
            until(lambda: shown(tmp_path / "said", "from step"), torchrun)
            until(lambda: shown(tmp_path / "said", "step 8/"), torchrun)
            torchrun.send_signal(signal.SIGTERM)
            assert torchrun.wait(60) != 0
        finally:
            torchrun.kill()
    assert shown(tmp_path / "said", "stopped at step")
    assert_close(run, alone, 1)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--data=nowhere",), "nowhere"),
        (("--batch=9",), "use --batch 8"),
        (("--batch=8", "--accumulate=4"), "use --batch 16"),
        (("--weights", "1", "2"), "2 weights for 1 databases"),
        (("--ms-bands", "B99"), "B99"),
        (("--batch=none",), "none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_once(tiny_db: Path, tmp_path: Path, argv: tuple[str, ...], told: str) -> None:
    trainer = train(tmp_path, "--data", tiny_db, "--run", tmp_path / "run", *FAST, *argv, ranks=2, expect=2)
    if argv == ("--batch=none",):
        assert told in trainer.text("err")
        assert not trainer.text("err", 1)
    else:
        assert told in error(trainer)
    assert not (tmp_path / "run").exists()


def reads_another_database() -> None:
    """Rank 1 reads a database of the same names, as where machines have copies of their own."""
    from rsdnet import train as module

    inputs_of, mine = module.inputs_of, {"data": os.environ["RANK"]}
    mock.patch.object(module, "inputs_of", lambda *about: inputs_of(*about) | mine).start()


def test_a_rank_that_reads_other_data_is_told(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST)
    trainer = train(tmp_path / "said", *argv, ranks=2, prepare=reads_another_database, expect=2)
    assert "rank 1 reads other data than rank 0: data (entries of the same names" in error(trainer)
    assert not (tmp_path / "run").exists()


def drifts() -> None:
    """A bit of one weight of rank 1 flips at its third step."""
    from rsdnet.training.step import StepOutput, TrainStep

    step, done = TrainStep.step, 0

    def stepped(self: TrainStep, views: torch.Tensor) -> StepOutput:
        nonlocal done
        done += 1
        if done == 3 and os.environ["RANK"] == "1":
            self.trained[-1].data.view(torch.int32)[0, 0] ^= 1
        return step(self, views)

    mock.patch.object(TrainStep, "step", stepped).start()


def test_a_rank_that_drifts_away_is_noticed(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--checkpoint-every=2")
    trainer = train(tmp_path / "said", *argv, ranks=2, prepare=drifts, expect=2)
    line = error(trainer)
    assert "rank 1 and rank 0 differ in" in line
    assert "after step 4" in line


def test_a_full_disk_of_the_main_rank_ends_all(tiny_db: Path, tmp_path: Path, alone: Path) -> None:
    from tests.training.test_recovery import full_at

    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--checkpoint-every=2")
    trainer = train(tmp_path / "said", *argv, ranks=2, prepare=functools.partial(full_at, 2), expect=2)
    first, second = (said.with_suffix(".err").read_text().splitlines() for said in trainer.said)
    assert "checkpoint-000000002.safetensors could not be written" in str(first)
    assert "rank 1 has lost another one" in str(second)
    assert len(first) == len(second) == 1
    train(tmp_path / "said", "--run", tmp_path / "run", "--resume", ranks=2)
    assert_close(tmp_path / "run", alone)


# ---- torchrun's -----------------------------------------------------------------------------------------------------


def shown(path: Path, text: str) -> bool:
    return text in path.read_text()


def until(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "ended"
        assert time.monotonic() < end, "hung"
        time.sleep(0.05)


def workers(pid: int) -> list[int]:
    """The processes that a process has started, in the order of their ids."""
    return sorted(int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
