"""Order and bands of the samples that all contenders read, worked out before the clock runs.

A step is a batch. The order is the loader's own (a fresh permutation each epoch), and so are the drawn bands; peers get
both for nothing. The expected bytes are decoded by py-lmdb and the safetensors package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from benches.reader.pairs import Pairs, decoded, getter, layout_of
from rsdnet import _reader, bands

SEED, VIEWS = 7, 2
Bands = list[list[bytes]]  # bytes of each band of each sample of a step


@cache
def ids(names: Sequence[str]) -> list[int]:
    """Band ids."""
    return [bands.band_id(name) for name in names]


@dataclass(frozen=True)
class Workload:
    """Steps over a database. names: bands read of every sample; empty: one is drawn from MS and one from SAR."""

    pairs: Pairs
    batch: int
    names: tuple[str, ...] = ()

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch; the incomplete last one is left out."""
        return len(self.pairs) // self.batch

    @cached_property
    def pools(self) -> tuple[list[int], list[int]]:
        """MS and SAR bands that are drawn from: those of the trainer that the pairs have."""
        shape = self.pairs.shape
        return ids(tuple(n for n in bands.MS if n in shape.ms)), ids(tuple(n for n in bands.SAR if n in shape.sar))

    def samples(self, step: int) -> NDArray[np.int64]:
        """(batch,) samples of a step."""
        epoch, place = divmod(step, self.epoch_steps)
        positions = np.arange(place * self.batch, (place + 1) * self.batch)
        count = len(self.pairs)
        return np.asarray(_reader.order(SEED, epoch, [count], [count], positions)[0])

    def bands(self, step: int) -> NDArray[np.int32]:
        """(batch, bands) band ids of a step."""
        if self.names:
            return np.tile(np.array(ids(self.names), np.int32), (self.batch, 1))
        epoch = step // self.epoch_steps
        return _reader.draw_bands(SEED, epoch, self.samples(step), VIEWS, 1, *self.pools, "ms+sar")[..., 0]

    def keys(self, step: int) -> list[tuple[str, str, list[str]]]:
        """Keys of each sample's S2 and S1 entry, and the names of the bands to read."""
        chosen = zip(self.samples(step).tolist(), self.bands(step).tolist(), strict=True)
        return [(self.pairs.ms[s], self.pairs.sar[s], [bands.NAMES[band] for band in row]) for s, row in chosen]

    def entries(self, step: int) -> list[tuple[str, str]]:
        """Entry's key and name of each band, sample by sample."""
        return [(sar if n in bands.SAR else ms, n) for ms, sar, names in self.keys(step) for n in names]

    def expected(self, step: int) -> Bands:
        """The bytes of a step."""
        get = getter(self.pairs.folder)
        given = []
        for *keys, names in self.keys(step):
            ms, sar = (decoded(bytes(get(key.encode()))) for key in keys)
            given.append([(ms | sar)[name].tobytes() for name in names])
        return given

    def sizes(self, step: int) -> NDArray[np.int64]:
        """(batch, bands) bytes of the bands of a step."""
        size = np.zeros(len(bands.NAMES), np.int64)
        for sides, pixel in ((self.pairs.shape.ms, 2), (self.pairs.shape.sar, 4)):
            for name, side in sides.items():
                size[bands.band_id(name)] = side**2 * pixel
        return size[self.bands(step)]

    def blocks(self, step: int) -> NDArray[np.int64]:
        """(batch * bands, 2) first byte in data.mdb and bytes of each band of a step."""
        entries, get = self.entries(step), getter(self.pairs.folder)
        values = _reader.extents(_reader.Reader([self.pairs.folder]), [key for key, _ in entries])[:, 0]
        inside = [layout_of(get(key.encode()))[2][name][0] for key, name in entries]
        return np.column_stack([values + inside, self.sizes(step).ravel()])

    def split(self, parts: Sequence[bytes]) -> Bands:
        """Bands of a step, one after the other, as a list a sample."""
        each = len(parts) // self.batch
        return [list(parts[first : first + each]) for first in range(0, len(parts), each)]
