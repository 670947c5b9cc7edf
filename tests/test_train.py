"""The trainer as a user meets it: commands in subprocesses, files, signals, and mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsdnet.report import record
from tests.support import tiny

SMALL = ("--size=20", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--device=cpu")
FAST = (*SMALL, "--precision=fp32", "--threads=1", "--log-every=1")


def command(*argv: object, cwd: Path | None = None) -> list[str]:
    return [sys.executable, "-m", *map(str, argv)]


def train(*argv: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command("rsdnet.train", *argv), capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(len(records)))
    return [record["loss"] for record in records]


@pytest.fixture(scope="module")
def finished(tiny_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 14 steps over 4 steps an epoch, never interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train("--data", tiny_db, "--run", run, "--steps=14", *FAST)
    return run


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    assert len(losses(finished)) == 14
    assert all(0 <= loss <= 8 for loss in losses(finished))
    record = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    assert record.keys() >= {"step", "loss", "lr", "tau", "epoch", "spread", "samples_per_s", "wait"}
    assert record["read_mb_per_s"] > 0
    assert 0 <= record["ready"] <= 4
    assert record["left_out"] == 0
    encoder = load_file(finished / "encoder.safetensors")
    assert encoder["conv1.weight"].shape == (8, 1, 7, 7)
    assert (finished / "config.toml").is_file()
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]


def test_blur_speckle_and_antialiasing_reach_the_loss(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    first = {losses(finished)[0]}
    for number, knob in enumerate((("--blur", "1", "0"), ("--sar-looks", "4"), ("--no-antialias",))):
        run = tmp_path / str(number)
        train("--data", tiny_db, "--run", run, "--steps=1", *FAST, *knob)
        first.update(losses(run))
    assert len(first) == 4


def test_a_run_writes_down_what_it_was_made_with(finished: Path) -> None:
    found = json.loads((finished / "environment.json").read_text())
    assert (found["torch"], found["steps"], found["samples"]) == (torch.__version__, 14, 36)
    assert (found["precision"], found["threads"]) == ("torch.float32", 1)
    assert record.read(finished).steps == 14


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("--data", tiny_db, "--run", run, "--steps=14", "--checkpoint-every=4", *FAST)
    newest = run / "checkpoint.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    with open(newest, "r+b") as file:  # in place: its other name is damaged with it
        file.write(content)
    done = train("--run", run, "--resume")
    assert "checkpoint.safetensors is damaged (its checksum is another)" in done.stdout
    assert "from step 12" in " ".join(done.stdout.split())
    assert losses(run) == losses(finished)
    assert "is complete" in " ".join(train("--run", run, "--resume").stdout.split())


@pytest.mark.parametrize("stop_after", [2, 5])
def test_a_run_stopped_in_mid_epoch_goes_on_to_the_very_same_losses(
    finished: Path, tiny_db: Path, tmp_path: Path, stop_after: int
) -> None:
    run = tmp_path / "broken"
    code = (
        "import sys, os, signal, rsdnet.monitor.metrics as m\n"
        "log = m.Monitor.log\n"
        "def logged(self, step, *a, **k):\n"
        f"    if step == {stop_after}: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    log(self, step, *a, **k)\n"
        "m.Monitor.log = logged\n"
        "from rsdnet.errors import command; from rsdnet.train import main; command(main)\n"
    )
    argv = ["--data", str(tiny_db), "--run", str(run), "--steps=14", *FAST]
    first = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert first.returncode == 128 + signal.SIGTERM, first.stderr
    assert "--resume" in first.stdout
    assert len(losses(run)) == stop_after + 1
    train("--run", run, "--resume")
    assert losses(run) == losses(finished)
    for name, tensor in load_file(finished / "encoder.safetensors").items():
        assert torch.equal(tensor, load_file(run / "encoder.safetensors")[name]), name


def test_killed_outright_it_goes_on_from_the_last_checkpoint(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    code = (
        "import os, signal, rsdnet.monitor.metrics as m\n"
        "log = m.Monitor.log\n"
        "def logged(self, step, *a, **k):\n"
        "    log(self, step, *a, **k)\n"
        "    if step == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "m.Monitor.log = logged\n"
        "from rsdnet.errors import command; from rsdnet.train import main; command(main)\n"
    )
    argv = ["--data", str(tiny_db), "--run", str(run), "--steps=14", "--checkpoint-every=3", *FAST]
    first = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL
    done = train("--run", run, "--resume", "--checkpoint-every=3")
    assert "from step 6" in done.stdout
    assert losses(run) == losses(finished)


def test_a_signal_ends_a_real_run_cleanly(tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        command("rsdnet.train", "--data", tiny_db, "--run", run, "--steps=100000", *FAST),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run / "metrics.jsonl").is_file():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert (run / "checkpoint.safetensors").is_file()


def test_a_complete_run_says_so_and_has_its_encoder(finished: Path) -> None:
    encoder = finished / "encoder.safetensors"
    before = load_file(encoder)
    encoder.unlink()  # as if it had been killed just before the last file
    assert "complete" in train("--run", finished, "--resume").stdout
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
    assert (("KB of raw bands in host memory (" in done.stdout) and "GB free)" in done.stdout) == ("cache" in how[0])


def test_a_run_on_weighted_databases_goes_on_in_another_way_of_reading(tmp_path: Path) -> None:
    """Its order is the weights'; what is free to change at a resume does not change it."""
    databases = [tiny.make(tmp_path / "a", 30, seed=1), tiny.make(tmp_path / "b", 15, seed=2)]
    argv = ("--data", *databases, *FAST, "--weights", "1", "3")
    train(*argv, "--run", tmp_path / "whole", "--steps=7")
    train("--data", *databases, *FAST, "--run", tmp_path / "plain", "--steps=7")
    assert losses(tmp_path / "plain")[0] != losses(tmp_path / "whole")[0]
    code = (
        "import os, rsdnet.train as t\n"
        "save = t.Run.save\n"
        "def once(self):\n"
        "    save(self)\n"
        "    os._exit(7)\n"
        "t.Run.save = once\n"
        "t.main()\n"
    )
    words = map(str, (*argv, "--run", tmp_path / "run", "--steps=7", "--checkpoint-every=4"))
    done = subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "data.weights" in refused("--run", tmp_path / "run", "--resume", "--weights", "1", "2")
    train("--run", tmp_path / "run", "--resume", "--cache=host", "--slots=2", "--damaged=raise")
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
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, *extra)
    whole = ("--data", tiny_db, "--run", tmp_path / "whole", *FAST, *extra)
    code = (
        "import os, signal, sys, rsdnet.train as t\n"
        "save = t.Run.save\n"
        "def once(self):\n"
        "    save(self)\n"
        "    self.archive.wait()\n"
        "    if self.step == 3: os._exit(7)\n"
        "t.Run.save = once\n"
        "t.main()\n"
    )
    steps = ("--steps=5", "--checkpoint-every=3")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, argv), *steps], check=False, capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    train("--run", tmp_path / "run", "--resume", "--checkpoint-every=3")
    train(*whole, *steps)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_tensorboard_on_request(tiny_db: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train("--data", tiny_db, "--run", tmp_path / "run", "--steps=2", "--tensorboard", *FAST)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_compiled_training_gives_the_losses_of_eager_training(finished: Path, tiny_db: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("--data", tiny_db, "--run", run, "--steps=14", "--compile=on", *FAST)
    np.testing.assert_allclose(losses(run)[:4], losses(finished)[:4], rtol=1e-2)


# ---- mistakes: one line on stderr, status 2, nothing lost ------------------------------------------------------------


def refused(*argv: object) -> str:
    done = train(*argv, expect=2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in done.stdout
    return line


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere" in refused("--data", tmp_path / "nowhere", "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data(tiny_db: Path, tmp_path: Path) -> None:
    line = refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--batch=64")
    assert "36 samples" in line
    assert "--batch 36" in line


def test_weights_that_do_not_fit_the_databases(tiny_db: Path, tmp_path: Path) -> None:
    line = refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--weights", "1", "2")
    assert "2 weights for 1 databases" in line
    assert not (tmp_path / "run").exists()


def test_a_cache_larger_than_what_is_free(tiny_db: Path, tmp_path: Path) -> None:
    code = (
        "import rsdnet.data.cache as c; c.free_bytes = lambda device: 10\n"
        "from rsdnet.errors import command; from rsdnet.train import main; command(main)\n"
    )
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--cache=host")
    done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--cache host takes" in line
    assert "10 bytes are free" in line
    assert not (tmp_path / "run").exists()


def test_damage_is_an_error_where_it_is_not_to_be_left_out(tmp_path: Path) -> None:
    from rsdnet.data.catalog import Catalog

    db = tiny.make(tmp_path / "db")
    catalog = Catalog.read(db)
    catalog.ms[:1] = "nowhere"
    catalog.write(db)
    assert "nowhere" in refused("--data", db, "--run", tmp_path / "run", *FAST, "--damaged=raise")


def test_an_unknown_band(tiny_db: Path, tmp_path: Path) -> None:
    assert "B99" in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--ms-bands", "B99")


def test_a_band_that_the_database_lacks(tiny_db: Path, tmp_path: Path) -> None:
    assert "B01" in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--ms-bands", "B01", "B02")


def test_a_sar_band_among_the_ms_bands(tiny_db: Path, tmp_path: Path) -> None:
    assert "VV" in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--ms-bands", "VV")


def test_a_run_that_is_there_already(finished: Path, tiny_db: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    assert "--resume" in refused("--data", tiny_db, "--run", finished, "--steps=14", *FAST)
    assert (finished / "metrics.jsonl").read_text() == before


def test_going_on_with_other_settings(finished: Path) -> None:
    assert "model.width (8 in the run, 16 asked)" in refused("--run", finished, "--resume", "--width=16")


def test_going_on_with_other_data(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.safetensors").write_bytes((finished / "checkpoint.safetensors").read_bytes())
    db = tiny.make(tmp_path / "db", 45)
    assert "36 samples" in refused("--run", run, "--resume", "--data", db, "--steps=14", *FAST)


def test_a_checkpoint_of_another_architecture(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.safetensors").write_bytes((finished / "checkpoint.safetensors").read_bytes())
    text = (finished / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("width = 8", "width = 16"))
    line = refused("--run", run, "--resume")
    assert "another architecture" in line


@pytest.mark.parametrize("damage", ["cut", "garbage", "foreign"])
def test_a_damaged_checkpoint(finished: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text((finished / "config.toml").read_text())
    whole = (finished / "checkpoint.safetensors").read_bytes()
    path = run / "checkpoint.safetensors"
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else os.urandom(1000))
    assert "checkpoint.safetensors" in refused("--run", run, "--resume")


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


def test_a_catalog_that_names_absent_keys(tmp_path: Path) -> None:
    from rsdnet.data.catalog import Catalog

    db = tiny.make(tmp_path / "db")
    catalog = Catalog.read(db)
    catalog.ms[:2] = "nowhere"
    catalog.write(db)
    done = train("--data", db, "--run", tmp_path / "run", "--steps=2", *FAST)
    assert "left out 2 of 36 samples" in done.stdout
    assert "nowhere" in done.stdout
    catalog.ms[:] = "nowhere"
    catalog.write(db)
    assert "none of 36 samples" in refused("--data", db, "--run", tmp_path / "run2", *FAST)


def test_a_config_with_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[optim]\nlearning_rate = 3\n")
    assert "optim.learning_rate" in refused("--config", tmp_path / "c.toml")


def test_bf16_of_tiny_views_on_a_cpu(tiny_db: Path, tmp_path: Path) -> None:
    argv = ("--data", tiny_db, "--run", tmp_path / "run", *FAST)
    assert "--size above 16" in refused(*argv, "--size=16", "--precision=bf16")


def test_a_gpu_that_is_not_there(tiny_db: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "--device cuda" in refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--device=cuda")


# ---- on the way ------------------------------------------------------------------------------------------------------


def test_the_encoder_is_evaluated_every_so_often_and_nothing_else_changes(
    finished: Path, tiny_db: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("--data", tiny_db, "--run", run, "--steps=14", *FAST, "--knn-every=2")
    assert losses(run) == losses(finished)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = {record["step"]: record["knn_f1"] for record in records if "knn_f1" in record}
    assert list(evaluated) == [7, 13]  # four steps an epoch; the last step, too
    assert all(0 <= f1 <= 1 for f1 in evaluated.values())
    assert "knn_f1/B04" in records[7]


def test_an_evaluation_without_labels_is_refused_before_training(tmp_path: Path) -> None:
    from rsdnet.data.catalog import Catalog

    db = tiny.make(tmp_path / "db")
    catalog = Catalog.read(db)
    catalog.label[:] = -1
    catalog.write(db)
    assert "labelled" in refused("--data", db, "--run", tmp_path / "run", *FAST, "--steps=2", "--knn-every=1")
    assert not (tmp_path / "run").exists()


def test_metrics_tell_what_a_step_costs_and_whether_it_learns(finished: Path) -> None:
    record = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    told = {
        "effective_rank",
        "cosine",
        "grad_norm",
        "trust_min",
        "trust_max",
        "skipped",
        "memory_bytes",
        "tflops",
        "mfu",
    }
    assert record.keys() >= told
    assert 1 <= record["effective_rank"] <= 8
    assert record["skipped"] == 0
    assert record["memory_bytes"] > 1e8


def test_a_batch_that_does_not_divide(tiny_db: Path, tmp_path: Path) -> None:
    line = refused("--data", tiny_db, "--run", tmp_path / "run", *FAST, "--accumulate=3")
    assert "--batch 9" in line
