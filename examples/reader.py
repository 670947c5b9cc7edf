"""The reader in a training loop of your own: a plain CNN learns land cover from four bands of both sensors.

C++ threads read the bands from the database, `render_views` makes augmented views of them on the device, and the rest
is PyTorch: `python examples/reader.py [DB]`, a minute on a CPU. DB: a database with labels; none: a synthetic one.
"""

import sys

import numpy as np
import torch
from rsdnet.kernels import BandRow, ViewSpec, band_table, render_views
from sklearn.metrics import f1_score
from small import database
from torch import Tensor, nn

from rsdnet import bands
from rsdnet.data.dataset import Patches
from rsdnet.data.loader import Batch, Loader
from rsdnet.data.statistics import read_stats

BANDS, SIZE, EPOCHS = ("B03", "B08", "B11", "VV"), 32, 3
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
JITTER = {"ms": {"gain": (0.8, 1.2), "nodata": 0.0}, "sar": {"offset": (-1.0, 1.0)}}  # DN 0 is no data; dB

db = sys.argv[1] if len(sys.argv) > 1 else database()
statistics = read_stats(db)["bands"]
table = band_table(len(bands.NAMES), {
    bands.band_id(name): BandRow(own["mean"], own["std"], **JITTER[bands.BANDS[name].modality])
    for name, own in statistics.items()
    if name in BANDS
}).to(DEVICE)  # fmt: skip
augmented = ViewSpec(SIZE, scale=(0.3, 1.0), antialias=False, dtype=torch.float32)


def views(batch: Batch, spec: ViewSpec) -> Tensor:
    """(B, C, SIZE, SIZE): the batch's one view a sample, standardised."""
    return render_views(batch.data, batch.records, batch.samples, table, spec, seed=batch.seed, epoch=batch.epoch)[0]


def loader(split: str) -> tuple[Loader, Tensor, int]:
    """The batches of a split, the labels of its samples, and the number of classes."""
    patches = Patches(db, BANDS, split=split, labelled=True)  # samples with an entry of each sensor and a label
    batches = Loader(patches.samples, batch=32, bands=BANDS, drop_last=split == "train", device=DEVICE)
    return batches, torch.from_numpy(patches.labels.astype(np.int64)).to(DEVICE), len(patches.classes)


torch.manual_seed(0)
train, labels, classes = loader("train")
model = nn.Sequential(
    nn.Conv2d(len(BANDS), 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.BatchNorm2d(64),
    nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
).to(DEVICE)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(EPOCHS):  # each iteration of the loader is an epoch, in an order of its own
    losses = []
    for batch in train:
        loss = nn.functional.cross_entropy(model(views(batch, augmented)), labels[batch.positions])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch:2d}   loss {sum(losses) / len(losses):.3f}   {train.stats()['samples']:,.0f} samples read")

test, labels, _ = loader("test")
model.eval()
with torch.inference_mode():
    found = [(labels[batch.positions], model(views(batch, ViewSpec.plain(SIZE))).argmax(1)) for batch in test]
truth, told = (torch.cat(each).cpu() for each in zip(*found, strict=True))
most = truth.bincount().argmax().expand_as(truth)
for words, labels in (("the network", told), ("the most frequent class for all", most)):
    print(f"test: macro F1 of {words} {f1_score(truth, labels, average='macro'):.3f}")
