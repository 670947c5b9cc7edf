"""The feature extractors that a probe compares: pre-trained, random and foreign encoders, raw statistics."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet import config, runfolder
from rsdnet.config import Config
from rsdnet.data.identity import Identity
from rsdnet.errors import DataError
from rsdnet.evaluate.features import frozen, frozen_maps
from rsdnet.model.encoders import Encoder, encoder_of
from rsdnet.model.stages import Features
from rsdnet.training import checkpoint
from rsdnet.training.archive import Archive
from rsdnet.training.precision import AUTOCAST, precision_of

BUILT_IN = ("pre-trained", "random", "raw statistics")  # labels of the contenders that are always there
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WINDOWS = (3, 7)  # pixels a side; our choice


class Scale(NamedTuple):
    """A band's values as a network takes them: (value within [low, high] - mean) / std, in the unit of the data."""

    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf


class Foreign(NamedTuple):
    """An encoder with weights from elsewhere, for views of `channels`.

    sha256: of the weights. scales: by band; None: values standardised as every other contender's. normalisation: that
    in words.
    """

    network: nn.Module
    channels: int
    sha256: str
    normalisation: str = "that of the data"
    scales: Mapping[str, Scale] | None = None

    def described(self) -> dict[str, str]:
        """What tells it from another, JSON-able."""
        return {"rule": rule(self.channels), "normalisation": self.normalisation, "sha256": self.sha256}


class Shown(Protocol):
    """Samples that are rendered by bands on a device, as `rsdnet.evaluate.features.Labelled` does."""

    @property
    def device(self) -> torch.device: ...

    def features(self, names: tuple[str, ...], of: Callable[[Tensor], Features]) -> Features:
        """(N, F) features by depth of all samples."""

    def rendered(self, names: Sequence[str], samples: np.ndarray) -> Tensor:
        """Views (b, len(names), S, S) of `samples` (b,) int64."""

    def scale(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a band."""


class Contender(NamedTuple):
    """Features (b, F) by depth of views (b, channels, S, S).

    network: that gives them, in `dtype` on a GPU; None: no network. scales: of a network with a normalisation of its
    own, by band.
    """

    channels: int
    features: Callable[[Tensor], Features]
    network: nn.Module | None = None
    dtype: torch.dtype = torch.float32
    scales: Mapping[str, Scale] | None = None

    def of_bands(self, labelled: Shown, names: Sequence[str], known: dict[str, Features]) -> Features:
        """(N, F) features by depth of the bands `names` of all samples; `known` keeps those of single bands.

        As many bands as there are channels, or more, go in as one view; several bands of a contender with one channel,
        or with more channels than bands, give their features side by side.
        """
        if self.joins(len(names)):
            return self._of_view(labelled, tuple(names))
        single = list(dict.fromkeys(names))
        for name in single:
            if name not in known:
                known[name] = self._of_view(labelled, (name,))
        depths = known[single[0]]
        return {depth: torch.cat([known[name][depth] for name in single], 1) for depth in depths}

    def maps_of_bands(self, labelled: Shown, names: Sequence[str], samples: np.ndarray) -> list[Tensor]:
        """Maps (b, F, H, W), shallow first, of the bands `names` of `samples` (b,) int64, joined as `of_bands` joins
        features; of raw statistics one, of each pixel's surroundings."""
        with torch.no_grad():
            if self.joins(len(names)):
                return self._maps(labelled, names, samples)
            every = [self._maps(labelled, (name,), samples) for name in dict.fromkeys(names)]
        return [torch.cat(alike, 1) for alike in zip(*every, strict=True)]

    def _maps(self, labelled: Shown, names: Sequence[str], samples: np.ndarray) -> list[Tensor]:
        views = spread(self.scaling(labelled, names)(labelled.rendered(names, samples)), self.channels)
        return frozen_maps(self.network, views.device, self.dtype)(views) if self.network else [pixel_statistics(views)]

    def joins(self, count: int) -> bool:
        """Whether `count` bands, more than one, go in as one view."""
        return 1 < self.channels <= count

    def scaling(self, labelled: Shown, names: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """A function from views (b, k, S, S) of the bands `names` of `labelled` to the same as the network wants them.

        Bands without a scale of the network's own stay as they are.
        """
        if self.scales is None:
            return lambda views: views
        rendered = [labelled.scale(name) for name in names]
        wanted = [self.scales.get(name, Scale(*each)) for name, each in zip(names, rendered, strict=True)]
        device = labelled.device
        mean, std = torch.tensor(rendered, device=device).T[..., None, None]
        own = torch.tensor(wanted, device=device).T[..., None, None]
        return lambda views: ((views * std + mean).clamp(own[2], own[3]) - own[0]) / own[1]

    def _of_view(self, labelled: Shown, names: tuple[str, ...]) -> Features:
        scaled = self.scaling(labelled, names)
        return labelled.features(names, lambda views: self.features(spread(scaled(views), self.channels)))


def spread(views: Tensor, channels: int) -> Tensor:
    """Views (b, k, S, S) of k bands as (b, channels, S, S), for k = 1 or k >= channels.

    One band goes into every channel: a first convolution acts as if it were summed over its channels. Of more bands
    than channels, channel c takes the sum of bands c, c + channels, ..., times channels / k: as if the convolution were
    repeated over k bands (timm, adapt_input_conv).
    """
    count = views.shape[1]
    if count == channels:
        return views
    if count == 1:
        return views.expand(-1, channels, -1, -1)
    return torch.stack([views[:, first::channels].sum(1) for first in range(channels)], 1) * (channels / count)


def rule(channels: int) -> str:
    """How bands enter a network of `channels`, in words: see `spread`."""
    if channels == 1:
        return "one band at a time, several side by side"
    return (
        f"first convolution summed over its {channels} channels for one band, as it is for {channels}, repeated for "
        f"more, times {channels}/bands; fewer side by side"
    )


def contenders(
    encoder: Encoder, cfg: Config, device: torch.device, depths: Sequence[str], against: Mapping[str, Foreign] = {}
) -> dict[str, Contender]:
    """The pre-trained encoder, the weights that it started from, statistics of the raw band, and those of `against`."""
    torch.manual_seed(cfg.run.seed)
    start = encoder_of(cfg)
    return {
        "pre-trained": contender(encoder, cfg, cfg.views.channels, device, depths),
        "random": contender(start, cfg, cfg.views.channels, device, depths),
        "raw statistics": Contender(1, lambda views: {"last": band_statistics(views)}),
        **{
            label: contender(each.network, cfg, each.channels, device, depths, each.scales)
            for label, each in against.items()
        },
    }


def contender(
    network: nn.Module, cfg: Config, channels: int, device: torch.device, depths: Sequence[str],
    scales: Mapping[str, Scale] | None = None,
) -> Contender:  # fmt: skip
    """The network on `device`, in the precision of the run `cfg`, for views of `channels`."""
    dtype = AUTOCAST[precision_of(cfg, device)]
    network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Contender(channels, frozen(network, device, dtype, depths), network, dtype, scales)


def band_statistics(views: Tensor) -> Tensor:
    """(b, C * 9): mean, standard deviation, extremes and quantiles of each channel of views (b, C, S, S)."""
    pixels = views.flatten(2)
    quantiles = torch.quantile(pixels, torch.tensor(QUANTILES, device=views.device), dim=2).movedim(0, -1)
    rest = (pixels.mean(2), pixels.std(2, correction=0), pixels.amin(2), pixels.amax(2))
    return torch.cat((torch.stack(rest, -1), quantiles), -1).flatten(1)


def pixel_statistics(views: Tensor) -> Tensor:
    """(b, C * 5, S, S): each pixel of views (b, C, S, S), and the mean and deviation of the windows about it."""
    found = [views]
    for window in WINDOWS:
        mean, square = (
            nn.functional.avg_pool2d(each, window, 1, window // 2, count_include_pad=False)
            for each in (views, views.square())
        )
        found += [mean, (square - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(found, 1)


class Trained(NamedTuple):
    """A run's encoder, configuration, weights by name, the identity of its input (of an earlier version's run: {}), and
    one line on each damaged checkpoint passed over."""

    encoder: Encoder
    cfg: Config
    tensors: dict[str, Tensor]
    inputs: Identity
    damaged: list[str]


def load_encoder(run: Path) -> Trained:
    """The encoder of a finished run, or of an unfinished one's newest sound checkpoint.

    Raises DataError where the folder holds neither or they are damaged.
    """
    path, archive = run / runfolder.ENCODER, Archive(run)
    if path.is_file():
        return trained_of(path, *checkpoint.load(path))
    if archive.exists():
        path, tensors, meta, damaged = archive.load()
        return trained_of(path, tensors, meta)._replace(damaged=damaged)
    raise DataError(f"{run} holds no encoder and no checkpoint: name the folder of a pre-training run")


def trained_of(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Trained:
    """The encoder of the content of a file of a run, its encoder's or a checkpoint. Raises DataError on a misfit."""
    if model := checkpoint.under("model", tensors):
        tensors = {n.removeprefix("online.encoder."): t for n, t in model.items() if n.startswith("online.encoder.")}
    cfg = config.of_run(meta["config"], str(path))
    encoder = encoder_of(cfg)
    checkpoint.restore(encoder, tensors, str(path))
    return Trained(encoder, cfg, tensors, meta.get("inputs", {}), [])
