"""What a command sets before it computes: how OpenMP's threads wait, and what malloc does with freed memory."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rsdnet.hardware import keep_freed_memory
from tests.support.torchrun import REPO


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    command = [sys.executable, *words]
    return subprocess.run(command, env=inherited | environment, cwd=REPO, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("module", ["rsdnet.train", "rsdnet.probe"])
@pytest.mark.parametrize(("own", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(module: str, own: dict[str, str], found: str) -> None:
    """By what torch's OpenMP itself displays when it is loaded."""
    done = run("-m", module, "--help", OMP_DISPLAY_ENV="true", **own)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("torch is built without OpenMP here, or it displays nothing")
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr.replace("='", " = '")


FAULTS = """
import resource, torch
from rsdnet.hardware import keep_freed_memory
if {kept}: keep_freed_memory()
for turn in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(size << 20, dtype=torch.uint8) for size in (1, 4, 16, 64, 100)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_handed_out_again() -> None:
    """Blocks of 185 MiB in all are 47,000 pages each time, and with it none once the heap has settled."""
    fetched, kept = (int(run("-c", FAULTS.format(kept=kept)).stdout) for kept in (False, True))
    assert kept < 100
    assert fetched > 10 * kept


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()
