"""Synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout: data to try the whole way on, nothing to download.

    python -m rsdnet.scenes OUT --places 200 --seed 0

writes `OUT/ROIs1158_spring/{s1,s2,lc}_{scene}/ROIs1158_spring_{s1,s2,lc}_{scene}_p{n}.tif`, and summer, fall and winter
likewise: s2 uint16, 13 bands of L1C digital numbers; s1 float32 dB, VV and VH; lc uint8, whose band 1 is the IGBP class
and whose three LCCS bands are 0. The pixels are a function of (seed, place, size) alone, so more places or other
workers leave the first ones as they were.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from rsdnet.console import progress
from rsdnet.errors import DataError, command
from rsdnet.synthetic.world import MS_BANDS, SEASONS, synthesise

VERSION = 1  # of what is drawn: raised when the same seed gives other pixels
PIXEL = 10.0  # m
SCENE = 4  # places in a scene
# SEN12MS names its four sets of regions so.
ROIS = dict(zip(SEASONS, ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"), strict=True))
DESCRIPTIONS = {"s2": MS_BANDS, "s1": ("VV", "VH"), "lc": ("IGBP", "LCCS1 (empty)", "LCCS2 (empty)", "LCCS3 (empty)")}
# The fastest lossless way that still saves space: speckle and noise do not shrink, maps do.
COMPRESSION: dict[str, dict[str, object]] = {
    "s2": {"compress": "deflate", "zlevel": 1, "predictor": 2}, "s1": {}, "lc": {"compress": "deflate", "zlevel": 1},
}  # fmt: skip


class Address(NamedTuple):
    """Where a place lies in the layout."""

    season: str
    scene: int
    patch: int

    def path(self, sensor: str) -> Path:
        """Path below OUT of the file of `sensor` ("s1", "s2" or "lc")."""
        roi = ROIS[self.season]
        return Path(roi) / f"{sensor}_{self.scene}" / f"{roi}_{sensor}_{self.scene}_p{self.patch}.tif"


@dataclass(frozen=True)
class World:
    """What the pixels depend on."""

    seed: int = 0
    size: int = 256  # px of 10 m


def address(place: int) -> Address:
    """The seasons take turns; a scene holds `SCENE` places of one season."""
    season, n = SEASONS[place % len(SEASONS)], place // len(SEASONS)
    return Address(season, 1 + n // SCENE, 1 + n % SCENE)


def write_place(out: Path, world: World, place: int) -> bool:
    """Write the three files of one place; False where they are there already.

    A file gets its name when it is complete, so what has its name is complete.
    """
    where = address(place)
    targets = {sensor: out / where.path(sensor) for sensor in DESCRIPTIONS}
    if all(path.exists() for path in targets.values()):
        return False
    image = synthesise(world.seed, place, world.size, where.season)
    cover = np.zeros((4, *image.cover.shape), np.uint8)
    cover[0] = image.cover
    profile = georeference(world, where)
    for sensor, pixels in (("s2", image.ms), ("s1", image.sar), ("lc", cover)):
        write_tiff(targets[sensor], pixels, DESCRIPTIONS[sensor], {**profile, **COMPRESSION[sensor]})
    return True


def georeference(world: World, where: Address) -> dict[str, object]:
    """Coordinate system and transform: a UTM zone of the scene's own, its places side by side from west to east."""
    from rasterio.crs import CRS
    from rasterio.transform import from_origin

    key = [world.seed, SEASONS.index(where.season), where.scene, 7]  # four numbers: no place's key has as many
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    zone, south = int(rng.integers(1, 61)), int(rng.integers(2))
    left = 300_000 + PIXEL * int(rng.integers(30_000)) + (where.patch - 1) * world.size * PIXEL
    top = 1_500_000 + PIXEL * int(rng.integers(600_000))
    crs = CRS.from_epsg((32_700 if south else 32_600) + zone)
    return {"crs": crs, "transform": from_origin(left, top, PIXEL, PIXEL)}


def write_tiff(path: Path, pixels: np.ndarray, descriptions: tuple[str, ...], profile: dict[str, object]) -> None:
    """Write (C, H, W) pixels aside, then give the file its name."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    count, height, width = pixels.shape
    try:
        with rasterio.open(
            aside,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=pixels.dtype.name,
            interleave="band",
            **profile,
        ) as file:
            file.write(pixels)
            file.descriptions = descriptions
        os.replace(aside, path)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise DataError(f"cannot write {path}: {error}; free some space or choose another folder") from error
    finally:
        aside.unlink(missing_ok=True)


def claim(out: Path, world: World) -> None:
    """Make the folder and note its world in it; a folder of another world is refused, so that two are never mixed."""
    note = out / "scenes.json"
    mine = {"version": VERSION, "seed": world.seed, "size": world.size}
    try:
        out.mkdir(parents=True, exist_ok=True)
        if note.exists():
            theirs = json.loads(note.read_text())
            if theirs != mine:
                raise DataError(f"{out} holds other scenes ({theirs}, not {mine}): remove it or name another folder")
            return
        aside = note.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(mine) + "\n")
        os.replace(aside, note)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot use the folder {out} for scenes: {error}") from error


def write_scenes(
    out: Path,
    places: int,
    world: World = World(),
    workers: int = 0,
    show: Callable[[int], None] = lambda done: None,
) -> int:
    """Write places 0 .. places - 1 below `out`; returns how many were written, the others being there already.

    workers: processes; 0 = one a core. show: called with the number of places done so far.
    Raises DataError on values out of range, a folder of other scenes, or a disk that is full.
    """
    if places < 1 or world.size < 32 or workers < 0 or world.seed < 0:
        got = f"{places}, {world.size}, {workers}, {world.seed}"
        raise DataError(f"scenes need places >= 1, size >= 32, workers >= 0 and seed >= 0, not {got}")
    claim(out, world)
    workers = min(workers or len(os.sched_getaffinity(0)), places)
    written = 0
    if workers == 1:
        for place in range(places):
            written += write_place(out, world, place)
            show(place + 1)
        return written
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(write_place, out, world, place) for place in range(places)]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                written += future.result()
                show(done)
        except BrokenProcessPool as error:
            raise DataError(f"a worker died while writing {out} (out of memory?): use fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)
    return written


def main() -> None:
    """The command `python -m rsdnet.scenes`."""
    import tyro

    def scenes(
        out: Annotated[Path, tyro.conf.Positional], places: int = 200, size: int = 256, seed: int = 0, workers: int = 0
    ) -> None:
        """Write synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout.

        Args:
            out: Folder for the ROIs... folders.
            places: How many places; each is one s1, one s2 and one lc file.
            size: Width and height, px of 10 m.
            seed: The world: another seed, other places.
            workers: Processes; 0 = one a core.
        """
        with progress("scenes", places, "places") as show:
            written = write_scenes(out, places, World(seed, size), workers, show)
        print(f"{out}: {places} places of {size} px, {written} written now, {places - written} were there")

    tyro.cli(scenes, prog="python -m rsdnet.scenes")


if __name__ == "__main__":
    command(main)
