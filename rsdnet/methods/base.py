"""The contract of a self-supervised method over two views of each sample."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.methods.vicreg import vicreg_terms
from rsdnet.model.batchnorm import batch_of

# Of torch.compile: one graph, whose elementwise kernels and sums, more than half of a ResNet-50's step on an H200, are
# tried in several tiles. The step took 1 % less, its compilation a few seconds more.
COMPILED: dict[str, Any] = {"fullgraph": True, "options": {"max_autotune_pointwise": True}}


class Forward(NamedTuple):
    """A method's loss and projections of two views of a batch."""

    loss: Tensor  # float32 scalar
    z1: Tensor  # (B, D) projections of the first view, detached: the monitor judges collapse by them
    z2: Tensor  # (B, D) of the second


class Network(nn.Module):
    """Encoder and projector: (B, C, S, S) to projections (B, D)."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.in_parts = hasattr(encoder, "early") and hasattr(encoder, "late")

    def forward(self, views: Tensor) -> Tensor:
        return self.late(self.early(views)) if self.in_parts else self.projector(self.encoder(views))

    def early(self, views: Tensor) -> Tensor:
        """The encoder's first stages, of an encoder in parts: see `ResNet.early`."""
        return self.encoder.early(views)  # type: ignore[operator]

    def late(self, x: Tensor) -> Tensor:
        """The encoder's last stage and the projector: two thirds of the parameters and more."""
        return self.projector(self.encoder.late(x))  # type: ignore[operator]

    def compile_parts(self) -> None:
        """Compile early and late part as two graphs, or the whole as one where the encoder has no parts."""
        if self.in_parts:
            self.early = torch.compile(self.early, **COMPILED)  # type: ignore[method-assign]
            self.late = torch.compile(self.late, **COMPILED)  # type: ignore[method-assign]
        else:
            self.compile(**COMPILED)


class Method(nn.Module):
    """Networks and loss of a method. To write one, subclass this in a file of its own:

    __init__(cfg): build the networks from the configuration; `encoder_of(cfg)` gives the encoder. Assign them as
        modules; those that the optimizer must not move get `requires_grad_(False)`.
    online: the Network that is trained. A run exports its encoder and evaluates it while it trains.
    forward(views): loss and projections, the networks called by `both`. It is compiled whole, or on several ranks child
        by child: no graph breaks.
    schedule, after_step: only where something moves beside the optimizer; see there.

    Then add a line to `METHODS` (methods/__init__.py), or train with `--method package.module:Name`.
    """

    online: Network
    one_pass = False
    """Whether both views go through a network as one batch that BatchNorm tells apart (model/batchnorm.py); a training
    step sets it."""

    world = 1
    """Ranks, whose batches are one; a training step sets it."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.concatenate_views = cfg.model.concatenate_views
        self.variance, self.covariance = cfg.model.variance, cfg.model.covariance

    def forward(self, views: Tensor) -> Forward:
        """Loss of views (2, B, C, S, S)."""
        raise NotImplementedError

    def schedule(self, step: int, steps: int) -> dict[str, float]:
        """Numbers that change with the step, such as {"tau": 0.99}; `after_step` gets them, metrics.jsonl too."""
        return {}

    def after_step(self, finite: Tensor, **numbers: Tensor) -> None:
        """Move what the optimizer does not, in place: a target network, a centre, a queue.

        finite: () bool on the device; False: the step was skipped, so nothing may change. numbers: of `schedule`, as
        () float32 tensors on the device. Part of the CUDA graph: no branch on a value, no new address.
        """

    def both(self, network: nn.Module, pair: Tensor) -> Tensor:
        """A network's outputs (2, B, ...) for both views (2, B, ...), each of which has its own BatchNorm statistics;
        under --concatenate-views they have them together."""
        if self.concatenate_views:
            return network(pair.flatten(0, 1)).unflatten(0, (2, -1))
        if not self.one_pass:
            return torch.stack([network(view) for view in pair])
        with batch_of(views=2):
            return network(pair.flatten(0, 1)).unflatten(0, (2, -1))

    def held_apart(self, loss: Tensor, projections: Tensor) -> Tensor:
        """The loss, with VICReg's terms of both views' projections (2, B, D) where --variance or --covariance asks."""
        if self.variance or self.covariance:
            variance, covariance = vicreg_terms(projections, self.world)
            loss = loss + self.variance * variance + self.covariance * covariance
        return loss
