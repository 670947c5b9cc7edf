"""The training step: both views through the method, loss, backward, optimizer, and what the method moves after it.

Everything that a step reads and writes keeps its address: parameters, state, learning rate, loss scale, counters. So
nothing is compiled twice, nothing waits for the device, and one CUDA graph holds the whole step.
"""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsdnet.config import Config
from rsdnet.distributed import ALONE, Ranks
from rsdnet.kernels import LARS, update_target_
from rsdnet.methods import METHODS
from rsdnet.methods.base import COMPILED, Forward, Method, Network
from rsdnet.model.batchnorm import split_views, synchronise
from rsdnet.model.encoders import recompute_shortcuts
from rsdnet.model.small_maps import convolve_small_maps
from rsdnet.model.stem import convolve_by_kernel, pool_by_kernel
from rsdnet.phases import Phase, untimed
from rsdnet.training.cuda_graph import Graph
from rsdnet.training.optim import optimizer_of

# The loss scale of fp16: torch.amp.GradScaler's defaults.
SCALE, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
# Steps from which compilation may pay. On an H200 a ResNet-50 compiles for 130 s, or 17 s from torch's cache. It saves
# 8.3 ms of a step of 256 samples at 64 px, so it pays from 16,000 steps, or from 2,000 out of the cache. Of a step of
# 1,024 at 128 px it saves at most 92 ms, so it pays from 1,400 at the earliest (docs/results.md).
LONG = 2000


class StepOutput(NamedTuple):
    """Results of a step, on the device, valid until the next step."""

    loss: Tensor  # () float32: the mean over this rank's samples
    z1: Tensor  # (b, D) online projections of the first view, of the last micro-batch
    z2: Tensor  # (b, D) of the second
    norm: Tensor  # () float32: of the gradient, over all ranks
    skipped: Tensor  # () int64: steps skipped so far, since their gradient was not finite
    in_a_row: Tensor  # () int64: consecutive skipped steps, up to this one


class TrainStep:
    """Method, optimizer, and the step that moves them, on this rank's device.

    A step takes a batch of all ranks, here in `accumulate` micro-batches. Its gradient is the mean over the whole
    batch, and the learning rate is the batch's; only BatchNorm sees one micro-batch (of all ranks) at a time, so that
    its statistics are those of fewer samples. A step whose gradient is not finite changes nothing but the loss scale.
    compile: torch.compile. dtype: autocast's; float32 for none.
    Raises DataError on an unknown method, encoder or optimizer, or one that does not follow the options.
    """

    def __init__(
        self, cfg: Config, device: torch.device, ranks: Ranks = ALONE, *, compile: bool, dtype: torch.dtype
    ) -> None:
        self.device, self.dtype, self.accumulate = device, dtype, cfg.optim.accumulate
        self.method: Method = METHODS.find(cfg.model.method)(cfg).to(device)
        if cfg.run.channels_last:
            self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        choose_layers(self.method, device, compile, dtype)
        if ranks.world > 1 and cfg.model.batchnorm == "sync":
            synchronise(self.method, ranks.world)
        self.method.world = ranks.world
        self.trained = [param for param in self.method.parameters() if param.requires_grad]
        self.statistics = [buffer for buffer in self.method.buffers() if buffer.is_floating_point()]
        self._before = [torch.empty_like(buffer) for buffer in self.statistics]
        self.lr = torch.zeros((), device=device)
        self.numbers = {name: torch.zeros((), device=device) for name in self.method.schedule(0, 1)}
        self.optimizer = optimizer_of(cfg, self.method, self.lr)
        half = dtype is torch.float16
        self.scale = torch.full((), SCALE, device=device) if half else None
        self._unscale = None if self.scale is None else self.scale.clone()  # what the last gradients are scaled by
        self.growth = torch.zeros((), dtype=torch.int32, device=device)  # good steps since the scale changed
        self.skipped, self.in_a_row = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.network: nn.Module = self.method
        if ranks.world > 1:
            self.network = replicated(self.method, device)
        if compile and ranks.world > 1:
            compile_regions(self.method)
        elif compile:
            self.method.compile(**COMPILED)
        self.phase: Phase = untimed
        self.graph = Graph(self._step, cfg.run.cuda_graph if ranks.world == 1 else "off", device)

    def set(self, *, lr: float, **numbers: float) -> None:
        """Learning rate, and the numbers of the method's schedule (BYOL's tau), of the steps from now on."""
        self.lr.fill_(lr)
        for name, number in numbers.items():
            self.numbers[name].fill_(number)

    def step(self, views: Tensor) -> StepOutput:
        """Train on one batch. views: (2, B, C, S, S), this rank's part of it.

        Raises RuntimeError where the micro-batches do not divide B.
        """
        if views.shape[1] % self.accumulate:
            raise RuntimeError(f"views: {views.shape[1]} samples in {self.accumulate} micro-batches")
        return self.graph(views)

    def _step(self, views: Tensor) -> StepOutput:
        for param in self.trained:  # here, not at the end: until now the gradients can be looked at
            param.grad = None
        if self.statistics:
            torch._foreach_copy_(self._before, self.statistics)
        loss, last = self._gradients(views)
        with self.phase("optimiser"):
            norm = self._norm()
            finite = norm.isfinite()
            self._optimize(1.0 - finite.float())
        with self.phase("target"):
            self.method.after_step(finite, **self.numbers)
            # Undoes a skipped batch's part in BatchNorm's statistics: a tau of 0 takes the bits of `_before`.
            update_target_(self.statistics, self._before, finite.float())
        self.skipped += ~finite
        self.in_a_row += 1
        self.in_a_row *= ~finite
        return StepOutput(loss, last.z1, last.z2, norm, self.skipped, self.in_a_row)

    def _gradients(self, views: Tensor) -> tuple[Tensor, Forward]:
        """Forward and backward of all micro-batches: the mean loss, and the last one's projections."""
        loss = torch.zeros((), device=self.device)
        for index in range(self.accumulate):
            part = micro_batch(views, index, self.accumulate)
            with self._sync(index == self.accumulate - 1):
                with self.phase("forward"), self.autocast():
                    last = self.network(part)
                share = last.loss / self.accumulate
                with self.phase("backward"):
                    (share if self.scale is None else share * self.scale).backward()
            loss += share.detach()
        return loss, last

    def autocast(self) -> torch.autocast:
        """The type that convolutions and products take."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _sync(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Ranks add up their gradients in the last micro-batch's backward alone."""
        several = isinstance(self.network, DistributedDataParallel)
        return contextlib.nullcontext() if last or not several else self.network.no_sync()  # type: ignore[operator]

    def _norm(self) -> Tensor:
        """Norm of the gradient, unscaled."""
        norm = nn.utils.get_total_norm([param.grad for param in self.trained if param.grad is not None])
        return norm if self.scale is None else norm / self.scale

    def _optimize(self, bad: Tensor) -> None:
        """The optimizer's step, by torch's protocol for those that unscale and skip on the device."""
        if self._unscale is not None and self.scale is not None:
            self._unscale.copy_(self.scale)
        self.optimizer.grad_scale, self.optimizer.found_inf = self._unscale, bad  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.scale is not None:
            torch._amp_update_scale_(self.scale, self.growth, bad, GROWTH, BACKOFF, INTERVAL)

    def trust_ratios(self) -> Tensor:
        """LARS's ratios, (P,) float32, with the last step's gradients; empty for other optimizers."""
        return self.optimizer.trust_ratios() if isinstance(self.optimizer, LARS) else self.lr.new_empty(0)

    def counters(self) -> dict[str, Tensor]:
        """The state of the step itself, beside networks and optimizer, for a checkpoint."""
        found = {"skipped": self.skipped, "in_a_row": self.in_a_row, "growth": self.growth}
        return found if self.scale is None else found | {"scale": self.scale}


def choose_layers(method: Method, device: torch.device, compile: bool, dtype: torch.dtype) -> None:
    """Give a method the layers that are fastest on a device: the same functions and parameters."""
    if device.type == "cpu" and not compile:
        convolve_small_maps(method)
    if device.type == "cuda" and dtype is not torch.float32:
        convolve_by_kernel(method)
    if device.type == "cuda":
        pool_by_kernel(method)
        recompute_shortcuts(method)
    method.one_pass = (compile or device.type == "cpu") and split_views(method)  # else a GPU would copy


def compiles(cfg: Config, device: torch.device, steps: int) -> bool:
    """Whether a run of so many steps compiles its networks: where that is asked for, and on a GPU a long one, or one
    that is profiled, which stands for a long one."""
    if cfg.run.compile == "auto":
        return device.type == "cuda" and (steps >= LONG or cfg.run.profile > 0)
    return cfg.run.compile == "on"


def micro_batch(views: Tensor, index: int, count: int) -> Tensor:
    """Micro-batch `index` of `count` of views (2, B, C, S, S): every count-th sample.

    Ranks hold consecutive stretches of the batch, so it is the same samples on any number of ranks.
    """
    return views if count == 1 else views[:, index::count].clone()


def replicated(method: Method, device: torch.device) -> DistributedDataParallel:
    """The method on every rank: gradients are averaged while the backward goes on.

    Buffers are not sent: those of synchronised norms are alike, those of local ones each rank's own.
    """
    ids = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # torch 2.13 has another word for it, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(method, ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def compile_regions(method: Method) -> None:
    """Compile the networks in parts, so that the gradients of the last part, most of the parameters, are on their way
    while the backward of the first part, most of the work, goes on: one graph would hand them all over at its end."""
    for child in method.children():
        if isinstance(child, Network):
            child.compile_parts()
        else:
            child.forward = compiled(child.forward)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile in a frame of ours: with torch's own modules alone, torch 2.13 finds none to compile."""

    def region(*inputs: Tensor) -> Any:
        return function(*inputs)

    return torch.compile(region, **COMPILED)
