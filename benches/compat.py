"""The kernels under other Tritons: `make compat`, or `python -m benches.compat 3.6 newest`.

Each version gets a virtual environment in build/compat/, with triton at its own version, whatever torch asks for, and
the packages that the kernels' tests need: those of the Python that runs this, where it has them all, else at their pins
(constraints.txt). There the tests of the kernels run: compiled offline for every GPU of `benches.resources`, held to
their budgets, and in the interpreter against their references. A line a version; exit status 1 where one fails, with
the end of what pytest said. Needs a package index and Python's standard library.
"""

import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "compat"
# The interpreter of triton 3.6 takes an array of one element for a number, which numpy 2.4 refuses.
VERSIONS = {"3.6": ["triton==3.6.*", "numpy==2.3.*"], "3.7": ["triton==3.7.*"], "newest": ["triton"]}
PACKAGES = (
    "torch", "numpy", "pillow", "scipy", "hypothesis", "pytest", "pytest-xdist", "rich", "tyro", "pydantic",
    "setuptools",
)  # fmt: skip
MODULES = {"pillow": "PIL", "pytest-xdist": "xdist"}  # packages whose module has another name
TESTS = ("tests/kernels", "tests/benches/test_predict.py")
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
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = FOLDER / name / "lib" / version / "site-packages" / "borrowed.pth"
    borrowed.unlink(missing_ok=True)
    here = all(find_spec(MODULES.get(package, package)) for package in PACKAGES)
    installs = [] if here else [("--constraint", pinned(), *PACKAGES)]
    for words in (*installs, ("--upgrade", "--no-deps", *VERSIONS[name])):
        done = call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words)
        if done.returncode:
            sys.exit(f"error: triton {name}: pip install {' '.join(map(str, words))}: {done.stderr.strip()}")
    if here:  # behind the environment's own packages
        borrowed.write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    return python


def pinned() -> Path:
    """The project's constraints without triton's."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("triton==")]
    constraints = FOLDER / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    return constraints


def tested(name: str) -> bool:
    """Test the kernels under one version and print its line."""
    python = environment(name)
    versions = call(
        python, "-c", "import torch, triton; print(f'triton {triton.__version__}, torch {torch.__version__}')"
    )
    # benches is given as a plugin because it makes rsdnet.kernels importable where nothing is installed
    done = call(python, "-m", "pytest", "-p", "benches", *TESTS)
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
