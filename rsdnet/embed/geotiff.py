"""The GeoTIFF of an embedding: its types, and its assembly from finished blocks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window
from torch import Tensor

from rsdnet.embed.parts import Blocks
from rsdnet.embed.windows import Block
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.ingest.grid import Grid
from rsdnet.ingest.raster import GDAL

TILE = 256  # output pixels a side of a tile: GDAL's default, and of cloud-optimised GeoTIFFs
MOST = 65_535  # layers; TIFF 6.0, SamplesPerPixel is of 16 bits
_GROUP = 64  # layers that are written at a time
_HALF = 65_504  # the greatest float16


@dataclass(frozen=True)
class Coding:
    """From a layer's values to those in the file.

    kind: float16, or int8 with value = pixel * scale + offset, nodata -128, or byte, a picture's levels 1 to 255 with
    nodata 0. low, high: (layers,) ends of the values; those beyond are clipped, but for float16's.
    """

    kind: str
    low: np.ndarray
    high: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        """Of the values in a finished block."""
        return np.dtype({"float16": "<f2", "int8": "i1", "byte": "u1"}[self.kind])

    @property
    def nodata(self) -> float:
        """Value of pixels without data."""
        return {"float16": float("nan"), "int8": -128.0, "byte": 0.0}[self.kind]

    @property
    def levels(self) -> tuple[int, int]:
        """Of `low` and `high`."""
        return {"int8": (-127, 127), "byte": (1, 255)}[self.kind]

    @property
    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """(layers,) scale and offset: value = pixel * scale + offset."""
        first, last = self.levels
        scale = (self.high.astype(np.float64) - self.low) / (last - first)
        return scale, self.low - first * scale

    def encoded(self, values: Tensor, valid: Tensor) -> Iterator[np.ndarray]:
        """Each layer (height, width) of values (layers, height, width) float32. valid: (height, width) bool."""
        blank = ~valid.cpu().numpy()
        if self.kind == "float16":
            scaled = (each.clamp(-_HALF, _HALF) for each in values)
        else:
            pairs, levels = zip(values, *self.scales, strict=True), self.levels
            scaled = (((each - offset) / scale).round().clamp(*levels).nan_to_num() for each, scale, offset in pairs)
        for each in scaled:
            coded = each.cpu().numpy().astype(self.dtype)
            coded[blank] = self.nodata
            yield coded


def assemble(
    out: Path, parts: Blocks, blocks: Sequence[Block], coding: Coding, size: tuple[int, int], grid: Grid | None,
    cell: int, names: Sequence[str], tags: dict[str, Any], show: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the GeoTIFF of finished blocks aside, read it back, and rename it.

    size: (height, width) of the output. grid: of the scene. names: of the layers.
    Raises DataError where the disk is full, or the file does not hold what was written.
    """
    with aside(out) as temporary, rasterio.Env(**GDAL):
        try:
            with rasterio.open(temporary, "w", **profile(coding, len(names), size, grid, cell)) as file:
                _describe(file, coding, names, tags)
                for done, block in enumerate(blocks, 1):
                    for indices, window, pixels in _pieces(parts, block, coding):
                        file.write(pixels, indices, window=window)
                    show(done)
            _require_whole(temporary, parts, blocks, coding)
        except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
            raise DataError(
                f"no space to write {out}, or a fault of its disk ({error.__cause__ or error}): finished blocks are "
                "safe; free some and run the same command again"
            ) from error


def profile(coding: Coding, layers: int, size: tuple[int, int], grid: Grid | None, cell: int) -> dict[str, Any]:
    """Of rasterio, for the output."""
    found = {
        "driver": "GTiff", "count": layers, "height": size[0], "width": size[1], "nodata": coding.nodata,
        "tiled": True, "blockxsize": TILE, "blockysize": TILE, "bigtiff": "IF_SAFER",
        "compress": "deflate", "zlevel": 1, "interleave": "pixel" if layers <= 4 else "band", "predictor": 2,
        "dtype": coding.dtype.name,
    }  # fmt: skip
    if coding.kind == "float16":  # GDAL before 3.11 has no type of its own for 16-bit floats, and reads float32
        found |= {"dtype": "float32", "nbits": 16, "predictor": 3}
    if coding.kind == "byte" and layers == 3:
        found["photometric"] = "RGB"
    if grid is not None:
        found |= {"crs": grid.crs, "transform": Affine(*(grid.matrix * (cell, cell, 1)).ravel())}
    return found


def _describe(file: Any, coding: Coding, names: Sequence[str], tags: dict[str, Any]) -> None:
    file.update_tags(**tags)
    file.descriptions = tuple(names)
    if coding.kind == "int8":
        file.scales, file.offsets = coding.scales
    if coding.kind == "byte" and len(names) == 3:
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def _pieces(parts: Blocks, block: Block, coding: Coding) -> Iterator[tuple[list[int], Window, np.ndarray]]:
    """A finished block in pieces of a few layers and a row of tiles: indices of the layers, window, and values."""
    for top in range(0, block.height, TILE):
        window = Window(block.left, block.top + top, block.width, min(TILE, block.height - top))
        for first in range(0, parts.layers, _GROUP):
            # mapped anew each time: pages of a mapping count as memory until it ends
            piece = np.array(parts.read(block)[first : first + _GROUP, top : top + TILE])
            piece = piece.astype(np.float32) if coding.kind == "float16" else piece
            yield list(range(first + 1, first + len(piece) + 1)), window, piece


def _require_whole(path: Path, parts: Blocks, blocks: Sequence[Block], coding: Coding) -> None:
    """Raise RasterioError where the file does not hold the blocks: GDAL tells no error of its last writes."""
    with rasterio.open(path) as file:
        for block in blocks:
            for indices, window, pixels in _pieces(parts, block, coding):
                found = file.read(indices, window=window)
                if not np.array_equal(found, pixels, equal_nan=coding.kind == "float16"):
                    raise rasterio.errors.RasterioIOError("it does not hold what was written")
