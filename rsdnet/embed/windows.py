"""Overlapping windows of a scene: their places, the features of each, and their blend.

    out(p) = sum over windows w of h(p - w) f_w(p) / sum over windows w of h(p - w)

where f_w(p) is the feature of pixel p by window w, and h a two-dimensional Hann window, sin^2(pi (x + 1/2) / n) in each
direction (Harris 1978, Proc. IEEE 66(1), eq. 27; for patches of images Pielawski and Wählby 2020, PLoS ONE 15(3),
e0229839). At a stride of half a window the denominator is 1 away from the edges.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rsdnet.errors import DataError


class Block(NamedTuple):
    """A block of the output, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Of the output."""
        return self.height * self.width


@dataclass(frozen=True)
class Tiling:
    """Windows over a scene, and blocks over the output.

    shape: (height, width) of the scene, px. window, stride: side and step of the windows, px. step: px that a window
    begins at a multiple of. cell: px a side of an output pixel. block: output pixels a side of a block.
    Raises DataError where these do not fit each other.
    """

    shape: tuple[int, int]
    window: int
    stride: int
    step: int
    cell: int
    block: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            if getattr(self, name) % self.step:
                why = f"the coarsest band's pixels, and output pixels, are cut by it: a multiple of {self.step}"
                raise DataError(f"--{name} {getattr(self, name)}: {why} is needed")
        if self.stride > self.window:
            raise DataError(f"--stride {self.stride} is larger than --window {self.window}: pixels would be left out")
        if self.window > min(-(-side // self.step) * self.step for side in self.shape):
            size = f"{self.shape[1]} x {self.shape[0]} px"
            raise DataError(f"the scene is {size}, smaller than a window of {self.window} px: give a smaller --window")

    @property
    def out(self) -> tuple[int, int]:
        """(height, width) of the output; its last row and column may cover less than a cell of the scene."""
        height, width = (-(-side // self.cell) for side in self.shape)
        return height, width

    @property
    def side(self) -> int:
        """Output pixels a side of a window."""
        return self.window // self.cell

    def starts(self, axis: int, low: int = 0, high: int | None = None) -> list[int]:
        """Where windows begin along an axis, px; those alone that meet the pixels from `low` to before `high`.

        They lie `stride` apart; the last one may reach less than `step` beyond the edge.
        """
        last = -(-(self.shape[axis] - self.window) // self.step) * self.step
        every = [*range(0, last, self.stride), max(last, 0)]
        high = self.shape[axis] if high is None else high
        return [start for start in every if start < high and start + self.window > low]

    def blocks(self) -> list[Block]:
        """All blocks, row by row."""
        height, width = self.out
        return [
            Block(top, left, min(self.block, height - top), min(self.block, width - left))
            for top in range(0, height, self.block)
            for left in range(0, width, self.block)
        ]

    def windows(self, block: Block) -> tuple[list[int], list[int]]:
        """Where the windows that meet a block begin, px: rows and columns."""
        top, left = block.top * self.cell, block.left * self.cell
        rows = self.starts(0, top, top + block.height * self.cell)
        return rows, self.starts(1, left, left + block.width * self.cell)


def hann(side: int, device: torch.device | None = None) -> Tensor:
    """(side, side) float32 weights of a window's pixels, all above zero."""
    line = torch.sin(torch.pi * (torch.arange(side, dtype=torch.float64, device=device) + 0.5) / side) ** 2
    return torch.outer(line, line).float()


def spread_out(maps: Tensor, side: int) -> Tensor:
    """Maps (B, C, h, w) resampled to (B, C, side, side), bilinearly, with antialiasing where they become smaller."""
    if maps.shape[-1] == side:
        return maps
    return interpolate(maps, (side, side), mode="bilinear", align_corners=False, antialias=maps.shape[-1] > side)


def valid_pixels(
    values: Mapping[str, np.ndarray], nodata: Mapping[str, float | None], shape: tuple[int, int]
) -> np.ndarray:
    """(H, W) bool: pixels of a region of `shape` that are valid in all bands. nodata: by band, beside NaN."""
    valid = np.ones(shape, bool)
    for name, band in values.items():
        own = np.isfinite(band) if band.dtype.kind == "f" else np.ones(band.shape, bool)
        if nodata[name] is not None:
            own &= band != nodata[name]
        factor = shape[0] // band.shape[0]
        valid &= own.repeat(factor, 0).repeat(factor, 1) if factor > 1 else own
    return valid


def valid_cells(valid: np.ndarray, cell: int) -> np.ndarray:
    """(H / cell, W / cell) bool: cells of which at least half of the pixels (H, W) are valid."""
    if cell == 1:
        return valid
    height, width = (side // cell for side in valid.shape)
    return valid[: height * cell, : width * cell].reshape(height, cell, width, cell).mean((1, 3)) >= 0.5


class Blend:
    """The blend of windows over a block: (C, height, width) float32, added to window by window."""

    def __init__(self, block: Block, channels: int, side: int, device: torch.device) -> None:
        self.block, self.side = block, side
        self.weight = hann(side, device)
        self.sum = torch.zeros((channels, block.height, block.width), device=device)
        self.weights = torch.zeros((block.height, block.width), device=device)

    def add(self, top: int, left: int, maps: Sequence[tuple[int, Tensor]]) -> None:
        """Add a window that begins at (top, left) of the output, by its maps (c, h, w), each with its first channel."""
        rows, own_rows = self._overlap(top, self.block.top, self.block.height)
        columns, own_columns = self._overlap(left, self.block.left, self.block.width)
        weight = self.weight[own_rows, own_columns]
        self.weights[rows, columns] += weight
        for first, each in maps:
            found = spread_out(each[None], self.side)[0, :, own_rows, own_columns]
            self.sum[first : first + len(each), rows, columns].addcmul_(found, weight)

    def _overlap(self, start: int, first: int, length: int) -> tuple[slice, slice]:
        """Of a window from `start` on, along an axis: the pixels of the block, and of the window, that they share."""
        low, high = max(start, first), min(start + self.side, first + length)
        return slice(low - first, high - first), slice(low - start, high - start)

    def done(self) -> Tensor:
        """The blend; pixels of no window are NaN."""
        return self.sum.div_(self.weights)


def batches(rows: Sequence[int], columns: Sequence[int], batch: int) -> Iterator[list[tuple[int, int]]]:
    """The windows (top, left) of a block in batches."""
    every = [(top, left) for top in rows for left in columns]
    return (every[first : first + batch] for first in range(0, len(every), batch))
