"""Shared by all tests: where the real patches lie, and Triton's interpreter where there is no GPU."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; the tests run side by side

import hypothesis
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated: before any import of one

# A busy machine is slow: time is measured in benches/, never here.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real Sentinel-1/2 patches; skips where a clone has none."""
    folder = Path(os.environ.get("RSDNET_REAL_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real patches: {folder} is not there (set RSDNET_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 60 small samples in three classes: see tests/support/tiny.py."""
    from tests.support import tiny

    return tiny.make(tmp_path_factory.mktemp("tiny") / "db")
