"""Kernels whose executed loads are known, compiled for sm_90 and counted: `python -m tests.support.counted`.

Prints JSON. In a process of its own, since the tests' interprets kernels.
"""

import json

import triton
import triton.language as tl

import benches  # noqa: F401 (makes rsdnet.kernels importable where nothing is installed)
from benches.ops.cases import Case, meta
from benches.predict import sass
from benches.predict.chips import CHIPS
from benches.predict.compile import compile_case
from benches.predict.prediction import walk_of

TARGET, BLOCK = "cuda:90", 512  # 4 elements a thread: loads of 16 bytes


@triton.jit
def add_kernel(out, a, b, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(a + at) + tl.load(b + at))


@triton.jit
def turns_kernel(out, a, b, n, BLOCK: tl.constexpr):
    at, total = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.zeros((BLOCK,), tl.float32)
    for k in range(0, n):
        total += tl.load(a + at + k * BLOCK)
    tl.store(out + at, total)


@triton.jit
def branch_kernel(out, a, b, n, BLOCK: tl.constexpr):
    at, code = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.load(b)
    if code == 1:
        x = tl.exp(tl.load(a + at))
    elif code == 2:
        x = tl.abs(tl.load(a + at + BLOCK)) * tl.load(a + at + 2 * BLOCK)
    else:
        x = tl.zeros((BLOCK,), tl.float32)
        for k in range(0, n):
            x = x * x + tl.load(a + at + (3 + k) * BLOCK)
    tl.store(out + at, tl.div_rn(x, 3.0 + code))


def counted(kernel, facts, **more):
    """Executed loads of 16 bytes, stores of 16 bytes, instructions; whether numbering the lines changed the code."""
    case = Case(kernel, "", {"out": meta(1 << 20), "a": meta(1 << 20), "b": meta(1 << 20), **more, "BLOCK": BLOCK}, 1)
    compiled = compile_case(case, CHIPS[TARGET].target)
    walk = walk_of(case, compiled, TARGET, facts)
    executed = list(walk.executed())
    wide = [(i.access, n) for i, n in executed if i.access and i.access.bytes == 16]
    plain = sass.parsed(sass.run("nvdisasm", "-g", "-c", cubin=compiled.asm["cubin"]))
    return {
        "loads": sum(n for access, n in wide if not access.store),
        "stores": sum(n for access, n in wide if access.store),
        "instructions": sum(n for _, n in executed),
        "static": sum(map(len, plain.values())),
        "same": [[i.name for i in block] for block in plain.values()]
        == [[i.name for i in block] for name, block in walk.blocks.items() if name != "exit"],
    }


def main():
    found = {"add": counted(add_kernel, {})}
    for n in (2, 5, 64):
        found[f"{n} turns"] = counted(turns_kernel, {"k in range(0, n)": n}, n=7)
    for name, one, two in (("first", 1, 0), ("second", 0, 1), ("third", 0, 0), ("mixed", 0.5, 0.5)):
        found[name] = counted(branch_kernel, {"code == 1": one, "code == 2": two, "k in range(0, n)": 3}, n=7)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
