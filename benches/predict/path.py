"""How often a warp comes to each basic block of a kernel.

At a branch the warps go where the source says (`source.Known`): the branch's two sides are recognised by the lines of
source that their code was made from. Undecided, all go where there is more to do. A loop's blocks count as often as it
turns; what the compiler unrolled, each of n copies a nth.

Not told apart: what a branch did that the compiler turned into predicates or selects, which all warps execute, counts
in full. Compared by hand with the code of all kernels, counts were right to a few instructions a warp; a hand-written
loop is counted exactly (tests/benches/test_predict.py).
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from math import nan
from statistics import mode

import networkx

from benches.predict.code import EXIT, Blocks, Instruction, Loop, calls, flow, loops
from benches.predict.source import Frames, Known
from rsdnet.errors import DataError


class Walk:
    """The way of a kernel's warps through its machine code. frames: of each line that the code was made from."""

    def __init__(self, blocks: Blocks, frames: dict[int, Frames], known: Known) -> None:
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
        turns = self.turns()
        return {name: share and share * turns[name] for name, share in self.shares.items()}

    def executed(self) -> Iterator[tuple[Instruction, float]]:
        """Every instruction that warps come to, and how often one does."""
        for name, runs in self.runs().items():
            yield from ((instruction, runs) for instruction in self.blocks[name] if runs)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the warps that come to each block, turns of loops not counted."""
        share = dict.fromkeys(self.graph, 0.0) | {self.graph.graph["entry"]: 1.0}
        for name in networkx.topological_sort(self.forward):
            after = list(self.forward.successors(name))
            around = [loop.inside for loop in self.loops if name in loop.inside]
            leaving = [to for to in after if any(to not in inside for inside in around)]
            staying = [to for to in after if to not in leaving]
            for group in (leaving, staying):  # what turns in a loop leaves it in the end
                for to, part in zip(group, self.split(name, share[name], group), strict=True):
                    share[to] += part
        return share

    def split(self, name: str, share: float, after: list[str]) -> list[float]:
        """A block's share among the blocks that follow it."""
        if len(after) != 2:
            return [share] * len(after)
        votes, sizes = [self.vote(to) for to in after], [self.size(to, self.after.get(name, EXIT)) for to in after]
        known = [vote for vote in votes if vote is not None]
        if len(known) == 2 and 0 < sum(known) <= share * 1.001:
            return [share * vote / sum(known) for vote in known]
        wanted = [share if vote is None else min(vote, share) for vote in votes]
        rare = min((0, 1), key=lambda side: (wanted[side], sizes[side]))
        part = wanted[rare] if wanted[rare] < share * 0.999 else 0.0
        return [part if side == rare else share - part for side in (0, 1)]

    def size(self, name: str, meeting: str) -> int:
        """Number of instructions from a block on to where both sides of a branch meet again."""
        rest = self.forward.subgraph(set(self.forward) - {meeting})
        return sum(len(self.blocks[each]) for each in (name, *networkx.descendants(rest, name))) if name in rest else 0

    def vote(self, name: str) -> float | None:
        """Share of warps that the source gives to the code that every warp which comes to a block executes, among what
        is reached through this block alone; None where other ways lead here too."""
        if self.forward.in_degree(name) > 1 or name == EXIT:
            return None
        if calls(self.blocks[name]):
            return 0.0
        below = {name, *(networkx.descendants(self.before, name) if name in self.before else ())} - {EXIT}
        always = [name]
        while (after := self.after.get(always[-1], EXIT)) in below:
            always.append(after)
        code = [instruction for each in always for instruction in self.blocks[each] if not instruction.guard]
        shares = [self.known.share(frames) for each in code if (frames := self.frames.get(each.line))]
        return mode(shares or [1.0])

    def turns(self) -> dict[str, float]:
        """How often the loops around each block turn."""
        groups: dict[Frames, set[str]] = {}
        for loop in self.loops:
            place, _, _ = self.known.loop(self.place(loop))
            groups.setdefault(place, set()).update(loop.inside)
        turns = dict.fromkeys(self.graph, 1.0)
        for place, inside in groups.items():
            made = {instruction.line for name in inside for instruction in self.blocks[name]}
            for name in self.graph:  # what is left over of an unrolled loop
                block = self.blocks[name]
                if 2 * sum(instruction.line in made for instruction in block) > len(block):
                    inside.add(name)
            code = [(each.line, each.name) for name in inside for each in self.blocks[name]]
            made_of = Counter(code)
            copies = mode(made_of[each] for each in code)
            _, _, count = self.known.loop(place)
            for name in inside:
                turns[name] *= (nan if count is None else count) / copies
        return turns

    def place(self, loop: Loop) -> Frames:
        """Where a loop's jump back comes from in the source, or, if nothing tells, any of its code."""
        code = (instruction for name in (loop.latch, *loop.inside) for instruction in reversed(self.blocks[name]))
        return next(filter(None, (self.frames.get(instruction.line) for instruction in code)), ())

    def check(self) -> None:
        """Raises DataError on a loop that turns nobody knows how often, and where warps get lost or multiply."""
        for loop in self.loops:
            _, text, count = self.known.loop(self.place(loop))
            if count is None and self.shares[loop.latch]:
                raise DataError(f"path: the loop `{text}` turns, but the case does not say how often")
        if abs(self.shares[EXIT] - 1) > 0.01:
            raise DataError(
                f"path: of all warps {self.shares[EXIT]:.3g} come to the end; its branches are not understood"
            )
