"""Samples one by one, for people with a training loop of their own: a map-style Dataset of raw bands.

For batches at memory speed use `rsdnet.data.loader.Loader`.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from torch import Tensor
from torch.utils.data import Dataset

from rsdnet import bands
from rsdnet.data.pools import Pools, band_names
from rsdnet.data.samples import Damaged, Samples
from rsdnet.kernels.records import BYTES, DTYPES

EVERY = (*bands.MS, *bands.SAR)


class Patch(NamedTuple):
    """The bands of a sample, as they lie on disk. torch's default collation makes a batch of several of one size."""

    bands: dict[str, Tensor]  # {band name: (height, width) in its own type and resolution}
    label: int  # an index into the data set's `classes`; -1 for none
    name: str  # of the sample in the catalog


class Patches(Dataset[Patch]):
    """The samples of several databases by number: patches[i] is a `Patch`.

    databases: folders. bands: names, in the order wanted; None: the paper's ten and VV, VH. split, labelled,
    damaged: as `Samples` takes them. threads: of the reader in each process.

    A negative i counts from the end. May be sent to workers by fork and by spawn. Samples with an entry that is absent,
    damaged or lacks a band are left out, or raised. Where the databases' class lists differ no patch has a label, and a
    warning says so.
    Raises DataError where a database or a sample cannot be read, IndexError beyond the end.
    """

    def __init__(
        self,
        databases: Path | str | Sequence[Path | str],
        bands: Sequence[str] | None = None,
        *,
        split: str | None = None,
        labelled: bool | None = None,
        threads: int = 1,
        damaged: Damaged = "leave out",
    ) -> None:
        self.bands = EVERY if bands is None else band_names(bands, "bands")
        pools = _pools(self.bands)
        self.samples = Samples(
            databases, "+".join(modality for modality, pool in pools.items() if pool), pools, split=split,
            labelled=labelled, threads=threads, damaged=damaged,
        )  # fmt: skip
        if told := self.samples.databases.other_lists():
            warnings.warn(f"{told}; here no patch has a label", stacklevel=2)
        self.labels, self.names = self._columns()
        """(N,) int32, -1 for none; and a pyarrow array of names, which costs a few bytes more than its letters."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.samples.classes

    def __getitem__(self, index: int) -> Patch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Patch]:
        """Several samples, read on all of the reader's threads at once; a DataLoader calls it for a batch."""
        positions = np.array([self._checked(int(index)) for index in indices], np.int64)
        ids = np.array([bands.band_id(name) for name in self.bands], np.int32)
        data, records = self.samples.read(positions, np.tile(ids, (len(positions), 1, 1)))
        return [
            Patch(
                {name: _band(data, record) for name, record in zip(self.bands, rows[0], strict=True)},
                int(self.labels[position]),
                self.names[int(position)].as_py(),
            )
            for position, rows in zip(positions, records.tolist(), strict=True)
        ]

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return index % len(self)

    def _columns(self) -> tuple[np.ndarray, pyarrow.Array]:
        """Labels and names of the samples, taken from the catalog piece by piece."""
        labels, names = np.empty(len(self), np.int32), list[pyarrow.Array]()
        for piece, at, where in self.samples.pieces():
            labels[where] = piece.catalog.label[at]
            names.append(pyarrow.array(list(piece.catalog.samples[at]), pyarrow.large_string()))
        return labels, pyarrow.concat_arrays(names)


def _band(data: Tensor, record: list[int]) -> Tensor:
    """(height, width) band of a record: byte offset, type code, height, width, band id. A copy: it holds no other."""
    offset, code, height, width, _ = record
    raw = data[offset : offset + height * width * BYTES[code]]
    return raw.clone().view(DTYPES[code]).view(height, width)


def _pools(names: Sequence[str]) -> Pools:
    return {m: tuple(name for name in names if bands.BANDS[name].modality == m) for m in ("ms", "sar")}
