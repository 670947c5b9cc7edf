"""The piece of C, compiled by the system's compiler when needed: a counter of malloc."""

import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from benches.peers import Absent

HERE = Path(__file__).parent


@cache
def library(name: str) -> Path:
    """`name`.c as a shared library, in a temporary folder. Raises Absent without a C compiler that can make it."""
    words = shlex.split(os.environ.get("CC", "cc"))
    if not shutil.which(words[0]):
        raise Absent(f"no C compiler ({words[0]}) to compile {name}.c")
    folder = tempfile.TemporaryDirectory(prefix="rsdnet-bench-")
    _folders.append(folder)
    made = Path(folder.name) / f"{name}.so"
    command = [*words, "-O2", "-shared", "-fPIC", str(HERE / f"{name}.c"), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"{words[0]} does not compile {name}.c: {(done.stderr.splitlines() or [''])[0]}")
    return made


_folders: list[tempfile.TemporaryDirectory[str]] = []
