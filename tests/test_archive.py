"""Checkpoints over time: what is kept, what is found again after damage, and what a failed writing leaves behind."""

import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsdnet import checkpoint
from rsdnet.archive import Archive
from rsdnet.errors import DataError


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
    assert len(damaged) == 2
    assert all("is damaged" in line for line in damaged)


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


def test_a_writing_that_fails_is_told_and_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path)
    fill(archive, 5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    archive.save(10, {"a": torch.ones(1)}, {"step": 10})
    with pytest.raises(DataError, match=r"could not be written .*No space left"):
        archive.wait()
    archive.wait()  # told once
    assert archive.load()[2] == {"step": 5}
    assert names(tmp_path) == ["checkpoint-000000005.safetensors", "checkpoint.safetensors"]


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
