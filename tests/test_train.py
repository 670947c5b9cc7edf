"""The trainer as a user meets it: files, signals, mistakes. Each command is a process (tests/support/forked.py)."""

import errno
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import lmdb
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsdnet.data.catalog import Catalog
from rsdnet.report import record
from tests.support import forked, tiny
from tests.support.forked import losses, metrics

SMALL = ("--size=20", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu")
LARS = ("--optimizer=lars", "--lr=0.45")
FAST = (*SMALL, *LARS, "--precision=fp32", "--threads=1", "--log-every=1")


class Said(NamedTuple):
    """What a command printed: on stdout in one line, and its error line; empty without one."""

    out: str
    error: str


def train(*argv: object, expect: int = 0, prepare: Callable[[], None] | None = None) -> Said:
    with tempfile.TemporaryDirectory() as folder:
        trainer = forked.train(Path(folder), *argv, expect=expect, prepare=prepare)
        return Said(trainer.text("out"), forked.error(trainer) if expect == 2 else "")


def refused(*argv: object, prepare: Callable[[], None] | None = None) -> str:
    """The one line on stderr with which a command ends, status 2."""
    return train(*argv, expect=2, prepare=prepare).error


@pytest.fixture(scope="module")
def finished(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 14 steps over 4 steps an epoch, never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train("--data", tiny_db, "--run", run, "--steps=14", *FAST)
    return run


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    assert len(losses(finished)) == 14
    assert all(0 <= loss <= 8 for loss in losses(finished))
    last = metrics(finished)[-1]
    assert last.keys() >= {"step", "loss", "lr", "tau", "epoch", "samples_per_s", "wait", "tflops", "mfu", "cosine"}
    assert last.keys() >= {"spread", "effective_rank", "grad_norm", "trust_min", "trust_max", "memory_bytes"}
    assert (last["left_out"], last["skipped"]) == (0, 0)
    assert 1 <= last["effective_rank"] <= 8
    assert 0 <= last["ready"] <= 4
    assert last["memory_bytes"] > 1e8
    assert metrics(finished)[0]["read_mb_per_s"] > 0
    assert load_file(finished / "encoder.safetensors")["conv1.weight"].shape == (8, 1, 7, 7)
    assert (finished / "config.toml").is_file()
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]
    found = record.read(finished)
    assert (found.steps, found.environment["samples"], found.environment["precision"]) == (14, 36, "torch.float32")


def compile_nothing() -> None:
    mock.patch.object(torch.nn.Module, "compile", return_value=None).start()


def test_a_run_that_compiles_says_that_it_takes_a_while(tiny_db: Path, tmp_path: Path) -> None:
    options = "--steps=1", *FAST
    said = [
        train("--data", tiny_db, "--run", tmp_path / how, *options, f"--compile={how}", prepare=compile_nothing)
        for how in ("on", "off")
    ]
    assert ["before the first step" in each.out for each in said] == [True, False]


def test_blur_speckle_and_antialiasing_reach_the_loss(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    first = {losses(finished)[0]}
    for number, knob in enumerate((("--blur", "1", "0"), ("--sar-looks", "4"), ("--no-antialias",))):
        run = tmp_path / str(number)
        train("--data", tiny_db, "--run", run, "--steps=1", *FAST, *knob)
        first.update(losses(run))
    assert len(first) == 4


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("--data", tiny_db, "--run", run, "--steps=14", "--checkpoint-every=4", *FAST)
    newest = run / "checkpoint.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    with open(newest, "r+b") as file:  # in place: its other name is damaged with it
        file.write(content)
    done = train("--run", run, "--resume")
    assert "checkpoint.safetensors is damaged (its checksum is another)" in done.out
    assert "from step 12" in done.out
    assert losses(run) == losses(finished)
    assert "is complete" in train("--run", run, "--resume").out


def terminated(step: int) -> None:
    """This process gets a SIGTERM when it logs `step`."""
    from rsdnet.monitor.metrics import Monitor

    log = Monitor.log

    def logged(self: Monitor, now: int, *about: Any, **numbers: float) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, now, *about, **numbers)

    mock.patch.object(Monitor, "log", logged).start()


@pytest.mark.parametrize("step", [2, 5])
def test_a_run_stopped_in_mid_epoch_goes_on_to_the_very_same_losses(
    finished: Path, tiny_db: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "broken"
    argv = ("--data", tiny_db, "--run", run, "--steps=14", *FAST)
    done = train(*argv, expect=128 + signal.SIGTERM, prepare=functools.partial(terminated, step))
    assert "--resume" in done.out
    assert len(losses(run)) == step + 1
    train("--run", run, "--resume")
    assert losses(run) == losses(finished)
    for name, tensor in load_file(finished / "encoder.safetensors").items():
        assert torch.equal(tensor, load_file(run / "encoder.safetensors")[name]), name


def test_a_real_run_keeps_others_off_and_ends_cleanly_at_a_signal(tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--data", tiny_db, "--run", run, "--steps=100000", *FAST)
    argv = [sys.executable, "-m", "rsdnet.train", *map(str, options)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not metrics(run):
        time.sleep(0.1)
    before = len(metrics(run))
    assert f"{run} is in use by another process" in refused(*options, "--resume")
    assert len(metrics(run)) >= before > 0
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert (run / "checkpoint.safetensors").is_file()


def without_locks() -> None:
    """Files cannot be locked in this process, as on some network file systems."""
    mock.patch("fcntl.flock", side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))).start()


def test_a_file_system_without_locks_does_for_a_run(tiny_db: Path, tmp_path: Path) -> None:
    train("--data", tiny_db, "--run", tmp_path / "run", "--steps=1", *FAST, prepare=without_locks)
    assert len(losses(tmp_path / "run")) == 1


def test_a_complete_run_says_so_and_has_its_encoder(finished: Path) -> None:
    encoder = finished / "encoder.safetensors"
    before = load_file(encoder)
    encoder.unlink()  # as if it had been killed just before the last file
    assert "complete" in train("--run", finished, "--resume").out
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(encoder).items())


@pytest.mark.parametrize(
    "how",
    [
        ("--reader-threads=3", "--slots=2", "--lookahead=0"),
        ("--cache=host", "--slots=7", "--lookahead=9"),
        ("--cache=device",),
        ("--damaged=raise",),
    ],
    ids=" ".join,
)
def test_the_losses_do_not_depend_on_how_the_data_are_read(
    finished: Path, tiny_db: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    done = train("--data", tiny_db, "--run", tmp_path / "run", "--steps=14", *FAST, *how)
    assert losses(tmp_path / "run") == losses(finished)
    assert (("KB of raw bands in host memory (" in done.out) and "GB free)" in done.out) == ("cache" in how[0])


def lost_after(step: int) -> None:
    """This process ends when the checkpoint of `step` is written."""
    from rsdnet.training.run import Run

    save = Run.save

    def saved(self: Run) -> None:
        save(self)
        self.archive.wait()
        if self.step == step:
            os._exit(7)

    mock.patch.object(Run, "save", saved).start()


def test_a_run_on_weighted_databases_goes_on_in_another_way_of_reading(tmp_path: Path) -> None:
    """Its order is the weights'; what is free to change at a resume does not change it: paths, too."""
    databases = [tiny.make(tmp_path / "a", 30, seed=1), tiny.make(tmp_path / "b", 15, seed=2)]
    argv = ("--data", *databases, *FAST, "--weights", "1", "3")
    train(*argv, "--run", tmp_path / "whole", "--steps=7")
    train("--data", *databases, *FAST, "--run", tmp_path / "plain", "--steps=7")
    assert losses(tmp_path / "plain")[0] != losses(tmp_path / "whole")[0]
    lost = functools.partial(lost_after, 4)
    train(*argv, "--run", tmp_path / "run", "--steps=7", "--checkpoint-every=4", expect=7, prepare=lost)
    assert "data.weights" in refused("--run", tmp_path / "run", "--resume", "--weights", "1", "2")
    one, *rest = argv[1:3]
    moved = one.rename(tmp_path / "moved")
    assert "order" in refused("--run", tmp_path / "run", "--resume", "--data", *rest, moved)
    how = ("--cache=host", "--slots=2", "--damaged=raise")
    train("--run", tmp_path / "run", "--resume", *how, "--data", moved, *rest)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    "extra",
    [
        ("--channels=3",),
        ("--modality=ms", "--channels=3"),
        ("--modality=sar",),
        ("--precision=bf16",),
        ("--precision=fp16",),
        ("--concatenate-views",),
        ("--optimizer=sgd",),
        ("--optimizer=adamw", "--lr=0.001"),
        ("--method=simsiam", "--schedule=constant"),
        ("--statistics=SEN12MS L1C",),
        ("--no-channels-last",),
    ],
    ids=" ".join,
)
def test_every_way_to_train_resumes(tiny_db: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    argv = ("--data", tiny_db, *FAST, *extra, "--steps=5", "--checkpoint-every=3", "--run")
    train(*argv, tmp_path / "run", expect=7, prepare=functools.partial(lost_after, 3))
    train("--run", tmp_path / "run", "--resume", "--checkpoint-every=3")
    train(*argv, tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_tensorboard_on_request(tiny_db: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train("--data", tiny_db, "--run", tmp_path / "run", "--steps=2", "--tensorboard", *FAST)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_the_encoder_is_evaluated_every_so_often_and_nothing_else_changes(
    finished: Path, tiny_db: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("--data", tiny_db, "--run", run, "--steps=14", *FAST, "--knn-every=2")
    assert losses(run) == losses(finished)
    evaluated = {line["step"]: line["knn_f1"] for line in metrics(run) if "knn_f1" in line}
    assert list(evaluated) == [7, 9, 13]  # four steps an epoch; the tenth step and the last, too
    assert all(0 <= f1 <= 1 for f1 in evaluated.values())
    assert "knn_f1/B04" in metrics(run)[7]


# ---- mistakes: one line on stderr, status 2, nothing made ------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--data=nowhere",), "nowhere"),
        (("--batch=64",), "36 samples"),
        (("--batch=64",), "--batch 36"),
        (("--accumulate=3",), "--batch 9"),
        (("--weights", "1", "2"), "2 weights for 1 databases"),
        (("--ms-bands", "B99"), "B99"),
        (("--ms-bands", "B01", "B02"), "B01"),  # that the database lacks
        (("--ms-bands", "VV"), "VV"),
        (("--size=16", "--precision=bf16"), "--size above 16"),
        (("--encoder=timm:resnet18", "--width=64"), "timm"),  # absent, or without such a width to set
        (("--config=no.toml",), "no.toml"),
        (("--data", "--seed=1"), "--data has no value"),  # of an empty variable, say
        (("--knn-data",), "--knn-data has no value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_told_and_nothing_is_made(tiny_db: Path, tmp_path: Path, argv: tuple[str, ...], told: str) -> None:
    assert told in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, *argv)
    assert not (tmp_path / "run").exists()


def nothing_free() -> None:
    from rsdnet.data import cache

    mock.patch.object(cache, "free_bytes", return_value=10).start()


def test_a_cache_larger_than_what_is_free(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--cache=host")
    line = refused(*argv, prepare=nothing_free)
    assert "--cache host takes" in line
    assert "10 bytes are free" in line
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there(tiny_db: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "--device cuda" in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--device=cuda")


def test_samples_that_the_database_lacks_are_left_out_or_an_error(tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db")
    catalog = Catalog.read(db)
    catalog.ms[:2] = "nowhere"
    catalog.write(db)
    argv = ("--data", db, *FAST, "--steps=2", "--run")
    done = train(*argv, tmp_path / "run")
    assert "left out 2 of 36 samples" in done.out
    assert "nowhere" in done.out
    assert "nowhere" in refused(*argv, tmp_path / "run1", "--damaged=raise")
    catalog.ms[:] = "nowhere"
    catalog.write(db)
    assert "none of 36 samples" in refused(*argv, tmp_path / "run2")


def test_an_evaluation_without_labels_is_refused_before_training(tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db")
    catalog = Catalog.read(db)
    catalog.label[:] = -1
    catalog.write(db)
    assert "labelled" in refused("--data", db, "--run", tmp_path / "run", *FAST, "--steps=2", "--knn-every=1")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_already(finished: Path, tiny_db: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert "--resume" in refused("--data", tiny_db, "--run", finished, "--steps=14", *FAST)
    assert (finished / "metrics.jsonl").read_text() == before


def test_going_on_with_other_settings(finished: Path) -> None:
    assert "model.width (8 in the run, 16 asked)" in refused("--run", finished, "--resume", "--width=16")
    assert "model.method (byol in the run, simsiam asked)" in refused("--run", finished, "--resume", "--method=simsiam")


def test_settings_that_a_run_chose_stay(tiny_db: Path, tmp_path: Path) -> None:
    """Its file holds values and reasons; it goes on by its folder, by its command line and by its files alike."""
    (tmp_path / "c.toml").write_text('[optim]\noptimizer = "auto"\nbatch = 8\n')
    run, small = tmp_path / "run", (*SMALL, "--precision=fp32", "--threads=1", "--steps=4", "--checkpoint-every=2")
    argv = ("--config", tmp_path / "c.toml", "--data", tiny_db, "--run", run, *small)
    said = train(*argv, expect=7, prepare=functools.partial(lost_after, 2)).out
    told = "settings for 4 steps of 8 samples: adamw, lr 0.012, warm-up 0 steps, tau 0.98, weight decay 0.05 (auto)"
    assert told in said
    assert "the encoder stays near its random start: use --steps" in said
    optim = tomllib.loads((run / "config.toml").read_text())["optim"]
    assert "auto" not in optim.values()
    assert (optim["optimizer"], optim["lr"], optim["tau"]) == ("adamw", 0.012, 0.98)
    assert optim["chosen"].keys() == {"optimizer", "lr", "warmup_epochs", "weight_decay", "tau"}
    for again in (("--run", run), argv, argv[2:], (*argv, "--lr=0.012")):
        said = train(*again, "--resume").out
        assert "settings for" not in said
        assert "random start" not in said
        assert tomllib.loads((run / "config.toml").read_text())["optim"] == optim
    assert len(losses(run)) == 4
    assert "optim.lr (0.012 in the run, 0.5 asked)" in refused(*argv, "--resume", "--lr=0.5")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text[: text.index("[optim.chosen]")] + text[text.index("[run]") :])
    assert "is complete" in train("--run", run, "--resume").out  # of a run from before reasons were noted
    other = tmp_path / "other"
    train("--config", run / "config.toml", "--data", tiny_db, "--run", other, "--steps=1", "--knn-every=0")
    assert "chosen" not in tomllib.loads((other / "config.toml").read_text())["optim"]  # the file gave them all


def test_a_rate_without_its_optimizer_is_refused_before_anything_is_made(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *SMALL, "--steps=1")
    assert "--lr 0.1 without --optimizer" in refused(*argv, "--lr=0.1")
    assert "has no learning rate of its own: add --lr" in refused(*argv, "--optimizer=tests.support.toys:toy_encoder")
    assert not (tmp_path / "run").exists()


def copied(finished: Path, run: Path, old: str = "", new: str = "") -> Path:
    """The checkpoint of a run in another folder, with its configuration, changed."""
    run.mkdir()
    (run / "checkpoint.safetensors").write_bytes((finished / "checkpoint.safetensors").read_bytes())
    (run / "config.toml").write_text((finished / "config.toml").read_text().replace(old, new))
    return run


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("width = 8", "width = 16", "model.width (8 in the run, 16 asked)"),
        ("seed = 0", "seed = 5", "run.seed (0 in the run, 5 asked)"),
        ("lr = 0.45", "lr = 0.5", "optim.lr (0.45 in the run, 0.5 asked)"),
        ("steps = 14", "steps = 16", "optim.steps (14 in the run, 16 asked)"),
        ('method = "byol"', 'method = "simsiam"', "was trained by --method byol: it cannot go on by simsiam"),
    ],
)
def test_a_configuration_edited_since(finished: Path, tmp_path: Path, old: str, new: str, told: str) -> None:
    """The checkpoint knows the one that it was trained with."""
    assert old in (finished / "config.toml").read_text()
    assert told in refused("--run", copied(finished, tmp_path / "run", old, new), "--resume")


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_an_encoder_without_its_checkpoints_is_kept(
    finished: Path, tiny_db: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    run, before = tmp_path / "run", (finished / "encoder.safetensors").read_bytes()
    run.mkdir()
    (run / "encoder.safetensors").write_bytes(before)
    line = refused("--data", tiny_db, "--run", run, "--steps=1", *FAST, *more)
    assert "holds an encoder and no checkpoint" in line
    assert [path.name for path in run.iterdir()] == ["encoder.safetensors"]
    assert (run / "encoder.safetensors").read_bytes() == before


def test_a_checkpoint_of_other_data(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    (run / "config.toml").unlink()
    db = tiny.make(tmp_path / "db", 45)
    assert "samples (36 then, 27 now)" in refused("--run", run, "--resume", "--data", db, "--steps=14", *FAST)


def replaced(db: Path, whole: Catalog) -> None:
    shutil.copy(tiny.make(db / "again", seed=1) / "data.mdb", db)


def reversed_rows(db: Path, whole: Catalog) -> None:
    whole.take(np.arange(len(whole))[::-1]).write(db)


def described_anew(db: Path, whole: Catalog) -> None:
    text = (db / "stats.json").read_text()
    (db / "stats.json").write_text(text.replace('"std": ', '"std": 1'))


def damaged_since(db: Path, whole: Catalog) -> None:
    with lmdb.open(str(db), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"s2_0", b"damaged")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced, "data (entries of the same names hold other pixels)"),
        (reversed_rows, "order (of the catalog's rows"),
        (described_anew, "statistics (B02: mean"),
        (damaged_since, "samples (36 then, 35 now)"),
    ],
)
def test_data_that_are_not_the_same_any_more(
    finished: Path, tiny_db: Path, tmp_path: Path, change: Callable[[Path, Catalog], None], told: str
) -> None:
    run, db = copied(finished, tmp_path / "run"), tmp_path / "db"
    shutil.copytree(tiny_db, db)
    assert "is complete" in train("--run", run, "--resume", "--data", db).out
    change(db, Catalog.read(db))
    line = refused("--run", run, "--resume", "--data", db)
    assert "was trained on other data" in line
    assert told in line
    assert "begin another run" in line


@pytest.mark.parametrize("damage", ["garbage", "foreign"])
def test_a_file_that_is_no_checkpoint(finished: Path, tmp_path: Path, damage: str) -> None:
    path = copied(finished, tmp_path / "run") / "checkpoint.safetensors"
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(random.Random(0).randbytes(1000))
    assert "checkpoint.safetensors" in refused("--run", path.parent, "--resume")


def test_a_checkpoint_from_before_methods_were_noted_goes_on(finished: Path, tmp_path: Path) -> None:
    """It is BYOL's: the same file and configuration but for the keys that came later."""
    from rsdnet.training import checkpoint

    run = copied(finished, tmp_path / "run", 'method = "byol"\n')
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('schedule = "cosine"\n', ""))
    tensors, meta = checkpoint.load(run / "checkpoint.safetensors")
    del meta["config"]["model"]["method"], meta["config"]["optim"]["schedule"], meta["inputs"]
    checkpoint.save(run / "checkpoint.safetensors", tensors, meta)
    done = train("--run", run, "--resume").out
    assert "is complete" in done
    assert "does not say which data it was trained on: they were not compared" in done
    for name, tensor in load_file(finished / "encoder.safetensors").items():
        assert torch.equal(tensor, load_file(run / "encoder.safetensors")[name]), name


def test_a_loss_that_is_not_finite(tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ("--data", tiny_db, "--run", run, *FAST, "--optimizer=sgd", "--lr=1e30", "--steps=30")
    line = refused(*argv, "--checkpoint-every=1", "--max-skipped=5")
    assert "not finite 5 steps in a row" in line
    assert "lower --lr" in line
    for name, tensor in load_file(run / "checkpoint.safetensors").items():
        if name.startswith("model/online") and tensor.is_floating_point():
            assert torch.isfinite(tensor).all(), name
    assert losses(run)[-5:] == [None] * 5
