"""The built extension shows nothing of the LMDB inside it; and a build from wrong sources stops with one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rsdnet._reader

REPO = Path(__file__).resolve().parent.parent


def test_the_extension_hides_its_lmdb() -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm (binutils)")
    library = rsdnet._reader.__file__
    assert library is not None
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1] for line in listing.splitlines()}
    assert "PyInit__reader" in symbols
    assert not [name for name in symbols if name.startswith(("mdb_", "midl_"))]


def test_wrong_sources_of_lmdb_stop_the_build_with_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pybind11")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path)
    for name in ("rsdnet", "csrc"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    archive = tmp_path / "third_party" / "lmdb-1.8.1.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"something else")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {archive} has sha256 ")
    assert last.endswith("; delete it and build again")
    assert not list(tmp_path.rglob("*.so"))
