"""What each kernel takes of a GPU that need not be there, and how fast it can be: `python -m benches.resources`.

Compiles the cases of `benches.ops.cases` and prints registers, spills, local and shared memory and how many programs a
multiprocessor holds at once; from the machine code the instructions that an element takes on the executed path and the
width of loads and stores; from the layouts the rows of a tile that a warp's load touches; and from these the floors of
the time on an H100 and an H200 (benches/predict/). `--json` prints an object a line, `--rows FOLDER` appends them to
predicted.csv there, which `benches.report` shows. Nothing is run. Needs triton, no GPU, and a process without
TRITON_INTERPRET.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import triton
from rich.console import Console
from rich.table import Table

from benches.ops.cases import CASES
from benches.predict import rows as predicted
from benches.predict.chips import CHIPS
from benches.predict.prediction import Row, predict
from benches.predict.work import WORK
from rsdnet.errors import DataError, command
from rsdnet.options import parse

CAPTION = """instr.: of a thread, for each element of the result. load, store B: of those that move most bytes, and
of the widest where it differs. rows: of a tile, that a usual load and store of a warp touch. spills: in registers;
NVIDIA's tool gives their bytes only, in local memory. bytes to tensor: floors on an H200 in us, and the share of a
copy's bandwidth between "nothing overlaps" and "all does": predicted"""


@dataclass(frozen=True)
class Options:
    """Compile every kernel for GPUs that need not be there, and print what it takes."""

    targets: tuple[str, ...] = tuple(CHIPS)
    """GPUs to compile for."""
    kernels: str = ""
    """Only kernels whose name has this in it."""
    budgeted: bool = False
    """Only cases that tests hold to a budget."""
    counted: bool = True
    """Count what warps execute, half a second a case; without, registers, memory and occupancy alone."""
    json: bool = False
    """One JSON object a line in place of the table."""
    rows: Path | None = None
    """Folder whose predicted.csv gets the rows, in place of those of this commit, triton and target."""


def measure(options: Options) -> Iterator[Row]:
    """A row a target and case."""
    cases = [case for cases in CASES for case in cases() if options.kernels in case.kernel.__name__]
    if options.budgeted:
        cases = [case for case in cases if case.name in WORK[case.kernel.__name__].budgets]
    for target in options.targets:
        if target not in CHIPS:
            raise DataError(f"targets: {target!r}, expected one of {', '.join(CHIPS)}")
        yield from (predict(case, target, options.counted) for case in cases if target in (case.targets or CHIPS))


def show(rows: Iterable[Row], console: Console) -> None:
    """The table, a section a target."""
    table = Table(title=f"kernels compiled offline, triton {triton.__version__}", caption=CAPTION)
    last = None
    for row in rows:
        if last is None:
            for name in shown(row):
                table.add_column(name, justify="left" if name in ("target", "kernel", "case") else "right")
        elif last != row["target"]:
            table.add_section()
        last = row["target"]
        table.add_row(*map(str, shown(row).values()))
    console.print(table)


def shown(row: Row) -> dict[str, object]:
    """A row's cells by column."""
    times = row.get("H200", {})
    return {
        "target": row["target"], "kernel": row["kernel"].removesuffix("_kernel"), "case": row["case"],
        **({
            "instr.": row["instructions"] or "-", "load B": predicted.width(row, "load"),
            "store B": predicted.width(row, "store"), "rows": f"{row['load_rows']}/{row['store_rows']}",
        } if "instructions" in row else {}),
        "warps": row["warps"], "registers": row["registers"],
        "spills": row["spills"] + row["scalar_spills"] if "spills" in row else "-",
        "local B": row.get("stack", 0) + row["local"], "shared B": row["shared"],
        "warps/SM": row["resident"], "occupancy": f"{row['occupancy']:.0%}",
        **{name: f"{times[name]:g}" if name in times else "" for name in ("bytes", "issue", "lines", "tensor")},
        "of copy": predicted.share(times),
    }  # fmt: skip


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.resources", description=__doc__)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise DataError("TRITON_INTERPRET is set: the interpreter's kernels cannot be compiled; unset it")
    rows: Iterable[Row] = measure(options)
    if options.rows:
        rows = list(rows)
        predicted.replace(options.rows / predicted.NAME, rows, triton.__version__)
    if not options.json:
        console = Console()
        show(rows, console if console.is_terminal else Console(width=240))
        return
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command(main)
