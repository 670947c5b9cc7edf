"""The packages that a GPU machine without network lacks, as wheels in a folder: `make gpu-wheels`.

The project's own, built by the machine's version of Python; the packages that such a machine has not, at the pins of
constraints.txt; and with `--peers` those that it is measured against. Run it again after a change of csrc/.
"""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

from rsdnet.provenance import ROOT, commit

FOLDER = ROOT / "build" / "gpu-wheels"
COMMIT, SOURCES = "COMMIT", "SOURCES"  # files in it: the commit, and the fingerprint of the C++ that was built
# Of the packages that training and measuring import, those that an image with torch, pytest, pyarrow and Jinja has not.
PACKAGES = (
    "pydantic", "pydantic_core", "annotated-types", "typing-inspection", "tyro", "typeguard", "docstring_parser",
    "tomli_w", "lmdb",
)  # fmt: skip
PEERS = (
    "lightly==1.6.0", "lightly-utils==0.0.2", "hydra-core==1.3.8", "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3",
    "aenum==3.1.17", "kornia==0.9.0", "kornia-rs==0.2.0", "byol-pytorch==0.9.1", "beartype==0.23.1",
)  # fmt: skip


def fingerprint() -> str:
    """Names the C++ sources of the reader and how they are built."""
    files = sorted(path for path in (ROOT / "csrc").rglob("*.[ch]pp") if path.parent.name not in ("tests", "fuzz"))
    digest = hashlib.sha256()
    for path in (ROOT / "setup.py", *files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def pinned(names: tuple[str, ...]) -> list[str]:
    """The lines of constraints.txt of these packages."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    pins = {line.partition("==")[0].lower().replace("_", "-"): line for line in lines}
    return [pins[name.lower().replace("_", "-")] for name in names]


def build(python: str, folder: Path, peers: bool) -> None:
    """Fill the folder. python: a CPython of the GPU machine's version, on a system no newer. Exits where pip fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    words = [python, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", folder]
    try:
        done = subprocess.run([*map(str, words), str(ROOT), *pinned(PACKAGES), *(PEERS if peers else ())], check=False)
    except OSError as error:
        sys.exit(f"error: {python} cannot be run ({error.strerror}): name a CPython of the GPU machine's by --python")
    if done.returncode:
        sys.exit(f"error: {python} -m pip wheel failed, see above; --python names a CPython of the GPU machine's")
    (folder / COMMIT).write_text(commit() + "\n")
    (folder / SOURCES).write_text(fingerprint() + "\n")
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{folder}: {len(wheels)} wheels, {size / 1e6:.1f} MB, commit {commit()}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benches.gpu.wheels", description=__doc__)
    parser.add_argument("--python", default="python3.12", help="CPython of the GPU machine's version")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--peers", action="store_true", help="also lightly, kornia and byol-pytorch")
    options = parser.parse_args()
    build(options.python, options.folder, options.peers)


if __name__ == "__main__":
    main()
