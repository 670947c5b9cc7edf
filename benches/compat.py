"""The kernels under other Tritons: `make compat`, or `python -m benches.compat 3.6 newest`.

Each version gets a virtual environment in build/compat/, with the packages that the kernels' tests need at their pins
(constraints.txt) and triton at its own, whatever torch asks for. There the tests of the kernels run: compiled offline
for every GPU of `benches.resources`, and in the interpreter against their references. A line a version; exit status 1
where one fails, with the end of what pytest said. Needs a package index and Python's standard library.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "compat"
# The interpreter of triton 3.6 takes an array of one element for a number, which numpy 2.4 refuses.
VERSIONS = {"3.6": ["triton==3.6.*", "numpy==2.3.*"], "3.7": ["triton==3.7.*"], "newest": ["triton"]}
PACKAGES = ("torch", "numpy", "pillow", "scipy", "hypothesis", "pytest", "pytest-xdist", "rich", "tyro", "setuptools")
TOLD = 40  # lines of pytest's, where it fails


def call(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, with kernels that can be compiled or interpreted as each test asks."""
    environment = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "PYTHONPATH")}
    return subprocess.run([*map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def environment(name: str) -> Path:
    """The Python of a version's environment, made where it is not there. Exits where pip fails."""
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER / name, with_pip=True)
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("triton==")]
    constraints = FOLDER / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for words in (("--constraint", constraints, *PACKAGES), ("--upgrade", "--no-deps", *VERSIONS[name])):
        done = call(*pip, *words)
        if done.returncode:
            sys.exit(f"error: triton {name}: pip install {' '.join(map(str, words))}: {done.stderr.strip()}")
    return python


def tested(name: str) -> bool:
    """Test the kernels under one version and print its line."""
    python = environment(name)
    versions = call(
        python, "-c", "import torch, triton; print(f'triton {triton.__version__}, torch {torch.__version__}')"
    )
    # benches is given as a plugin because it makes rsdnet.kernels importable where nothing is installed
    done = call(python, "-m", "pytest", "-p", "benches", "tests/kernels")
    lines = done.stdout.splitlines() or done.stderr.splitlines() or ["pytest said nothing"]
    if done.returncode:
        print("\n".join([*lines[-TOLD:], done.stderr]))
    print(f"{versions.stdout.strip() or 'triton ' + name}: {lines[-1]}", flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Exit status: 1 where a version fails."""
    unknown = [name for name in names if name not in VERSIONS]
    if unknown:
        sys.exit(f"error: {unknown[0]!r}, expected one of {', '.join(VERSIONS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    passed = [tested(name) for name in names or VERSIONS]  # each, also after one that fails
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
