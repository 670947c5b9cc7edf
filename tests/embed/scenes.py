"""Small scenes, and the embedding command called in this process."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter

from rsdnet.embed import __main__ as embed
from rsdnet.embed import job
from rsdnet.errors import command
from tests.support import geotiffs
from tests.support.forked import PATIENCE, environments

FORK = multiprocessing.get_context("fork")  # of one thread: nothing is imported twice

TEN, TWENTY = ("B04", "B08"), ("B05", "B11")
ORIGIN = (500_000, 5_000_000)


def values(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """(count, height, width) uint16: smooth DN from about 500 on, of which some are under 800."""
    rng = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(rng.normal(size=(height, width)), 3) for _ in range(count)])
    return (2000 + 600 * smooth / smooth.std()).clip(300, 9000).astype(np.uint16)


def georeferenced(metres: float, **profile: Any) -> dict[str, Any]:
    return {"crs": "EPSG:32632", "transform": from_origin(*ORIGIN, metres, metres), **profile}


def scene(folder: Path, height: int = 53, width: int = 62) -> list[Path]:
    """A file of two bands of 10 m, whose upper left corner has no data in B08, and one of two of 20 m."""
    ten, twenty = values(2, height, width, 0), values(2, -(-height // 2), -(-width // 2), 1)
    ten[1, :27, :30] = 0
    return [
        geotiffs.write(folder / "ten.tif", ten, TEN, **georeferenced(10)),
        geotiffs.write(folder / "twenty.tif", twenty, TWENTY, **georeferenced(20)),
    ]


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """`python -m rsdnet.embed WORDS` on the CPU: its exit status. Raises DataError."""
    monkeypatch.setattr(sys, "argv", ["rsdnet.embed", *map(str, words), "--device=cpu"])
    return embed.main()


def read(path: Path) -> np.ndarray:
    """(layers, height, width) of a GeoTIFF."""
    with rasterio.open(path) as file:
        return file.read()


def small_blocks() -> None:
    """Blocks of 32 x 32 pixels, until the process ends or `mock.patch.stopall`."""
    mock.patch.object(job, "TILE", 32).start()
    mock.patch.object(job, "LARGEST", 32).start()


class Child:
    """The command in a process of its own, or on several ranks; `prepare`, a picklable function, is called first."""

    def __init__(self, folder: Path, *words: object, ranks: int = 1, prepare: Callable[[], None] | None = None) -> None:
        folder.mkdir()
        self.said = [folder / f"rank{rank}" for rank in range(ranks)]
        argv = [*map(str, words), "--device=cpu"]
        processes = [
            FORK.Process(target=_main, args=(argv, environment, said, prepare))
            for environment, said in zip(environments(ranks), self.said, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        self.statuses = [process.exitcode for process in processes]

    def text(self, stream: str) -> str:
        """What all ranks printed on "out" or "err"."""
        return "".join(said.with_suffix(f".{stream}").read_text() for said in self.said)


def _main(argv: list[str], environment: dict[str, str], said: Path, prepare: Callable[[], None] | None) -> None:
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ.update(environment)
    sys.argv = ["rsdnet.embed", *argv]
    small_blocks()
    if prepare is not None:
        prepare()
    command(embed.main)
