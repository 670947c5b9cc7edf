"""What each kernel takes of a GPU that need not be there: `python -m benches.resources [--targets cuda:90]`.

Compiles the cases of `benches.ops.cases` and prints registers, spills, local memory, shared memory, the width of global
loads and how many programs a multiprocessor holds at once; `--json` prints an object a line. Needs triton, no GPU, and
a process without TRITON_INTERPRET.

Occupancy, estimated as NVIDIA's occupancy calculator does: a multiprocessor has four partitions, each with 512
registers for every lane of a warp, handed out in eights; AMD's compute units are built to the same numbers.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple

import torch
import triton
import tyro
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benches.ops.cases import CASES, Case
from benches.predict import path, sass
from benches.predict.work import WORK
from rsdnet.errors import DataError, command

PARTITIONS, LANE_REGISTERS, REGISTER_GRANULE = 4, 512, 8
POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1",
    torch.uint8: "*u8", torch.int16: "*i16", torch.uint16: "*u16", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
CAPTION = """spills: in registers; NVIDIA's tool gives their bytes only, in local memory.
load B: of the widest global load, and of the usual one. occupancy: estimated"""


class Chip(NamedTuple):
    """A multiprocessor's limits: resident warps and blocks, bytes of shared memory, bytes of it that a block wastes."""

    target: GPUTarget
    warps: int
    blocks: int
    shared: int
    granule: int
    reserved: int


# NVIDIA: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; 65,536 registers are 4 x 512 x
# 32 lanes; 1 KB of shared memory a block is the system's (Ampere and Hopper Tuning Guides, "Unified Shared Memory").
# AMD: LLVM, lib/Target/AMDGPU/Utils/AMDGPUBaseInfo.cpp for gfx90a and later: getMaxWavesPerEU, getEUsPerCU,
# getTotalNumVGPRs, getVGPRAllocGranule, getMaxWorkGroupsPerCU, getLocalMemorySize.
CHIPS = {
    "cuda:80": Chip(GPUTarget("cuda", 80, 32), 64, 32, 164 << 10, 128, 1 << 10),
    "cuda:90": Chip(GPUTarget("cuda", 90, 32), 64, 32, 228 << 10, 128, 1 << 10),
    "cuda:100": Chip(GPUTarget("cuda", 100, 32), 64, 32, 228 << 10, 128, 1 << 10),
    "hip:gfx942": Chip(GPUTarget("hip", "gfx942", 64), 32, 16, 64 << 10, 512, 0),
}


@dataclass(frozen=True)
class Options:
    """Compile every kernel for GPUs that need not be there, and print what it takes."""

    targets: tuple[str, ...] = tuple(CHIPS)
    """GPUs to compile for."""
    kernels: str = ""
    """Only kernels whose name has this in it."""
    json: bool = False
    """One JSON object a line in place of the table."""


def compile_case(case: Case, target: GPUTarget) -> Any:
    """The kernel, specialised as a launch with these arguments specialises it."""
    signature: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    hints: dict[tuple[int], list[list[Any]]] = {}
    for index, param in enumerate(case.kernel.params):
        value = case.arguments[param.name]
        free = not param.do_not_specialize
        if param.is_constexpr or value is None or (free and type(value) is int and value == 1):
            signature[param.name], constants[param.name] = "constexpr", value
            continue
        signature[param.name] = type_of(value)
        aligned = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)  # as allocators align
        if aligned and free and not param.do_not_specialize_on_alignment:
            hints[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(case.kernel, signature, constants, hints)
    return triton.compile(source, target=target, options=case.options)


def type_of(value: Any) -> Any:
    """Triton's name of an argument's type; of a tuple, a tuple of names."""
    if isinstance(value, tuple):
        return tuple(map(type_of, value))
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i1" if isinstance(value, bool) else "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


def memory(compiled: Any) -> dict[str, int]:
    """Registers a thread; stack and local memory in bytes a thread, where spills go; spilled registers (AMD counts)."""
    if "amdgcn" in compiled.asm:
        take = {"registers": "vgpr_count", "local": "private_segment_fixed_size", "spills": "vgpr_spill_count",
                "scalar_spills": "sgpr_spill_count"}  # fmt: skip
        found = {key: int(n) for key, n in re.findall(r"\.(\w+):\s*(\d+)", compiled.asm["amdgcn"])}
        return {name: found[key] for name, key in take.items()}
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "stack": found["STACK"], "local": found["LOCAL"]}


def load_widths(asm: dict[str, Any]) -> list[int]:
    """Bytes that one thread takes by each load from global memory in the code."""
    if "amdgcn" in asm:
        words = re.findall(r"\b(?:global|buffer|flat)_load_(dword(?:x(\d))?|[us]?short|[us]byte)", asm["amdgcn"])
        return [4 * int(n or 1) if name[0] == "d" else 2 if "short" in name else 1 for name, n in words]
    copies = re.findall(r"\bcp\.async\.c[ag]\.shared\.global[^;]*?\], (\w+)", asm["ptx"])
    loads = re.findall(r"\bld\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[bfus](\d+)\b", asm["ptx"])
    return [int(n, 0) for n in copies] + [int(n or 1) * int(bits) // 8 for n, bits in loads]


def resident(chip: Chip, registers: int, shared: int, warps: int) -> tuple[int, int]:
    """Blocks and warps that a multiprocessor holds at once, for a kernel of so many registers a thread."""
    rounded = -(-max(registers, 1) // REGISTER_GRANULE) * REGISTER_GRANULE
    by_registers = PARTITIONS * (LANE_REGISTERS // rounded) // warps
    wasted = -(-shared // chip.granule) * chip.granule + chip.reserved
    by_shared = chip.shared // max(wasted, 1)
    alone = chip.target.backend == "hip" and warps == 1  # a group of one wave needs no barrier, and is not counted
    blocks = min(chip.warps // warps, chip.warps if alone else chip.blocks, by_registers, by_shared)
    return blocks, blocks * warps


def instructions(case: Case, compiled: Any, target: GPUTarget) -> float:
    """Instructions that a thread executes for each element of the result, on an NVIDIA GPU."""
    work, ptx = WORK[case.kernel.__name__], compiled.asm["ptx"]
    known = {key: n(case.arguments) if callable(n) else n for key, n in work.path.items()}
    blocks = sass.disassemble(ptx, target, case.options)
    folder = Path(case.kernel.fn.__code__.co_filename).parent
    each = path.Walk(blocks, path.frames_of(ptx), path.Known(known, folder)).count()
    return each * case.programs * compiled.metadata.num_warps * target.warp_size / work.elements(case)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """A row a target and case."""
    cases = [case for cases in CASES for case in cases() if options.kernels in case.kernel.__name__]
    for target in options.targets:
        if target not in CHIPS:
            raise DataError(f"targets: {target!r}, expected one of {', '.join(CHIPS)}")
        for case in cases:
            compiled = compile_case(case, CHIPS[target].target)
            count = compiled.metadata.num_warps
            row = {"kernel": case.kernel.__name__, "case": case.name, "target": target, "warps": count}
            loads = load_widths(compiled.asm) or [0]
            row |= memory(compiled) | {"shared": compiled.metadata.shared}
            row |= {"load": max(loads), "usual_load": mode(loads)}
            if "ptx" in compiled.asm:
                row["instructions"] = round(instructions(case, compiled, CHIPS[target].target), 2)
            blocks, warps = resident(CHIPS[target], row["registers"], row["shared"], count)
            yield row | {"blocks": blocks, "resident": warps, "occupancy": round(warps / CHIPS[target].warps, 3)}


def show(rows: Iterator[dict[str, Any]], console: Console) -> None:
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


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row's cells by column."""
    return {
        "target": row["target"], "kernel": row["kernel"].removesuffix("_kernel"), "case": row["case"],
        "warps": row["warps"], "instr/px": row.get("instructions", "-"), "registers": row["registers"],
        "spills": row["spills"] + row["scalar_spills"] if "spills" in row else "-",
        "local B": row.get("stack", 0) + row["local"], "shared B": row["shared"],
        "load B": f"{row['load']} ({row['usual_load']})",
        "blocks/SM": row["blocks"], "warps/SM": row["resident"], "occupancy": f"{row['occupancy']:.0%}",
    }  # fmt: skip


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m benches.resources", description=__doc__)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise DataError("TRITON_INTERPRET is set: the interpreter's kernels cannot be compiled; unset it")
    if not options.json:
        show(measure(options), Console())
        return
    for row in measure(options):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    command(main)
