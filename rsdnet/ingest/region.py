"""A region of an image, and the part of each of its files that lies there: of 10, 20 and 60 m, north up or not."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window


class Region(NamedTuple):
    """A region of an image, in pixels of its finest file, north up, that cuts no pixel of a coarser one.

    size: (height, width) of that file. Parts beyond a file's edge are pixels without data.
    """

    size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


class Cut(NamedTuple):
    """The part of a file that is read.

    window: None: all of it. shape: (height, width) that it is thinned out to. pads: pixels before and after it that the
    file does not have, by axis.
    """

    window: Window | None = None
    shape: tuple[int, int] | None = None
    pads: tuple[tuple[int, int], ...] = ()

    def read(self, file: rasterio.DatasetReader, indices: list[int] | int) -> np.ndarray:
        """The pixels of layers (C, H, W), or of one (H, W)."""
        shape = self.shape if self.shape is None or isinstance(indices, int) else (len(indices), *self.shape)
        return file.read(indices, window=self.window, out_shape=shape)

    def padded(self, pixels: np.ndarray, fill: bool = False) -> np.ndarray:
        """(H, W) with the pixels that the file does not have."""
        return np.pad(pixels, self.pads, constant_values=fill) if np.any(self.pads) else pixels


def cut_of(file: rasterio.DatasetReader, axes: Collection[int], region: Region | None, most: int) -> Cut:
    """The part of an open file that lies in a region; without one the whole, of at most `most` pixels a side, 0: all.

    axes: of (H, W), along which the file is stored from its other end.
    """
    if region is None:
        coarser = max(file.shape) / most if most else 1
        return Cut(shape=tuple(max(round(side / coarser), 1) for side in file.shape) if coarser > 1 else None)
    factor = max(1, round(region.size[0] / file.height))
    spans, pads = [], []
    for axis, (first, count) in enumerate(((region.top, region.height), (region.left, region.width))):
        start, end, length = first // factor, (first + count) // factor, file.shape[axis]
        low, high = (min(max(place, 0), length) for place in (start, end))
        pads.append((low - start, end - high))
        spans.append((length - high, length - low) if axis in axes else (low, high))
    return Cut(Window.from_slices(*spans), None, tuple(pads))
