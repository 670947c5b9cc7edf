"""The C++ tests, built without sanitizers; and their databases, read by py-lmdb and the reference safetensors.

`make sanitize` runs the same tests under AddressSanitizer, UBSan and ThreadSanitizer.
"""

import os
import shutil
import subprocess
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.numpy

CSRC = Path(__file__).resolve().parents[2] / "csrc"
PATIENCE = 900  # seconds for compiler and tests on a slow, busy machine


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the C++ tests, compiled into a folder of its own."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    for tool in (compiler, "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: the C++ tests cannot be built")
    build = tmp_path_factory.mktemp("cpp")
    command = ["make", f"-j{os.cpu_count()}", "tests", f"BUILD={build}"]
    result = subprocess.run(command, cwd=CSRC, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert "warning:" not in result.stderr
    return build / "tests" / "all"


def test_the_cpp_tests_pass(program: Path) -> None:
    result = subprocess.run([program], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr
    written = sum(file.read_text().count("\nTEST(") for file in (CSRC / "tests").glob("*.cpp"))
    assert result.stdout.splitlines()[-1] == f"{written} tests passed"


def test_py_lmdb_reads_the_databases_of_the_cpp_tests(program: Path, tmp_path: Path) -> None:
    subprocess.run([program, "--write", tmp_path], check=True)
    files = sorted(tmp_path.iterdir())
    assert len(files) >= 6
    sizes = set()
    for file in files:
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as environment:
            sizes.add(environment.stat()["psize"])
            with environment.begin() as transaction:
                items = list(transaction.cursor())
                assert len(items) == environment.stat()["entries"] > 0
                assert [key for key, _ in items] == sorted(key for key, _ in items)
                for key, value in items:
                    assert transaction.get(key) == value
                    assert safetensors.numpy.load(value)
    assert sizes == {512, 1024, 4096, 8192}


def test_its_pixels_are_those_of_its_formula(program: Path, tmp_path: Path) -> None:
    subprocess.run([program, "--write", tmp_path], check=True)
    file = tmp_path / "page8192_pairs"
    with (
        lmdb.open(str(file), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        patch = safetensors.numpy.load(transaction.get(b"s2_001"))
        image = safetensors.numpy.load(transaction.get(b"s1_001"))["VH"]
    pixels = np.arange(36)
    np.testing.assert_array_equal(patch["B08"].ravel(), (40503 + 7 * 257 + pixels * 3) & 0xFFFF)  # band id 7
    np.testing.assert_array_equal(image.ravel(), ((40503 + 14 * 257 + pixels * 3) & 0xFFFF).astype(np.float32))
    assert patch["B8A"].shape == (3, 3)
    assert patch["B8A"].dtype == np.uint16
