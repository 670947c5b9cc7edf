"""Synthetic places as GeoTIFFs in SEN12MS's layout.

    ROIs1158_spring/{s1,s2,lc}_{scene}/ROIs1158_spring_{s1,s2,lc}_{scene}_p{n}.tif

and ROIs1868_summer, ROIs1970_fall, ROIs2017_winter likewise. s2: uint16, 13 bands of L1C digital numbers. s1: float32,
VV and VH in dB. lc: uint8, IGBP class in band 1 and zeros in the three LCCS bands. Pixels are a function of (seed,
place, size) alone, whatever the number of places and workers.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin

from rsdnet import bands
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.synthetic.world import SEASONS, synthesise

VERSION = 1  # raised whenever the same seed gives other pixels
PIXEL = 10.0  # m
SCENE = 4  # places in a scene
# SEN12MS's region sets, one a season.
ROIS = dict(zip(SEASONS, ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"), strict=True))
DESCRIPTIONS = {"s2": bands.S2L1C, "s1": bands.SAR, "lc": ("IGBP", "LCCS1 (empty)", "LCCS2 (empty)", "LCCS3 (empty)")}
# The fastest lossless compression that still saves space; speckle does not shrink.
COMPRESSION: dict[str, dict[str, object]] = {
    "s2": {"compress": "deflate", "zlevel": 1, "predictor": 2}, "s1": {}, "lc": {"compress": "deflate", "zlevel": 1},
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """All that pixels depend on but the number of the place."""

    seed: int = 0
    size: int = 256  # px of 10 m


class Address(NamedTuple):
    """A place's season, scene and patch number in the layout."""

    season: str
    scene: int
    patch: int

    def path(self, sensor: str) -> Path:
        """Path of the file of `sensor` ("s1", "s2" or "lc"), below the output folder."""
        roi = ROIS[self.season]
        return Path(roi) / f"{sensor}_{self.scene}" / f"{roi}_{sensor}_{self.scene}_p{self.patch}.tif"


def address(place: int) -> Address:
    """Consecutive places take turns through the seasons; `SCENE` places of one season form a scene."""
    n, season = divmod(place, len(SEASONS))
    return Address(SEASONS[season], 1 + n // SCENE, 1 + n % SCENE)


def write_scenes(
    out: Path,
    places: int,
    world: World = World(),
    workers: int = 0,
    show: Callable[[int], None] = lambda done: None,
) -> int:
    """Write places 0 .. places - 1 below `out`. Returns how many were written; the others were there already.

    workers: processes; 0 = one a core. show: called with the number of places done so far.
    Raises DataError on values out of range, a folder of another world, or a full disk.
    """
    if places < 1 or world.size < 32 or workers < 0 or world.seed < 0:
        got = f"{places}, {world.size}, {workers}, {world.seed}"
        raise DataError(f"scenes need places >= 1, size >= 32, workers >= 0 and seed >= 0, not {got}")
    claim(out, world)
    workers = min(workers or len(os.sched_getaffinity(0)), places)
    written = 0
    with contextlib.ExitStack() as stack:
        run: Callable[..., Iterator[bool]] = map
        if workers > 1:
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))).map
        try:
            for done, new in enumerate(run(partial(write_place, out, world), range(places)), 1):
                written += new
                show(done)
        except BrokenProcessPool as error:
            raise DataError(f"a worker died while writing {out} (out of memory?): use fewer --workers") from error
    return written


def claim(out: Path, world: World) -> None:
    """Make the folder and note its world in scenes.json. Raises DataError if it holds others."""
    note = out / "scenes.json"
    mine = {"version": VERSION} | asdict(world)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            if real := [roi for roi in ROIS.values() if (out / roi).exists()]:
                raise DataError(f"{out} holds a {real[0]} that is not of this command: name another folder for scenes")
            with aside(note) as temporary:
                temporary.write_text(json.dumps(mine) + "\n")
        theirs = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot use the folder {out} for scenes: {error}") from error
    if theirs != mine:
        raise DataError(f"{out} holds other scenes ({theirs}, not {mine}): remove it or name another folder")


def write_place(out: Path, world: World, place: int) -> bool:
    """Write the three files of one place; False where all are there. A file has its name only once complete."""
    where = address(place)
    targets = {sensor: out / where.path(sensor) for sensor in DESCRIPTIONS}
    if all(path.exists() for path in targets.values()):
        return False
    image = synthesise(world.seed, place, world.size, where.season)
    cover = np.stack([image.cover, *np.zeros((3, world.size, world.size), np.uint8)])
    profile = georeference(world, where)
    for sensor, pixels in (("s2", image.ms), ("s1", image.sar), ("lc", cover)):
        write_tiff(targets[sensor], pixels, DESCRIPTIONS[sensor], profile | COMPRESSION[sensor])
    return True


def georeference(world: World, where: Address) -> dict[str, object]:
    """Coordinate system and transform: a random UTM zone and corner a scene, its places side by side, west to east."""
    key = [world.seed, SEASONS.index(where.season), where.scene, 7]  # four numbers: no place's key has as many
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    zone, south = int(rng.integers(1, 61)), int(rng.integers(2))
    left = 300_000 + PIXEL * int(rng.integers(30_000)) + (where.patch - 1) * world.size * PIXEL
    top = 1_500_000 + PIXEL * int(rng.integers(600_000))
    crs = CRS.from_epsg((32_700 if south else 32_600) + zone)
    return {"crs": crs, "transform": from_origin(left, top, PIXEL, PIXEL)}


def write_tiff(path: Path, pixels: np.ndarray, descriptions: tuple[str, ...], profile: dict[str, object]) -> None:
    """Write (C, H, W) pixels, with a description a band. Raises DataError where the disk does not take them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    form = {"driver": "GTiff", "dtype": pixels.dtype.name, "interleave": "band"}
    try:
        with aside(path) as temporary, rasterio.open(temporary, "w", **form, **shape, **profile) as file:
            file.write(pixels)
            file.descriptions = descriptions
    except (OSError, rasterio.errors.RasterioError) as error:
        raise DataError(f"cannot write {path}: {error}; free some space or choose another folder") from error
