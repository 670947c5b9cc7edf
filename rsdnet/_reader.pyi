"""Types of the C++ reader; its sources are in csrc/."""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from rsdnet.errors import DataError

# numpy's stubs call an array a buffer from Python 3.12 on only.
Array: TypeAlias = NDArray[Any] | Buffer

class ReaderError(DataError):
    """A database or an entry cannot be read. One line: which, why, what to do."""

class Reader:
    """Several databases, opened read-only, as one."""

    def __init__(
        self,
        paths: Sequence[str | PathLike[str]],
        bands: Sequence[Sequence[str]] = (),
        threads: int = 0,
    ) -> None: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def threads(self) -> int: ...
    def __len__(self) -> int: ...
    def keys(self, database: int | None = None) -> list[str]: ...
    def contains(self, keys: Iterable[str | bytes], database: int | None = None) -> NDArray[np.bool_]: ...
    def entries(self, keys: Iterable[str | bytes], database: int | None = None) -> NDArray[np.int64]: ...
    def describe(self, key: str | bytes) -> dict[str, tuple[str, tuple[int, ...]]]: ...
    def read(self, key: str | bytes, bands: Iterable[str] | None = None) -> dict[str, NDArray]: ...
    def check(self, entries: Array, bands: Array) -> list[tuple[int, str]]: ...
    def gather(self, entries: Array, bands: Array, out: Array, records: Array) -> int: ...

def draw_bands(
    seed: int,
    epoch: int,
    samples: Array,
    views: int,
    channels: int,
    ms_pool: Sequence[int],
    sar_pool: Sequence[int],
    modality: str,
) -> NDArray[np.int32]: ...
def philox(key: Array, counter: Array) -> NDArray[np.uint32]: ...
