"""Segmentation by a frozen encoder: a head on the maps of its stages tells the class of each pixel of a label map.

The linear head is a multinomial logistic regression of a pixel's values in all maps, each map enlarged to the label
map (a hypercolumn: Hariharan et al. 2015, arXiv 1411.5752); the other one is in fcn.py. Both are judged at the label
map's own resolution, on every pixel of the test split, by the mean intersection over union of its classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from rsdnet.console import track
from rsdnet.errors import DataError
from rsdnet.evaluate import fcn, metrics, pixels
from rsdnet.evaluate.contenders import Contender
from rsdnet.evaluate.dense import Heads, confusions, depths_of, enlarged, maps_at
from rsdnet.evaluate.folds import folds_of
from rsdnet.evaluate.intervals import replicates_of
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.linear import by_confusion, choose
from rsdnet.evaluate.outcomes import Outcome, Outcomes, arranged
from rsdnet.evaluate.pixels import Pixels

PIXELS = 1 << 14  # of the train split, and as many of the val split, that the linear head is fitted on; our choice


class Linear(nn.Module):
    """Logits (b, C, side, side) of maps: a 1 x 1 convolution of each, enlarged and added up.

    The same as the convolution of the enlarged maps side by side, which would take F / C times the memory.
    weights: (F + 1, C), the last row the bias. widths: channels of each map, F in all.
    """

    def __init__(self, weights: Tensor, widths: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.bias = weights[:-1].split(list(widths)), weights[-1]

    def forward(self, maps: Sequence[Tensor], side: int) -> Tensor:
        found = [torch.einsum("bfhw,fc->bchw", each, part) for each, part in zip(maps, self.parts, strict=True)]
        return sum(enlarged(each, (side, side)) for each in found) + self.bias[:, None, None]


def evaluate(
    maps: LabelMaps, views: Sequence[tuple[str, ...]], contenders: Mapping[str, Contender],
    trains: Mapping[str, Tensor], depths: Sequence[str], console: Console, *,
    head: Literal["linear", "fcn"] = "linear", limit: int = PIXELS, seed: int = 0,
) -> dict[str, Outcomes]:  # fmt: skip
    """As `linear.evaluate`, of the pixels of `maps`. Each rank fits and judges its part of the heads, on all samples.

    limit, seed: pixels of a split that the linear head is fitted on, and of the draw.
    """
    ranks, jobs = maps.labelled.ranks, [(names, label) for names in views for label in contenders]
    parts = {share: train.numpy() for share, train in trains.items()}
    fitting = Fitting.of(maps, parts, limit, seed) if head == "linear" else None

    def outcomes_of(names: tuple[str, ...], contender: Contender) -> dict[str, dict[str, Outcome]]:
        if fitting:
            return tested(maps, contender, names, fitting.heads(contender, names, depths))
        return tested(maps, contender, names, fcn.heads(maps, contender, names, parts, depths, seed))

    scored: dict[tuple[tuple[str, ...], str], dict[str, dict[str, Outcome]]] = {}
    turns = range(0, len(jobs), ranks.world)
    for start in track(turns, f"segmenting by {maps.labelled.samples.modality} bands", console=console):
        own = {}
        with ranks.together():
            for names, label in jobs[start + ranks.rank : start + ranks.world][:1]:
                own[names, label] = outcomes_of(names, contenders[label])
        for part in ranks.collect(own):
            scored |= part
    return arranged(scored, views, list(contenders), list(trains), depths)


class Fitting(NamedTuple):
    """Pixels that the linear heads are fitted and chosen on, and the places among them of each share and of val."""

    maps: LabelMaps
    pixels: Pixels
    trains: dict[str, Tensor]
    val: Tensor

    @classmethod
    def of(cls, maps: LabelMaps, trains: Mapping[str, np.ndarray], limit: int, seed: int) -> "Fitting":
        """Drawn by `seed`, at most `limit` of the samples of each share (n,), and as many of the val split's."""
        for share, samples in trains.items():
            if not maps.counts[samples].any():
                raise DataError(f"--labels {share}: the samples drawn have no pixel of a class: use more")
        found = [pixels.drawn(maps, samples, limit, seed) for samples in (*trains.values(), maps.part("val"))]
        every = Pixels(*map(np.concatenate, zip(*found, strict=True)))
        order = np.argsort(every.sample, kind="stable")
        owner = np.repeat(np.arange(len(found)), [len(each.sample) for each in found])[order]
        places = [torch.from_numpy(np.flatnonzero(owner == at)) for at in range(len(found))]
        return cls(maps, Pixels(*(each[order] for each in every)), dict(zip(trains, places, strict=False)), places[-1])

    def heads(self, contender: Contender, names: Sequence[str], depths: Sequence[str]) -> Heads:
        """Linear heads, the penalty of each chosen by mIoU on the val pixels, or by folds of the train split's."""
        maps, device = self.maps, self.maps.labelled.ranks.device
        stages = pixels.features(maps, contender, names, self.pixels)
        labels, groups = torch.from_numpy(self.pixels.label), maps.labelled.groups[self.pixels.sample]
        found: Heads = {}
        for share, train in self.trains.items():
            folds = folds_of(train, self.val, labels, groups)
            for depth in depths_of(len(stages), depths):
                own = list(maps_at(stages, depth))
                shown, judge = torch.cat(own, 1), by_confusion(metrics.mean_iou)
                chosen = choose(shown, labels.to(device), len(maps.classes), train, folds, judge)
                head = Linear(chosen.scale.folded(chosen.weights), [each.shape[1] for each in own])
                found[share, depth] = head, chosen.val, {"l2": chosen.l2, "pixels": len(train)}
        return found


def tested(maps: LabelMaps, contender: Contender, names: Sequence[str], heads: Heads) -> dict[str, dict[str, Outcome]]:
    """Outcomes by share and depth, on every pixel of the test split."""
    samples = maps.part("test")
    groups = np.unique(maps.labelled.groups[samples], return_inverse=True)[1]
    counted = confusions(maps, contender, names, samples, groups, {key: head for key, (head, *_) in heads.items()})
    found: dict[str, dict[str, Outcome]] = {}
    for (share, depth), (_, val, settings) in heads.items():
        found.setdefault(share, {})[depth] = outcome(counted[share, depth], maps.classes, val, settings)
    return found


def outcome(matrices: np.ndarray, classes: Sequence[str], val: float, settings: Mapping[str, Any]) -> Outcome:
    """Of confusion matrices (G, C, C) by group. The details: "accuracy" of pixels, "iou" by class, None of a class
    that the test split lacks, "confusion" (C, C) by true class and predicted class, and the head's settings."""
    whole = matrices.sum(0)
    scores = {
        name: None if np.isnan(iou) else float(iou) for name, iou in zip(classes, metrics.class_iou(whole), strict=True)
    }
    details = {"accuracy": float(metrics.accuracy(whole)), "iou": scores, "confusion": whole.tolist(), **settings}
    return Outcome(float(metrics.mean_iou(whole)), val, replicates_of(matrices, metrics.mean_iou), details)
