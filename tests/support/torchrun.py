"""Commands on several ranks of this machine, by torchrun, over gloo."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def words(ranks: int, *argv: object, restarts: int = 0) -> list[str]:
    """The command line that runs `argv`, a module with its arguments, on so many ranks."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    return [sys.executable, "-m", *launcher, "-m", *map(str, argv)]


def environment() -> dict[str, str]:
    """Without what pytest-xdist or an outer torchrun set, which would speak of other ranks."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TORCHELASTIC"))}
    return {**found, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(REPO), *sys.path[1:]])}


def torchrun(ranks: int, *argv: object, restarts: int = 0, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `argv` on so many ranks. expect: its exit status; None: any but 0 (torchrun has its own)."""
    done = subprocess.run(
        words(ranks, *argv, restarts=restarts), capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode != 0) if expect is None else (done.returncode == expect), done.stdout + done.stderr
    return done
