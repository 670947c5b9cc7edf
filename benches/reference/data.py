"""Patches out of the database in a DataLoader's workers: py-lmdb, the safetensors package, `catalog.parquet`."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
import torch
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data import default_collate as collate

from benches.core.peers import peer
from rsdnet import bands
from rsdnet.config import ViewConfig

PREFETCH = 2  # batches a worker holds ready: torch's own default
CANONICAL = {spelling: name for name, *others in bands.spellings() for spelling in (name, *others)}


class Pair(NamedTuple):
    """Two views' bands of one sample, or of a batch of them with B in front."""

    images: Tensor  # (2, C, H, H) float32: raw DN or dB, all at the side of the finest; or views, once transformed
    bands: Tensor  # (2, C) int64: rsdnet's band ids
    sample: int | Tensor  # its place in the data set


class Patches(Dataset[Pair]):
    """The samples of one split that have both sensors; item i draws a band of each, anew every time.

    folder: of the database. views: bands to draw from, channels, modality. side: pixels that every band is brought to
    by nearest neighbours, so that items stack. transform: of a `Pair`, in the worker.
    Raises Absent without py-lmdb.
    """

    def __init__(
        self,
        folder: Path,
        views: ViewConfig,
        side: int,
        split: str = "train",
        transform: Callable[[Pair], Pair] | None = None,
    ) -> None:
        self.lmdb = peer("lmdb")
        table = pyarrow.parquet.read_table(folder / "catalog.parquet", columns=["ms", "sar", "split"]).to_pylist()
        self.keys = [(row["ms"], row["sar"]) for row in table if row["split"] == split and row["ms"] and row["sar"]]
        self.folder, self.views, self.side, self.transform = folder, views, side, transform
        self.get: Callable[[bytes], Any] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Pair:
        sensors = [0, 1] if self.views.modality == "ms+sar" else 2 * [("ms", "sar").index(self.views.modality)]
        random.shuffle(sensors)
        drawn = [random.sample((self.views.ms_bands, self.views.sar_bands)[s], self.views.channels) for s in sensors]
        return self.read(index, sensors, drawn)

    def read(self, index: int, sensors: list[int], names: list[list[str]]) -> Pair:
        """Named bands of one sample. sensors: of each view, 0 for MS and 1 for SAR."""
        layers = [self.entry(self.keys[index][sensor]) for sensor in sensors]
        images = [[self._resized(layer[name]) for name in row] for layer, row in zip(layers, names, strict=True)]
        ids = torch.tensor([[bands.band_id(name) for name in row] for row in names])
        pair = Pair(torch.stack([torch.stack(row) for row in images]), ids, index)
        return self.transform(pair) if self.transform else pair

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"get": None, "lmdb": None}  # an environment lives in the process that opened it

    def entry(self, key: str) -> dict[str, Tensor]:
        """All bands of an entry by name, (H, W) each in its own type."""
        if self.get is None:  # in the worker
            self.lmdb = self.lmdb or peer("lmdb")
            environment = self.lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False)
            self.get = environment.begin(buffers=True).get
        layers = load(bytes(self.get(key.encode())))
        return {CANONICAL.get(name, name): layer for name, layer in layers.items()}

    def _resized(self, layer: Tensor) -> Tensor:
        image = layer.to(torch.float32)
        factor = self.side // len(image)
        return image if factor == 1 else image.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


class Endless(Sampler[int]):
    """Samples in a fresh random order, epoch after epoch, without the pause that a new iterator is."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch = count, batch
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        while True:  # whole batches of an epoch; the rest of it is left out
            order = torch.randperm(self.count, generator=self.generator)
            yield from order[: self.count // self.batch * self.batch].tolist()


def seeded(worker: int) -> None:
    """Seed Python's generator in a worker: torch seeds its own alone."""
    random.seed(torch.initial_seed())


def loader(patches: Patches, batch: int, workers: int, seed: int, pinned: bool) -> DataLoader:
    """Batches as fast as a DataLoader gives them: workers that live on, batches ahead, pinned for a GPU."""
    more = {"prefetch_factor": PREFETCH, "persistent_workers": True, "multiprocessing_context": "spawn"}
    return DataLoader(
        patches,
        batch,
        sampler=Endless(len(patches), batch, seed),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pinned,
        drop_last=True,
        worker_init_fn=seeded,
        generator=torch.Generator().manual_seed(seed),
        **(more if workers else {}),  # type: ignore[arg-type]
    )
