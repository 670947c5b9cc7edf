"""NVIDIA's machine code (SASS) of a kernel.

Every instruction is traced to the line of PTX that it was made from: the PTX is assembled once more, by Triton's own
call, with its line numbers in place of the source's. A test holds that this changes no instruction.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend

from benches.predict.code import Access, Blocks, Instruction, blocks_of

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
LABEL = re.compile(r"^([.$\w]+):")
LINE = re.compile(r'//## File ".*", line (\d+)')
CODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
KINDS = {"BRA": "jump", "EXIT": "exit", "RET": "exit", "CALL": "call"}
STATEMENT = re.compile(r"@?[a-z%]")  # begins an instruction of PTX


def numbered(ptx: str) -> str:
    """PTX whose instructions name their own line as their source."""
    lines, within = [], False
    for number, line in enumerate(ptx.splitlines(), 1):
        code = line.partition("//")[0].strip()
        if code.startswith(".loc\t"):
            line = code = ""
        begins = STATEMENT.match(code) is not None
        if begins and not within:
            lines.append(f"\t.loc 1 {number} 0")
        lines.append(line)
        if code and not code.startswith((".", "$")):
            within = (begins or within) and not code.endswith((";", "{", "}"))
    return "\n".join(lines) + "\n"


def assembled(ptx: str, target: GPUTarget, options: dict[str, Any]) -> bytes:
    """A cubin, by Triton's own call of ptxas."""
    backend = make_backend(target)
    options = backend.parse_options({**options, "arch": f"sm{target.arch}"})
    return backend.make_cubin(ptx, {}, options, target.arch)


def run(tool: str, *words: str, cubin: bytes) -> str:
    """What one of NVIDIA's tools prints about a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, *words, file.name], capture_output=True, text=True, check=True).stdout


def disassemble(ptx: str, target: GPUTarget, options: dict[str, Any]) -> Blocks:
    """Basic blocks of the code that is made from PTX; their lines are those of the PTX."""
    return parsed(run("nvdisasm", "-g", "-c", cubin=assembled(numbered(ptx), target, options)))


def parsed(text: str) -> Blocks:
    """Basic blocks of what nvdisasm printed, without padding."""

    def parts() -> Iterator[str | Instruction]:
        line = 0
        for row in text.splitlines():
            if found := LABEL.match(row):
                yield found[1]
            elif found := LINE.search(row):
                line = int(found[1])
            elif (found := CODE.match(row)) and found[2] != "NOP":
                yield instruction(found[1] or "", found[2], found[3], line)

    return blocks_of(parts())


def instruction(guard: str, name: str, operands: str, line: int) -> Instruction:
    """One instruction: a branch may have a second predicate, before its label."""
    kind = KINDS.get(name.partition(".")[0], "")
    label = re.search(r"`\((.+?)\)", operands)
    guard = guard or ("P" if kind == "jump" and re.match(r"!?U?P\w+,", operands) else "")
    to = label[1] if label and kind == "jump" else ""
    return Instruction(name, guard, line, kind, to, access_of(name), flops_of(name), operands)


def access_of(name: str) -> Access | None:
    """LDG.E.128 and the like; LDGSTS copies from global to shared memory."""
    base, *more = name.split(".")
    if base not in ("LDG", "LDGSTS", "LD", "STG", "ST"):
        return None
    widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return Access(base.startswith("ST"), next((widths[word] for word in more if word in widths), 4))


def flops_of(name: str) -> int:
    """Of bf16, or what takes as long: TF32 counts twice. HMMA.16816.F32 multiplies (16, 16) by (16, 8); m, n and k are
    joined. HGMMA.64x128x16.F32 is done by four warps together."""
    found = re.match(r"HMMA\.(16)(8)(16|8|4)\b", name) or re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name)
    flops = 2 * prod(map(int, found.groups())) if found else 0
    return flops * (2 if "TF32" in name else 1) // (4 if name.startswith("HGMMA") else 1)
