"""Shapes of the trainer's parameters: ResNet-50 with BYOL's projector and predictor, or narrower ones."""

import torch

from benches.reference.model import BYOL
from rsdnet.config import ModelConfig

SIZES = {"tiny": (1, 16, 8), "small": (16, 512, 64), "full": (64, 4096, 256)}  # width, hidden, embedding


def parameters(shapes: str, predictor: bool = True) -> list[torch.Size]:
    """Shapes of the tensors that LARS updates; without the predictor, of those that the target holds."""
    width, hidden, dim = SIZES[shapes]
    with torch.device("meta"):
        byol = BYOL(ModelConfig(encoder="resnet50", width=width, hidden=hidden, dim=dim), channels=1)
    return [p.shape for part in (byol.online, byol.predictor)[: 1 + predictor] for p in part.parameters()]
