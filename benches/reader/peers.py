"""The peers on a warm cache: ConfigILM, py-lmdb by hand, memcpy, torch's DataLoader over py-lmdb, rasterio.

Contenders as harness.py runs them. Order and drawn bands are worked out for them by `prepare`, outside the time.
"""

import ctypes
import json
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
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from benches.core.peers import Absent, peer, peer_version
from benches.reader.native import blocks
from benches.reader.pairs import Pairs, decoded, getter, opened
from benches.reader.workload import Bands, Workload
from rsdnet import bands

SIDE = 120  # pixels that ConfigILM resamples every band to


# ---- ConfigILM ----------------------------------------------------------------------------------------------


class ConfigILM:
    """ConfigILM: two transactions, decode both entries whole, resample each band to 120 px float32, stack.

    names: the bands that it resamples and stacks, none for all. The package's own reader, or its steps written plainly
    where it is not installed: `name` says which.
    """

    def __init__(self, workload: Workload, names: tuple[str, ...] = ()) -> None:
        shape = workload.pairs.shape
        self.workload, self.names = workload, names or (*shape.sar, *shape.ms)
        self.samples: dict[int, list[str]] = {}
        what = f"{len(self.names)} bands" if names else "all bands"
        try:
            self.read = package(workload.pairs, self.names)
            self.name, self.note = f"ConfigILM {peer_version('configilm')}, {what}", ""
        except Absent as reason:
            self.read, self.name = plain(workload.pairs, self.names), f"ConfigILM's steps, {what}"
            self.note = f"written plainly: {reason}"

    def prepare(self, steps: range) -> None:
        self.samples = {step: [self.workload.pairs.ms[s] for s in self.workload.samples(step)] for step in steps}

    def run(self, steps: range) -> None:
        for step in steps:
            for key in self.samples[step]:
                self.read(key)

    def take(self, step: int) -> Bands:
        sides = self.workload.pairs.shape.ms | self.workload.pairs.shape.sar
        given = []
        for sample, chosen in zip(self.workload.samples(step), self.workload.bands(step).tolist(), strict=True):
            image = self.read(self.workload.pairs.ms[sample]).numpy()
            names = [bands.NAMES[band] for band in chosen]
            given.append([native(image[self.names.index(n)], sides[n], n in bands.SAR) for n in names])
        return given


def native(image: NDArray, side: int, radar: bool) -> bytes:
    """The pixels that a 120 px image was resampled from; none where it is not their nearest neighbours."""
    factor = SIDE // side
    small = image[::factor, ::factor]
    same = image.dtype == np.float32 and np.array_equal(small.repeat(factor, 0).repeat(factor, 1), image)
    return small.astype(np.float32 if radar else np.uint16).tobytes() if same else b""


def package(pairs: Pairs, names: tuple[str, ...]) -> Callable[[str], Tensor]:
    """BENv2LDMBReader, as BENv2DataSet sets it up; without a table of labels. Raises Absent where it is not there."""
    module = peer("configilm.extra.BENv2_utils")
    metadata = pairs.folder / "metadata.parquet"
    nothing = pyarrow.array([[]] * len(pairs), pyarrow.list_(pyarrow.string()))
    pyarrow.parquet.write_table(
        pyarrow.table({"patch_id": pairs.ms, "labels": nothing, "s1_name": pairs.sar}), metadata
    )
    reader = module.BENv2LDMBReader(
        pairs.folder,
        metadata,
        bands=list(names),
        process_bands_fn=lambda layers, order: module.stack_and_interpolate(layers, order, SIDE, "nearest"),
    )
    reader.env = opened(pairs.folder)  # its own map of 8 GiB would hold 30,000 pairs at most
    return lambda key: reader[key][0]


def plain(pairs: Pairs, names: tuple[str, ...]) -> Callable[[str], Tensor]:
    """The steps of ConfigILM 0.7.1 (BENv2LDMBReader.__getitem__, stack_and_interpolate; lhackel-tub/ConfigILM)."""
    environment, other = opened(pairs.folder), dict(zip(pairs.ms, pairs.sar, strict=True))

    def resampled(layer: NDArray) -> Tensor:
        image = torch.Tensor(np.float32(layer))
        if layer.shape == (SIDE, SIDE):
            return image
        return interpolate(image[None, None], (SIDE, SIDE), mode="nearest").squeeze()

    def read(key: str) -> Tensor:
        layers: dict[str, NDArray] = {}
        for name in (key, other[key]):
            with environment.begin(buffers=True) as transaction:
                value: Any = transaction.get(name.encode())
            layers.update(decoded(bytes(value)))
        layers = {band: layer for band, layer in layers.items() if band in names}
        return torch.stack([resampled(layers[band]) for band in names])

    return read


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


Layout = tuple[int, bytes, dict[str, tuple[int, int]]]  # bytes before the payload, those, {band: its place}
LAYOUTS: dict[int, Layout] = {}  # by the value's length


def layout_of(value: memoryview) -> Layout:
    """An entry's layout by its header."""
    start = 8 + int.from_bytes(value[:8], "little")
    tensors = json.loads(bytes(value[8:start]))
    places = {name: tuple(start + n for n in tensor["data_offsets"]) for name, tensor in tensors.items()}
    return start, bytes(value[:start]), places  # type: ignore[return-value]


# ---- memcpy -------------------------------------------------------------------------------------------------


class Memcpy:
    """memcpy of the same blocks in the same order, from py-lmdb's map to slots as large as the stream's, in turn.

    threads: that share each step. A loop in C; of ctypes.memmove where there is no compiler.
    """

    def __init__(self, workload: Workload, slots: list[NDArray], threads: int = 1) -> None:
        self.workload, self.slots, self.threads = workload, slots, threads
        self.get = getter(workload.pairs.folder)
        self.steps: dict[int, list[NDArray]] = {}
        try:
            self.copy, self.name = copier(blocks().copy_blocks), "memcpy"
        except Absent:
            self.copy, self.name = memmove, "ctypes.memmove"
        if threads > 1:
            self.name += f" on {threads} threads"

    def prepare(self, steps: range) -> None:
        """For each step and thread (3, blocks): where from, where to, bytes."""
        for step in steps:
            shares = np.array_split(self._blocks(step), self.threads, axis=1)
            self.steps[step] = [np.ascontiguousarray(share) for share in shares]

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
            self.copy(*self.steps[step][number])

    def _blocks(self, step: int) -> NDArray[np.uint64]:
        source = [address(self.get(key.encode()), name) for key, name in self.workload.entries(step)]
        sizes = self.workload.sizes(step).ravel()
        target = self.slots[step % len(self.slots)].ctypes.data + places(sizes)
        return np.stack([np.array(part, np.uint64) for part in (source, target, sizes)])


def places(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where blocks of these sizes begin, one after the other at multiples of 16 bytes, as the stream lays them."""
    ends = np.cumsum(-(-sizes // 16) * 16)
    return np.concatenate([[0], ends[:-1]])


def address(value: memoryview, name: str) -> int:
    """Of a band in memory."""
    return np.frombuffer(value, np.uint8).ctypes.data + layout_of(value)[2][name][0]


def copier(function: Any) -> Callable[[NDArray, NDArray, NDArray], None]:
    """The loop in C over arrays of addresses and sizes."""
    return lambda source, target, sizes: function(len(sizes), source.ctypes.data, target.ctypes.data, sizes.ctypes.data)


def memmove(source: NDArray, target: NDArray, sizes: NDArray) -> None:
    for to, begin, size in zip(target.tolist(), source.tolist(), sizes.tolist(), strict=True):
        ctypes.memmove(to, begin, size)


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
