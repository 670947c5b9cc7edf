"""BatchNorm over the batch of all ranks, as BYOL has it (Grill et al. 2020, appendix B; byol/utils/networks.py, MLP).

Each rank's mean and variance are gathered and joined by the law of total variance; gradients flow back the same way.
torch.nn.SyncBatchNorm does the same on GPUs alone, and torch.compile cannot look into it; this one runs on a CPU too,
and compiled its arithmetic is fused with what stands around it.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


# The rank is asked for inside the ops, never at tracing: compiled graphs are kept in a cache that all ranks share, and
# a graph with rank 0's number in it gave every rank rank 0's gradients. `world` is an argument for the same reason.
@torch.library.custom_op("rsdnet::gather_ranks", mutates_args=())
def gather_ranks(x: Tensor, world: int) -> Tensor:
    """(world, *x.shape): every rank's x, in the order of ranks."""
    gathered = x.new_empty((world, *x.shape))
    dist.all_gather(list(gathered.unbind()), x.contiguous())
    return gathered


@torch.library.custom_op("rsdnet::sum_own", mutates_args=())
def sum_own(x: Tensor) -> Tensor:
    """x: (world, ...). This rank's part, x[rank], summed over what all ranks have there."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total[dist.get_rank()].clone()


@gather_ranks.register_fake
def _(x: Tensor, world: int) -> Tensor:
    return x.new_empty((world, *x.shape))


@sum_own.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1:])


def _backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
    return sum_own(grad), None


gather_ranks.register_autograd(_backward)


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
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        across = (-1, *[1] * (x.ndim - 2))
        return (wide * scale.view(across) + shift.view(across)).to(x.dtype)

    def _note(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the variance of the population is estimated without bias, as in torch."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)


def joined(variance: Tensor, mean: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """Variance and mean (C,) of the union of all ranks' samples, from this rank's own."""
    variances, means = gather_ranks(torch.stack((variance, mean)), world).unbind(1)
    mean = means.mean(0)
    return variances.mean(0) + (means - mean).square().mean(0), mean


def synchronise(module: nn.Module, world: int) -> None:
    """Let every BatchNorm in `module` take its statistics over `world` ranks: parameters and buffers stay its own."""
    for norm in [part for part in module.modules() if isinstance(part, BatchNorm)]:
        norm.__class__ = SyncBatchNorm
        norm.world = world  # type: ignore[assignment]
