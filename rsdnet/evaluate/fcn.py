"""A convolutional head on frozen maps: 3 x 3 convolution, BatchNorm, ReLU and a 1 x 1 convolution.

Long et al. 2015, arXiv 1411.4038, in the form of torchvision's FCNHead; on the maps of several stages, enlarged to the
finest of them and side by side.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import Contender
from rsdnet.evaluate.dense import Head, Heads, confusions, depths_of, enlarged, maps_at
from rsdnet.evaluate.folds import folds_of
from rsdnet.evaluate.label_maps import LabelMaps
from rsdnet.evaluate.metrics import mean_iou

EPOCHS = 10  # at most: the val split chooses their number; this and the next four are our choice
BATCH = 32  # samples
LEARNING_RATE = 1e-3  # of AdamW
WEIGHT_DECAY = 1e-2
LEAST_WIDTH = 64  # channels between the convolutions, where a quarter of the input is less


class FcnHead(nn.Module):
    """Logits (b, classes, side, side) of maps with `channels` channels in all.

    Width and dropout: torchvision/models/segmentation/fcn.py.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        width = max(channels // 4, LEAST_WIDTH)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(width, classes, 1),
        )  # fmt: skip

    def forward(self, maps: Sequence[Tensor], side: int) -> Tensor:
        height, width = maps[0].shape[-2:]
        return enlarged(self.layers(torch.cat([enlarged(each, (height, width)) for each in maps], 1)), (side, side))


def heads(
    maps: LabelMaps, contender: Contender, names: Sequence[str], trains: Mapping[str, np.ndarray],
    depths: Sequence[str], seed: int,
) -> Heads:  # fmt: skip
    """Heads by share of the labels and depth, after the number of epochs that has the best mIoU on the val split.

    trains: (n,) int64 samples by share. Without a val split a fifth of the train split's groups chooses that number,
    and the head is trained again on all of them.
    """
    found: Heads = {}
    val, labelled = torch.from_numpy(maps.part("val")), maps.labelled
    for share, train in trains.items():
        fold = folds_of(torch.from_numpy(train), val, labelled.labels, labelled.groups)[0]
        judge = fold.judge.numpy()
        for epoch, trained in enumerate(epochs(maps, contender, names, fold.fit.numpy(), depths, seed), 1):
            now = {(share, depth): head for depth, head in trained.items()}
            counted = confusions(maps, contender, names, judge, np.zeros(len(judge), np.int64), now)
            for key, head in now.items():
                score = float(mean_iou(counted[key][0]))
                if key not in found or score > found[key][1]:
                    found[key] = copy.deepcopy(head), score, {"epochs": epoch}
        if not len(val):
            for epoch, trained in enumerate(epochs(maps, contender, names, train, depths, seed), 1):
                for depth, head in trained.items():
                    _, score, settings = found[share, depth]
                    if settings["epochs"] == epoch:
                        found[share, depth] = copy.deepcopy(head), score, settings
    return found


def epochs(
    maps: LabelMaps, contender: Contender, names: Sequence[str], samples: np.ndarray, depths: Sequence[str], seed: int
) -> Iterator[dict[str, Head]]:
    """Heads by depth after each epoch of training on `samples` (n,), in eval mode; they are trained on, not copied.

    Raises DataError on fewer samples than BatchNorm needs.
    """
    if len(samples) < 2:
        raise DataError("--head fcn: fewer than two samples to train on: use more --labels, or --head linear")
    rng, made = np.random.default_rng(seed), dict[str, Head]()
    optimizer: torch.optim.Optimizer | None = None
    parts = -(-len(samples) // BATCH)
    for _ in range(EPOCHS):
        for head in made.values():
            head.train()
        for own in np.array_split(rng.permutation(samples), parts):
            stages, truth = contender.maps_of_bands(maps.labelled, names, own), maps.read(own)
            if optimizer is None:
                made = new(stages, len(maps.classes), depths, seed)
                groups = [parameter for head in made.values() for parameter in head.parameters()]
                optimizer = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            known = (truth >= 0).sum().clamp(min=1)
            losses = [
                nn.functional.cross_entropy(
                    head(maps_at(stages, depth), maps.side), truth, ignore_index=-1, reduction="sum"
                )
                for depth, head in made.items()
            ]
            optimizer.zero_grad()
            (sum(losses) / known).backward()
            optimizer.step()
        yield {depth: head.eval() for depth, head in made.items()}


def new(stages: Sequence[Tensor], classes: int, depths: Sequence[str], seed: int) -> dict[str, Head]:
    """Untrained heads by depth, on maps (b, F, H, W) and their device; the global generator stays."""
    device = stages[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return {
            depth: FcnHead(sum(each.shape[1] for each in maps_at(stages, depth)), classes).to(device)
            for depth in depths_of(len(stages), depths)
        }
