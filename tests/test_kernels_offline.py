"""Every kernel compiles for GPUs that need not be there, without spills and without local memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
def test_no_kernel_spills(target):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    script = Path(__file__).with_name("compile_offline.py")
    done = subprocess.run([sys.executable, script, target], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kernel"] for line in lines} == {"render_kernel", "byol_loss_kernel", "philox_kernel"}
    for line in lines:
        assert line["registers"] > 0
        for kind in ("stack", "local", "spills", "scalar_spills"):
            assert line.get(kind, 0) == 0, line
