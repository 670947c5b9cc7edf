"""The feature extractors that a probe compares: the pre-trained encoder, its initial weights, raw statistics."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet import config, runfolder
from rsdnet.config import Config
from rsdnet.data.identity import Identity
from rsdnet.errors import DataError
from rsdnet.evaluate.features import Labelled, frozen, frozen_maps
from rsdnet.model.encoders import Encoder, encoder_of
from rsdnet.model.stages import Features
from rsdnet.training import checkpoint
from rsdnet.training.archive import Archive
from rsdnet.training.precision import AUTOCAST, precision_of

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WINDOWS = (3, 7)  # pixels a side; our choice


class Contender(NamedTuple):
    """Features (b, F) by depth, and maps (b, F, H, W), shallow first, of views (b, channels, S, S)."""

    channels: int
    features: Callable[[Tensor], Features]
    maps: Callable[[Tensor], list[Tensor]]

    def of_bands(self, labelled: Labelled, names: Sequence[str], known: dict[str, Features]) -> Features:
        """(N, F) features by depth of the bands `names` of all samples; `known` keeps those of single bands.

        As many bands as there are channels go in as one view; one band is repeated over the channels; several bands of
        a contender with one channel give their features side by side.
        """
        if self.channels == len(names) > 1:
            return labelled.features(tuple(names), self.features)
        single = list(dict.fromkeys(names))
        for name in single:
            if name not in known:
                known[name] = labelled.features((name,) * self.channels, self.features)
        depths = known[single[0]]
        return {depth: torch.cat([known[name][depth] for name in single], 1) for depth in depths}

    def maps_of_bands(self, labelled: Labelled, names: Sequence[str], samples: np.ndarray) -> list[Tensor]:
        """Maps (b, F, H, W) of the bands `names` of `samples` (b,) int64, joined as `of_bands` joins features."""
        with torch.no_grad():
            if self.channels == len(names) > 1:
                return self.maps(labelled.rendered(names, samples))
            single = dict.fromkeys(names)
            every = [self.maps(labelled.rendered((name,) * self.channels, samples)) for name in single]
        return [torch.cat(alike, 1) for alike in zip(*every, strict=True)]


def contenders(encoder: Encoder, cfg: Config, device: torch.device, depths: Sequence[str]) -> dict[str, Contender]:
    """The pre-trained encoder, the weights that it started from, and statistics of the raw band."""
    torch.manual_seed(cfg.run.seed)
    start = encoder_of(cfg)
    dtype = AUTOCAST[precision_of(cfg, device)]

    def contender(network: Encoder) -> Contender:
        network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        features, maps = frozen(network, device, dtype, depths), frozen_maps(network, device, dtype)
        return Contender(cfg.views.channels, features, maps)

    raw = Contender(1, lambda views: {"last": band_statistics(views)}, lambda views: [pixel_statistics(views)])
    return {"pre-trained": contender(encoder), "random": contender(start), "raw statistics": raw}


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
    damaged: list[str] = []
    if path.is_file():
        tensors, meta = checkpoint.load(path)
    elif archive.exists():
        path, tensors, meta, damaged = archive.load()
        tensors = checkpoint.under("model", tensors)
        tensors = {n.removeprefix("online.encoder."): t for n, t in tensors.items() if n.startswith("online.encoder.")}
    else:
        raise DataError(f"{run} holds no encoder and no checkpoint: name the folder of a pre-training run")
    cfg = config.from_tables(meta["config"], str(path))
    encoder = encoder_of(cfg)
    checkpoint.restore(encoder, tensors, str(path))
    return Trained(encoder, cfg, tensors, meta.get("inputs", {}), damaged)
