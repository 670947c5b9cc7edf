"""Position: the part of a feature that tells its place in the window, and nothing of the scene.

Convolutions pad their input with zeros, by which a network knows how far the border is (Islam et al. 2020, arXiv
2001.08248). Windows side by side repeat this as a pattern, which a blend smooths and does not remove. It is estimated
as the mean over windows w of d_w(p) = f_w(p) - mean over pixels of f_w, and shrunk by max(0, 1 - noise / signal) a
channel (James and Stein 1961), so that a few windows, whose mean is still their content, take nothing away.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

WINDOWS = 256  # of the estimate, at most: the mean of so many has a sixteenth of their deviation; our choice


def position_of(batches: Iterable[Sequence[Tensor]], independent: float = 1.0) -> list[Tensor]:
    """The position part (c, h, w) of each stage, of its maps (B, c, h, w) in batches of windows; [] of no window.

    independent: share of the windows that would cover the scene without overlap; the others show the same.
    """
    count, means, squares = 0, list[Tensor](), list[Tensor]()
    for batch in batches:
        for maps in zip(*batch, strict=True):
            apart = [(each - each.mean((1, 2), keepdim=True)).double() for each in maps]
            if not count:
                means, squares = ([torch.zeros_like(each) for each in apart] for _ in range(2))
            count += 1
            for each, mean, square in zip(apart, means, squares, strict=True):  # Welford 1962
                before = each - mean
                mean += before / count
                square += before * (each - mean)
    free = count * independent
    if free < 2:
        return [torch.zeros_like(mean).float() for mean in means]
    return [_shrunk(mean, square / (count - 1) / free).float() for mean, square in zip(means, squares, strict=True)]


def _shrunk(mean: Tensor, noise: Tensor) -> Tensor:
    """An estimate (c, h, w) times the share of its square, a channel, that its variance does not explain."""
    signal = mean.square().mean((1, 2), keepdim=True)
    share = 1 - noise.mean((1, 2), keepdim=True) / signal
    return mean * share.nan_to_num(0.0, 0.0, 0.0).clamp(min=0)


def without(maps: Sequence[Tensor], position: Sequence[Tensor]) -> list[Tensor]:
    """Maps (B, c, h, w) less the position part (c, h, w) of each stage; [] takes nothing away."""
    return [each - own for each, own in zip(maps, position, strict=True)] if position else list(maps)
