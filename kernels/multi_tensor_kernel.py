# mypy: disallow-untyped-defs=False
"""One program, one chunk of one tensor of many: what a kernel over a table of tensors (tensors.py) is made of.

A program takes CHUNK elements of its tensor in steps of BLOCK, as float32 whatever the tensor's type. Whole blocks of
tensors whose addresses are multiples of 16 bytes (those of torch's allocator are; views need not be) move in 16-byte
loads and stores, all others element by element under a mask. The kernel walks its chunk by

    for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):

where the option keeps the addresses of both ways of loading from being hoisted out of the loop: they would take up to
100 registers more.
"""

import torch

from ._triton import tl, triton

CHUNK = 1 << 13  # elements of a program: few enough that the last programs end together, many enough to pay its start
BLOCK = 1 << 11  # elements of a step: 8 a thread, so that registers leave room for 1,500 threads of a multiprocessor
WARPS = 8
ALIGN = 16  # bytes of the widest load
LAUNCH = {"CHUNK": CHUNK, "BLOCK": BLOCK, "ALIGN": ALIGN, "num_warps": WARPS}
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MIXED = -1  # in place of a code: it differs between tensors


@triton.jit
def chunk_of(rows, owners, chunk, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """A chunk's row, its tensor's elements, and the chunk's first element in it."""
    row = rows + tl.load(owners + chunk) * COLUMNS
    return row, tl.load(row), (chunk - tl.load(row + 1)) * CHUNK


@triton.jit
def _load(address, at, numel, TYPE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    pointer = address.to(tl.pointer_type(TYPE))
    lane = tl.arange(0, BLOCK)
    if WHOLE:
        return tl.load(tl.multiple_of(pointer, 16) + at + lane).to(tl.float32)
    left = tl.minimum(numel - at, BLOCK).to(tl.int32)
    return tl.load(pointer + at + lane, mask=lane < left, other=0.0).to(tl.float32)


@triton.jit
def load_fp32(address, code, at, numel, CODE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """BLOCK elements from `at` of the tensor at an int64 address, as fp32; 0 beyond its end.

    CODE: the type's code, or -1: then `code` has it. WHOLE: none is beyond the end and the address is aligned.
    """
    if CODE == 0:
        return _load(address, at, numel, tl.float32, BLOCK, WHOLE)
    elif CODE == 1:
        return _load(address, at, numel, tl.bfloat16, BLOCK, WHOLE)
    elif CODE == 2:
        return _load(address, at, numel, tl.float16, BLOCK, WHOLE)
    else:
        if code == 0:
            x = _load(address, at, numel, tl.float32, BLOCK, WHOLE)
        elif code == 1:
            x = _load(address, at, numel, tl.bfloat16, BLOCK, WHOLE)
        else:
            x = _load(address, at, numel, tl.float16, BLOCK, WHOLE)
        return x


@triton.jit
def _store(address, x, at, numel, TYPE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    pointer = address.to(tl.pointer_type(TYPE))
    lane = tl.arange(0, BLOCK)
    if WHOLE:
        tl.store(tl.multiple_of(pointer, 16) + at + lane, x.to(TYPE))
    else:
        left = tl.minimum(numel - at, BLOCK).to(tl.int32)
        tl.store(pointer + at + lane, x.to(TYPE), mask=lane < left)


@triton.jit
def store_fp32(address, code, x, at, numel, CODE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """The counterpart of `load_fp32`: rounds to the tensor's type, and writes nothing beyond its end."""
    if CODE == 0:
        _store(address, x, at, numel, tl.float32, BLOCK, WHOLE)
    elif CODE == 1:
        _store(address, x, at, numel, tl.bfloat16, BLOCK, WHOLE)
    elif CODE == 2:
        _store(address, x, at, numel, tl.float16, BLOCK, WHOLE)
    else:
        if code == 0:
            _store(address, x, at, numel, tl.float32, BLOCK, WHOLE)
        elif code == 1:
            _store(address, x, at, numel, tl.bfloat16, BLOCK, WHOLE)
        else:
            _store(address, x, at, numel, tl.float16, BLOCK, WHOLE)
