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

from benches.predict.sass import EXIT, Instruction, calls, flow, loops
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
                around = [
                    s for s in statements(self.folder / file) if line in s.head or line in s.body or line in s.other
                ]
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


class Walk:
    """The flow of a kernel's warps through its machine code, for a case of which `known` is known."""

    def __init__(
        self, blocks: dict[str, list[Instruction]], frames: dict[int, tuple[Frame, ...]], known: Known
    ) -> None:
        self.blocks, self.frames, self.known = blocks | {EXIT: []}, frames, known
        self.graph = flow(blocks)
        self.loops = loops(self.graph)
        self.forward = networkx.DiGraph(self.graph)
        self.forward.remove_edges_from([(loop.latch, loop.head) for loop in self.loops])
        before = networkx.immediate_dominators(self.forward, self.graph.graph["entry"])
        self.before = networkx.DiGraph((over, name) for name, over in before.items() if over not in (None, name))
        self.after = networkx.immediate_dominators(self.forward.reverse(), EXIT)

    def runs(self) -> dict[str, float]:
        """How often a warp comes to each block."""
        shares, turns = self.shares(), self.turns()
        return {name: shares[name] * turns[name] for name in self.graph}

    def shares(self) -> dict[str, float]:
        """Share of the warps that come to each block, turns of loops not counted."""
        share = dict.fromkeys(self.graph, 0.0) | {self.graph.graph["entry"]: 1.0}
        for name in list(networkx.topological_sort(self.forward)):
            after = list(self.forward.successors(name))
            around = [loop.inside for loop in self.loops if name in loop.inside]
            leaving = [to for to in after if any(to not in inside for inside in around)]
            staying = [to for to in after if to not in leaving]
            for group in (leaving, staying):  # what turns in a loop leaves it in the end
                for to, part in zip(group, self.split(share[name], group), strict=True):
                    share[to] += part
        return share

    def split(self, share: float, after: list[str]) -> list[float]:
        """A block's share among the blocks that follow it: by the shares that the source gives these. Undecided, all go
        where there is more to do."""
        if len(after) != 2:
            return [share] * len(after)
        sizes, votes = zip(*map(self.vote, after), strict=True)
        if None not in votes and 0 < sum(votes) <= share * 1.001:
            return [share * vote / sum(votes) for vote in votes]
        wanted = [share if vote is None else min(vote, share) for vote in votes]
        rare = min((0, 1), key=lambda k: (wanted[k], sizes[k]))
        part = wanted[rare] if wanted[rare] < share * 0.999 else 0.0
        return [part if k == rare else share - part for k in (0, 1)]

    def vote(self, name: str) -> tuple[int, float | None]:
        """Instructions in the blocks that are reached through this one alone, and the share of warps that the source
        gives to those of them that each such warp comes to."""
        if self.forward.in_degree(name) > 1 or name == EXIT:
            return 0, None
        if calls(self.blocks[name]):
            return 0, 0.0
        below = {name, *(networkx.descendants(self.before, name) if name in self.before else ())}
        always = [name]
        while (after := self.after.get(always[-1], EXIT)) in below - {EXIT}:
            always.append(after)
        shares = [
            self.known.taken(self.frames.get(i.line, ())) for each in always for i in self.blocks[each] if not i.guard
        ]
        return sum(len(self.blocks[each]) for each in below), mode(shares or [1.0])

    def turns(self) -> dict[str, float]:
        """Turns of the loops around each block. Of a loop that was unrolled, each of n copies counts 1 / n of them."""
        groups: dict[tuple[Frame, ...], set[str]] = {}
        for loop in self.loops:
            key, _ = self.known.loop(self.frames.get(self.blocks[loop.latch][-1].line, ()))
            groups.setdefault(key, set()).update(loop.inside)
        turns = dict.fromkeys(self.graph, 1.0)
        for key, inside in groups.items():
            made = {i.line for name in inside for i in self.blocks[name]}
            for name in self.graph:  # what is left over of an unrolled loop
                if self.blocks[name] and sum(i.line in made for i in self.blocks[name]) > len(self.blocks[name]) / 2:
                    inside.add(name)
            copies = Counter((i.line, i.opcode) for name in inside for i in self.blocks[name])
            for name in inside:
                turns[name] *= self.known.loop(key)[1] / mode(copies.values())
        return turns

    def count(self) -> float:
        """Instructions that a warp executes."""
        return sum(len(self.blocks[name]) * runs for name, runs in self.runs().items())
