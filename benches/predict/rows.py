"""Rows of benches/results/predicted.csv, and their tables: what `benches.resources` predicted, of which code.

commit, triton, target, kernel, case    of what; `target` as in `chips.CHIPS`
instructions ... occupancy              as `prediction.predict` gives them
bytes                                   an element must move; empty where unknown
H100, H200                              floors, "issue=..; lines=..; tensor=..; bytes=..; low=..; high=.."
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from benches.core.rows import joined, split
from benches.predict.chips import RATES
from benches.predict.prediction import Row
from rsdnet.errors import DataError
from rsdnet.provenance import commit

NAME = "predicted.csv"
COLUMNS = (
    "commit", "triton", "target", "kernel", "case", "instructions", "load", "usual_load", "load_rows", "store",
    "usual_store", "store_rows", "registers", "local", "shared", "warps", "resident", "occupancy", "bytes", *RATES,
)  # fmt: skip


def replace(path: Path, rows: Iterable[Row], triton: str) -> None:
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


def cells(row: Row, triton: str) -> dict[str, str]:
    """A prediction as a row of the CSV."""
    local = row.get("stack", 0) + row["local"]
    found = {"commit": commit(), "triton": triton} | row | {"local": local}
    found |= {gpu: joined(row.get(gpu, {})) for gpu in RATES}
    return {name: "" if found.get(name) is None else str(found[name]) for name in COLUMNS}


def read(path: Path) -> list[dict[str, str]]:
    """All rows; none where there is no file. Raises DataError on other columns."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path} has the columns {', '.join(reader.fieldnames or ())}: name another folder")
        return list(reader)


def width(row: Row | dict[str, str], kind: str) -> str:
    """Bytes of the usual load or store; of the widest too where it differs."""
    usual, widest = row[f"usual_{kind}"], row[kind]
    return str(usual) if usual == widest else f"{usual} ({widest})"


def share(times: dict[str, float] | dict[str, str]) -> str:
    """Share of a copy's bandwidth: from "nothing overlaps" to "all does"."""
    return f"{float(times['low']):.0%} to {float(times['high']):.0%}" if "low" in times else ""


def tables(rows: Sequence[dict[str, str]], target: str = "cuda:90") -> list[tuple[str, list[list[str]]]]:
    """For each triton a title and the cells of a table, the head first: kernels of the last commit on `target`, with
    the instructions of the first commit where that differs."""
    found = []
    for triton in dict.fromkeys(row["triton"] for row in rows):
        mine = [row for row in rows if row["triton"] == triton and row["target"] == target]
        if not mine:
            continue
        first, last = mine[0]["commit"], mine[-1]["commit"]
        before = {(row["kernel"], row["case"]): row for row in mine if row["commit"] == first != last}
        title = f"triton {triton}, {target.replace('cuda:', 'sm_')}, commit {last}"
        title += f"; in brackets commit {first}" if before else ""
        head = ["kernel", "case", "instructions an element", "load, store B", "rows", "registers", "occupancy"]
        head += [f"{gpu}: floors, us" for gpu in RATES] + [f"{gpu}: of copy" for gpu in RATES]
        found.append((title, [head, *(line(row, before) for row in mine if row["commit"] == last)]))
    return found


def line(row: dict[str, str], before: dict[tuple[str, str], dict[str, str]]) -> list[str]:
    """A row's cells."""
    old = before.get((row["kernel"], row["case"]))
    was = f" ({float(old['instructions']):.3g})" if old and old["instructions"] != row["instructions"] else ""
    made = [row["kernel"].removesuffix("_kernel"), row["case"], f"{float(row['instructions']):.3g}{was}"]
    made += [f"{width(row, 'load')}, {width(row, 'store')}", f"{row['load_rows']}, {row['store_rows']}"]
    made += [row["registers"], f"{float(row['occupancy']):.0%}"]
    floors = [split(row[gpu]) for gpu in RATES]
    told = ("bytes", "issue", "lines", "tensor")
    made += [", ".join(f"{name} {each[name]}" for name in told if float(each.get(name, 0))) for each in floors]
    return [*made, *map(share, floors)]
