"""A launch's floors: times below which it cannot fall on a GPU, from the machine code and the bytes that it must move.

    bytes    that must move, at the rate of a copy
    issue    instructions of all warps on the executed path
    lines    of the first-level cache that loads and stores look up: a warp's access that touches r rows of a tile takes
             r times the lines of its share of a row
    tensor   operations of matrix products

The longest is a floor under the launch; their sum is what it takes where nothing overlaps. Latency is in neither: a
kernel of few resident warps, or one whose loads wait for each other, takes longer.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from benches.ops.cases import Case
from benches.predict import gcn, sass
from benches.predict.chips import CHIPS, RATES, Rates, resident
from benches.predict.code import Instruction
from benches.predict.compile import compile_case, memory
from benches.predict.descriptors import astray
from benches.predict.layout import rows_touched
from benches.predict.path import Walk
from benches.predict.source import Frames, Known, frames_of
from benches.predict.work import WORK
from rsdnet.errors import DataError

LINE = 128  # bytes
Row = dict[str, Any]
UNCOUNTED: Row = {"instructions": None, "bytes": None} | {
    key: 0 for kind in ("load", "store") for key in (kind, f"usual_{kind}", f"{kind}_rows")
}


def predict(case: Case, target: str, counted: bool = True) -> Row:
    """All that is known of a case without running it; unless `counted`, what its machine code tells is left out.

    Where the path through the code cannot be told, a GPU without floors gets no count, and stderr says so; one with
    floors raises DataError.
    """
    chip, name = CHIPS[target], case.kernel.__name__
    compiled = compile_case(case, chip.target)
    warps = compiled.metadata.num_warps
    budget = WORK[name].budgets.get(case.name) if name in WORK else None
    row: Row = {"kernel": name, "case": case.name, "target": target, "warps": warps}
    row["budget"] = budget and budget.instructions
    row |= memory(compiled) | {"shared": compiled.metadata.shared}
    blocks, held = resident(chip, row["registers"], row["shared"], warps)
    row |= {"blocks": blocks, "resident": held, "occupancy": round(held / chip.warps, 3)}
    if "wgmma" in compiled.asm.get("ptx", ""):
        row["astray"] = len(astray(sass.parsed(sass.run("nvdisasm", "-c", cubin=compiled.asm["cubin"]))))
    if not counted:
        return row
    try:
        return row | count(case, compiled, target)
    except DataError as unknown:
        if target in {rates.target for rates in RATES.values()}:
            raise
        print(f"{target}: {unknown}: not counted", file=sys.stderr, flush=True)
        return row | UNCOUNTED


def count(case: Case, compiled: Any, target: str) -> Row:
    """What the machine code tells: instructions, accesses and floors."""
    name, launched = case.kernel.__name__, case.programs * compiled.metadata.num_warps
    if name not in WORK:
        raise DataError(f"{name}: nothing in benches/predict/work.py says what a launch has to do")
    work = WORK[name]
    try:
        facts = {key: n(case.arguments) if callable(n) else n for key, n in work.path.items()}
        walk = walk_of(case, compiled, target, facts)
    except DataError as error:
        raise DataError(f"{name}, {case.name}: {error}; see benches/predict/work.py") from None
    rows, lanes, elements = rows_touched(compiled.asm["ttgir"]), CHIPS[target].target.warp_size, work.elements(case)
    executed = list(walk.executed())
    issued = sum(n for _, n in executed) * launched
    row: Row = {"instructions": round(issued * lanes / elements, 2)}
    for kind, store in (("load", False), ("store", True)):
        row |= dict(
            accesses(kind, [(i, n) for i, n in executed if i.access and i.access.store == store], walk.frames, rows)
        )
    moved = work.moved(case)
    row["bytes"] = moved and round(moved / elements, 3)
    lines = sum(n * lines_of(i, rows.get(walk.frames.get(i.line, ()), 1), lanes) for i, n in executed)
    flops = sum(n * i.flops for i, n in executed)
    for gpu, rates in RATES.items():
        if rates.target == target:
            row[gpu] = floors(rates, moved, issued, lines * launched, flops * launched)
    return row


def walk_of(case: Case, compiled: Any, target: str, facts: Mapping[str, float]) -> Walk:
    """The path of a case's warps. facts: see `source.Known`."""
    known = Known(facts, case.arguments, Path(case.kernel.fn.__code__.co_filename).parent)
    if "amdgcn" in compiled.asm:
        walk = Walk(gcn.parsed(compiled.asm["amdgcn"]), frames_of(compiled.asm["amdgcn"]), known)
    else:
        ptx = compiled.asm["ptx"]
        walk = Walk(sass.disassemble(ptx, CHIPS[target].target, case.options), frames_of(ptx), known)
    walk.check()
    return walk


def accesses(
    kind: str, found: list[tuple[Instruction, float]], frames: dict[int, Frames], rows: dict[Frames, int]
) -> Iterator[tuple[str, int]]:
    """Of a warp's loads or stores: the widest, and the width and the rows of those that move most bytes."""
    widths: dict[int, float] = defaultdict(float)
    touched: dict[int, float] = defaultdict(float)
    for each, count in found:
        assert each.access
        if count:
            widths[each.access.bytes] += count * each.access.bytes
            touched[rows.get(frames.get(each.line, ()), 1)] += count * each.access.bytes
    yield kind, max(widths, default=0)
    yield f"usual_{kind}", max(widths, key=widths.__getitem__, default=0)
    yield f"{kind}_rows", max(touched, key=touched.__getitem__, default=0)


def lines_of(each: Instruction, rows: int, lanes: int) -> int:
    """Cache lines that a warp's access touches."""
    return rows * ceil(lanes / rows * each.access.bytes / LINE) if each.access else 0


def floors(rates: Rates, moved: float | None, issued: float, lines: float, flops: float) -> dict[str, float]:
    """Floors of a launch in us, and the share of a copy's bandwidth between "nothing overlaps" and "all does"."""
    times = {"issue": issued / rates.issue, "lines": lines / rates.lines, "tensor": flops / rates.flops}
    if moved is not None:
        times["bytes"] = moved / rates.copy
        times |= {"low": times["bytes"] / sum(times.values()), "high": times["bytes"] / max(times.values())}
    return {name: float(f"{n * (1 if name in ('low', 'high') else 1e6):.3g}") for name, n in times.items()}
