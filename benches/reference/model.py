"""The networks of the reference: torchvision's ResNet where it can be imported, BYOL's heads, BYOL."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benches.core.peers import Absent, peer, peer_version
from rsdnet.config import ModelConfig
from rsdnet.model.encoders import ResNet

WIDTH = 64  # of torchvision's first stage


def encoder(config: ModelConfig, channels: int) -> tuple[str, nn.Module, int]:
    """Where the encoder comes from; the encoder: (B, channels, H, H) to (B, features); features.

    Of another width than torchvision's, or where that is absent, it is rsdnet's, which has the same layers and names.
    """
    try:
        if config.width != WIDTH:
            raise Absent(f"torchvision's ResNets have a width of {WIDTH}")
        network = getattr(peer("torchvision.models"), config.encoder)(weights=None)
    except Absent:
        own = ResNet(config.encoder, channels, config.width)
        return "rsdnet's ResNet", own, own.features
    network.conv1 = nn.Conv2d(channels, WIDTH, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    features, network.fc = network.fc.in_features, nn.Identity()
    return f"torchvision {peer_version('torchvision')}", network, features


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Projector or predictor (Grill et al. 2020, section 3.3)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs, bias=False)
    )


def loss_of(prediction: Tensor, target: Tensor) -> Tensor:
    """mean_i [2 - 2 cos(prediction_i, target_i)], () float32, of (B, D) each (Grill et al. 2020, eq. 2)."""
    p, t = (normalize(side.float(), dim=1) for side in (prediction, target.detach()))
    return (2 - 2 * (p * t).sum(1)).mean()


class BYOL(nn.Module):
    """Online network, predictor and target; `forward` is the symmetric loss of two views."""

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        self.made_of, network, features = encoder(config, channels)
        self.online = nn.Sequential(network, mlp(features, config.hidden, config.dim))
        self.predictor = mlp(config.dim, config.hidden, config.dim)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, views: Tensor) -> Tensor:
        """views: (2, B, C, S, S). Each view goes through by itself, so that it has its own BatchNorm statistics."""
        first, second = (self.predictor(self.online(view)) for view in views)
        with torch.no_grad():
            target_first, target_second = (self.target(view) for view in views)
        return loss_of(first, target_second) + loss_of(second, target_first)
