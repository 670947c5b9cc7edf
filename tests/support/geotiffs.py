"""Small GeoTIFFs in the layouts of real data sets, and databases read without any code of rsdnet."""

import warnings
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from safetensors.numpy import load


def write(path: Path, layers: np.ndarray, names: tuple[str, ...] = (), driver: str = "GTiff", **profile: Any) -> Path:
    """`layers`, (bands, H, W), as a GeoTIFF or by another driver, with band descriptions where `names` are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = layers.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        shape = {"count": count, "height": height, "width": width, "dtype": layers.dtype}
        with rasterio.open(path, "w", driver=driver, **shape, **profile) as file:
            file.write(layers)
            for layer, name in enumerate(names, start=1):
                file.set_band_description(layer, name)
    return path


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def entries(db: Path) -> dict[str, bytes]:
    """All entries of a database, through py-lmdb."""
    size = (db / "data.mdb").stat().st_size
    with lmdb.open(str(db), readonly=True, lock=False, map_size=size) as environment, environment.begin() as txn:
        return {bytes(key).decode(): bytes(value) for key, value in txn.cursor()}


def tensors(db: Path) -> dict[str, dict[str, np.ndarray]]:
    return {key: load(value) for key, value in entries(db).items()}


def sen12ms(root: Path, places: int, size: int = 24, scenes: int = 4, seed: int = 0) -> Path:
    """`places` triplets of random pixels in SEN12MS's layout."""
    rng = np.random.default_rng(seed)
    for place in range(places):
        scene, season = place % scenes + 1, root / "ROIs1158_spring"
        name = f"ROIs1158_spring_{{}}_{scene}_p{place}.tif"
        s2 = rng.integers(1, 10000, (13, size, size)).astype(np.uint16)
        s1 = rng.normal(-14, 5, (2, size, size)).astype(np.float32)
        land = rng.integers(1, 18, (4, size, size)).astype(np.uint8)
        for kind, layers in (("s2", s2), ("s1", s1), ("lc", land)):
            write(season / f"{kind}_{scene}" / name.format(kind), layers)
    return root


def pair(root: Path, name: str, s2: np.ndarray, s1: np.ndarray | None = None, **s2_profile: Any) -> None:
    """One S2 file and, unless None, one S1 file, below `root`/s2 and `root`/s1."""
    write(root / "s2" / f"{name}.tif", s2, **s2_profile)
    if s1 is not None:
        write(root / "s1" / f"{name}.tif", s1)
