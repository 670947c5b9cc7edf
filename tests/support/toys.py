"""A method and an encoder as a user would bring them: nothing in rsdnet knows of them."""

from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.methods.base import Forward, Method, Network
from rsdnet.model.encoders import encoder_of


def toy_encoder(cfg: Config) -> nn.Module:
    """One convolution and the mean over pixels, 7 features; BatchNorm is the method's."""
    return nn.Sequential(nn.Conv2d(cfg.views.channels, 7, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def toy_transformer(cfg: Config) -> nn.Module:
    """Gives a token a pixel, not one vector a view."""
    return nn.Flatten(2)


class ToyMethod(Method):
    """Pulls the views of a sample together and keeps a centre of all projections, which after_step moves."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        encoder = encoder_of(cfg)
        self.online = Network(encoder, nn.Linear(encoder.features, cfg.model.dim))
        self.centre = nn.Parameter(self.online.projector.bias.detach().clone(), requires_grad=False)

    def forward(self, views: Tensor) -> Forward:
        z1, z2 = self.both(self.online, views)
        return Forward((z1 - z2).square().mean() - (z1 - self.centre).square().mean() / 10, z1.detach(), z2.detach())

    def schedule(self, step: int, steps: int) -> dict[str, float]:
        return {"pace": 1 / (step + 2)}

    def after_step(self, finite: Tensor, **numbers: Tensor) -> None:
        self.centre.lerp_(self.online.projector.bias.detach(), numbers["pace"] * finite)
