"""An encoder and its preprocessing as one module, which ONNX and TorchScript take without rsdnet.

Bands must have one resolution, that of the views: nothing here resamples.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsdnet.data.fixed import view_of
from rsdnet.encoder import Encoder, Row
from rsdnet.encoderfile import BandInput
from rsdnet.evaluate.contenders import spread
from rsdnet.model.stages import at, features_of


class FromViews(nn.Module):
    """Views (B, channels, H, W), standardised, to features (B, F), float32, at `depth`."""

    def __init__(self, network: nn.Module, depth: str) -> None:
        super().__init__()
        self.network, self.depth = network, depth

    def forward(self, views: Tensor) -> Tensor:
        found = features_of(self.network, views)
        return found[at(found, self.depth)]


class FromBands(nn.Module):
    """Values (B, K, H, W), float32, of the bands `bands_of(rows)` in the units of training, to features (B, F).

    Features of the rows stand side by side, each as `rsdnet.encoder.Encoder.features` gives it.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    nodata: Tensor

    def __init__(self, encoder: Encoder, rows: Sequence[Row], depth: str) -> None:
        super().__init__()
        self.encode, self.channels = FromViews(encoder.network, depth), encoder.channels
        names = bands_of(rows)
        scales = torch.tensor([_scale(encoder.file.bands[name]) for name in names])
        for key, values in zip(("mean", "std", "low", "high", "nodata"), scales.T, strict=True):
            self.register_buffer(key, values[:, None, None].clone())
        differences = list(dict.fromkeys(name for row in rows for name in row if "-" in name))
        planes = {name: place for place, name in enumerate([*names, *differences])}
        self.differences = [_difference(name, planes, encoder) for name in differences]
        self.views = [[planes[name] for name in view] for row in rows for view in views_of(row, self.channels)]

    def forward(self, values: Tensor) -> Tensor:
        valid = (values.abs() < torch.inf) & (values != self.nodata)
        shown = torch.where(valid, (values.clamp(self.low, self.high) - self.mean) / self.std, 0.0)
        planes = list(shown.unbind(1))
        for (a, by_a), (b, by_b) in self.differences:  # as rsdnet.mixing.Mix makes them
            invalid = (planes[a] == 0) | (planes[b] == 0)
            planes.append((planes[a] * by_a - planes[b] * by_b).masked_fill(invalid, 0))
        views = [spread(torch.stack([planes[place] for place in view], 1), self.channels) for view in self.views]
        found = self.encode(torch.stack(views, 1).flatten(0, 1))
        return found.unflatten(0, (-1, len(views))).flatten(1)


def bands_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Bands of all rows, each once, in their order."""
    return tuple(dict.fromkeys(name for row in rows for name in view_of(row, "bands").bands))


def views_of(row: Row, channels: int) -> list[Row]:
    """The channels of a row's views: all its bands, or one each of fewer bands than the encoder has channels."""
    return [row] if 1 < channels <= len(row) else [(name,) for name in dict.fromkeys(row)]


def _scale(band: BandInput) -> tuple[float, float, float, float, float]:
    """Mean, standard deviation, ends of the clip, and nodata."""
    low, high = band.clip or (-math.inf, math.inf)
    return band.mean, band.std or 1.0, low, high, math.nan if band.nodata is None else band.nodata


Term = tuple[int, float]  # a plane's place, and its weight


def _difference(name: str, planes: dict[str, int], encoder: Encoder) -> tuple[Term, Term]:
    """The two bands of a difference; the mean drops out, since it is the difference of theirs."""
    std, (a, b) = encoder.file.differences[name][1], name.split("-")
    known = encoder.file.bands
    return (planes[a], (known[a].std or 1.0) / std), (planes[b], (known[b].std or 1.0) / std)
