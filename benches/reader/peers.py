"""The peers on a warm cache: ConfigILM, py-lmdb by hand, memcpy, torch's DataLoader over py-lmdb, rasterio.

Contenders as harness.py runs them. Order and drawn bands are worked out for them by `prepare`, outside the time.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benches.core.peers import peer, peer_version
from benches.reader.pairs import LAYOUTS, Pairs, decoded, getter, layout_of, opened
from benches.reader.workload import Bands, Workload
from rsdnet import _reader, bands

SIDE = 120  # pixels that ConfigILM resamples every band to


# ---- ConfigILM ----------------------------------------------------------------------------------------------


class ConfigILM:
    """ConfigILM's BENv2LDMBReader: two transactions, decode both entries whole, resample each band to 120 px float32.

    names: the bands that it resamples and stacks, none for all. Raises Absent where the package is not installed.
    """

    def __init__(self, workload: Workload, names: tuple[str, ...] = ()) -> None:
        module, pairs = peer("configilm.extra.BENv2_utils"), workload.pairs
        self.workload, self.names = workload, names or (*pairs.shape.sar, *pairs.shape.ms)
        self.name = f"ConfigILM {peer_version('configilm')}, {f'{len(names)} bands' if names else 'all bands'}"
        self.samples: dict[int, list[str]] = {}
        metadata = pairs.folder / "metadata.parquet"
        nothing = pyarrow.array([[]] * len(pairs), pyarrow.list_(pyarrow.string()))  # labels
        table = pyarrow.table({"patch_id": pairs.ms, "labels": nothing, "s1_name": pairs.sar})
        pyarrow.parquet.write_table(table, metadata)
        self.reader = module.BENv2LDMBReader(  # as BENv2DataSet sets it up
            pairs.folder,
            metadata,
            bands=list(self.names),
            process_bands_fn=lambda layers, order: module.stack_and_interpolate(layers, order, SIDE, "nearest"),
        )
        self.reader.env = opened(pairs.folder)  # its own map of 8 GiB would hold 30,000 pairs at most

    def prepare(self, steps: range) -> None:
        self.samples = {step: [self.workload.pairs.ms[s] for s in self.workload.samples(step)] for step in steps}

    def run(self, steps: range) -> None:
        for step in steps:
            for key in self.samples[step]:
                self.reader[key]

    def take(self, step: int) -> Bands:
        sides = self.workload.pairs.shape.ms | self.workload.pairs.shape.sar
        given = []
        for key, _, names in self.workload.keys(step):
            image = self.reader[key][0].numpy()
            given.append([native(image[self.names.index(n)], sides[n], n in bands.SAR) for n in names])
        return given


def native(image: NDArray, side: int, radar: bool) -> bytes:
    """The pixels that a 120 px image was resampled from; none where it is not their nearest neighbours."""
    factor = SIDE // side
    small = image[::factor, ::factor]
    same = image.dtype == np.float32 and np.array_equal(small.repeat(factor, 0).repeat(factor, 1), image)
    return small.astype(np.float32 if radar else np.uint16).tobytes() if same else b""


# ---- py-lmdb by hand ----------------------------------------------------------------------------------------


class ByHand:
    """The fastest way found in pure Python: one transaction, values as memory views, the layout by the header's bytes.

    frombuffer: copy each band through np.frombuffer, as one would write it; else by a slice of the memory view, which
    is faster. `Cursor.getmulti` a batch was slower than either.
    """

    def __init__(self, workload: Workload, frombuffer: bool) -> None:
        self.workload, self.frombuffer = workload, frombuffer
        self.name = "py-lmdb and np.frombuffer" if frombuffer else "py-lmdb and slices of its memory views"
        self.get = getter(workload.pairs.folder)
        shape = workload.pairs.shape
        largest = sum(4 * side**2 for side in (shape.ms | shape.sar).values())
        self.out = np.zeros(workload.batch * largest, np.uint8)
        self.wanted: dict[int, list[tuple[bytes, str]]] = {}
        self.ends: list[int] = []

    def prepare(self, steps: range) -> None:
        """Entry's key and name of each band, sample by sample."""
        self.wanted = {step: [(key.encode(), name) for key, name in self.workload.entries(step)] for step in steps}

    def run(self, steps: range) -> None:
        for step in steps:
            self._copy(self.wanted[step])

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        self._copy(self.wanted[step])
        begins = [0, *self.ends[:-1]]
        return self.workload.split([self.out[a:b].tobytes() for a, b in zip(begins, self.ends, strict=True)])

    def _copy(self, wanted: list[tuple[bytes, str]]) -> None:  # one loop without calls of our own, which would cost
        get, known, at = self.get, LAYOUTS, 0
        slices, frombuffer, byte = not self.frombuffer, np.frombuffer, np.uint8
        out: Any = memoryview(self.out.data) if slices else self.out
        self.ends = ends = []
        for key, name in wanted:
            value = get(key)
            layout = known.get(len(value))
            if layout is None or value[: layout[0]].tobytes() != layout[1]:
                layout = known[len(value)] = layout_of(value)
            begin, end = layout[2][name]
            to = at + end - begin
            out[at:to] = value[begin:end] if slices else frombuffer(value, byte, end - begin, begin)
            at = to
            ends.append(at)


# ---- memcpy -------------------------------------------------------------------------------------------------


class Memcpy:
    """memcpy of the same blocks in the same order, from a map of the file to slots as large as the stream's, in turn.

    threads: that share each step.
    """

    def __init__(self, workload: Workload, slots: list[NDArray], threads: int = 1) -> None:
        self.workload, self.slots, self.threads = workload, slots, threads
        self.source = np.memmap(workload.pairs.folder / "data.mdb", np.uint8, "r")
        self.steps: dict[int, list[NDArray]] = {}
        self.name = f"memcpy on {threads} threads" if threads > 1 else "memcpy"

    def prepare(self, steps: range) -> None:
        """For each step and thread (blocks, 3): from, to, bytes."""
        for step in steps:
            begins, sizes = self.workload.blocks(step).T
            blocks = np.column_stack([begins, places(sizes), sizes])
            self.steps[step] = np.array_split(blocks, self.threads)

    def run(self, steps: range) -> None:
        if self.threads == 1:
            self._share(steps, 0)
            return
        shares = [threading.Thread(target=self._share, args=(steps, n)) for n in range(self.threads)]
        for share in shares:
            share.start()
        for share in shares:
            share.join()

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        self.run(range(step, step + 1))
        slot, sizes = self.slots[step % len(self.slots)], self.workload.sizes(step).ravel()
        return self.workload.split([slot[a : a + n].tobytes() for a, n in zip(places(sizes), sizes, strict=True)])

    def _share(self, steps: range, number: int) -> None:
        for step in steps:
            _reader.copy_blocks(self.source, self.steps[step][number], self.slots[step % len(self.slots)])


def places(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Begins of blocks of these sizes, one after the other at multiples of 16 bytes, as the stream lays them."""
    ends = np.cumsum(-(-sizes // 16) * 16)
    return np.concatenate([[0], ends[:-1]])


# ---- torch's DataLoader -------------------------------------------------------------------------------------


class Entries(Dataset):
    """The drawn bands of a sample: both entries decoded whole by the safetensors package, those bands taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.get: Callable[[bytes], Any] | None = None

    def __getitem__(self, sample: tuple[str, str, list[str]]) -> list[Tensor]:
        if self.get is None:  # in the worker
            transaction: Any = opened(self.folder).begin()
            self.get = transaction.get
        *keys, names = sample
        layers: dict[str, Tensor] = {}
        for key in keys:
            layers |= load(self.get(key.encode()))
        return [layers[name].view(torch.uint8).flatten() for name in names]


def collate(samples: list[list[Tensor]]) -> tuple[Tensor, list[int]]:
    """A batch as the stream gives it: bytes one after the other, in shared memory at once, and each band's size."""
    parts = [band for sample in samples for band in sample]
    sizes = [len(part) for part in parts]
    out = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(sum(sizes)))  # type: ignore[call-overload]
    torch.cat(parts, out=out)
    return out, sizes


class Steps:
    """Batch sampler: keys and bands of the samples of some steps."""

    def __init__(self) -> None:
        self.steps, self.keys = range(0), dict[int, list[tuple[str, str, list[str]]]]()

    def __iter__(self) -> Iterator[list[tuple[str, str, list[str]]]]:
        return (self.keys[step] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class Loaded:
    """torch's DataLoader over py-lmdb and safetensors, with a worker a core; the workers live on between runs.

    It does not resample: what it hands over are the drawn bands' bytes.
    """

    def __init__(self, workload: Workload, workers: int) -> None:
        self.workload, self.batches = workload, Steps()
        self.name = f"torch DataLoader, py-lmdb and safetensors, {workers} workers"
        self.loader = DataLoader(
            Entries(workload.pairs.folder),
            batch_sampler=self.batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=True,
            multiprocessing_context="spawn",  # py-lmdb opens nothing again that was open before a fork
        )

    def prepare(self, steps: range) -> None:
        self.batches.keys |= {step: self.workload.keys(step) for step in steps}

    def run(self, steps: range) -> None:
        self.batches.steps = steps
        for _ in self.loader:
            pass

    def close(self) -> None:
        """End the workers: they hold the database mapped."""
        del self.loader

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        self.batches.steps = range(step, step + 1)
        ((data, sizes),) = list(self.loader)
        return self.workload.split([part.numpy().tobytes() for part in data.split(sizes)])


# ---- rasterio -----------------------------------------------------------------------------------------------


class Raster:
    """rasterio over GeoTIFFs: one file a band, not compressed, as BigEarthNet comes."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        rasterio = peer("rasterio")
        self.workload, self.folder = workload, folder
        self.name = f"rasterio {rasterio.__version__}, GeoTIFFs"
        self.open, self.env = rasterio.open, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
        self.paths: dict[int, list[str]] = {}

    def prepare(self, steps: range) -> None:
        self.paths = {step: [self._path(*entry) for entry in self.workload.entries(step)] for step in steps}

    def run(self, steps: range) -> None:
        with self.env:
            for step in steps:
                for path in self.paths[step]:
                    self._read(path)

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        with self.env:
            return self.workload.split([self._read(path).tobytes() for path in self.paths[step]])

    def _read(self, path: str) -> NDArray:
        with self.open(path) as file:
            return file.read(1)

    def _path(self, key: str, name: str) -> str:
        return str(self.folder / key / f"{key}_{name}.tif")


def write_tiffs(pairs: Pairs, folder: Path) -> None:
    """A GeoTIFF for each band of each pair, <key>/<key>_<band>.tif. Raises Absent without rasterio."""
    rasterio = peer("rasterio")
    get = getter(pairs.folder)
    for key in (*pairs.ms, *pairs.sar):
        (folder / key).mkdir(parents=True)
        for name, image in decoded(bytes(get(key.encode()))).items():
            metres = 1200 / len(image)
            profile = {"height": image.shape[0], "width": image.shape[1], "count": 1, "dtype": image.dtype}
            profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(metres, 0, 300_000, 0, -metres, 5_000_000)}
            with rasterio.open(folder / key / f"{key}_{name}.tif", "w", driver="GTiff", **profile) as file:
                file.write(image, 1)
