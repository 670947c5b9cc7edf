# mypy: disallow-untyped-defs=False
"""Many tensors in one launch: a table of their addresses on the device, cut into chunks, one program a chunk.

    rows    int64 (T, columns)   column 0: number of elements; 1: number of the first chunk; the op's own columns follow
    owners  int32 (chunks,)      row of each chunk

Tensors are walked in memory order, so the tensors of one row must share one layout: `is_dense`, `same_layout`.

The table goes to the device in one asynchronous copy from pinned memory, without synchronisation. While a CUDA graph is
captured, the copy becomes part of the graph, and each replay uploads the addresses of the capture; inside
`uploads_after_capture` it is uploaded once instead, if a step before has made room for it. Memory that a graph reads is
kept for the life of the process, since nothing tells when the last replay has run.

A program reads its CHUNK elements in steps of BLOCK and computes in float32, whatever the tensor's type. A whole block
at an address that is a multiple of 16 bytes (torch's allocator gives such, a view may not) moves in 16-byte loads and
stores; all others move element by element under a mask. A kernel walks its chunk by

    for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):

where disable_licm keeps the addresses of both kinds of loads from being hoisted out of the loop: hoisted, they take up
to 100 registers more.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ._triton import tl, triton

CHUNK = 1 << 13  # elements of a program: few enough to balance the last programs, enough to amortise a start
BLOCK = 1 << 11  # elements of a step: 8 a thread, which leaves registers for 1,500 threads of a multiprocessor
WARPS = 8
ALIGN = 16  # bytes of the widest load
LAUNCH = {"CHUNK": CHUNK, "BLOCK": BLOCK, "ALIGN": ALIGN, "num_warps": WARPS}
CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MIXED = -1  # in place of one type code: the tensors differ in type

_KEPT: list[Tensor] = []  # memory that captured graphs read
_POSTPONED: list[list[tuple[Tensor, Tensor]]] = []  # of each open `uploads_after_capture`: (on the device, on the host)

# ---- layouts ------------------------------------------------------------------------------------------------


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, each once, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape have one memory layout; strides of dimensions of size 1 do not count."""
    return a.stride() == b.stride() or all(
        n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def copied_as(tensor: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of the tensor in the given type and in the memory layout of `like`, which is dense."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.preserve_format).copy_(tensor)


def common_code(codes: Sequence[int]) -> int:
    """The type code that all rows share, or MIXED."""
    return codes[0] if len(set(codes)) == 1 else MIXED


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def uploads_after_capture() -> Iterator[None]:
    """Inside, the tables of a captured step are uploaded when the context is left, and not by each replay.

        with uploads_after_capture(), torch.cuda.graph(graph):
            optimizer.step()

    Replay the graph afterwards, on a stream that comes after the current one. Nothing is uploaded after an exception.
    """
    _POSTPONED.append([])
    try:
        yield
        for words, host in _POSTPONED[-1]:
            words.copy_(host)
    finally:
        _POSTPONED.pop()


# ---- tables -------------------------------------------------------------------------------------------------


class HostTable:
    """A table in host memory: the rows, the op's own extra words, then the owner of each chunk."""

    def __init__(self, numels: Sequence[int], columns: Sequence[Sequence[int]], extra: int = 0) -> None:
        """numels: number of elements, by row. columns: the op's own, each by row. extra: number of the op's own words,
        zero until `fill_extra`."""
        owners, firsts = array("i"), []
        for row, numel in enumerate(numels):
            firsts.append(len(owners))
            owners += array("i", [row]) * -(-numel // CHUNK)
        self.tensors, self.chunks, self.extra, self.columns = len(numels), len(owners), extra, len(columns) + 2
        self.words = array("q", bytes(8 * (self.tensors * self.columns + extra)))
        for column, values in enumerate((numels, firsts, *columns)):
            self.fill(column, values)
        if len(owners) % 2:
            owners.append(0)
        self.words.frombytes(owners.tobytes())

    def fill(self, column: int, values: Sequence[int]) -> None:
        """Replaces one column."""
        self.words[column : self.tensors * self.columns : self.columns] = array("q", values)

    def fill_extra(self, data: bytes) -> None:
        """Replaces the op's own extra words."""
        start = self.tensors * self.columns
        self.words[start : start + self.extra] = array("q", data)

    def upload(self, device: torch.device, room: Tensor | None = None) -> Tensor:
        """The table as int64 (words,) on the device, by one asynchronous copy, which a running capture records.

        room: memory for it from before the capture, so that `uploads_after_capture` can fill it once. Memory of the
        capture itself will not do: there a block serves many tensors in turn, each replay writes them all, and the
        activations that have it before the table would overwrite what was uploaded once.
        """
        host = torch.frombuffer(self.words, dtype=torch.int64)
        if _POSTPONED and room is not None and is_capturing(device):
            _POSTPONED[-1].append((room, host.clone()))
            return room
        if device.type == "cpu":
            return host.clone()
        host = host.pin_memory()  # torch's allocator reuses it no sooner than the copy is done
        if is_capturing(device):
            _KEPT.append(host)
        return host.to(device, non_blocking=True)

    def split(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of an uploaded table: rows int64 (T, columns), extra words int64 (extra,), owners int32 (chunks,)."""
        rows, rest = words.tensor_split([self.tensors * self.columns])
        extra, owners = rest.tensor_split([self.extra])
        return rows.view(self.tensors, self.columns), extra, owners.view(torch.int32)[: self.chunks]


class DeviceTable:
    """A table in device memory, for any number of launches."""

    def __init__(self, table: HostTable, device: torch.device, room: Tensor | None = None) -> None:
        """room: see `HostTable.upload`."""
        self.words = table.upload(device, room)
        self.parts = table.split(self.words)
        self.stream = torch.cuda.current_stream() if self.words.is_cuda else None

    def use(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, extra words and owners, as `HostTable.split`, kept alive for launches on the current stream."""
        if self.stream is not None:
            if is_capturing(self.words.device):
                _KEPT.append(self.words)
            elif (stream := torch.cuda.current_stream()) != self.stream:
                self.words.record_stream(stream)
        return self.parts


# ---- inside a kernel ----------------------------------------------------------------------------------------


@triton.jit
def chunk_of(rows, owners, chunk, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """The address of a chunk's row, its tensor's number of elements, and the first element of the chunk."""
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
    """BLOCK elements as fp32, from element `at` of the tensor at an int64 address; 0 beyond its end.

    CODE: the type's code, or -1 (MIXED): `code` holds it. WHOLE: the block ends inside the tensor, the address is
    aligned.
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
    """Writes BLOCK elements, arguments as `load_fp32`: rounded to the tensor's type, nothing beyond its end."""
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
