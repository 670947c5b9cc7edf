"""Depths of an encoder: its output and the maps of its last four stages.

Pre-training squeezes the last stage together with the projector, so an evaluation looks at the others too.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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


def spatial_means(maps: Iterable[Tensor]) -> list[Tensor]:
    """Means (B, C) over the pixels of maps (B, C, H, W)."""
    return [each.flatten(2).mean(2) for each in maps]


def features_of(encoder: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Features (B, F) of x by depth: "last", the output; where there are maps, "layer1"... and all of these as "stages".

    Float32.
    """
    output, maps = output_and_maps(encoder, x)
    means = spatial_means(each.float() for each in maps)
    layers = {f"layer{number}": each for number, each in enumerate(means, 1)}
    return {"last": output.float(), **layers, **({"stages": torch.cat(means, 1)} if means else {})}
