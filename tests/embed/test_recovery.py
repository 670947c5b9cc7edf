"""Nothing is lost and nothing half written: an interruption, kill -9, a full disk, several ranks, other options."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import rasterio
import torch

from rsdnet.embed import geotiff
from rsdnet.embed.job import Job
from rsdnet.embed.parts import Blocks
from rsdnet.embed.projection import Fit
from rsdnet.embed.windows import Block
from rsdnet.errors import DataError
from tests.embed import scenes
from tests.support import encoders

WORDS = ("--offset=0", "--bands=B04", "--features=layer2", "--pca=4", "--type=int8", "--memory=0.01")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    scenes.small_blocks()
    yield
    mock.patch.stopall()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Encoder and scene."""
    folder = tmp_path_factory.mktemp("files")
    return [encoders.written(folder / "encoder"), *scenes.scene(folder / "scene")[:1]]


@pytest.fixture(scope="module")
def whole(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of the command that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("whole") / "out.tif"
        assert scenes.run(patch, *files, out, *WORDS) == 0
    return scenes.read(out).tobytes()


def stop_after(blocks: int, how: signal.Signals) -> Any:
    """A patch, started, by which this process gets a signal after so many blocks."""
    embed, done = Job.embed, 0

    def embedded(self: Job, block: Block, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal done
        if done == blocks:
            os.kill(os.getpid(), how)
        done += 1
        return embed(self, block, fit)

    patch = mock.patch.object(Job, "embed", embedded)
    patch.start()
    return patch


def after_two_killed() -> None:
    stop_after(2, signal.SIGKILL)


def blocks_of(out: Path) -> list[Path]:
    return sorted(out.with_name(f"{out.name}.parts").glob("*.bin"))


def test_an_interrupted_embedding_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, files: list[Path], whole: bytes
) -> None:
    out = tmp_path / "out.tif"
    patch = stop_after(2, signal.SIGINT)
    try:
        assert scenes.run(monkeypatch, *files, out, *WORDS) == 130
    finally:
        patch.stop()
    assert "the same command continues" in capsys.readouterr().out
    assert len(blocks_of(out)) == 2
    assert not out.exists()
    held = {path: path.stat().st_mtime_ns for path in blocks_of(out)}
    for words, named in ((("--stride=24",), "--stride 12, not 24"), (("--bands=B08",), "other --bands")):
        with pytest.raises(DataError, match=named):
            scenes.run(monkeypatch, *files, out, *WORDS, *words)
    assert {path: path.stat().st_mtime_ns for path in blocks_of(out)} == held
    assert scenes.run(monkeypatch, *files, out, *WORDS, "--batch=3", "--memory=1") == 0
    assert "after 2 of 4 blocks" in capsys.readouterr().out
    assert scenes.read(out).tobytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif"]


def test_kill_9_loses_one_block(tmp_path: Path, files: list[Path], whole: bytes) -> None:
    out = tmp_path / "out.tif"
    child = scenes.Child(tmp_path / "said", *files, out, *WORDS, prepare=after_two_killed)
    assert child.statuses == [-signal.SIGKILL]
    assert len(blocks_of(out)) == 2
    assert not out.exists()
    assert scenes.Child(tmp_path / "again", *files, out, *WORDS).statuses == [0]
    assert scenes.read(out).tobytes() == whole


def tell_blocks() -> None:
    """Each block that this process embeds is told on stderr."""
    embed = Job.embed

    def embedded(self: Job, block: Block, fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
        os.write(2, f"{block}\n".encode())
        return embed(self, block, fit)

    mock.patch.object(Job, "embed", embedded).start()


def test_two_ranks_share_the_blocks(tmp_path: Path, files: list[Path], whole: bytes) -> None:
    child = scenes.Child(tmp_path / "said", *files, tmp_path / "out.tif", *WORDS, ranks=2, prepare=tell_blocks)
    assert child.statuses == [0, 0], child.text("err")
    own = [said.with_suffix(".err").read_text().count("Block(") for said in child.said]
    assert own == [2, 2]
    assert scenes.read(tmp_path / "out.tif").tobytes() == whole


@pytest.mark.parametrize("most", [3_000, 4_200])
def test_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[Path], whole: bytes, most: int
) -> None:
    """At a block of 32 x 32 x 4 bytes, and at the output of 53 x 62 x 4: one line, no OUT.tif, and it continues."""
    out, before = tmp_path / "out.tif", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(DataError, match=r"no space to write .*out.tif.*run the same command again"):
            scenes.run(monkeypatch, *files, out, *WORDS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif.parts"]
    assert len(blocks_of(out)) == (4 if most > 4096 else 0)
    assert not list(tmp_path.glob("*/.*"))
    assert scenes.run(monkeypatch, *files, out, *WORDS) == 0
    assert scenes.read(out).tobytes() == whole


def test_a_file_that_lost_its_last_writes_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[Path]
) -> None:
    """GDAL writes what it holds back when it closes a file, and tells no error of that."""
    check = geotiff._require_whole

    def lose(path: Path, *rest: object) -> None:
        with rasterio.open(path, "r+") as file:
            pixels = file.read(1)
            pixels[40, 40] ^= 1
            file.write(pixels, 1)
        check(path, *rest)

    monkeypatch.setattr(geotiff, "_require_whole", lose)
    with pytest.raises(DataError, match="does not hold what was written"):
        scenes.run(monkeypatch, *files, tmp_path / "out.tif", *WORDS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif.parts"]


def test_force_begins_anew_and_replaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[Path], whole: bytes
) -> None:
    out = tmp_path / "out.tif"
    out.write_text("text")
    with pytest.raises(DataError, match="exists: name another output, or write over it by --force"):
        scenes.run(monkeypatch, *files, out, *WORDS)
    assert out.read_text() == "text"
    patch = stop_after(1, signal.SIGINT)
    try:
        assert scenes.run(monkeypatch, *files, out, *WORDS, "--force", "--stride=24") == 130
    finally:
        patch.stop()
    assert out.read_text() == "text"
    assert scenes.run(monkeypatch, *files, out, *WORDS, "--force") == 0
    assert scenes.read(out).tobytes() == whole


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    one, two = (Blocks(tmp_path / "out.tif", geotiff.Coding("int8", None, None).dtype, 1) for _ in range(2))
    one.begin({"rows": ["B04"]}, fresh=False)
    with pytest.raises(DataError, match="another process works there"):
        two.begin({"rows": ["B04"]}, fresh=False)
    one.remove()
    assert not list(tmp_path.iterdir())
