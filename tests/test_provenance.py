"""The commit of a clone, of a copy without git, and of a machine without git."""

import shutil
import subprocess
from pathlib import Path

import pytest

from rsdnet import __version__, provenance
from rsdnet.config import Config, ModelConfig, RunConfig
from rsdnet.distributed import ALONE
from rsdnet.training.run import Run
from rsdnet.training.settings import fitted


def git(folder: Path, *words: str) -> str:
    known = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(["git", "-C", folder, *known, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RSDNET_COMMIT", raising=False)
    (tmp_path / "code").write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "code")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def test_the_commit_and_whether_the_tree_is_that(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD").strip()
    assert head.startswith(provenance.commit())
    (clone / "code").write_text("2")
    assert provenance.commit() == git(clone, "rev-parse", "--short", "HEAD").strip() + "+"


def test_a_copy_without_git_is_not_the_repository_around_it(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = clone / "copy"
    inside.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert provenance.commit() == "unknown"
    monkeypatch.setenv("RSDNET_COMMIT", "abc1234")
    assert provenance.commit() == "abc1234"


def test_a_machine_without_git(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clone))
    assert shutil.which("git") is None
    assert provenance.commit() == "unknown"


def test_a_run_notes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSDNET_COMMIT", "abc1234")
    cfg = Config(model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16), run=RunConfig(run=tmp_path))
    environment = Run(fitted(cfg, 1024), samples=1024, ranks=ALONE).environment()
    assert (environment["commit"], environment["rsdnet"]) == ("abc1234", __version__)
