"""SimSiam, Chen and He 2021 (arXiv 2011.10566), as they wrote it: facebookresearch/simsiam, simsiam/builder.py.

Their setting for ResNet-50: --hidden 2048 --dim 2048 --optimizer sgd --lr 0.05 --weight-decay 1e-4 --warmup-epochs 0.
"""

from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.kernels import byol_loss
from rsdnet.methods.base import Forward, Method, Network
from rsdnet.model.encoders import encoder_of

BOTTLENECK = 4  # the predictor's hidden units are a quarter of its outputs: 512 of 2048 (section 4.4)


class SimSiam(Method):
    """One network and a predictor; each view's projection, without its gradient, is the other view's target."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        encoder, hidden, dim = encoder_of(cfg), cfg.model.hidden, cfg.model.dim
        self.online = Network(
            encoder,
            nn.Sequential(
                *hidden_layer(encoder.features, hidden),
                *hidden_layer(hidden, hidden),
                nn.Linear(hidden, dim, bias=False),  # theirs has a bias that is never trained: the norm takes it out
                nn.BatchNorm1d(dim, affine=False),
            ),
        )
        bottleneck = max(dim // BOTTLENECK, 1)
        self.predictor = nn.Sequential(*hidden_layer(dim, bottleneck), nn.Linear(bottleneck, dim))

    def forward(self, views: Tensor) -> Forward:
        """-(cos(p1, z2) + cos(p2, z1)) / 2, averaged over the batch (eq. 1 and 2, algorithm 1), in [-1, 1]."""
        z = self.both(self.online, views)
        p1, p2 = self.both(self.predictor, z)
        z1, z2 = z.detach()
        return Forward(self.held_apart(byol_loss(p1, p2, z1, z2) / 4 - 1, z), z1, z2)


def hidden_layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """Linear without bias, BatchNorm, ReLU."""
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)
