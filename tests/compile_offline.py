"""Compiles every kernel at the trainer's shapes for GPUs that need not be there, and prints what each takes,
as JSON.

    python tests/compile_offline.py [cuda:90 ...]

One JSON object a line: kernel, case, target, registers, stack, local memory or spills, shared memory. Runs in
a process of its own, without TRITON_INTERPRET; nothing of rsdnet is needed but its kernels.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import triton
from rsdnet.kernels import loss, philox, records, views
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}


def render_case(size: int, channels: int, out: str, nhwc: bool) -> tuple[dict[str, str], dict[str, object]]:
    signature = {
        "out": TYPES[out],
        "data": "*u8",
        "records": "*i64",
        "samples": "*i64",
        "epoch": "*i64",
        "table": "*fp32",
    }
    signature |= {"k0": "i32", "k1": "i32", "nbytes": "i32", "samples_count": "i32", "bands": "i32"}
    constants: dict[str, object] = {
        "VIEWS": 2, "CHANNELS": channels, "SIZE": size, "NHWC": nhwc, "TILE": min(views.TILE, size),
        "AREA": 0.08, "AREA_SPAN": 0.92, "LOG_RATIO": -0.2877, "LOG_RATIO_SPAN": 0.5754,
        "FLIP": True, "TURN": True, "JITTER": True, "MAX_SIDE": records.MAX_SIDE, "ALIGN": records.ALIGN,
        "STREAM_CROP": philox.CROP, "STREAM_TURN": philox.TURN, "STREAM_JITTER": philox.JITTER,
    }  # fmt: skip
    return signature, constants


def loss_case(d: int, dtype: str) -> tuple[dict[str, str], dict[str, object]]:
    signature = dict.fromkeys(("q1", "q2", "z1", "z2"), TYPES[dtype]) | {"partial": "*fp32", "grads": "*fp32"}
    signature |= dict.fromkeys(("q1_stride", "q2_stride", "z1_stride", "z2_stride", "rows"), "i32")
    rows, block_d = loss.loss_block(d)
    return signature, {"D": d, "EPSILON": loss.EPSILON, "GRAD": True, "ROWS": rows, "BLOCK_D": block_d}


def cases() -> Iterator[tuple[object, str, dict[str, str], dict[str, object], int]]:
    """Kernel, name of the case, signature, constants, warps."""
    for size, channels, out, nhwc in ((64, 1, "bf16", True), (128, 1, "bf16", True), (128, 3, "bf16", True),
                                      (128, 1, "fp32", False), (224, 3, "fp16", True)):  # fmt: skip
        name = f"S={size} C={channels} {out} {'NHWC' if nhwc else 'NCHW'}"
        yield views.render_kernel, name, *render_case(size, channels, out, nhwc), views.WARPS
    for d, dtype in ((256, "bf16"), (256, "fp32"), (1025, "fp16"), (4096, "bf16"), (8192, "fp32")):
        yield loss.byol_loss_kernel, f"D={d} {dtype}", *loss_case(d, dtype), loss.loss_warps(d)
    counter = {"counter_ptr": "*i64", "words_ptr": "*i64", "k0": "i32", "k1": "i32", "n": "i32"}
    yield philox.philox_kernel, "", counter, {"BLOCK": 1024}, 4


def resources(compiled: object, target: str) -> dict[str, int]:
    """Registers, stack (bytes a thread, where spills go), local memory, spilled registers (AMD names them)."""
    if target.startswith("hip"):
        text = compiled.asm["amdgcn"]
        take = {"registers": "vgpr_count", "stack": "private_segment_fixed_size", "spills": "vgpr_spill_count",
                "scalar_spills": "sgpr_spill_count"}  # fmt: skip
        return {name: int(re.search(rf"\.{key}:\s*(\d+)", text)[1]) for name, key in take.items()}
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "stack": found["STACK"], "local": found["LOCAL"]}


def main(targets: list[str]) -> None:
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        sys.exit("unset TRITON_INTERPRET: the interpreter's kernels cannot be compiled")
    for target in targets or TARGETS:
        for kernel, name, signature, constants, warps in cases():
            signature = signature | dict.fromkeys(constants, "constexpr")
            order = {arg: signature[arg] for arg in kernel.arg_names}
            pointers = {
                (i,): [["tt.divisibility", 16]] for i, arg in enumerate(kernel.arg_names) if order[arg][0] == "*"
            }
            source = ASTSource(kernel, order, constants, pointers)
            compiled = triton.compile(source, target=TARGETS[target], options={"num_warps": warps})
            line = {"kernel": kernel.__name__, "case": name, "target": target, "warps": warps}
            line |= resources(compiled, target) | {"shared": compiled.metadata.shared}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
