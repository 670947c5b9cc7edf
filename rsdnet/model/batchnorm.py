"""BatchNorm with statistics of each view, over the batch of all ranks.

Two views go through a network as one batch, while each is normalised by its own mean and variance, as one after the
other (google-deepmind/deepmind-research, byol/byol_experiment.py): the same function, gradients and running statistics
in half the calls.

Over ranks (Grill et al. 2020, appendix B; byol/utils/networks.py, MLP) means and variances are joined by the law of
total variance: two numbers a channel and view, averaged in one message, and once more in the backward.
torch.nn.SyncBatchNorm does the same on GPUs alone and breaks torch.compile's graph; this one runs on a CPU too, and
compiled its arithmetic is fused with its neighbours'.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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

# ---- views in a batch ------------------------------------------------------------------------------------------------

_views = 1


@contextlib.contextmanager
def batch_of(views: int) -> Iterator[None]:
    """While entered, a batch in training mode is `views` equal parts, one after the other, of statistics of their own.

    For norms that `split_views` has converted; outside they are torch's.
    """
    global _views
    before, _views = _views, views
    try:
        yield
    finally:
        _views = before


def views_in_batch() -> int:
    """Number of views in a batch, of the innermost `batch_of`."""
    return _views


class PerView(torch.autograd.Function):
    """torch's BatchNorm of each of `views` parts of a batch, without a copy of activations."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
        momentum: float, eps: float, views: int,
    ) -> Tensor:  # fmt: skip
        result, (mean, invstd) = torch.empty_like(x), running_mean.new_empty(2, views, x.shape[1])
        for view, (part, out) in enumerate(zip(x.chunk(views), result.chunk(views), strict=True)):
            torch.ops.aten.native_batch_norm.out(
                part, weight, bias, running_mean, running_var, True, momentum, eps,
                out=out, save_mean=mean[view], save_invstd=invstd[view],
            )  # fmt: skip
        ctx.save_for_backward(x, weight, mean, invstd)
        ctx.eps = eps
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        parts = [
            torch.ops.aten.native_batch_norm_backward(
                *pair, weight, None, None, *saved, True, ctx.eps, ctx.needs_input_grad[:3]
            )
            for *pair, saved in zip(
                grad.chunk(len(mean)), x.chunk(len(mean)), zip(mean, invstd, strict=True), strict=True
            )
        ]
        inputs, weights, biases = zip(*parts, strict=True)
        return (
            torch.cat(inputs) if ctx.needs_input_grad[0] else None,
            sum(weights) if ctx.needs_input_grad[1] else None,
            sum(biases) if ctx.needs_input_grad[2] else None,
            *[None] * 5,
        )


class ViewBatchNorm(BatchNorm):
    """BatchNorm of (V * B, C) or (V * B, C, H, W), each view by the statistics of all ranks' batches, equally large.

    V: views of `batch_of`. world: ranks.
    """

    world: int = 1

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (2, 4):
            raise ValueError(f"shape {tuple(x.shape)}, expected (B, C) or (B, C, H, W)")

    def forward(self, x: Tensor) -> Tensor:
        views = views_in_batch()
        if not self.training or views == self.world == 1:
            return super().forward(x)
        self._check_input_dim(x)
        count = x.numel() // x.shape[1] // views * self.world
        if count == 1:
            raise ValueError(f"expected more than 1 value per channel and view when training, got {tuple(x.shape)}")
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(views)
        if self.world == 1 and not torch.compiler.is_compiling():
            stats = self.running_mean, self.running_var, self.momentum, self.eps
            return PerView.apply(x, self.weight, self.bias, *stats, views)  # type: ignore[no-untyped-call]
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (views, -1))
        variance, mean = moments(wide, exact=wide.dtype == x.dtype)
        if self.world > 1:
            variance, mean = joined(variance, mean, self.world)
        self._note(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale * self.weight if self.affine else scale
        shift = (self.bias if self.affine else 0.0) - mean * scale
        # One factor and one term a channel, whose gradients torch.compile sums up in one pass.
        scale, shift = (part.view(views, 1, -1, *[1] * (x.ndim - 2)) for part in (scale, shift))
        return (wide * scale + shift).to(x.dtype).flatten(0, 1)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by those of each view (V, C), the first view first; variance without bias."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None  # noqa: PT018
        for view in range(len(mean)):
            self.running_mean.lerp_(mean[view], self.momentum)
            self.running_var.lerp_(variance[view], self.momentum)


def moments(x: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Variance without correction and mean (V, C) of x (V, B, C) or (V, B, C, H, W).

    exact: in two passes, or by Welford's rule. Else from the sums of x and of its squares, in one pass as fast as x is
    read; Welford's division at each element takes 1.5 times as long on an H200. So float32 loses no digit of a half
    precision, unless a mean is a thousand standard deviations.
    """
    dims = [1, *range(3, x.ndim)]
    if exact:
        return torch.var_mean(x, dims, correction=0)
    mean = x.mean(dims)
    return (x.square().mean(dims) - mean.square()).clamp(min=0), mean


def joined(variance: Tensor, mean: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """Variance and mean (V, C) of the union of all ranks' samples, from this rank's own.

    In float64, so that nothing is lost in the difference of two large numbers. (Moments about the running mean would do
    in float32, but compiled, torch 2.13 reads that in the backward after the forward has moved it.)
    """
    first = mean.double()
    first, second = mean_over_ranks(torch.stack((first, variance.double() + first.square())), world).unbind()
    return (second - first.square()).to(mean.dtype), first.to(mean.dtype)


# ---- conversion ------------------------------------------------------------------------------------------------------

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, ViewBatchNorm)  # not their subclasses, which may do more than normalise


def synchronise(module: nn.Module, world: int) -> None:
    """Take the statistics of every BatchNorm in `module` over `world` ranks; parameters and buffers stay its own.

    Raises DataError on a subclass of BatchNorm, whose forward may do more than normalise.
    """
    for norm in [part for part in module.modules() if isinstance(part, BatchNorm)]:
        if type(norm) not in CONVERTED:
            raise DataError(f"{type(norm).__name__} cannot be synchronised over ranks: use --batchnorm local")
        norm.__class__ = ViewBatchNorm
        norm.world = world  # type: ignore[assignment]


def split_views(method: nn.Module) -> bool:
    """Let every BatchNorm in a method's networks tell views apart (`batch_of`); parameters and buffers stay its own.

    Returns False, and changes nothing, where samples may meet elsewhere: in a subclass of BatchNorm, in one without
    running statistics, or in another layer that keeps statistics (any floating-point buffer).
    """
    parts = [part for network in method.children() for part in network.modules()]
    norms = [part for part in parts if isinstance(part, BatchNorm) or has_statistics(part)]
    if not all(type(norm) in CONVERTED and norm.running_mean is not None and norm.momentum for norm in norms):
        return False
    for norm in norms:
        norm.__class__ = ViewBatchNorm
    return True


def has_statistics(part: nn.Module) -> bool:
    """Whether a layer by itself has a floating-point buffer."""
    return any(buffer.is_floating_point() for buffer in part.buffers(recurse=False))
