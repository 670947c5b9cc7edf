"""BYOL, Grill et al. 2020 (arXiv 2006.07733), as DeepMind wrote it: google-deepmind/deepmind-research,
byol/byol_experiment.py and byol/utils/networks.py.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsdnet.config import ModelConfig
from rsdnet.kernels import byol_loss
from rsdnet.model.encoders import ResNet
from rsdnet.model.heads import head


class Network(nn.Module):
    """Encoder and projector: (B, C, S, S) to projections (B, D). The online and the target network are two of these."""

    def __init__(self, encoder: ResNet, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, views: Tensor) -> Tensor:
        return self.late(self.early(views))

    def early(self, views: Tensor) -> Tensor:
        """What `late` takes: see `ResNet.early`."""
        return self.encoder.early(views)

    def late(self, x: Tensor) -> Tensor:
        """The encoder's last stage and the projector: two thirds of the parameters and more."""
        return self.projector(self.encoder.late(x))


class Forward(NamedTuple):
    """What two views of a batch give."""

    loss: Tensor  # float32 scalar in [0, 8]
    z1: Tensor  # (B, D) online projections of the first view, detached
    z2: Tensor  # (B, D) of the second


class BYOL(nn.Module):
    """Online network with predictor, and target network, over two views of each sample."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        encoder = ResNet(config.encoder, channels, config.width, config.recompute)
        self.online = Network(encoder, head(encoder.features, config.hidden, config.dim))
        self.predictor = head(config.dim, config.hidden, config.dim)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.concatenate_views = config.concatenate_views

    def project(self, network: Network, views: Tensor) -> tuple[Tensor, Tensor]:
        """Projections (B, D) of both views (2, B, C, S, S): one after the other, so that each has its own BatchNorm
        statistics, or as one batch."""
        if self.concatenate_views:
            first, second = network(views.flatten(0, 1)).chunk(2)
            return first, second
        return network(views[0]), network(views[1])

    def forward(self, views: Tensor) -> Forward:
        """Symmetric BYOL loss of views (2, B, C, S, S) (Grill et al. 2020, eq. 2; byol/byol_experiment.py, loss_fn)."""
        z1, z2 = self.project(self.online, views)
        if self.concatenate_views:
            q1, q2 = self.predictor(torch.cat((z1, z2))).chunk(2)
        else:
            q1, q2 = self.predictor(z1), self.predictor(z2)
        with torch.no_grad():
            t1, t2 = self.project(self.target, views)
        return Forward(byol_loss(q1, q2, t1, t2), z1.detach(), z2.detach())

    def online_parameters(self) -> list[nn.Parameter]:
        """The online network's parameters, in the order of `target_parameters`."""
        return list(self.online.parameters())

    def target_parameters(self) -> list[nn.Parameter]:
        """The target network's parameters."""
        return list(self.target.parameters())
