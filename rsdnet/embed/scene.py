"""A scene: files of one place, their bands by name, and their values in any region, converted as ingest converts."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from rsdnet import bands
from rsdnet.errors import DataError, Unfit
from rsdnet.ingest import raster
from rsdnet.ingest.grid import Grid, compare, grid_of
from rsdnet.ingest.images import Facts, read_image
from rsdnet.ingest.layouts.pairs import layer_names
from rsdnet.ingest.raster import REST, SKIP, band_name, choose
from rsdnet.ingest.region import Region
from rsdnet.ingest.s2_offset import settle
from rsdnet.ingest.source import Image, Recipe, Source

LOOK = 1024  # pixels a side of the look at a whole scene; our choice
_SAFE = "**/IMG_DATA/**/*"  # bands of a Sentinel-2 product (ESA, Sentinel-2 Products Specification)
_NEAR = 0.05  # share by which a pixel's side may differ from a band's resolution; our choice


class File(NamedTuple):
    """A file of a scene. layers: the names of its layers in order, "-" for one that is no band."""

    path: str
    layers: tuple[str, ...]
    shape: tuple[int, int]
    grid: Grid | None

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the layers that are bands."""
        return tuple(name for name in self.layers if name in bands.BANDS)


def files_of(paths: Sequence[Path], layers: Sequence[str] = ()) -> list[File]:
    """The files of a scene: those at `paths`, and of a product's folder its bands at the finest resolution.

    layers: names of each file's layers, in order, or of all files alike; none: by their descriptions, or of a single
    layer by the file's name.
    Raises DataError on a file that cannot be read or named, and on a band that two files have.
    """
    if layers and len(layers) not in (1, len(paths)):
        raise DataError(f"--layers names the layers of {len(layers)} files, but there are {len(paths)}: one or as many")
    spelled = [*layers] * (len(paths) if len(layers) == 1 else 1) or [""] * len(paths)
    found = list[File]()
    for path, text in zip(paths, spelled, strict=True):
        found += _of_product(path) if path.is_dir() else [_opened(path, layer_names(text))]
    holders: dict[str, str] = {}
    for file in found:
        for name in file.bands:
            if name in holders:
                raise DataError(f"{holders[name]} and {file.path} both have band {name}: name one of them")
            holders[name] = file.path
    return found


def _opened(path: Path, names: tuple[str, ...] | None) -> File:
    try:
        with rasterio.Env(**raster.GDAL), rasterio.open(path) as file:
            by_name = band_name(path.stem) if names is None and file.count == 1 else None
            if by_name and band_name(file.descriptions[0]) is None:
                names = (by_name,)
            try:
                chosen = choose(str(path), file.descriptions, names)
            except Unfit as error:
                raise DataError(f"{error}: give --layers, their names in order") from error
            named = {index: name for name, index in chosen.items() if name != REST}
            layers = tuple(named.get(index, SKIP) for index in range(1, file.count + 1))
            return File(str(path), layers, file.shape, grid_of(file)[0])
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise DataError(f"{path} cannot be read ({str(error).replace(str(path), '').strip(' :')})") from error


def _of_product(folder: Path) -> list[File]:
    """The finest file of each band below a .SAFE folder."""
    paths = sorted(path for path in folder.glob(_SAFE) if path.is_file() and band_name(path.stem) in bands.BANDS)
    if not paths:
        raise DataError(f"{folder} is a folder without a Sentinel-2 product's IMG_DATA: name files, or a .SAFE folder")
    finest: dict[str, File] = {}
    for path in paths:
        file = _opened(path, None)
        (name,) = file.bands
        if name not in finest or file.shape > finest[name].shape:
            finest[name] = file
    return list(finest.values())


@dataclass(frozen=True)
class Scene:
    """The bands of a scene that are used.

    files: those that hold them. images: by sensor, for `read_image`. recipe: conversion of their values.
    """

    files: tuple[File, ...]
    images: dict[str, Image]
    recipe: Recipe

    @classmethod
    def of(cls, files: Iterable[File], wanted: Sequence[str], recipe: Recipe) -> "Scene":
        """The scene of the bands `wanted`. Raises DataError on one that no file has, and on files of several places."""
        every = list(files)
        held = [name for file in every for name in file.bands]
        if absent := [name for name in wanted if name not in held]:
            raise DataError(
                f"the scene has no band {', '.join(absent)}: it has {', '.join(held)}; name the rows to use by --bands"
            )
        used = [file for file in every if set(file.bands) & set(wanted)]
        used.sort(key=lambda file: -file.shape[0])
        _require_one_place(used)
        images, expected = {}, {}
        for kind in dict.fromkeys(bands.BANDS[name].modality for name in wanted):
            own = {name for name in wanted if bands.BANDS[name].modality == kind}
            expected[kind] = tuple(name for file in used for name in file.bands if name in own)
            parts = [
                (file.path, tuple(name if name in own else SKIP for name in file.layers))
                for file in used
                if own & set(file.bands)
            ]
            images[kind] = Image(kind, tuple(parts))
        return cls(tuple(used), images, replace(recipe, expected=expected))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels of the finest file."""
        return self.files[0].shape

    @property
    def grid(self) -> Grid | None:
        """Of the finest file; None without a georeference."""
        return self.files[0].grid

    @property
    def step(self) -> int:
        """Pixels a side of the block that cuts no pixel of any file."""
        return math.lcm(*(_factor(self.files[0], file) for file in self.files))

    @property
    def metres(self) -> float | None:
        """Side of a pixel in metres; a guess where the grid is in degrees; None without a georeference."""
        if self.grid is None:
            return None
        side = float(np.linalg.norm(self.grid.matrix[:, 0]))
        if self.degrees:
            return side * 111_320 * math.cos(math.radians(self.grid.at(0, self.shape[0] / 2)[1]))
        return side * (self.grid.crs.linear_units_factor[1] if self.grid.crs else 1)

    @property
    def degrees(self) -> bool:
        """Whether the grid is in degrees."""
        return bool(self.grid and self.grid.crs and self.grid.crs.is_geographic)

    @property
    def tens(self) -> float:
        """A pixel's side in pixels of 10 m, where it is the resolution of a finest band that is coarser; else 1."""
        finest = min(bands.BANDS[name].resolution for name in self.files[0].bands)
        near = self.metres is not None and abs(self.metres / finest - 1) <= _NEAR
        return finest / 10 if near else 1.0

    def settled(self) -> tuple["Scene", Facts]:
        """This scene with its offset told once for all, and the facts, after a look at the whole, thinned out.

        Raises DataError on values that cannot be of their unit, and on an offset that stays open.
        """
        facts = Facts()
        with rasterio.Env(**raster.GDAL):
            for kind, image in self.images.items():
                read_image(kind, image, Source("scene", "", self.images), self.recipe, facts, most=LOOK)
        settle(facts.evidence)
        offset = facts.offsets[0][1] if facts.offsets else 0
        return replace(self, recipe=replace(self.recipe, offset=offset, implausible=True)), facts

    def read(self, top: int, left: int, height: int, width: int) -> dict[str, np.ndarray]:
        """Values by band, each in its own resolution, of a region in pixels; it may reach beyond the edge."""
        region, found = Region(self.shape, top, left, height, width), dict[str, np.ndarray]()
        with rasterio.Env(**raster.GDAL):
            for kind, image in self.images.items():
                found |= read_image(kind, image, Source("scene", "", self.images), self.recipe, Facts(), region).layers
        return found

    def identity(self) -> list[list[object]]:
        """Names, sizes and times of the files."""
        status = [(file.path, os.stat(file.path)) for file in self.files]
        return [[os.path.basename(path), each.st_size, each.st_mtime_ns] for path, each in status]


def _factor(finest: File, file: File) -> int:
    return max(1, round(finest.shape[0] / file.shape[0]))


def _require_one_place(files: Sequence[File]) -> None:
    """Raise DataError where files, the finest first, are of several places or sizes."""
    finest = files[0]
    for file in files[1:]:
        factor = _factor(finest, file)
        if max(abs(own - factor * its) for own, its in zip(finest.shape, file.shape, strict=True)) >= factor:
            sizes = [f"{each.path} is {each.shape[1]}x{each.shape[0]} px" for each in (finest, file)]
            raise DataError(f"{sizes[0]}, but {sizes[1]}: they must be of one grid, or of 10, 20 and 60 m of one")
        if finest.grid and file.grid:
            compare(finest.grid, file.grid, (finest.path, file.path))
