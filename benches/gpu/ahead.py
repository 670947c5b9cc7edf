"""All that the stages of the step wait for, done at once: networks compiled, a process each, and the database made.

    python -m benches.gpu.ahead --folder FOLDER     all of it; torch.compile keeps it for the processes that come later
    python -m benches.gpu.ahead NAME N              one contender of setting N

Beside an H200, on 16 cores, a ResNet-50 compiled for 115 to 155 s with one or two others, and for 190 s with five.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benches.training.contenders import CONTENDERS
from benches.training.seat import RESIDENT, Local
from benches.training.setting import settings

COMPILED = (("rsdnet", 0), ("reference, compiled", 0), ("rsdnet", 1))
DATABASE = "database"
TURN = 5  # steps


def seated(name: str, which: int, shapes: str, backend: str) -> None:
    """Compile a contender's step by taking it."""
    torch.backends.cudnn.benchmark = True
    found = settings(shapes, workers=0, threads=0, backend=backend)
    if which < len(found):
        began, setting = time.monotonic(), found[which]
        seat = Local(lambda: CONTENDERS[name](setting, None), setting)
        took, step = time.monotonic() - began, seat.turn(TURN, RESIDENT) / TURN
        print(f"{name}, {setting.shape}: ready in {took:.0f} s, {1e3 * step:.1f} ms a step beside others", flush=True)


def made(folder: Path, shapes: str) -> None:
    """The database of `benches.end_to_end`."""
    from benches.end_to_end import SCALES, database

    print(database(folder, settings(shapes, workers=0, threads=0)[0], SCALES[shapes].pairs), flush=True)


def all_at_once(options: argparse.Namespace) -> int:
    """Each in a process of its own. Its status: 1 where one of them failed."""
    words = [sys.executable, "-m", "benches.gpu.ahead", f"--shapes={options.shapes}", f"--backend={options.backend}"]
    jobs = [(DATABASE, 0), *COMPILED] if options.folder else [*COMPILED]
    folder = [f"--folder={options.folder}"] if options.folder else []
    running = [subprocess.Popen([*words, *folder, name, str(which)]) for name, which in jobs]
    return min(1, sum(process.wait() != 0 for process in running))


def main() -> int:
    """The command."""
    known = argparse.ArgumentParser(prog="python -m benches.gpu.ahead", description=__doc__.partition("\n")[0])
    known.add_argument("name", nargs="?", help=f"a contender, or {DATABASE}; none: all")
    known.add_argument("which", nargs="?", type=int, default=0, help="number of the setting")
    known.add_argument("--folder", type=Path, help="where the database is made; without it none is")
    known.add_argument("--shapes", default="full", choices=("tiny", "small", "full"))
    known.add_argument("--backend", default="inductor", help="of the reference's torch.compile")
    options = known.parse_args()
    if options.name is None:
        return all_at_once(options)
    if options.name == DATABASE:
        made(options.folder, options.shapes)
    else:
        seated(options.name, options.which, options.shapes, options.backend)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
