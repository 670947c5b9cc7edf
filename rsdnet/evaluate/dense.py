"""Heads on the maps of an encoder's stages, judged on every pixel of label maps."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet.evaluate.contenders import Contender
from rsdnet.evaluate.label_maps import LabelMaps

LOGITS = 1 << 26  # logits of a head at once, 256 MiB; our choice
Head = nn.Module
"""From a sequence of maps (b, F, H, W) and a side to logits (b, C, side, side)."""
Heads = dict[tuple[str, str], tuple[Head, float, dict[str, Any]]]
"""By share of the labels and depth: a head on `maps_at` of the depth, its score on the val split, its settings."""
Maps = TypeVar("Maps")


def depths_of(count: int, depths: Sequence[str]) -> list[str]:
    """The different ones of `depths` that an encoder of `count` maps has; of one map: "last"."""
    return list(dict.fromkeys(depths)) if count > 1 else ["last"]


def maps_at(maps: Sequence[Maps], depth: str) -> Sequence[Maps]:
    """The maps, shallow first, that a depth names: all for "stages", the last, or that of one layer."""
    if depth == "stages":
        return maps
    number = len(maps) if depth == "last" else min(int(depth.removeprefix("layer")), len(maps))
    return maps[number - 1 : number]


def enlarged(stage: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps (b, F, *shape), bilinear, of maps (b, F, H, W)."""
    return nn.functional.interpolate(stage, shape, mode="bilinear", align_corners=False)


@torch.no_grad()
def confusions(
    maps: LabelMaps, contender: Contender, names: Sequence[str], samples: np.ndarray, groups: np.ndarray,
    heads: Mapping[tuple[str, str], Head],
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """(G, C, C) int64 counts of pixels by group, true class and predicted class, of heads by share and depth.

    samples: (n,) int64. groups: (n,) int64 in range(G), of each. Encodes every sample once, for all heads.
    """
    classes, device = len(maps.classes), maps.device
    cells = (int(groups.max(initial=-1)) + 1) * classes**2
    counted = {key: torch.zeros(cells, dtype=torch.int64, device=device) for key in heads}
    for own in maps.batches(np.arange(len(samples)), LOGITS // classes):
        stages, truth = contender.maps_of_bands(maps.labelled, names, samples[own]), maps.read(samples[own])
        rows = (torch.from_numpy(groups[own]).to(device)[:, None, None] * classes + truth) * classes
        for key, head in heads.items():
            predicted = head(maps_at(stages, key[1]), maps.side).argmax(1)
            counted[key] += torch.bincount((rows + predicted)[truth >= 0], minlength=cells)
    return {key: found.view(-1, classes, classes).cpu().numpy() for key, found in counted.items()}
