"""A clone that is not installed, made to run: the packages of the wheels beside it, and the reader inside it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benches.gpu.wheels import COMMIT, SOURCES, fingerprint
from rsdnet.files import aside
from rsdnet.provenance import ROOT, commit

PREFLIGHT = """
import torch, triton
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}, torch {torch.__version__}, triton {triton.__version__}")
raise SystemExit(gpu == "no GPU")
"""


def unpacked(wheels: Path, site: Path) -> None:
    """Unpack the wheels into `site`; give the clone the reader of the project's own wheel and its kernels.

    Nothing of rsdnet stays in `site`: in a clone's folder Python finds the clone's first, which lacks both.
    Exits where the wheel is of other C++ sources, or of another Python.
    """
    built = wheels / SOURCES
    if built.is_file() and built.read_text().strip() != fingerprint():
        sys.exit(f"error: {wheels} was built from other C++ sources: run `make gpu-wheels` again")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    found = sorted(str(path) for path in wheels.glob("*.whl"))
    shutil.rmtree(site, ignore_errors=True)
    words = [*pip, "--no-compile", "--no-cache-dir", "--target", str(site), *found]
    if not found or subprocess.run(words, check=False).returncode:
        sys.exit(f"error: the wheels of {wheels} cannot be unpacked: build them by `make gpu-wheels` for this Python")
    for path in (site / "rsdnet").glob("_reader*.so"):
        with aside(ROOT / "rsdnet" / path.name) as temporary:  # a process that has the old one in use keeps it
            shutil.copy(path, temporary)
    shutil.rmtree(site / "rsdnet", ignore_errors=True)
    kernels = ROOT / "rsdnet" / "kernels"
    if not kernels.exists():
        kernels.unlink(missing_ok=True)
        kernels.symlink_to("../kernels")


def environment(wheels: Path, site: Path) -> dict[str, str]:
    """Of the commands: the clone and the unpacked packages first, no interpreter, and the commit that they note."""
    told = wheels / COMMIT
    found = commit()
    if found == "unknown" and told.is_file():
        found = told.read_text().strip()
    folders = [str(ROOT), *([str(site)] if site.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONUNBUFFERED": "1", "RSDNET_COMMIT": found}
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | own


def check_gpu(environment: Mapping[str, str]) -> bool:
    """Print the GPU and the versions. False without a GPU, or without torch or triton."""
    return subprocess.run([sys.executable, "-c", PREFLIGHT], env=dict(environment), check=False).returncode == 0
