"""A small database, written by py-lmdb and safetensors alone, that other tests train on and probe."""

from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.statistics import write_stats

SIDE = 24  # pixels of a 10 m band
CLASSES = ("smooth", "striped", "rough")


def patch(rng: np.random.Generator, label: int, side: int) -> np.ndarray:
    """(side, side) float64 texture of a class, about 0 with deviation 1: class by pattern, not by mean."""
    noise = rng.normal(size=(side, side))
    if label == 0:
        return np.full((side, side), rng.normal())
    if label == 1:
        return np.sign(np.sin(np.arange(side) * 1.6 + rng.uniform(0, 6)))[None, :] + 0.2 * noise
    return noise


def make(folder: Path, samples: int = 60, seed: int = 0, ms_bands: Sequence[str] = bands.MS) -> Path:
    """Write a database of `samples` labelled samples with `ms_bands` and VV, VH into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    labels = np.arange(samples, dtype=np.int32) % len(CLASSES)
    values: dict[str, list[np.ndarray]] = {}
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for index, label in enumerate(labels):
            ms = {}
            for name in ms_bands:
                side = SIDE * 10 // bands.BANDS[name].resolution
                ms[name] = (2000 + 300 * patch(rng, label, side)).clip(1).astype(np.uint16)
            sar = {name: (-12 + 3 * patch(rng, label, SIDE)).astype(np.float32) for name in ("VH", "VV")}
            transaction.put(f"s2_{index}".encode(), save(ms))
            transaction.put(f"s1_{index}".encode(), save(sar))
            for name, value in (ms | sar).items():
                values.setdefault(name, []).append(value)
    names = [str(index) for index in range(samples)]
    Catalog(
        samples=objects([f"{folder.name}_{name}" for name in names]),
        ms=objects([f"s2_{name}" for name in names]),
        sar=objects([f"s1_{name}" for name in names]),
        map=objects([None] * samples),
        label=labels,
        split=objects([("train", "train", "train", "val", "test")[index // 3 % 5] for index in range(samples)]),
        classes=CLASSES,
    ).write(folder)
    pixels = {name: np.concatenate([v.ravel() for v in value]).astype(np.float64) for name, value in values.items()}
    write_stats(
        folder, {name: {"mean": v.mean(), "std": v.std(), "count": v.size, "invalid": 0} for name, v in pixels.items()}
    )
    return folder
