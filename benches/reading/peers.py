"""The peers on a warm cache: ConfigILM, py-lmdb by hand, memcpy, torch's DataLoader over py-lmdb, rasterio.

Each reads a plan's steps by `run` and shows by `take` what it reads. The order of the samples and the bands drawn are
worked out for them by `prepare`, outside the time.
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from benches.peers import Absent, peer, peer_version
from benches.reading.pairs import Pairs, decoded, getter, opened
from benches.reading.plan import Bands, Plan
from rsdnet import _reader, bands

SIDE = 120  # pixels that ConfigILM resamples every band to


class Contender(Protocol):
    """Reads the plan's steps. `take`: the bytes of each band of each sample of a step, to be held against the plan."""

    @property
    def name(self) -> str: ...
    @property
    def plan(self) -> Plan: ...

    def prepare(self, steps: range) -> None: ...
    def run(self, steps: range) -> None: ...
    def take(self, step: int) -> Bands: ...


# ---- ConfigILM ----------------------------------------------------------------------------------------------


class ConfigILM:
    """ConfigILM: two transactions, decode both entries whole, resample each band to 120 px float32, stack.

    names: the bands that it resamples and stacks, none for all. The package's own reader, or its steps written plainly
    where it is not installed: `name` says which.
    """

    def __init__(self, plan: Plan, names: tuple[str, ...] = ()) -> None:
        shape = plan.pairs.shape
        self.plan, self.names = plan, names or (*shape.sar, *shape.ms)
        self.samples: dict[int, list[str]] = {}
        what = f"{len(self.names)} bands" if names else "all bands"
        try:
            self.read = package(plan.pairs, self.names)
            self.name, self.note = f"ConfigILM {peer_version('configilm')}, {what}", ""
        except Absent as reason:
            self.read, self.name = plain(plan.pairs, self.names), f"ConfigILM's steps, {what}"
            self.note = f"written plainly: {reason}"

    def prepare(self, steps: range) -> None:
        self.samples = {step: [self.plan.pairs.ms[s] for s in self.plan.samples(step)] for step in steps}

    def run(self, steps: range) -> None:
        for step in steps:
            for key in self.samples[step]:
                self.read(key)

    def take(self, step: int) -> Bands:
        sides = self.plan.pairs.shape.ms | self.plan.pairs.shape.sar
        given = []
        for sample, chosen in zip(self.plan.samples(step), self.plan.bands(step).tolist(), strict=True):
            image = self.read(self.plan.pairs.ms[sample]).numpy()
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
    is faster. Tried too, and slower: `Cursor.getmulti` a batch.
    """

    def __init__(self, plan: Plan, frombuffer: bool) -> None:
        self.plan, self.frombuffer = plan, frombuffer
        self.name = "py-lmdb and np.frombuffer" if frombuffer else "py-lmdb and slices of its memory views"
        self.get = getter(plan.pairs.folder)
        shape = plan.pairs.shape
        largest = sum(4 * side**2 for side in (shape.ms | shape.sar).values())
        self.out = np.zeros(plan.batch * largest, np.uint8)
        self.wanted: dict[int, list[tuple[bytes, str]]] = {}
        self.ends: list[int] = []

    def prepare(self, steps: range) -> None:
        """The key of the entry and the name of each band of each sample, one after the other."""
        self.wanted = {step: [(key.encode(), name) for key, name in self.plan.entries(step)] for step in steps}

    def run(self, steps: range) -> None:
        copy = self._frombuffer if self.frombuffer else self._slices
        for step in steps:
            copy(self.wanted[step])

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        self.run(range(step, step + 1))
        return self.plan.split([self.out[a:b].tobytes() for a, b in zip([0, *self.ends[:-1]], self.ends, strict=True)])

    # The two ways are written out: a call a band would slow a peer down.
    def _slices(self, wanted: list[tuple[bytes, str]]) -> None:
        get, known, out, at = self.get, LAYOUTS, memoryview(self.out.data), 0
        self.ends = ends = []
        for key, name in wanted:
            value = get(key)
            layout = known.get(len(value))
            if layout is None or value[: layout[0]].tobytes() != layout[1]:
                layout = known[len(value)] = layout_of(value)
            begin, end = layout[2][name]
            to = at + end - begin
            out[at:to] = value[begin:end]
            at = to
            ends.append(at)

    def _frombuffer(self, wanted: list[tuple[bytes, str]]) -> None:
        get, known, out, at = self.get, LAYOUTS, self.out, 0
        frombuffer, byte = np.frombuffer, np.uint8
        self.ends = ends = []
        for key, name in wanted:
            value = get(key)
            layout = known.get(len(value))
            if layout is None or value[: layout[0]].tobytes() != layout[1]:
                layout = known[len(value)] = layout_of(value)
            begin, end = layout[2][name]
            to = at + end - begin
            out[at:to] = frombuffer(value, byte, end - begin, begin)
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
    """memcpy of the same blocks in the same order, from a map of the file to slots as large as the stream's, in turn.

    threads: that share each step.
    """

    def __init__(self, plan: Plan, slots: list[NDArray], threads: int = 1) -> None:
        self.plan, self.slots, self.threads = plan, slots, threads
        self.get = getter(plan.pairs.folder)
        self.reader = _reader.Reader([plan.pairs.folder])
        self.source = np.memmap(plan.pairs.folder / "data.mdb", np.uint8, "r")
        self.steps: dict[int, list[NDArray]] = {}
        self.name = f"memcpy on {threads} threads" if threads > 1 else "memcpy"

    def prepare(self, steps: range) -> None:
        """For each step and thread (blocks, 3): where from, where to, bytes."""
        for step in steps:
            self.steps[step] = np.array_split(self._blocks(step), self.threads)

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
        slot, sizes = self.slots[step % len(self.slots)], self.plan.sizes(step).ravel()
        return self.plan.split([slot[a : a + n].tobytes() for a, n in zip(places(sizes), sizes, strict=True)])

    def _share(self, steps: range, number: int) -> None:
        for step in steps:
            _reader.copy_blocks(self.source, self.steps[step][number], self.slots[step % len(self.slots)])

    def _blocks(self, step: int) -> NDArray[np.int64]:
        entries = self.plan.entries(step)
        values = _reader.extents(self.reader, [key for key, _ in entries])[:, 0]
        inside = [layout_of(self.get(key.encode()))[2][name][0] for key, name in entries]
        sizes = self.plan.sizes(step).ravel()
        return np.column_stack([values + inside, places(sizes), sizes])


def places(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where blocks of these sizes begin, one after the other at multiples of 16 bytes, as the stream lays them."""
    ends = np.cumsum(-(-sizes // 16) * 16)
    return np.concatenate([[0], ends[:-1]])


def address(value: memoryview, name: str) -> int:
    """Of a band in memory."""
    return np.frombuffer(value, np.uint8).ctypes.data + layout_of(value)[2][name][0]


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


class Batches:
    """Batch sampler: the samples of some steps."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.steps = plan, range(0)
        self.named: dict[int, list[tuple[str, str, list[str]]]] = {}

    def __iter__(self) -> Iterator[list[tuple[str, str, list[str]]]]:
        return (self.named[step] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class Loaded:
    """torch's DataLoader over py-lmdb and safetensors, with a worker a core; the workers live on between runs.

    It does not resample: what it hands over are the drawn bands' bytes.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        self.plan, self.batches = plan, Batches(plan)
        self.name = f"torch DataLoader, py-lmdb and safetensors, {workers} workers"
        self.loader = DataLoader(
            Entries(plan.pairs.folder),
            batch_sampler=self.batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=True,
            multiprocessing_context="spawn",  # py-lmdb opens nothing again that was open before a fork
        )

    def prepare(self, steps: range) -> None:
        self.batches.named |= {step: self.plan.named(step) for step in steps}

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
        return self.plan.split([part.numpy().tobytes() for part in data.split(sizes)])


# ---- rasterio -----------------------------------------------------------------------------------------------


class Raster:
    """rasterio over GeoTIFFs: one file a band, not compressed, as BigEarthNet comes."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        rasterio = peer("rasterio")
        self.plan, self.folder = plan, folder
        self.name = f"rasterio {rasterio.__version__}, GeoTIFFs"
        self.open, self.env = rasterio.open, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
        self.paths: dict[int, list[str]] = {}

    def prepare(self, steps: range) -> None:
        self.paths = {step: [self._path(*entry) for entry in self.plan.entries(step)] for step in steps}

    def run(self, steps: range) -> None:
        with self.env:
            for step in steps:
                for path in self.paths[step]:
                    self._read(path)

    def take(self, step: int) -> Bands:
        self.prepare(range(step, step + 1))
        with self.env:
            return self.plan.split([self._read(path).tobytes() for path in self.paths[step]])

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
