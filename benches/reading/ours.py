"""The reader that is measured: its stream over the samples of one database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.reading.pairs import Pairs
from benches.reading.plan import SEED, VIEWS, Bands, Plan, ids
from rsdnet import _reader, bands

SLOTS = 3
ALIGN = 16  # bytes; where a band begins in a slot


def table_of(pairs: Pairs, pools: tuple[list[int], list[int]], threads: int) -> Any:
    """The pairs as samples of a reader's table."""
    reader = _reader.Reader([str(pairs.folder)], bands.spellings(), threads)
    table = _reader.Table(reader, "ms+sar", *pools)
    left_out = table.add(0, np.arange(len(pairs)), pairs.ms, pairs.sar)
    if left_out:
        raise AssertionError(f"{len(left_out)} samples left out; the first: {left_out[0]}")
    return table


class Ours:
    """Streams of a plan's steps, filled by `threads` threads."""

    def __init__(self, plan: Plan, threads: int, hints: str = "auto", name: str = "rsdnet") -> None:
        self.name, self.plan, self.threads, self.hints = name, plan, threads, hints
        pools = tuple(sorted({*pool, *wanted}) for pool, wanted in zip(plan.pools, self._wanted(), strict=True))
        self.table = table_of(plan.pairs, pools, threads)  # type: ignore[arg-type]
        self.slots = [self._slot() for _ in range(SLOTS)]

    def _wanted(self) -> tuple[list[int], list[int]]:
        names = self.plan.names
        return ids(tuple(n for n in names if n not in bands.SAR)), ids(tuple(n for n in names if n in bands.SAR))

    def _slot(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        plan, table = self.plan, self.table
        views, channels = (1, len(plan.names)) if plan.names else (VIEWS, 1)
        each = max(table.band_bytes("ms"), table.band_bytes("sar"))
        data = np.zeros(plan.batch * views * channels * -(-each // ALIGN) * ALIGN, np.uint8)
        records = np.zeros((plan.batch, views, channels, 5), np.int64)
        return data, records, np.zeros(plan.batch, np.int64), np.zeros(plan.batch, np.int64)

    @contextmanager
    def stream(self, steps: range) -> Iterator[Any]:
        """The C++ stream over the steps."""
        plan = self.plan
        stream = _reader.Stream(
            self.table,
            self.slots,
            seed=SEED,
            batch=plan.batch,
            views=VIEWS,
            channels=1,
            bands=ids(plan.names) if plan.names else None,
            first=steps.start,
            last=steps.stop,
            stride=steps.step,
            threads=self.threads,
            hints=self.hints,
        )
        try:
            yield stream
        finally:
            stream.close()

    def prepare(self, steps: range) -> None:
        """Nothing: the stream works out order and bands by itself, in the time."""

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


SIZES = (1, 2, 2, 2, 4)  # bytes of a pixel by type code: uint8, int16, uint16, float16, float32
