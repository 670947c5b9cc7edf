"""The reader that is measured: its C++ stream over the samples of one database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.reader.workload import SEED, VIEWS, Bands, Workload, ids
from rsdnet import _reader, bands

SLOTS = 3
ALIGN = 16  # bytes; where a band begins in a slot
SIZES = (1, 2, 2, 2, 4)  # bytes of a pixel by type code: uint8, int16, uint16, float16, float32


class Ours:
    """Streams of a workload's steps, filled by `threads` threads."""

    def __init__(self, workload: Workload, threads: int, hints: str = "auto", name: str = "rsdnet") -> None:
        self.name, self.workload, self.threads, self.hints = name, workload, threads, hints
        pairs, named = workload.pairs, set(ids(workload.names))
        sar = set(ids(bands.SAR))
        pools = (sorted({*workload.pools[0], *(named - sar)}), sorted({*workload.pools[1], *(named & sar)}))
        reader = _reader.Reader([str(pairs.folder)], bands.spellings(), threads)
        self.table = _reader.Table(reader, "ms+sar", *pools)
        assert not self.table.add(0, np.arange(len(pairs)), pairs.ms, pairs.sar), "samples were left out"
        self.slots = [self._slot() for _ in range(SLOTS)]

    def _slot(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        workload, table = self.workload, self.table
        views, channels = (1, len(workload.names)) if workload.names else (VIEWS, 1)
        each = max(table.band_bytes("ms"), table.band_bytes("sar"))
        data = np.zeros(workload.batch * views * channels * -(-each // ALIGN) * ALIGN, np.uint8)
        records = np.zeros((workload.batch, views, channels, 5), np.int64)
        return data, records, np.zeros(workload.batch, np.int64), np.zeros(workload.batch, np.int64)

    @contextmanager
    def stream(self, steps: range) -> Iterator[Any]:
        """The C++ stream over the steps."""
        names = self.workload.names
        stream = _reader.Stream(
            self.table, self.slots, seed=SEED, batch=self.workload.batch, views=VIEWS, channels=1,
            bands=ids(names) if names else None, first=steps.start, last=steps.stop, stride=steps.step,
            threads=self.threads, hints=self.hints,
        )  # fmt: skip
        try:
            yield stream
        finally:
            stream.close()

    def prepare(self, steps: range) -> None:
        """Nothing: the stream works out order and bands by itself, in the measured time."""

    def run(self, steps: range) -> None:
        with self.stream(steps) as stream:
            while (batch := stream.next()) is not None:
                stream.release(batch[0])

    def take(self, step: int) -> Bands:
        with self.stream(range(step, step + 1)) as stream:
            slot, count, *_ = stream.next()
            data, records = self.slots[slot][:2]
            flat = records[:count].reshape(count, -1, 5)
            return [[data[o : o + h * w * SIZES[code]].tobytes() for o, code, h, w, _ in rows] for rows in flat]
