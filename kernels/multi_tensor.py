"""Many tensors in one launch: a table of their addresses on the device, cut into chunks, one program a chunk.

    rows    int64 (T, columns)   column 0: elements; 1: number of its first chunk; then the op's own: addresses, codes
    owners  int32 (chunks,)      the row that each chunk belongs to

Tensors are walked in the order of memory, so those of a row must be laid out alike: `is_dense`, `same_layout`.

The table goes to the device in one asynchronous copy from pinned memory: no synchronisation. While a CUDA graph is
being captured the copy becomes part of it, so a replay reads the addresses of the capture; the pinned words then
live as long as the process, since nothing says when the last replay has been.
"""

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ._triton import HAS_TRITON
from .multi_tensor_kernel import CHUNK, MIXED

_KEPT: list[Tensor] = []  # what captured graphs read


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order of dimensions, each once."""
    expected = 1
    for stride, size in sorted((s, n) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory alike; the stride of a dimension of one element is no matter."""
    return a.stride() == b.stride() or all(
        n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def copied_as(tensor: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in the type, laid out as `like`, which is dense."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.preserve_format).copy_(tensor)


def common_code(codes: Sequence[int]) -> int:
    """The one code of all rows, or MIXED."""
    return codes[0] if len(set(codes)) == 1 else MIXED


def on_gpu(device: torch.device) -> bool:
    """Whether kernels run on this device."""
    return HAS_TRITON and device.type == "cuda"


def current(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the current one, as a launch and an asynchronous copy need it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Words:
    """A table on the host: rows, then words of the op's own, then the owners of the chunks."""

    def __init__(self, numels: Sequence[int], columns: Sequence[Sequence[int]], extra: int = 0) -> None:
        """columns: one sequence a column after the first two. extra: words of the op's own, zero until `fill_extra`."""
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
        """Replace one column of the rows."""
        self.words[column : self.tensors * self.columns : self.columns] = array("q", values)

    def fill_extra(self, data: bytes) -> None:
        """Replace the words of the op's own."""
        start = self.tensors * self.columns
        self.words[start : start + self.extra] = array("q", data)

    def upload(self, device: torch.device) -> Tensor:
        """int64 (words,) on the device, by one asynchronous copy. Inside a capture the copy is captured."""
        host = torch.frombuffer(self.words, dtype=torch.int64)
        if device.type == "cpu":
            return host.clone()
        host = host.pin_memory()  # torch's allocator reuses it no sooner than the copy is done
        if is_capturing(device):
            _KEPT.append(host)
        return host.to(device, non_blocking=True)

    def split(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (T, columns) int64, the op's own words, and owners (chunks,) int32 of an uploaded table."""
        rows, rest = words.tensor_split([self.tensors * self.columns])
        extra, owners = rest.tensor_split([self.extra])
        return rows.view(self.tensors, self.columns), extra, owners.view(torch.int32)[: self.chunks]


class Uploaded:
    """A table on its device, to be read by any number of launches."""

    def __init__(self, table: Words, device: torch.device) -> None:
        self.words = table.upload(device)
        self.parts = table.split(self.words)
        self.stream = torch.cuda.current_stream() if self.words.is_cuda else None

    def use(self) -> tuple[Tensor, Tensor, Tensor]:
        """What `Words.split` gives, for launches on the current stream: their memory lasts as long as they need it."""
        if self.stream is not None:
            if is_capturing(self.words.device):
                _KEPT.append(self.words)
            elif (stream := torch.cuda.current_stream()) != self.stream:
                self.words.record_stream(stream)
        return self.parts
