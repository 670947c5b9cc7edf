"""A pre-trained encoder in timm: a new head on it, and fine-tuning, beside the same network from random weights.

`python examples/finetune_timm.py`, two minutes on a CPU: pre-trains a small network of timm on synthetic true-colour
patches, exports it to a folder as timm reads it, and trains it on labels. `pip install 'rsdnet[timm]'`.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.metrics import f1_score
from small import database, run
from torch import Tensor, nn

import rsdnet
from rsdnet.data.dataset import Patches

BANDS, RUN, FOLDER, EPOCHS = ("B04", "B03", "B02"), Path("data/examples/timm"), Path("data/examples/timm-export"), 12
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

db = database()
if not (FOLDER / "config.json").exists():
    run(
        f"rsdnet.train --data {db} --run {RUN} --resume --split all --modality ms --ms-view {','.join(BANDS)} "
        "--encoder timm:test_resnet --hidden 256 --size 32 --crop-scale 0.3 1 --no-antialias "
        "--batch 64 --steps 150"
    )
    run(f"rsdnet.export {RUN} {FOLDER} --to timm")
encoder = rsdnet.load(RUN)


def patches(split: str) -> tuple[Tensor, Tensor, int]:
    """Views (N, 3, S, S) as the network takes them, labels (N,), and the number of classes."""
    held = Patches(db, BANDS, split=split, labelled=True)
    every = [held[index] for index in range(len(held))]
    views = encoder.views({name: torch.stack([patch.bands[name] for patch in every]) for name in BANDS}, bands=BANDS)
    return views.to(DEVICE), torch.from_numpy(held.labels.astype(np.int64)).to(DEVICE), len(held.classes)


def score(pretrained: bool, whole: bool) -> float:
    """Macro F1 on the test split, trained on the train split: the head alone on a frozen network, or the whole."""
    torch.manual_seed(0)
    model = timm.create_model(f"local-dir:{FOLDER}", pretrained=pretrained, num_classes=classes).to(DEVICE)
    parts = model if whole else model.get_classifier()
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3 if whole else 1e-2, weight_decay=0.05)
    model.train(whole)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(train)).split(32):
            x = train[batch].flip(3) if torch.rand(()) < 0.5 else train[batch]
            loss = nn.functional.cross_entropy(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.inference_mode():
        found = model(test).argmax(1)
    return f1_score(truth.cpu(), found.cpu(), average="macro")


train, labels, classes = patches("train")
test, truth, _ = patches("test")
for words, pretrained in (("pre-trained", True), ("random", False)):
    head, whole = score(pretrained, whole=False), score(pretrained, whole=True)
    print(f"{words} weights: macro F1 {head:.3f} by a new head alone, {whole:.3f} fine-tuned", flush=True)
