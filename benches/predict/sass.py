"""NVIDIA's machine code (SASS) of a kernel: its instructions, basic blocks and loops.

Every instruction is traced to the line of PTX that it was made from: the PTX is assembled once more, by the compiler's
own call, with its line numbers in place of the source's. `tests/benches/test_predict.py` holds that this changes no
instruction.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import networkx
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
LABEL = re.compile(r"^([.$\w]+):")
LINE = re.compile(r'//## File ".*", line (\d+)')
CODE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
ENDS = ("BRA", "EXIT", "RET", "BRX", "JMP")  # of a basic block
EXIT = "exit"  # the end of a warp, where all paths meet


class Instruction(NamedTuple):
    """guard: its predicate, "" where it always runs. line: of the PTX that it was made from, 0 where unknown."""

    guard: str
    opcode: str
    operands: str
    line: int

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.partition(".")[0]


def numbered(ptx: str) -> str:
    """PTX whose instructions name their own line as their source."""
    lines, open_ = [], False
    for number, line in enumerate(ptx.splitlines(), 1):
        code = line.partition("//")[0].strip()
        if code.startswith(".loc"):
            lines.append("")
            continue
        if not open_ and re.match(r"@?[a-z%]", code):
            lines.append(f"\t.loc 1 {number} 0")
        lines.append(line)
        if code and not code.startswith((".", "$")):
            open_ = re.match(r"@?[a-z%]", code) is not None and not code.endswith((";", "{", "}"))
    return "\n".join(lines) + "\n"


def disassemble(ptx: str, target: GPUTarget, options: dict[str, Any]) -> dict[str, list[Instruction]]:
    """Basic blocks by label, in the order of their addresses, without the padding behind the last."""
    backend = make_backend(target)
    cubin = backend.make_cubin(
        numbered(ptx), {}, backend.parse_options(options | {"arch": f"sm{target.arch}"}), target.arch
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([TOOLS / "nvdisasm", "-g", "-c", file.name], capture_output=True, text=True, check=True)
    return blocks_of(text.stdout)


def blocks_of(text: str) -> dict[str, list[Instruction]]:
    """Basic blocks of what nvdisasm printed."""
    blocks: dict[str, list[Instruction]] = {}
    label, line, here = "", 0, None
    for row in text.splitlines():
        if found := LABEL.match(row):
            label, here = found[1], blocks.setdefault(found[1], [])
        elif found := LINE.search(row):
            line = int(found[1])
        elif (found := CODE.match(row)) and here is not None:
            here.append(Instruction(found[2] or "", found[3], found[4], line))
            if here[-1].name in ENDS:
                here = blocks.setdefault(f"{label}+{found[1]}", [])
    return {name: [i for i in block if i.name != "NOP"] for name, block in blocks.items()}


def flow(blocks: dict[str, list[Instruction]]) -> networkx.DiGraph:
    """The control flow between the blocks that the entry reaches, to EXIT. Calls are not followed: those of these
    kernels are slow paths of divisions and roots, and a block that calls leads nowhere."""
    names = list(blocks)
    entry = next(name for name in names if blocks[name])
    graph = networkx.DiGraph(entry=entry)
    for name, after in zip(names, [*names[1:], None], strict=True):
        graph.add_node(name)
        last = blocks[name][-1] if blocks[name] else None
        if calls(blocks[name]):
            continue
        if last and last.name == "BRA" and (to := re.search(r"`\((.+?)\)", last.operands)):
            graph.add_edge(name, to[1])
        elif last and last.name in ENDS:
            graph.add_edge(name, EXIT)
        always = last and last.name in ENDS and not last.guard and not re.match(r"!?U?P\w+,", last.operands)
        if after and not always:
            graph.add_edge(name, after)
    away = set(graph) - {entry, *networkx.descendants(graph, entry)}
    graph.remove_nodes_from(away)
    return graph


def calls(block: list[Instruction]) -> bool:
    """Whether a block calls a function."""
    return any(i.name == "CALL" for i in block)


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
            before = graph.subgraph(set(graph) - {head})
            inside = networkx.ancestors(before, latch) if latch != head else set()
            found.append(Loop(latch, head, {head, latch, *inside}))
    return found
