"""All that is measured on a GPU, in stages of less than ten minutes: `python3 -m benches.gpu --rows FOLDER`.

For a GPU machine without network, on which nothing of this project is installed: it has torch, triton, numpy, pytest
(with xdist and benchmark), hypothesis, rich, pyarrow, safetensors, scikit-learn and their like; the rest comes in the
folder that `make gpu-wheels` builds elsewhere. It needs no git.

Correctness comes first, and nothing is measured unless it holds. Rows are appended as they come, and a command that was
cut keeps what it has: say the same again for the stages that are left. Stages that are named run whatever is done.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benches.gpu.machine import check_gpu, environment, unpacked
from benches.gpu.runner import Folder, run_stages
from benches.gpu.stages import STAGES, Stage
from benches.gpu.wheels import FOLDER
from rsdnet.provenance import ROOT

SCRATCH = ROOT / "build" / "gpu"
REAL = {"shapes": "full", "backend": "inductor", "tests": ""}
# Tests are collected alone: Triton's interpreter, which runs kernels without a GPU, does not go with every numpy.
TINY = {"shapes": "tiny", "backend": "eager", "tests": "--collect-only -qqq"}


def say(text: str) -> None:
    print(f"---- {text}", flush=True)


def summary(stage: Stage) -> str:
    """A stage in one line."""
    return f"  {stage.name:<11} {stage.seconds}  {stage.does}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        "python3 -m benches.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="stages, each with its limit in seconds:\n" + "\n".join(map(summary, STAGES)),
    )  # fmt: skip
    made.add_argument("stages", nargs="*", metavar="STAGE", help="run these, done or not; none: all that are not done")
    made.add_argument("--list", action="store_true", help="print the stages with their commands, and do nothing")
    made.add_argument("--rows", type=Path, default=SCRATCH / "rows", help="where rows, predictions and the log go")
    made.add_argument("--wheels", type=Path, default=FOLDER, help="the folder that `make gpu-wheels` has built")
    made.add_argument("--budget", type=float, default=570, help="seconds that this command may take")
    made.add_argument("--rehearse", action="store_true", help="without a GPU: tiny shapes, nothing is compiled")
    return made


def listing() -> str:
    """The stages with their commands."""
    lines = []
    for stage in STAGES:
        lines += [f"{stage.name}: {stage.does}; {stage.seconds} s at most", *(f"    {one}" for one in stage.commands)]
    return "\n".join(lines)


def main() -> int:
    """The command. Its status: 1 where a stage failed or was cut, or without a GPU."""
    began, known = time.monotonic(), parser()
    options = known.parse_args()
    if unknown := set(options.stages) - {stage.name for stage in STAGES}:
        known.error(f"{unknown.pop()} is no stage: {', '.join(stage.name for stage in STAGES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the command under way, too
    if options.list:
        print(listing())
        return 0
    rows, site = options.rows.resolve(), SCRATCH / "site"
    rows.mkdir(parents=True, exist_ok=True)
    if options.wheels.is_dir():
        unpacked(options.wheels, site)
    elif find_spec("rsdnet._reader") is None:
        sys.exit(f"error: there is no {options.wheels}: build it by `make gpu-wheels`, and name it by --wheels")
    inside = environment(options.wheels, site)
    if not check_gpu(inside) and not options.rehearse:
        print("error: there is no GPU that torch sees: --rehearse tries all but the measuring")
        return 1
    mode, told = (TINY, " rehearsed") if options.rehearse else (REAL, "")
    values = {"rows": shlex.quote(str(rows)), "scratch": shlex.quote(str(SCRATCH))} | mode
    inside |= {"TORCHDYNAMO_DISABLE": "1"} if options.rehearse else {}
    folder = Folder(rows, inside["RSDNET_COMMIT"] + told)
    status = run_stages(options.stages, folder, values, inside, began + options.budget, say)
    subprocess.run([sys.executable, "-m", "benches.gpu.report", str(rows)], cwd=ROOT, env=inside, check=False)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
