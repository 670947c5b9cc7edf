"""Small databases for tests, written by py-lmdb and safetensors: independent of the reader under test."""

from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Patch = Mapping[str, NDArray]

# rico-hdl records this map size (kai-tub/rico-hdl); LMDB cannot map it on most machines.
RICO_MAP_SIZE = 100 << 40  # bytes


def write_values(folder: Path, values: Mapping[str | bytes, bytes], map_size: int = 1 << 28) -> Path:
    """Write raw values as an LMDB 0.9 database into `folder` (made if absent, added to if there); return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=map_size) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode() if isinstance(key, str) else key, value)
    return folder


def write_database(folder: Path, patches: Mapping[str, Patch], map_size: int = 1 << 28) -> Path:
    """Write patches as rico-hdl does: one entry a patch, one safetensors blob {band: array} an entry."""
    return write_values(folder, {key: save(dict(patch)) for key, patch in patches.items()}, map_size)


def record_map_size(folder: Path, map_size: int = RICO_MAP_SIZE) -> Path:
    """Let the database claim a map size, in both of its meta pages (MDB_meta.mm_mapsize of LMDB 0.9)."""
    file = folder / "data.mdb"
    content = bytearray(file.read_bytes())
    page_size = int.from_bytes(content[40:44], "little")
    for page in (0, page_size):
        content[page + 32 : page + 40] = map_size.to_bytes(8, "little")
    file.write_bytes(content)
    return folder


def ms_patch(rng: np.random.Generator, size: int = 12) -> dict[str, NDArray]:
    """An S2 patch: 10 m bands of `size` pixels, 20 m of half, 60 m of a sixth; uint16 DN."""
    sides = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B01": 6, "B09": 6}
    names = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    shapes = {name: (size // sides.get(name, 2),) * 2 for name in names}
    return {name: rng.integers(1, 10_000, shape).astype(np.uint16) for name, shape in shapes.items()}


def sar_patch(rng: np.random.Generator, size: int = 12) -> dict[str, NDArray]:
    """An S1 patch: VV and VH, float32 dB."""
    return {name: rng.normal(-12, 4, (size, size)).astype(np.float32) for name in ("VV", "VH")}


def paired_patches(places: int, size: int = 12, seed: int = 0) -> dict[str, dict[str, NDArray]]:
    """`places` S2 patches `s2_<n>` and S1 patches `s1_<n>`."""
    rng = np.random.default_rng(seed)
    ms = {f"s2_{n}": ms_patch(rng, size) for n in range(places)}
    return ms | {f"s1_{n}": sar_patch(rng, size) for n in range(places)}
