"""BYOL, Grill et al. 2020 (arXiv 2006.07733), as DeepMind wrote it: google-deepmind/deepmind-research,
byol/byol_experiment.py and byol/utils/networks.py.
"""

import copy
import math

import torch
from torch import Tensor

from rsdnet.config import Config, number
from rsdnet.kernels import byol_loss, update_target_
from rsdnet.methods.base import Forward, Method, Network
from rsdnet.model.encoders import encoder_of
from rsdnet.model.heads import head


class BYOL(Method):
    """Online network with predictor, and a target network that follows the online one."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        encoder, hidden, dim = encoder_of(cfg), cfg.model.hidden, cfg.model.dim
        self.online = Network(encoder, head(encoder.features, hidden, dim))
        self.predictor = head(dim, hidden, dim)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.first_tau = cfg.optim.tau
        self.averaged = list(self.target.parameters()), list(self.online.parameters())

    def forward(self, views: Tensor) -> Forward:
        """Symmetric loss in [0, 8] (Grill et al. 2020, eq. 2; byol/byol_experiment.py, loss_fn), and VICReg's terms."""
        with torch.no_grad():  # first: its activations are gone when the online network's come
            t1, t2 = self.both(self.target, views)
        z = self.both(self.online, views)
        q1, q2 = self.both(self.predictor, z)
        z1, z2 = z
        return Forward(self.held_apart(byol_loss(q1, q2, t1, t2), z), z1.detach(), z2.detach())

    def schedule(self, step: int, steps: int) -> dict[str, float]:
        return {"tau": tau(step, steps, number(self.first_tau))}

    def after_step(self, finite: Tensor, **numbers: Tensor) -> None:
        """target = tau * target + (1 - tau) * online: parameters alone; BatchNorm buffers are the target's own."""
        update_target_(*self.averaged, torch.where(finite, numbers["tau"], 1.0))


def tau(step: int, steps: int, base: float) -> float:
    """Target's momentum at `step` of `steps`: 1 - (1 - base) * (cos(pi * step / steps) + 1) / 2
    (byol/utils/schedules.py, target_ema)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
