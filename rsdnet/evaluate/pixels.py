"""Pixels drawn from label maps, and the maps of an encoder's stages at them: what a pixel's classifier is fitted on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rsdnet.evaluate.contenders import Contender
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.stratified import shares


class Pixels(NamedTuple):
    """(n,) int64 each, ascending by sample: the sample, the place in its flattened map, and the class."""

    sample: np.ndarray
    place: np.ndarray
    label: np.ndarray


def drawn(maps: LabelMaps, samples: np.ndarray, limit: int, seed: int = 0) -> Pixels:
    """At most `limit` pixels of the maps of `samples` (n,), each class its share and one at least.

    Drawn by `seed` without replacement: of each class's pixels, numbered in the order of samples and places.
    """
    counts, rng = maps.counts[samples], np.random.default_rng(seed)
    totals = counts.sum(0)
    known = np.flatnonzero(totals)
    if not len(known):
        return Pixels(*(np.empty(0, np.int64) for _ in Pixels._fields))
    quotas = shares(totals[known], min(max(limit, len(known)), int(totals.sum())))
    which, rank, label = [], [], []
    for each, quota in zip(known, quotas, strict=True):
        ends = counts[:, each].cumsum()
        numbers = np.sort(rng.choice(ends[-1], quota, replace=False, shuffle=False))
        own = np.searchsorted(ends, numbers, side="right")
        which.append(own)
        rank.append(numbers - (ends - counts[:, each])[own])
        label.append(np.full(quota, each))
    order = np.argsort(np.concatenate(which), kind="stable")
    sample, ranks, labels = (np.concatenate(each)[order] for each in (which, rank, label))
    return Pixels(samples[sample], _places(maps, samples[sample], ranks, labels), labels)


def _places(maps: LabelMaps, sample: np.ndarray, rank: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) places of the pixels number `rank` of a class in each sample's map."""
    places = np.empty_like(rank)
    for own in maps.batches(np.unique(sample)):
        read = maps.read(own).flatten(1).cpu().numpy()
        for at, classes in zip(own, read, strict=True):
            asked = slice(*np.searchsorted(sample, [at, at + 1]))
            for each in np.unique(label[asked]):
                mine = np.flatnonzero(label[asked] == each) + asked.start
                places[mine] = np.flatnonzero(classes == each)[rank[mine]]
    return places


def features(maps: LabelMaps, contender: Contender, names: Sequence[str], pixels: Pixels) -> list[Tensor]:
    """(n, F) float32 of each map of a contender, at the pixels' centres."""
    found, device = list[list[Tensor]](), maps.device
    for own in maps.batches(np.unique(pixels.sample)):
        stages = contender.maps_of_bands(maps.labelled, names, own)
        asked = slice(*np.searchsorted(pixels.sample, [own[0], own[-1] + 1]))
        rows = torch.from_numpy(np.searchsorted(own, pixels.sample[asked])).to(device)
        places = torch.from_numpy(pixels.place[asked]).to(device)
        found.append([at_pixels(each, rows, places, maps.side) for each in stages])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def at_pixels(stage: Tensor, rows: Tensor, places: Tensor, side: int) -> Tensor:
    """(n, F) of maps (b, F, H, W) at the flat `places` (n,) of the images `rows` (n,), once they are enlarged to `side`
    pixels a side (`dense.enlarged`)."""
    height, width = stage.shape[-2:]
    (top, bottom, down), (left, right, across) = (
        _between(places // side, side, height),
        _between(places % side, side, width),
    )
    last, found = stage.permute(0, 2, 3, 1), stage.new_zeros(len(rows), stage.shape[1])
    for y, part in ((top, 1 - down), (bottom, down)):
        for x, share in ((left, 1 - across), (right, across)):
            found += last[rows, y, x] * (part * share)[:, None]
    return found


def _between(index: Tensor, side: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells to either side of the centre of pixel `index` of `side`, and the share of the second."""
    centre = ((index + 0.5) * (cells / side) - 0.5).clamp(min=0)
    first = centre.long().clamp(max=cells - 1)
    return first, (first + 1).clamp(max=cells - 1), centre - first
