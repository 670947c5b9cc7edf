"""Channels made of rendered bands: differences of two SAR bands, beside bands as they are."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from rsdnet import bands
from rsdnet.data.fixed import FixedView, reads_of


class Mix(NamedTuple):
    """A view's C channels of its R rendered bands: of each the weighted difference of two bands, by sensor.

    A channel is 0, the mean, wherever one of its bands is, since 0 stands for an invalid pixel.
    """

    sensor: Tensor  # (K,) int64 by band id: which row of the others
    places: Tensor  # (sensors, C, 2) int64: the two bands, among the rendered ones; a band alone stands twice
    weights: Tensor  # (sensors, C, 2) float32: a channel is the first times its weight less the second times its own

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        return self._replace(**{name: tensor.to(device) for name, tensor in self._asdict().items()})

    def __call__(self, rendered: Tensor, records: Tensor, channels_last: bool = False) -> Tensor:
        """Views (V, B, C, S, S) in the type and memory format of `rendered` (V, B, R, S, S).

        records: (B, V, R, 5), band ids last; all bands of a view are of one sensor.
        """
        sensor = self.sensor[records[:, :, 0, 4].T]  # (V, B)
        axis = 4 if channels_last else 2  # of the channels in memory
        x = rendered.movedim(2, axis)
        places, weights = (
            [part[..., None, None].movedim(2, axis) for part in table[sensor].unbind(-1)]
            for table in (self.places, self.weights)
        )
        first, second = (x.take_along_dim(place, axis) for place in places)
        made = (first * weights[0] - second * weights[1]).masked_fill((first == 0) | (second == 0), 0)
        return made.to(rendered.dtype).movedim(axis, 2)


def mix_of(fixed: Mapping[str, FixedView], table: Tensor, statistics: Mapping[str, Sequence[float]]) -> Mix | None:
    """For the bands that `reads_of(fixed)` names; None where the views show these as they are.

    table: of `rsdnet.augment.band_table`, which standardised the bands. statistics: {difference: (mean, standard
    deviation)}; the mean is the difference of the bands' means, and so drops out.
    """
    if not any(view.differences for view in fixed.values()):
        return None
    reads, sensor = reads_of(fixed), torch.zeros(len(bands.NAMES), dtype=torch.int64)
    for index, view in enumerate(fixed.values()):
        sensor[[bands.band_id(name) for name in view.bands]] = index
    rows = [list(_channels(view, reads[name], table, statistics)) for name, view in fixed.items()]
    places, weights = ([[channel[part] for channel in row] for row in rows] for part in (0, 1))
    return Mix(sensor, torch.tensor(places), torch.tensor(weights, dtype=torch.float32))


def _channels(
    view: FixedView, read: tuple[str, ...], table: Tensor, statistics: Mapping[str, Sequence[float]]
) -> Iterator[tuple[list[int], list[float]]]:
    """Places and weights of each channel: x / std of a difference x = (a * std of a) - (b * std of b)."""
    shown = iter(range(len(read)))  # channels that are bands lie first, in order
    for name, channel in zip(view.names, view.channels, strict=True):
        if len(channel) == 1:
            yield [next(shown)] * 2, [1.0, 0.0]
        else:
            std = statistics[name][1]
            yield [read.index(band) for band in channel], [float(table[bands.band_id(b), 1]) / std for b in channel]
