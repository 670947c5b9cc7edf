"""Small databases of any schema, written by py-lmdb and safetensors alone, and what a loader must give of them."""

from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np
import torch
from rsdnet.kernels.draws import draw_bands
from safetensors.numpy import load, save

from rsdnet import bands
from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.loader import Batch
from rsdnet.data.samples import Samples
from tests.support import order_oracle as oracle

TYPES = (np.uint8, np.int16, np.uint16, np.float16, np.float32)  # by code
SPLITS = ("train", "train", "val", "test")


def make(
    folder: Path, samples: int, *, side: int = 24, ms: type = np.uint16, sar: type = np.float32, seed: int = 0,
    names: Sequence[str] = (*bands.MS, *bands.SAR),
) -> Path:  # fmt: skip
    """A database of `samples` samples with the bands `names`, of one size (`side` pixels at 10 m) and type a sensor."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for index in range(samples):
            for prefix, modality, kind in (("s2", "ms", ms), ("s1", "sar", sar)):
                own = [name for name in names if bands.BANDS[name].modality == modality]
                sides = {name: max(side * 10 // bands.BANDS[name].resolution, 1) for name in own}
                value = {name: rng.integers(0, 255, (s, s)).astype(kind) for name, s in sides.items()}
                transaction.put(f"{prefix}_{index}".encode(), save(value))
    catalog(folder, samples).write(folder)
    return folder


def catalog(folder: Path, samples: int) -> Catalog:
    """The catalog of such a database."""
    names = [str(index) for index in range(samples)]
    return Catalog(
        samples=objects([f"{folder.parent.name}/{folder.name}_{name}" for name in names]),
        ms=objects([f"s2_{name}" for name in names]),
        sar=objects([f"s1_{name}" for name in names]),
        map=objects([None] * samples),
        label=np.arange(samples, dtype=np.int32) % 3,
        split=objects([SPLITS[index % 4] for index in range(samples)]),
        classes=("a", "b", "c"),
    )


def entries(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """All entries of a database, decoded by safetensors."""
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key).decode(): load(value) for key, value in transaction.cursor()}


def replace(folder: Path, changes: dict[str, bytes | None]) -> None:
    """Put other values into a database, or, for None, delete them."""
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for key, value in changes.items():
            if value is None:
                transaction.delete(key.encode())
            else:
                transaction.put(key.encode(), value)


class Truth:
    """The batches of a loader over whole databases of `make`, by plain Python, the reference draws and safetensors."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.values = [entries(folder) for folder in folders]
        self.counts = [len(values) // 2 for values in self.values]

    def numbers(self, seed: int, epoch: int, quotas: list[int] | None, positions: range) -> list[tuple[int, int]]:
        """Position in the samples and number for the draws, of positions of an epoch."""
        pairs = (oracle.order(seed, epoch, self.counts, quotas or self.counts, position) for position in positions)
        return [(sample, sample + repeat * sum(self.counts)) for sample, repeat in pairs]

    def check(self, batch: Batch, *, seed: int, expected: list[tuple[int, int]], modality: str = "ms+sar") -> None:
        """Assert that a batch of drawn bands holds these samples, these draws and these bytes."""
        assert list(zip(batch.positions.tolist(), batch.samples.tolist(), strict=True)) == expected
        _, views, channels, _ = batch.records.shape
        pools = {"ms": [bands.band_id(n) for n in bands.MS], "sar": [bands.band_id(n) for n in bands.SAR]}
        drawn = draw_bands(seed, batch.epoch, batch.samples, views, channels, pools, modality)
        assert torch.equal(batch.records[..., 4], drawn.reshape(batch.records.shape[:-1]))
        self.check_bytes(batch)

    def check_bytes(self, batch: Batch) -> None:
        """Assert that every record of a batch holds what safetensors says of that sample's band."""
        firsts = np.cumsum([0, *self.counts])
        for b, sample in enumerate(batch.positions.tolist()):
            database = int(np.searchsorted(firsts, sample, side="right")) - 1
            for record in batch.records[b].reshape(-1, 5).tolist():
                name = bands.NAMES[record[4]]
                prefix = "s1" if name in bands.SAR else "s2"
                expected = self.values[database][f"{prefix}_{sample - firsts[database]}"][name]
                assert np.array_equal(band(batch.data, record), expected)


def band(data: torch.Tensor, record: list[int]) -> np.ndarray:
    """The band of a record, by the record alone."""
    offset, code, height, width, _ = record
    raw = data.numpy()[offset : offset + height * width * np.dtype(TYPES[code]).itemsize]
    return raw.view(TYPES[code]).reshape(height, width)


def samples_of(*folders: Path, modality: str = "ms+sar", **options: object) -> Samples:
    """The samples of databases with the paper's bands."""
    return Samples(folders, modality, {"ms": bands.MS, "sar": bands.SAR}, **options)  # type: ignore[arg-type]


def copied(batch: Batch) -> Batch:
    """A batch that stays as it is."""
    return Batch(*(tensor.clone() for tensor in batch[:4]), *batch[4:])


def same(first: Sequence[Batch], second: Sequence[Batch]) -> None:
    """Assert that two lists of batches on the host are equal, value by value; where in data bands lie may differ."""
    assert [batch.step for batch in first] == [batch.step for batch in second]
    for a, b in zip(first, second, strict=True):
        assert a.epoch == b.epoch
        assert torch.equal(a.samples, b.samples)
        assert torch.equal(a.positions, b.positions)
        assert torch.equal(a.records[..., 1:], b.records[..., 1:])
        for x, y in zip(a.records.reshape(-1, 5).tolist(), b.records.reshape(-1, 5).tolist(), strict=True):
            assert np.array_equal(band(a.data, x), band(b.data, y))
