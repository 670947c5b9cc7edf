"""Small GeoTIFFs in the layouts of real data sets, and databases read without any code of rsdnet."""

import warnings
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from safetensors.numpy import load

from rsdnet.ingest.layouts.eurosat import CLASSES


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


def eurosat(root: Path, each: int = 5, size: int = 16) -> Path:
    """`each` patches of every class in EuroSAT's layout, a class by the level of its bands; lists of the splits."""
    rng = np.random.default_rng(0)
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for level, name in enumerate(CLASSES, start=1):
        for number in range(1, each + 1):
            layers = (500 * level + rng.normal(0, 150, (13, size, size))).astype(np.uint16)
            path = write(root / name / f"{name}_{number}.tif", layers)
            split = "test" if number % 3 == 0 else "val" if number % 5 == 0 else "train"
            listed[split].append(f"{path.name}\n")
    for split, names in listed.items():
        (root / f"eurosat-{split}.txt").write_text("".join(names))
    return root


def dfc2020(root: Path, places: int = 4, size: int = 16) -> Path:
    """`places` quadruplets of each part of DFC2020: Forest and Water by the level of a pixel, Savanna at the edge."""
    rng = np.random.default_rng(0)
    for season, folder in (("ROIs0000_validation", "validation"), ("ROIs0000_test", "0")):
        for place in range(places):
            water = np.add.outer(np.arange(size), np.arange(size)) > rng.integers(size // 2, 3 * size // 2)
            dfc = np.where(water, 10, 1).astype(np.uint8)
            dfc[:, 0] = 3
            layers = {
                "s2": np.where(water, 1000, 3000) + rng.normal(0, 200, (13, size, size)),
                "s1": np.where(water, -20, -10) + rng.normal(0, 1, (2, size, size)),
            }
            maps = {"lc": np.stack([np.where(water, 17, 1)] * 4).astype(np.uint8), "dfc": dfc[None]}
            typed = {"s2": layers["s2"].astype(np.uint16), "s1": layers["s1"].astype(np.float32), **maps}
            for kind, pixels in typed.items():
                write(root / season / f"{kind}_{folder}" / f"{season}_{kind}_{place // 2}_p{place}.tif", pixels)
    return root


def pair(root: Path, name: str, s2: np.ndarray, s1: np.ndarray | None = None, **s2_profile: Any) -> None:
    """One S2 file and, unless None, one S1 file, below `root`/s2 and `root`/s1."""
    write(root / "s2" / f"{name}.tif", s2, **s2_profile)
    if s1 is not None:
        write(root / "s1" / f"{name}.tif", s1)
