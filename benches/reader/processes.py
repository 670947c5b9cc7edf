"""Numbers of a whole process, each measured in one of its own: `python -m benches.reader.processes JOB FOLDER BATCH`.

memory: resident memory over an epoch of the loader, on a database of small values. allocations: calls of malloc and
its like for a batch once warmed up, counted by LD_PRELOAD. The answer is one line of JSON.
"""

import ctypes
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benches.core.peers import Absent
from benches.reader.pairs import SMALL, Pairs

WARM, COUNTED = 64, 256  # batches
SAMPLED = 50  # batches between two looks at the memory


def memory(pairs: Pairs, batch: int) -> dict[str, int]:
    """The largest KiB over an epoch: "own" (anonymous and shared, no pages of files) and "all" (resident)."""
    return answer(["memory", str(pairs.folder), str(batch)], {})


def allocations(pairs: Pairs, batch: int, threads: int) -> dict[str, float]:
    """Calls of malloc for a batch: of the C++ "stream" alone, and of the Python "loader" around it.

    Raises Absent without a C compiler.
    """
    words = ["allocations", str(pairs.folder), str(batch), str(threads)]
    with counter() as library:
        return answer(words, {"LD_PRELOAD": str(library)})


@contextmanager
def counter() -> Iterator[Path]:
    """allocations.c as a shared library, compiled in a temporary folder. Raises Absent where that fails."""
    with tempfile.TemporaryDirectory(prefix="rsdnet-bench-") as folder:
        made, compiler = Path(folder) / "allocations.so", shlex.split(os.environ.get("CC", "cc"))
        source = Path(__file__).with_name("allocations.c")
        try:
            subprocess.run([*compiler, "-O2", "-shared", "-fPIC", source, "-o", made], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Absent(f"allocations.c cannot be compiled: {error}") from error
        yield made


def answer(words: list[str], more: dict[str, str]) -> dict[str, Any]:
    """The process's answer. Raises RuntimeError with its last line where it fails."""
    command = [sys.executable, "-m", __name__, *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- in such a process --------------------------------------------------------------------------------------


def loader(folder: Path, batch: int, threads: int = 0, batches: int | None = None) -> Any:
    """The loader as a user makes it. batches: their number, over several epochs; None: one epoch."""
    from rsdnet import bands
    from rsdnet.data.loader import Loader
    from rsdnet.data.samples import Samples

    pools = {"ms": tuple(n for n in bands.MS if n in SMALL.ms), "sar": bands.SAR}
    return Loader(Samples(folder, pools=pools, threads=threads), batch=batch, stop=batches)


def stream_batches(folder: Path, batch: int, threads: int) -> Iterator[None]:
    """The batches of the C++ stream alone, each handed back at once."""
    from benches.reader.ours import Ours
    from benches.reader.workload import Workload
    from rsdnet.data.catalog import Catalog

    catalog = Catalog.read(folder)
    workload = Workload(Pairs(folder, SMALL, list(catalog.ms), list(catalog.sar)), batch)
    with Ours(workload, threads).stream(range(2 * (WARM + COUNTED))) as stream:
        while (given := stream.next()) is not None:
            yield stream.release(given[0])


def resident() -> dict[str, int]:
    """KiB of this process: see `memory`."""
    found = {}
    for file in ("smaps_rollup", "status"):  # shared memory stands in the second alone on some kernels
        for line in Path(f"/proc/self/{file}").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.strip().endswith("kB"):
                found[name] = int(value.split()[0])
    return {"own": found["Anonymous"] + found.get("RssShmem", found.get("Shmem", 0)), "all": found["Rss"]}


def most_resident(folder: Path, batch: int) -> dict[str, int]:
    looks = []
    with loader(folder, batch) as batches:
        for number, _ in enumerate(batches, start=1):
            if number % SAMPLED == 0 or number == len(batches):
                looks.append(resident())
    return {name: max(look[name] for look in looks) for name in looks[0]}


def counted(batches: Iterator[Any]) -> float:
    """Calls of malloc for each of the next COUNTED batches, WARM ones before them."""
    calls = ctypes.CDLL(None).allocations
    calls.restype = ctypes.c_ulong
    for _ in range(WARM):
        next(batches)
    calls()
    begin = calls()
    idle = calls() - begin  # what the question itself allocates
    begin = calls()
    for _ in range(COUNTED):
        next(batches)
    return max(0, calls() - begin - idle) / COUNTED


def main(job: str, folder: Path, batch: int, threads: int = 0) -> dict[str, Any]:
    """The answer to one job."""
    if job == "memory":
        return most_resident(folder, batch)
    stream = counted(stream_batches(folder, batch, threads))
    return {"stream": stream, "loader": counted(iter(loader(folder, batch, threads, 2 * (WARM + COUNTED))))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))))
