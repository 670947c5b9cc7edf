"""Rows of benches/results/predicted.csv, and their tables: what `benches.resources` predicted, of which code.

commit, triton, target, kernel, case    of what; `target` as in `chips.CHIPS`
instructions ... occupancy              as `prediction.predict` gives them
bytes                                   an element must move; empty where unknown
H100, H200                              floors, "issue=..; lines=..; tensor=..; bytes=..; low=..; high=.."
"""

import csv
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benches.core.rows import joined, split
from rsdnet.errors import DataError
from rsdnet.provenance import commit

NAME = "predicted.csv"
GPUS, MAIN = ("H100", "H200"), "cuda:90"
COLUMNS = (
    "commit", "triton", "target", "kernel", "case", "budget", "instructions", "load", "usual_load", "load_rows",
    "store", "usual_store", "store_rows", "registers", "local", "shared", "warps", "resident", "occupancy", "bytes",
    *GPUS,
)  # fmt: skip

Cells = dict[str, str]


def replace(path: Path, rows: Iterable[Mapping[str, Any]], triton: str) -> None:
    """Put rows into a CSV in place of those of this commit, triton and target, and of the same kernels."""
    made = [cells(row, triton) for row in rows]
    key = ("commit", "triton", "target", "kernel")
    again = {tuple(row[name] for name in key) for row in made}
    kept = [row for row in read(path) if tuple(row[name] for name in key) not in again]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *made])


def cells(row: Mapping[str, Any], triton: str) -> Cells:
    """A prediction as a row of the CSV."""
    local = row.get("stack", 0) + row["local"]
    found = {"commit": commit(), "triton": triton, **row, "local": local}
    found |= {gpu: joined(row.get(gpu, {})) for gpu in GPUS}
    return {name: "" if found.get(name) is None else str(found[name]) for name in COLUMNS}


def read(path: Path) -> list[Cells]:
    """All rows; none where there is no file. Raises DataError on other columns."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path} has the columns {', '.join(reader.fieldnames or ())}: name another folder")
        return list(reader)


def width(row: Mapping[str, Any], kind: str) -> str:
    """Bytes of the usual load or store; of the widest too where it differs."""
    usual, widest = row[f"usual_{kind}"], row[kind]
    return str(usual) if usual == widest else f"{usual} ({widest})"


def share(times: Mapping[str, Any]) -> str:
    """Share of a copy's bandwidth: from "nothing overlaps" to "all does"."""
    return f"{float(times['low']):.0%} to {float(times['high']):.0%}" if "low" in times else ""


def tables(rows: Sequence[Cells]) -> list[tuple[str, list[list[str]]]]:
    """For each triton a title and the cells of a table, the head first: of the last commit the kernels that have a
    budget, with the instructions of the first commit where these differ. A kernel that is new then has those of a
    kernel that is gone, of the same first word and case."""
    found = []
    for triton in dict.fromkeys(row["triton"] for row in rows):
        mine = [row for row in rows if row["triton"] == triton]
        first, last = mine[0]["commit"], mine[-1]["commit"]
        now = [row for row in mine if row["commit"] == last]
        kept = {row["kernel"] for row in now}
        before = {key_of(row, kept): row for row in mine if row["commit"] == first != last}
        counts = {key_of(row, kept): row for row in now}
        targets = list(dict.fromkeys(row["target"] for row in now))
        title = f"triton {triton}, commit {last}{f'; in brackets: commit {first}' if first != last else ''}"
        head = ["kernel", "case", *(f"instructions, {name(target)}" for target in targets), "load, store B"]
        head += ["rows", "registers", "occupancy", *(f"{gpu}: floors, us" for gpu in GPUS)]
        lines = [head + [f"{gpu}: of copy" for gpu in GPUS]]
        for row in now:
            if row["target"] == MAIN and row["budget"]:
                same = [row | {"target": target} for target in targets]
                was = [before.get(key_of(each, kept)) or before.get(key_of(each, set())) for each in same]
                counted = [counts.get(key_of(each, kept)) for each in same]
                lines.append(line(row, list(map(instructions, counted, was))))
        found.append((title, lines))
    return found


def key_of(row: Cells, kept: Container[str]) -> tuple[str, str, str]:
    """Target, kernel and case; of a kernel that is not `kept`, its first word."""
    kernel = row["kernel"]
    return row["target"], kernel if kernel in kept else kernel.partition("_")[0], row["case"]


def name(target: str) -> str:
    """sm_90 or gfx942."""
    return target.replace("cuda:", "sm_").removeprefix("hip:")


def instructions(now: Cells | None, before: Cells | None) -> str:
    """The count, and in brackets another one from before."""
    counts = [f"{float(row['instructions']):.3g}" if row else "" for row in (now, before)]
    return counts[0] if counts[1] in ("", counts[0]) else f"{counts[0]} ({counts[1]})"


def line(row: Cells, counts: list[str]) -> list[str]:
    """A row's cells."""
    made = [row["kernel"].removesuffix("_kernel"), row["case"], *counts]
    made += [f"{width(row, 'load')}, {width(row, 'store')}", f"{row['load_rows']}, {row['store_rows']}"]
    made += [row["registers"], f"{float(row['occupancy']):.0%}"]
    floors = [split(row[gpu]) for gpu in GPUS]
    told = ("bytes", "issue", "lines", "tensor")
    made += [", ".join(f"{each} {times[each]}" for each in told if float(times.get(each, 0))) for times in floors]
    return [*made, *map(share, floors)]
