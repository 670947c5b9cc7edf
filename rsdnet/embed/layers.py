"""The layers of an output: stage maps of each row of bands, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsdnet.encoder import Encoder, Row
from rsdnet.errors import DataError


class Stage(NamedTuple):
    """Maps of one stage of one row. first: the first of their channels among those of all."""

    row: int
    stage: int
    first: int
    channels: int


@dataclass(frozen=True)
class Layers:
    """Maps of `rows` by an encoder, of the stages that `features` asks for: stages, last, or layer1 to layer4.

    size: pixels a side of a window as the encoder sees it. stages: of all rows, in the order of the channels.
    """

    encoder: Encoder
    rows: tuple[Row, ...]
    size: int
    stages: tuple[Stage, ...]
    sides: tuple[int, ...]

    @classmethod
    def of(
        cls, encoder: Encoder, rows: tuple[Row, ...], size: int, features: str, values: Mapping[str, Any]
    ) -> "Layers":
        """Found by a trial with `values` (1, h, w) by band. Raises DataError on a stage that the encoder lacks."""
        stages, sides, first = list[Stage](), list[int](), 0
        for row, names in enumerate(rows):
            maps = encoder.maps(values, bands=names, size=size, check=False)
            for stage in _chosen(features, len(maps)):
                stages.append(Stage(row, stage, first, maps[stage].shape[1]))
                sides.append(maps[stage].shape[-1])
                first += maps[stage].shape[1]
        return cls(encoder, rows, size, tuple(stages), tuple(sides))

    @property
    def channels(self) -> int:
        """Of all maps side by side."""
        return self.stages[-1].first + self.stages[-1].channels

    @property
    def names(self) -> list[str]:
        """Of the channels: row, stage and channel of the stage."""
        return [
            f"{'+'.join(self.rows[each.row])} layer{each.stage + 1} {channel}"
            for each in self.stages
            for channel in range(each.channels)
        ]

    def maps(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps (B, c, h, w) of each of `stages`, of windows (B, h, w) by band."""
        found: dict[int, list[Tensor]] = {}
        for row, names in enumerate(self.rows):
            found[row] = self.encoder.maps(values, bands=names, size=self.size, check=False)
        return [found[each.row][each.stage] for each in self.stages]


def _chosen(features: str, count: int) -> range:
    """Indices of the stages, of `count`."""
    if features == "stages":
        return range(count)
    stage = count - 1 if features == "last" else int(features[-1]) - 1
    if stage >= count:
        raise DataError(f"--features {features}: the encoder has {count} stages")
    return range(stage, stage + 1)


def windowed(
    values: Mapping[str, np.ndarray], height: int, places: Sequence[tuple[int, int]], side: int
) -> dict[str, Tensor]:
    """Windows (B, h, w) by band, cut from the bands of a region `height` px high, each in its own resolution.

    places: (top, left) of each window in the region, px. side: of the windows, px.
    """
    found = {}
    for name, band in values.items():
        factor = height // band.shape[0]
        cut = [(top // factor, left // factor, side // factor) for top, left in places]
        found[name] = torch.from_numpy(np.stack([band[t : t + s, x : x + s] for t, x, s in cut]))
    return found
