"""Never lose a run: kill -9 at any moment, a full disk, steps skipped; what goes on is what would have been.

Every run is a process of its own (tests/support/forked.py), ended as a machine ends it, and held bit for bit against
one that nothing interrupted.
"""

import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from rsdnet.training.archive import Archive
from tests.support.forked import Trainer, error, losses, metrics, train

SMALL = ("--size=20", "--encoder=resnet18", "--width=4", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu")
FAST = (*SMALL, "--precision=fp32", "--threads=1", "--log-every=1", "--steps=14")
FULL = 1 << 16  # bytes: less than a checkpoint, more than what a run prints
SCALE = 2.0**8


def assert_same(run: Path, whole: Path) -> None:
    """The same losses, weights, optimizer's state and counts to the last bit, and nothing else in the folder."""
    assert losses(run) == losses(whole)
    for name in ("checkpoint.safetensors", "encoder.safetensors"):
        found, expected = load_file(run / name), load_file(whole / name)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (found[key], tensor))), key
    numbered = [f"checkpoint-{step:09d}.safetensors" for step in (12, 14)]
    left = sorted(path.name for path in run.iterdir() if path.name not in numbered)
    files = ["checkpoint.safetensors", "config.toml", "encoder.safetensors", "environment.json", "metrics.jsonl"]
    assert left == [*files, "run.lock"]


@pytest.fixture(scope="module")
def whole(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 14 steps over 4 steps an epoch, never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder / "said", "--data", tiny_db, "--run", folder / "run", "--checkpoint-every=4", *FAST)
    return folder / "run"


# ---- kill -9 ---------------------------------------------------------------------------------------------------------


def wait_for(trainer: Trainer, steps: int) -> None:
    """Until the run has shown so many steps, or has ended."""
    while trainer.processes[0].is_alive() and trainer.shown().count("samples/s") < steps:
        time.sleep(0.002)


def test_killed_at_random_moments_it_goes_on_to_the_very_same_run(whole: Path, tiny_db: Path, tmp_path: Path) -> None:
    """Begun, and gone on with, by one command line."""
    run, chance = tmp_path / "run", random.Random(1)
    argv = ("--data", tiny_db, "--run", run, "--resume", "--checkpoint-every=2", *FAST)
    for number in range(6):
        trainer, steps = Trainer(tmp_path / f"said{number}", *argv), chance.randrange(5)
        wait_for(trainer, steps)
        time.sleep(chance.uniform(0, 0.05 if steps else 0.5))
        trainer.kill()
        assert trainer.wait() == [-signal.SIGKILL]
    train(tmp_path / "said", *argv)
    assert_same(run, whole)


def dies(moment: str, step: int) -> None:
    """Let this process be killed at a moment of the writing of the checkpoint of `step`."""
    from rsdnet.training import archive, checkpoint

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(path: Path, *_: object) -> None:
        path.with_name(".tmpA1b2C3").write_bytes(b"half")  # as safetensors does
        path.write_bytes(b"half")
        end()

    def at(owner: Any, name: str, word: str, then: Callable[..., None] = end) -> None:
        """Where `name` is called about `word`."""
        before = getattr(owner, name)
        patched = lambda *words: (then if word in str(words) else before)(*words)  # noqa: E731
        mock.patch.object(owner, name, patched).start()

    match moment:
        case "half written":
            at(checkpoint, "write", f"{step:09d}", half)
        case "not named":
            at(os, "replace", f"{step:09d}")
        case "not published":
            at(archive, "_publish", f"{step:09d}")
        case "not pruned":
            at(archive.Archive, "_prune", f", {step})")
        case "metrics not cut":
            at(os, "replace", "metrics.jsonl")


def test_killed_while_a_checkpoint_is_written_it_goes_on(whole: Path, tiny_db: Path, tmp_path: Path) -> None:
    """Each time later in its writing, from the first one on; every next start begins from the last one that counts."""
    run = tmp_path / "run"
    argv = ("--data", tiny_db, "--run", run, "--resume", "--checkpoint-every=2", "--keep=1", *FAST)
    for number, (moment, step, begins) in enumerate(
        (
            ("half written", 2, 0), ("not named", 4, 0), ("half written", 6, 2), ("not published", 6, 4),
            ("metrics not cut", 0, 6), ("not pruned", 8, 6), ("not named", 10, 8),
        )
    ):  # fmt: skip
        trainer = train(tmp_path / f"{number}", *argv, prepare=functools.partial(dies, moment, step), expect=-9)
        if moment != "metrics not cut":
            assert (f"from step {begins}" if begins else "14 in all;") in trainer.text("out")
    trainer = train(tmp_path / "last", *argv, "--keep=2")
    assert "from step 8" in trainer.text("out")
    assert_same(run, whole)


# ---- a full disk -----------------------------------------------------------------------------------------------------


def full_at(step: int) -> None:
    """From the checkpoint of `step` on no file of this process may grow past FULL bytes."""
    from rsdnet.training.archive import Archive

    save = Archive.save

    def saved(self: Archive, now: int, *words: Any) -> None:
        if now >= step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, resource.RLIM_INFINITY))
        save(self, now, *words)

    mock.patch.object(Archive, "save", saved).start()


@pytest.mark.parametrize("step", [4, 8, 14])
def test_a_disk_that_is_full_when_a_checkpoint_is_due(whole: Path, tiny_db: Path, tmp_path: Path, step: int) -> None:
    """At the first one, a later one, the last one."""
    run = tmp_path / "run"
    argv = ("--data", tiny_db, "--run", run, "--resume", "--checkpoint-every=4", "--keep=2", *FAST)
    line = error(train(tmp_path / "full", *argv, prepare=functools.partial(full_at, step), expect=2))
    assert f"checkpoint-{step:09d}.safetensors could not be written" in line
    assert "make room" in line
    before = (step - 1) // 4 * 4
    assert Archive(run).exists() == (before > 0)
    if before:
        assert Archive(run).load()[2]["step"] == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    again = train(tmp_path / "again", *argv)
    assert ("from step" in again.text("out")) == (before > 0)
    assert_same(run, whole)


def metrics_on_a_full_disk() -> None:
    from rsdnet.monitor import metrics

    init = metrics._Files.__init__

    def opened(self: metrics._Files, *words: Any) -> None:
        init(self, *words)
        self._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 -- closed by its owner

    mock.patch.object(metrics._Files, "__init__", opened).start()


def test_metrics_that_cannot_be_written(whole: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("--data", tiny_db, "--run", run, "--resume", "--checkpoint-every=2", *FAST)
    trainer = Trainer(tmp_path / "first", *argv)
    wait_for(trainer, 6)
    trainer.kill()
    trainer.wait()
    line = error(train(tmp_path / "full", *argv, prepare=metrics_on_a_full_disk, expect=2))
    assert "metrics.jsonl cannot be written (No space left on device)" in line
    train(tmp_path / "again", *argv)
    assert_same(run, whole)


def test_a_run_whose_metrics_are_lost_goes_on(whole: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.toml", "checkpoint-000000012.safetensors"):
        shutil.copy(whole / name, run)
    train(tmp_path / "said", "--run", run, "--resume")
    assert [(line["step"], line["loss"]) for line in metrics(run)] == [*enumerate(losses(whole))][12:]


def prints_to_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def prints_and_errs_to_a_full_disk() -> None:
    prints_to_a_full_disk()
    os.dup2(1, 2)


def test_output_that_cannot_be_printed(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST)
    assert "No space left on device" in error(train(tmp_path / "said", *argv, prepare=prints_to_a_full_disk, expect=2))
    train(tmp_path / "said", *argv, prepare=prints_and_errs_to_a_full_disk, expect=2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a few checkpoints fill, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk is root's to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up(whole: Path, tiny_db: Path, tmp_path: Path, small_disk: Path) -> None:
    argv = ("--data", tiny_db, "--run", small_disk / "run", "--resume", "--checkpoint-every=1", "--keep=14", *FAST)
    line = error(train(tmp_path / "full", *argv, expect=2))
    assert "No space left on device" in line
    assert not [path for path in (small_disk / "run").iterdir() if path.name.startswith(".")]
    begins = Archive(small_disk / "run").load()[2]["step"]
    assert begins > 0
    shutil.copytree(small_disk / "run", tmp_path / "run")
    room = ("--run", tmp_path / "run", "--checkpoint-every=2", "--keep=2")
    assert f"from step {begins}" in train(tmp_path / "said", *argv, *room).text("out")
    assert_same(tmp_path / "run", whole)


# ---- steps skipped ---------------------------------------------------------------------------------------------------


def poisoned(*steps: int) -> None:
    """Let the views of these steps be no numbers; the loss scale is low enough for the others."""
    from rsdnet.training import step as module
    from rsdnet.training.run import Run
    from rsdnet.training.step import StepOutput, TrainStep

    mock.patch.object(module, "SCALE", SCALE).start()
    schedule, step = Run.schedule, TrainStep.step
    now = 0

    def scheduled(self: Run) -> dict[str, float]:
        nonlocal now
        now = self.step
        return schedule(self)

    def stepped(self: TrainStep, views: torch.Tensor) -> StepOutput:
        return step(self, views * (float("nan") if now in steps else 1))

    mock.patch.object(Run, "schedule", scheduled).start()
    mock.patch.object(TrainStep, "step", stepped).start()


def killed_after(step: int, *steps: int) -> None:
    """`poisoned`, and this process ends when the checkpoint of `step` is written."""
    from rsdnet.training.archive import Archive

    poisoned(*steps)
    prune = Archive._prune
    pruned = lambda self, now: os._exit(7) if now == step else prune(self, now)  # noqa: E731
    mock.patch.object(Archive, "_prune", pruned).start()


def test_skipped_steps_and_the_loss_scale_are_counted_on(tiny_db: Path, tmp_path: Path) -> None:
    half = ("--data", tiny_db, *SMALL, "--precision=fp16", "--threads=1", "--log-every=1", "--steps=7", "--resume")
    argv = (*half, "--checkpoint-every=4", "--run")
    poison, die = functools.partial(poisoned, 1, 3, 4), functools.partial(killed_after, 4, 1, 3, 4)
    train(tmp_path / "said", *argv, tmp_path / "whole", prepare=poison)
    train(tmp_path / "said", *argv, tmp_path / "run", prepare=die, expect=7)
    shutil.copytree(tmp_path / "run", tmp_path / "strict")
    line = error(train(tmp_path / "said", *argv, tmp_path / "strict", "--max-skipped=2", prepare=poison, expect=2))
    assert "not finite 2 steps in a row, up to step 5" in line  # one of them before the interruption
    train(tmp_path / "said", *argv, tmp_path / "run", prepare=poison)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    skipped = [record["skipped"] for record in metrics(tmp_path / "run")]
    assert skipped == [record["skipped"] for record in metrics(tmp_path / "whole")]
    assert skipped == [0, 1, 1, 2, 3, 3, 3]
    ends = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("run", "whole")]
    for key in ends[1]:
        assert torch.equal(*(end[key] for end in ends)), key
    assert ends[0]["engine/scale"] == SCALE / 2**3
