"""Kernels compiled for GPUs that need not be there, and what the compiler says that they take."""

import re
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from benches.ops.cases import Case
from benches.predict import sass

POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1",
    torch.uint8: "*u8", torch.int16: "*i16", torch.uint16: "*u16", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


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
    return compile(source, target=target, options=case.options)


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
    text = sass.run("cuobjdump", "-res-usage", cubin=compiled.asm["cubin"])
    found = {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "stack": found["STACK"], "local": found["LOCAL"]}
