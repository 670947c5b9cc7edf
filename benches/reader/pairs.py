"""Databases for `bench_reader`: pairs of an S2 and an S1 patch, as rico-hdl stores them, with a catalog.

Written by py-lmdb and the safetensors package, so that nothing here leans on the reader that is measured. Pixels are
random: nothing compresses. A folder holds `data.mdb`, `catalog.parquet` and, written last, `pairs.json`, by which a
finished database is known and taken again.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from rsdnet.data.catalog import Catalog, objects
from rsdnet.errors import DataError
from rsdnet.files import aside

SEED = 4
BLOCK = 64  # pairs that are drawn and written together
PAGE = 4096  # bytes, LMDB's page
INLINE = PAGE // 2  # larger values have pages of their own
MARK = "pairs.json"
SIDE = 90  # patches a tile is cut into, each way: BigEarthNet's names count to 90


@dataclass(frozen=True, eq=False)
class Shape:
    """What every pair holds. ms, sar: pixels a side by band; ms is uint16, sar float32."""

    name: str
    ms: dict[str, int]
    sar: dict[str, int]


FINE, COARSE, COARSEST = ("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B11", "B12", "B8A"), ("B01", "B09")
BIGEARTHNET = Shape(
    "bigearthnet",
    dict.fromkeys(FINE, 120) | dict.fromkeys(COARSE, 60) | dict.fromkeys(COARSEST, 20),
    {"VH": 120, "VV": 120},
)
SMALL = Shape("small", dict.fromkeys(FINE, 4), {"VH": 4, "VV": 4})


@dataclass(frozen=True)
class Pairs:
    """A finished database: its folder, what a pair holds, and both keys of every pair, in the catalog's order."""

    folder: Path
    shape: Shape
    ms: list[str]
    sar: list[str]

    def __len__(self) -> int:
        return len(self.ms)


def keys(pair: int) -> tuple[str, str]:
    """Keys of a pair's S2 and S1 entries, as BigEarthNet v2 names them."""
    scene, place = divmod(pair, SIDE * SIDE)
    row, column = divmod(place, SIDE)
    day = f"{2017 + scene // 336}{1 + scene // 28 % 12:02}{1 + scene % 28:02}"
    where = f"{row:02}_{column:02}"
    return f"S2A_MSIL2A_{day}T101031_N9999_R022_T33UUP_{where}", f"S1A_IW_GRDH_1SDV_{day}T165043_33UUP_{where}"


def make(folder: Path, shape: Shape, count: int, progress: Callable[[int], None] = lambda made: None) -> Pairs:
    """The database of `count` pairs in `folder`/<shape>-<count>, made where it is not there whole.

    progress: called with the number of pairs written. Raises DataError where the disk lacks the room.
    """
    place = folder / f"{shape.name}-{count}"
    mark = {"shape": asdict(shape), "pairs": count, "seed": SEED}
    finished = _read(place / MARK) == mark
    if not finished:
        _clear(place, room(shape, count))
    both = [keys(pair) for pair in range(count)]
    pairs = Pairs(place, shape, [ms for ms, _ in both], [sar for _, sar in both])
    if finished:
        return pairs
    with lmdb.open(str(place), map_size=2 * room(shape, count), sync=False, metasync=False) as environment:
        for first in range(0, count, BLOCK):
            with environment.begin(write=True) as transaction:
                for key, value in entries(shape, first, min(BLOCK, count - first)):
                    transaction.put(key.encode(), value)
            progress(min(first + BLOCK, count))
        environment.sync(True)
    _catalog(pairs).write(place)
    with aside(place / MARK) as temporary:
        temporary.write_text(json.dumps(mark))
    return pairs


def _clear(place: Path, needed: int) -> None:
    """An empty folder with so many bytes of room. Raises DataError where the disk lacks them."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{place}: its pairs need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free: "
            "name another folder by --folder, or fewer by --pairs"
        )


def room(shape: Shape, count: int) -> int:
    """Bytes on the disk that `count` pairs take at most: pages of large values, half-full pages of small ones."""
    taken = 0
    for sides, size in ((shape.ms, 2), (shape.sar, 4)):
        value = 8 + 72 * len(sides) + size * sum(side**2 for side in sides.values())
        taken += 2 * (value + 80) if value < INLINE else (value // PAGE + 2) * PAGE + 2 * 80
    return count * taken + (1 << 20)


def entries(shape: Shape, first: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Keys and values of the pairs `first` .. `first` + count; the pixels are a function of (SEED, first)."""
    rng = np.random.default_rng([SEED, first])
    dn = rng.integers(1, 10_001, (count, pixels(shape.ms)), np.uint16)
    db = 4 * rng.standard_normal((count, pixels(shape.sar)), np.float32) - 12
    ms, sar = header(shape.ms, np.uint16), header(shape.sar, np.float32)
    for index in range(count):
        s2, s1 = keys(first + index)
        yield s2, ms + dn[index].tobytes()
        yield s1, sar + db[index].tobytes()


def pixels(sides: dict[str, int]) -> int:
    """Of all bands of an entry."""
    return sum(side**2 for side in sides.values())


def header(sides: dict[str, int], dtype: type) -> bytes:
    """What stands before the pixels: length and JSON, the same for every entry, made by the safetensors package."""
    value = save({band: np.zeros((side, side), dtype) for band, side in sides.items()})
    return value[: len(value) - np.dtype(dtype).itemsize * pixels(sides)]


@cache
def opened(folder: Path) -> lmdb.Environment:
    """The database as a user of py-lmdb opens it to read; once a process, which is all that py-lmdb allows."""
    return lmdb.open(str(folder), readonly=True, lock=False, max_spare_txns=4)


def getter(folder: Path) -> Callable[[bytes], Any]:
    """From a key to its entry's value as a memory view, in a transaction that stays open."""
    return opened(folder).begin(buffers=True).get


def decoded(value: bytes) -> dict[str, NDArray]:
    """An entry's bands, by the safetensors package."""
    return load(value)


Layout = tuple[int, bytes, dict[str, tuple[int, int]]]  # bytes before the payload, those, {band: its place}
LAYOUTS: dict[int, Layout] = {}  # by the value's length


def layout_of(value: memoryview) -> Layout:
    """An entry's layout by its header."""
    start = 8 + int.from_bytes(value[:8], "little")
    tensors = json.loads(bytes(value[8:start]))
    places = {name: tuple(start + n for n in tensor["data_offsets"]) for name, tensor in tensors.items()}
    return start, bytes(value[:start]), places  # type: ignore[return-value]


def _catalog(pairs: Pairs) -> Catalog:
    count = len(pairs)
    return Catalog(
        samples=objects(pairs.ms),
        ms=objects(pairs.ms),
        sar=objects(pairs.sar),
        map=objects([None] * count),
        label=np.full(count, -1, np.int32),
        split=objects(["train"] * count),
    )


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
