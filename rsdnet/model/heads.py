"""Projector and predictor."""

from torch import nn

# google-deepmind/deepmind-research, byol/configs/byol.py: decay_rate 0.9, eps 1e-5; torch counts momentum from the
# other end.
BN_MOMENTUM, BN_EPS = 0.1, 1e-5


def head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector or predictor: Linear with bias, BatchNorm, ReLU, Linear without bias (byol/utils/networks.py, MLP)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden, eps=BN_EPS, momentum=BN_MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs, bias=False),
    )
