"""Machine code as basic blocks, whatever the machine: instructions, the flow between blocks, loops."""

from collections.abc import Iterable
from typing import NamedTuple

import networkx

EXIT = "exit"  # the end of a warp, where all paths meet


class Access(NamedTuple):
    """A load from global memory, or a store: bytes of one thread."""

    store: bool
    bytes: int


class Instruction(NamedTuple):
    """One instruction of a warp.

    guard: the predicate that it depends on, "" where it always runs. line: of the assembly that it comes from, 0 where
    unknown. kind: "jump", "exit", "call" or "". to: label of a jump. flops: of a matrix product, a warp's share.
    operands: as the disassembler writes them; NVIDIA's only.
    """

    name: str
    guard: str = ""
    line: int = 0
    kind: str = ""
    to: str = ""
    access: Access | None = None
    flops: int = 0
    operands: str = ""


Blocks = dict[str, list[Instruction]]  # by label, in the order of their addresses


def blocks_of(parts: Iterable[str | Instruction]) -> Blocks:
    """Basic blocks of labels and instructions as they follow each other."""
    blocks: Blocks = {}
    label = ""
    for part in parts:
        if isinstance(part, str):
            label = part
            blocks.setdefault(label, [])
            continue
        blocks.setdefault(label, []).append(part)
        if part.kind in ("jump", "exit"):
            label = f"{label}+{len(blocks)}"
            blocks[label] = []
    return blocks


def flow(blocks: Blocks) -> networkx.DiGraph:
    """The control flow between the blocks that the entry reaches, to EXIT. Calls are not followed: those of these
    kernels are slow paths of divisions and roots, and a block that calls leads nowhere."""
    names = list(blocks)
    entry = next(name for name in names if blocks[name])
    graph = networkx.DiGraph(entry=entry)
    for name, after in zip(names, [*names[1:], None], strict=True):
        graph.add_node(name)
        if calls(blocks[name]):
            continue
        last = blocks[name][-1] if blocks[name] else Instruction("")
        if last.kind:
            graph.add_edge(name, last.to if last.kind == "jump" else EXIT)
        if after and (last.guard or not last.kind):
            graph.add_edge(name, after)
    graph.remove_nodes_from(set(graph) - {entry, *networkx.descendants(graph, entry)})
    return graph


def calls(block: list[Instruction]) -> bool:
    """Whether a block calls a function."""
    return any(instruction.kind == "call" for instruction in block)


class Loop(NamedTuple):
    """A natural loop: the block that jumps back, the block that it jumps to, and all its blocks."""

    latch: str
    head: str
    inside: set[str]


def loops(graph: networkx.DiGraph) -> list[Loop]:
    """All natural loops."""
    above = networkx.immediate_dominators(graph, graph.graph["entry"])
    found = []
    for latch, head in graph.edges:
        name = latch
        while name not in (head, above.get(name, name)):
            name = above[name]
        if name == head:
            rest = graph.subgraph(set(graph) - {head})
            inside = networkx.ancestors(rest, latch) if latch != head else set()
            found.append(Loop(latch, head, {head, latch, *inside}))
    return found
