"""Processes of their own, for what is told of a whole process: `python -m benches.reading.processes JOB FOLDER BATCH`.

memory: resident memory after an epoch of the stream, as a user streams a database of small values.
allocations: calls of malloc and its like a batch once a stream has warmed up; counted by LD_PRELOAD (native.py).
The answer is one line of JSON.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benches.reading.native import library
from benches.reading.pairs import Pairs

WARM, COUNTED = 64, 256  # batches
SAMPLED = 50  # batches from one look at the memory to the next


def memory(pairs: Pairs, batch: int) -> dict[str, int]:
    """The most KiB while streaming an epoch: "own" (anonymous and shared memory: no file's pages), "all" resident."""
    return answer(["memory", str(pairs.folder), str(batch)], {})


def allocations(pairs: Pairs, batch: int, threads: int) -> dict[str, float]:
    """Calls of malloc a batch: "engine", the C++ stream alone; "stream", with rsdnet.data.loader.Loader around it.

    Raises Absent without a C compiler.
    """
    words = ["allocations", str(pairs.folder), str(batch), str(threads)]
    return answer(words, {"LD_PRELOAD": str(library("allocations"))})


def answer(words: list[str], more: dict[str, str]) -> dict[str, Any]:
    """What the process says. Raises RuntimeError with its last line where it fails."""
    command = [sys.executable, "-m", __name__, *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- in such a process --------------------------------------------------------------------------------------


def streamed(folder: Path, batch: int, threads: int = 0, batches: int | None = None) -> Any:
    """The stream as a user makes it. batches: that many, over epochs; none: an epoch."""
    from benches.reading.pairs import SMALL
    from rsdnet import bands
    from rsdnet.data.loader import Loader
    from rsdnet.data.samples import Samples

    pools = {"ms": tuple(n for n in bands.MS if n in SMALL.ms), "sar": bands.SAR}
    return Loader(Samples(folder, pools=pools, threads=threads), batch=batch, stop=batches)


def resident() -> dict[str, int]:
    """KiB of this process: see `memory`."""
    found = dict.fromkeys(("Rss", "Anonymous", "Shmem"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0])
    shared = found["Shmem"]  # in some kernels only in /proc/self/status
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            shared = int(line.split()[1])
    return {"own": found["Anonymous"] + shared, "all": found["Rss"]}


def most_resident(folder: Path, batch: int) -> dict[str, int]:
    looks = []
    with streamed(folder, batch) as stream:
        for number, _ in enumerate(stream, start=1):
            if number % SAMPLED == 0 or number == len(stream):
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


def engine_batches(folder: Path, batch: int, threads: int) -> Iterator[None]:
    """The batches of the C++ stream alone: each is handed back at once."""
    from benches.reading.ours import Ours
    from benches.reading.pairs import SMALL
    from benches.reading.plan import Plan
    from rsdnet.data.catalog import Catalog

    catalog = Catalog.read(folder)
    plan = Plan(Pairs(folder, SMALL, list(catalog.ms), list(catalog.sar)), batch)
    with Ours(plan, threads).stream(range(2 * (WARM + COUNTED))) as stream:
        while (given := stream.next()) is not None:
            yield stream.release(given[0])


def main(job: str, folder: Path, batch: int, threads: int = 0) -> dict[str, Any]:
    if job == "memory":
        return most_resident(folder, batch)
    engine = counted(engine_batches(folder, batch, threads))
    return {"engine": engine, "stream": counted(iter(streamed(folder, batch, threads, 2 * (WARM + COUNTED))))}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))))
