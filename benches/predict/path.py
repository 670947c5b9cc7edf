"""How often a warp executes each instruction of a kernel, and how many that makes in all.

Of a case is known how often its loops turn and its branches are taken: `path`, by the source's own words, as
{"code == 2": 1, "j in range(0, count_y)": 2}. A branch counts by its share of the warps, `else` by the rest; one that
is not named counts as taken, on both sides. A loop that stays one in the machine code must be named.
"""

import ast
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import networkx

from benches.predict.sass import Instruction, flow, loops
from rsdnet.errors import DataError

Frame = tuple[str, int]  # name of a source file, line
FRAME = re.compile(r"([\w.]+\.py):(\d+):\d+")


class Statement(NamedTuple):
    """A loop or branch of the source: its condition or its `in`, and the lines of its head, body and else."""

    text: str
    loop: bool
    head: range
    body: range
    other: range


@cache
def statements(path: Path) -> list[Statement]:
    """All loops and branches of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If | ast.While):
            text = ast.unparse(node.test)
        elif isinstance(node, ast.For):
            text = f"{ast.unparse(node.target)} in {ast.unparse(node.iter)}"
        else:
            continue
        body, other = lines(node.body), lines(node.orelse)
        found.append(Statement(text, not isinstance(node, ast.If), range(node.lineno, body.start), body, other))
    return found


def lines(nodes: list[ast.stmt]) -> range:
    """Lines that statements take."""
    return range(nodes[0].lineno, (nodes[-1].end_lineno or 0) + 1) if nodes else range(0)


class Known:
    """What is known of a path. folder: of the kernel's sources."""

    def __init__(self, known: Mapping[str, float], folder: Path) -> None:
        self.known, self.folder = known, folder

    def within(self, frames: tuple[Frame, ...]) -> list[tuple[Statement, int]]:
        """Loops and branches around a place, the innermost first."""
        found = []
        for file, line in frames:
            if (self.folder / file).is_file():
                around = [s for s in statements(self.folder / file) if line in s.head or line in s.body or line in s.other]
                found += [(s, line) for s in sorted(around, key=lambda s: -s.head.start)]
        return found

    def taken(self, frames: tuple[Frame, ...]) -> float:
        """Share of the warps that come to a place."""
        shares = [
            self.known[s.text] if line in s.body else 1 - self.known[s.text]
            for s, line in self.within(frames)
            if not s.loop and s.text in self.known and line not in s.head
        ]
        return prod(shares)

    def loop(self, frames: tuple[Frame, ...]) -> tuple[tuple[Frame, ...], float]:
        """The innermost loop around a place that the source does not unroll, as frames, and its turns."""
        for k, frame in enumerate(frames):
            for s, _ in self.within((frame,)):
                if s.loop and "static_range" not in s.text:
                    if s.text not in self.known:
                        raise DataError(f"path: the loop `{s.text}` turns, but the case does not say how often")
                    return ((frame[0], s.head.start), *frames[k + 1 :]), self.known[s.text]
        return (), 1.0


def frames_of(asm: str) -> dict[int, tuple[Frame, ...]]:
    """Of each line of an assembly with `.loc` and Triton's remarks: where in the source it comes from, callers last."""
    frames: dict[int, tuple[Frame, ...]] = {}
    now: tuple[Frame, ...] = ()
    for number, line in enumerate(asm.splitlines(), 1):
        if line.lstrip().startswith(".loc"):
            now = tuple((file, int(at)) for file, at in FRAME.findall(line))
        frames[number] = now
    return frames


def executed(blocks: dict[str, list[Instruction]], frames: dict[int, tuple[Frame, ...]], path: Known) -> dict[str, float]:
    """How often a warp comes to each block.

    A block is as likely as the likeliest of its instructions: compilers move instructions to blocks that run at least
    as often, never to rarer ones. It is no likelier than what leads to it. Of a loop that was unrolled, each of the n
    copies counts 1 / n of the turns.
    """
    graph = flow(blocks)
    found = loops(graph)
    share: dict[str, float] = {}
    forward = graph.copy()
    forward.remove_edges_from([(latch, head) for latch, head, _ in found])
    for name in networkx.topological_sort(forward):
        before = sum(share[b] for b in forward.predecessors(name)) if forward.in_degree(name) else 1.0
        own = max((path.taken(frames.get(i.line, ())) for i in blocks[name]), default=1.0)
        calls = any(i.name == "CALL" for i in blocks[name])
        share[name] = 0.0 if calls else min(own, before, 1.0)
    groups: dict[tuple[Frame, ...], set[str]] = {}
    for latch, _, inside in found:
        groups.setdefault(path.loop(frames.get(blocks[latch][-1].line, ()))[0], set()).update(inside)
    turns = dict.fromkeys(graph, 1.0)
    for key, inside in groups.items():
        made = {i.line for name in inside for i in blocks[name]}
        for name in graph:  # what is left over of an unrolled loop
            if blocks[name] and sum(i.line in made for i in blocks[name]) > len(blocks[name]) / 2:
                inside.add(name)
        copies = Counter((i.line, i.opcode) for name in inside for i in blocks[name])
        count = path.loop(key)[1] / mode(copies.values())
        for name in inside:
            turns[name] *= count
    return {name: share[name] * turns[name] for name in graph}


def count(blocks: dict[str, list[Instruction]], runs: dict[str, float]) -> float:
    """Instructions that a warp executes."""
    return sum(len(blocks[name]) * run for name, run in runs.items())
