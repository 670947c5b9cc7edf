"""BatchNorm over the batch of all ranks, as BYOL has it (Grill et al. 2020, appendix B; byol/utils/networks.py, MLP).

The ranks' means and variances are joined by the law of total variance: two numbers a channel, averaged over the ranks
in one message, and once more in the backward.
torch.nn.SyncBatchNorm does the same on GPUs alone and breaks torch.compile's graph; this one runs on a CPU too, and
compiled its arithmetic is fused with its neighbours'.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rsdnet.errors import DataError

BatchNorm = nn.modules.batchnorm._BatchNorm


# `world` is an argument so that it is part of the graph: compiled graphs are kept in a cache that all ranks and later
# runs share. For the same reason nothing of a rank may be in one: its number would be read as every rank's.
@torch.library.custom_op("rsdnet::mean_over_ranks", mutates_args=())
def mean_over_ranks(x: Tensor, world: int) -> Tensor:
    """The mean of every rank's x, on every rank."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / world


@mean_over_ranks.register_fake
def _(x: Tensor, world: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.world = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return mean_over_ranks(grad, ctx.world), None


mean_over_ranks.register_autograd(_backward, setup_context=_setup)


class SyncBatchNorm(BatchNorm):
    """BatchNorm of (B, C), (B, C, H, W) whose statistics are those of all ranks' batches, which are equally large."""

    world: int

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (2, 4):
            raise ValueError(f"shape {tuple(x.shape)}, expected (B, C) or (B, C, H, W)")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        wide, axes = x.float(), [0, *range(2, x.ndim)]
        variance, mean = joined(*torch.var_mean(wide, axes, correction=0), self.world)
        self._note(mean.detach(), variance.detach(), x.numel() // x.shape[1] * self.world)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.weight * scale
        shift = self.bias - mean * scale if self.affine else -mean * scale
        across = (-1, *[1] * (x.ndim - 2))
        return (wide * scale.view(across) + shift.view(across)).to(x.dtype)

    def _note(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the variance of the population is estimated without bias, as in torch."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None  # noqa: PT018
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)


def joined(variance: Tensor, mean: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """Variance and mean (C,) of the union of all ranks' samples, from this rank's own.

    In float64, so that nothing is lost in the difference of two large numbers. (Moments about the running mean would do
    in float32, but compiled, torch 2.13 reads that in the backward after the forward has moved it.)
    """
    first = mean.double()
    first, second = mean_over_ranks(torch.stack((first, variance.double() + first.square())), world).unbind()
    return (second - first.square()).float(), first.float()


def synchronise(module: nn.Module, world: int) -> None:
    """Take the statistics of every BatchNorm in `module` over `world` ranks; parameters and buffers stay its own.

    Raises DataError on a subclass of BatchNorm, whose forward may do more than normalise.
    """
    for norm in [part for part in module.modules() if isinstance(part, BatchNorm)]:
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise DataError(f"{type(norm).__name__} cannot be synchronised over ranks: use --batchnorm local")
        norm.__class__ = SyncBatchNorm
        norm.world = world  # type: ignore[assignment]
