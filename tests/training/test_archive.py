"""Checkpoints over time: what is kept, what is found again after damage, and what a failed writing leaves behind."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsdnet import files
from rsdnet.errors import DataError
from rsdnet.training import checkpoint
from rsdnet.training.archive import Archive
from rsdnet.training.run import truncate_metrics


def fill(archive: Archive, *steps: int) -> None:
    for step in steps:
        archive.save(step, {"a": torch.full((3,), float(step)), "n": torch.tensor(step)}, {"step": step})
    archive.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_and_every_so_many_are_kept(tmp_path: Path) -> None:
    fill(Archive(tmp_path, keep=2, keep_every=100), 50, 100, 150, 200, 250, 300)
    kept = [f"checkpoint-{step:09d}.safetensors" for step in (100, 200, 250, 300)]
    assert names(tmp_path) == [*kept, "checkpoint.safetensors"]


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    fill(Archive(tmp_path), 5, 10)
    path, tensors, meta, damaged = Archive(tmp_path).load()
    assert (path.name, meta, damaged) == ("checkpoint.safetensors", {"step": 10}, [])
    assert tensors["a"].tolist() == [10.0, 10.0, 10.0]
    assert tensors["n"].item() == 10


@pytest.mark.parametrize("place", ["header", "payload", "end", "empty"])
def test_a_damaged_one_is_recognised_and_the_one_before_is_used(tmp_path: Path, place: str) -> None:
    fill(Archive(tmp_path), 5, 10)
    path = tmp_path / "checkpoint.safetensors"  # the same file as checkpoint-000000010
    content = bytearray(path.read_bytes())
    if place == "empty":
        content.clear()
    else:
        content[{"header": 20, "payload": -3, "end": -1}[place]] ^= 1
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(content)
    found, tensors, meta, damaged = Archive(tmp_path).load()
    assert (found.name, meta) == ("checkpoint-000000005.safetensors", {"step": 5})
    assert tensors["a"].tolist() == [5.0, 5.0, 5.0]
    (line,) = damaged  # of two names of one file
    assert "checkpoint.safetensors is damaged" in line


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("flip") / "file.safetensors"
    checkpoint.save(path, {"a": torch.arange(6).reshape(2, 3), "b": torch.ones((), dtype=torch.bfloat16)}, {"step": 1})
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        checkpoint.load(path)


def test_where_none_is_sound_the_newest_ones_fault_is_told(tmp_path: Path) -> None:
    fill(Archive(tmp_path), 5)
    for path in tmp_path.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"checkpoint\.safetensors is damaged"):
        Archive(tmp_path).load()
    assert Archive(tmp_path).exists()
    assert not Archive(tmp_path / "elsewhere").exists()


def test_training_goes_on_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, save = threading.Event(), checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: (gate.wait(), save(*args)))
    archive, weights = Archive(tmp_path), torch.ones(2)
    archive.save(1, {"a": weights}, {"step": 1})
    weights += 1  # the next step; what is being written is the copy
    assert not archive.exists()
    gate.set()
    archive.wait()
    assert archive.load()[1]["a"].tolist() == [1.0, 1.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_nothing_waits_for_the_copy(tmp_path: Path) -> None:
    archive, weights, busy = Archive(tmp_path), torch.ones(2, device="cuda"), torch.randn(4096, 4096, device="cuda")
    weights.clone(), busy @ busy  # memory and kernels are there from now on
    torch.cuda.synchronize()
    for _ in range(500):
        busy @ busy
    archive.save(1, {"a": weights}, {"step": 1})
    assert not torch.cuda.current_stream().query()  # the step before is still at work
    weights += 1
    archive.wait()
    assert archive.load()[1]["a"].tolist() == [1.0, 1.0]


def test_without_hard_links_the_newest_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    fill(Archive(tmp_path), 5, 10)
    assert Archive(tmp_path).load()[2] == {"step": 10}


def test_a_process_killed_between_the_two_names_loses_nothing(tmp_path: Path) -> None:
    fill(Archive(tmp_path), 5, 10)
    (tmp_path / "checkpoint.safetensors").unlink()
    path, _, meta, damaged = Archive(tmp_path).load()
    assert (path.name, meta["step"]) == ("checkpoint-000000010.safetensors", 10)
    assert damaged == []
    os.link(tmp_path / "checkpoint-000000005.safetensors", tmp_path / "checkpoint.safetensors")
    assert Archive(tmp_path).load()[2] == {"step": 10}  # not what was the newest before


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_of_a_future_given_up_do_not_outlive_new_ones(tmp_path: Path, keep: int) -> None:
    fill(Archive(tmp_path, keep=3), 5, 10, 15)
    for name in ("checkpoint.safetensors", "checkpoint-000000015.safetensors", "checkpoint-000000010.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    archive = Archive(tmp_path, keep)
    assert archive.load()[2] == {"step": 5}
    fill(archive, 7)
    kept = [f"checkpoint-{step:09d}.safetensors" for step in (5, 7)[-keep:]]
    assert names(tmp_path) == [*kept, "checkpoint.safetensors"]
    assert Archive(tmp_path).load()[2] == {"step": 7}


@pytest.mark.parametrize("call", ["write", "link", "replace", "fsync"])
def test_whatever_fails_is_told_in_words_and_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    archive = Archive(tmp_path)
    fill(archive, 5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint if call == "write" else os, call, full)
        if call == "link":
            patch.setattr("shutil.copyfile", full)
        archive.save(10, {"a": torch.ones(1)}, {"step": 10})
        with pytest.raises(DataError, match=r"checkpoint-000000010\.safetensors could not .*No space left"):
            archive.wait()
        archive.wait()  # told once
    assert archive.load()[2] == {"step": 10 if call == "link" else 5}
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    fill(archive, 10)
    assert archive.load()[2] == {"step": 10}


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_older_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves, seen by the order of calls: the disk may keep renames and lose bytes otherwise."""
    archive = Archive(tmp_path, keep=1)
    fill(archive, 5)
    calls: list[str] = []

    def name_of(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    fsync, replace, unlink = os.fsync, os.replace, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(f"sync {name_of(fd)}"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"name {Path(b).name}"), replace(a, b))[1])

    def removed(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            calls.append(f"remove {path.name}")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", removed)
    fill(archive, 10)
    ten, newest, folder = "checkpoint-000000010.safetensors", "checkpoint.safetensors", tmp_path.name
    assert calls == [
        *(f"sync .{ten}.part", f"name {ten}", f"sync {folder}"),
        *(f"sync .{newest}.part", f"name {newest}", f"sync {folder}"),
        "remove checkpoint-000000005.safetensors",
    ]


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    fill(Archive(tmp_path), 5)
    before = names(tmp_path)
    for name in (".checkpoint-000000010.safetensors.part", ".checkpoint.safetensors.part", ".tmpa1B2c3"):
        (tmp_path / name).write_bytes(b"half")
    assert Archive(tmp_path).load()[2] == {"step": 5}
    files.sweep(tmp_path)
    assert names(tmp_path) == before


def test_a_checkpoint_is_for_whoever_may_read_the_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    fill(Archive(tmp_path), 5)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_metrics_are_cut_at_a_step_whatever_a_crash_left_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1 / (step + 1)}).encode() for step in range(5)]
    path.write_bytes(b"\n".join([*lines[:3], b"\0\xff\x80", b"3", b"{}", *lines[3:], b'{"step": 5, "lo']))
    truncate_metrics(path, 4)
    assert path.read_bytes().splitlines() == lines[:4]
    assert names(tmp_path) == ["metrics.jsonl"]
