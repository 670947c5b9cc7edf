"""The grid of an image: coordinate system, pixel size, origin and orientation; whether two images share one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from rsdnet.errors import Unfit

# Greatest distance between the middle pixels of two images of one grid, px. SSL4EO-S12's S1 and S2 lie 3.0 px apart.
_SHIFT = 3.5
_CORNER = 5.0  # the same for their corners, px: SSL4EO-S12's lie up to 4.0 px apart
# Greatest difference between two pixels' sides, as a share. SSL4EO-S12's S1 and S2 differ by 0.0075.
_SCALE = 0.02
_ROUNDING = 1e-6  # share of a pixel's side that a rotation may be, which is none
_WGS84 = CRS.from_epsg(4326)


class Grid(NamedTuple):
    """A georeferenced grid.

    matrix: (2, 3) float64, from (column, row, 1) to coordinates. shape: (height, width) in pixels.
    """

    crs: CRS | None
    matrix: np.ndarray
    shape: tuple[int, int]

    def at(self, column: float, row: float) -> np.ndarray:
        """(2,) coordinates of a place in pixels."""
        return self.matrix @ (column, row, 1)

    def __str__(self) -> str:
        sides = np.linalg.norm(self.matrix[:, :2], axis=0)
        turned = np.degrees(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))
        return f"{sides[0]:.6g} x {sides[1]:.6g}" + (f", turned by {turned:.3g} degrees" if abs(turned) > 0.1 else "")


def grid_of(file: rasterio.DatasetReader) -> tuple[Grid | None, tuple[int, ...]]:
    """The grid of an open file, north up, None without a georeference; the axes of (H, W) to flip for that."""
    matrix = np.array(file.transform[:6], np.float64).reshape(2, 3)
    if file.transform.is_identity or (not file.crs and np.abs(matrix[:, :2]).tolist() == [[1, 0], [0, 1]]):
        return None, ()  # plain rows and columns
    if not np.linalg.det(matrix[:, :2]):
        return None, ()  # pixels without an area
    sides = np.abs(matrix[:, :2])
    straight = max(sides[0, 1], sides[1, 0]) <= _ROUNDING * min(sides[0, 0], sides[1, 1])
    flips = [axis for axis, upright in ((0, matrix[1, 1] < 0), (1, matrix[0, 0] > 0)) if straight and not upright]
    for axis in flips:  # axis 0 of the layers, rows, is column 1 of the matrix
        matrix[:, 2] += matrix[:, 1 - axis] * file.shape[axis]
        matrix[:, 1 - axis] *= -1
    return Grid(file.crs, matrix, file.shape), tuple(flips)


def compare(one: Grid, two: Grid, names: tuple[str, str]) -> None:
    """Raise Unfit if two images, called `names`, are not of one grid; `two` may have coarser pixels.

    Coordinate systems must be the same, pixels must have the same sides and directions, times the ratio of the images'
    heights, and the pixels in the middle may lie `_SHIFT` pixels of `one` apart, those in the corners `_CORNER`.
    """
    if one.crs and two.crs and not _same(one.crs, two.crs):
        raise Unfit("grid", f"{names[0]} is in {_name(one.crs)}, but {names[1]} in {_name(two.crs)}: reproject one")
    coarser = max(1, round(one.shape[0] / two.shape[0]))
    pixel, other = one.matrix[:, :2], two.matrix[:, :2] / coarser
    if np.abs(pixel - other).max() > _SCALE * np.abs(pixel).max():
        raise Unfit("grid", f"the pixels of {names[0]} are {one}, but those of {names[1]} {two}: resample one")
    height, width = (min(own, coarser * its) for own, its in zip(one.shape, two.shape, strict=True))
    for most, places in (
        (_SHIFT, [(width / 2, height / 2)]),
        (_CORNER, [(0, 0), (width, 0), (0, height), (width, height)]),
    ):
        apart = [one.at(x, y) - two.at(x / coarser, y / coarser) for x, y in places]
        shift = float(max(np.abs(np.linalg.solve(pixel, each)).max() for each in apart))
        if shift > most:
            raise Unfit("grid", f"{names[1]} lies {shift:,.1f} px away from {names[0]}: they must be of one place")


def _same(one: CRS, two: CRS) -> bool:
    try:
        return bool(one == two or one.to_proj4() == two.to_proj4())
    except (CRSError, CPLE_BaseError):
        return False


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt().split('"')[1]


def described(grid: Grid | None, size: tuple[int, int]) -> tuple[str, str]:
    """Size with pixels, and coordinate system, in words. size: (height, width) in pixels."""
    pixels = f"{size[1]}x{size[0]} px"
    if grid is None:
        return pixels, ""
    degrees = grid.crs is not None and grid.crs.is_geographic
    side = float(np.linalg.norm(grid.matrix[:, 0]))
    return f"{pixels} of {f'{side:.2g} degrees' if degrees else f'{side:.4g} m'}", _name(grid.crs) if grid.crs else ""


def positions(grid: Grid | None, places: Sequence[tuple[float, float]]) -> list[tuple[float, float] | None]:
    """(longitude, latitude) in degrees, WGS 84, of places (column, row) in pixels; None where unknown."""
    if grid is None or grid.crs is None:
        return [None] * len(places)
    xs, ys = zip(*(grid.at(*place) for place in places), strict=True)
    try:
        longitudes, latitudes = transform(grid.crs, _WGS84, xs, ys)
    except (RasterioError, CPLE_BaseError):  # of no place on Earth
        return [None] * len(places)
    return [_on_earth(float(east), float(north)) for east, north in zip(longitudes, latitudes, strict=True)]


def _on_earth(longitude: float, latitude: float) -> tuple[float, float] | None:
    """The place with a longitude from -180 to 180, as files may count to 360 or cross 180; None if it is no place."""
    if not np.isfinite((longitude, latitude)).all() or abs(latitude) > 90:
        return None
    return (longitude if abs(longitude) <= 180 else (longitude + 180) % 360 - 180), latitude
