"""Depths of an encoder: its output and the maps of its last four stages.

Pre-training squeezes the last stage together with the projector, so an evaluation looks at the others too.
"""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

Features = dict[str, Tensor]
"""(B, F) by depth: see `features_of`."""
STAGES = 4  # of a ResNet; of timm's models the last four stages, or blocks of a transformer


def output_and_maps(encoder: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The encoder's output (B, F) of x (B, channels, H, W), and maps (B, C, H', W') of at most 4 stages, shallow first.

    An encoder tells its maps by a method `output_and_maps` like this one, or by timm's `forward_intermediates`; of any
    other there are none.
    """
    if own := getattr(encoder, "output_and_maps", None):
        return own(x)
    if intermediates := getattr(encoder, "forward_intermediates", None):
        final, maps = intermediates(x, indices=STAGES, output_fmt="NCHW")
        return encoder.forward_head(final), list(maps)  # type: ignore[operator]
    return encoder(x), []


def at(depths: Collection[str], depth: str) -> str:
    """`depth`, or "last" where it is not among `depths`: of statistics, and of an encoder that gives no maps."""
    return depth if depth in depths else "last"


def spatial_means(maps: Iterable[Tensor]) -> list[Tensor]:
    """Means (B, C) over the pixels of maps (B, C, H, W)."""
    return [each.flatten(2).mean(2) for each in maps]


def features_of(encoder: nn.Module, x: Tensor) -> Features:
    """Features (B, F), float32, of x: "last", the output; where there are maps, their spatial means "layer1", "layer2",
    ..., and all of these side by side as "stages".
    """
    output, maps = output_and_maps(encoder, x)
    means = spatial_means(each.float() for each in maps)
    layers = {f"layer{number}": each for number, each in enumerate(means, 1)}
    return {"last": output.float(), **layers, **({"stages": torch.cat(means, 1)} if means else {})}
