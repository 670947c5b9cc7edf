"""What bounds a step: its FLOPs and bytes, counted, over the ceilings of matrix products and copies, measured.

Counted on the device "meta", which computes nothing, over the reference's networks, whose layers are rsdnet's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benches.core.clock import DEVICE, GPU, copy_bandwidth
from benches.training.setting import Setting
from rsdnet.monitor.flops import matmul_peak

# Bytes a parameter by what a step does to it beside the networks, float32: LARS reads parameter and gradient for the
# norms and again with the momentum for the update, and writes parameter and momentum; the target's average reads both
# and writes one; autocast reads each of both networks and writes it in 2 bytes.
LARS_BYTES, TARGET_BYTES, CAST_BYTES = 4 * 7, 4 * 3, 6


class Ceilings(NamedTuple):
    """Of the device: floating-point operations and bytes a second."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """One operation's, at least."""

    kind: str
    flops: float
    bytes: float


@dataclass(frozen=True)
class Counted:
    """A step's operations."""

    works: Sequence[Work]

    @property
    def flops(self) -> float:
        """Of the step."""
        return sum(work.flops for work in self.works)

    @property
    def bytes(self) -> float:
        """Of the step."""
        return sum(work.bytes for work in self.works)

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: each operation after the other, at whichever ceiling is nearer."""
        return sum(max(work.flops / ceilings.flops, work.bytes / ceilings.bytes) for work in self.works)


def measured(dtype: torch.dtype) -> Ceilings | None:
    """This GPU's: a matrix product of random numbers in `dtype`, and a copy. None on a CPU."""
    bandwidth = copy_bandwidth()
    return None if bandwidth is None else Ceilings(matmul_peak(torch.device(DEVICE), dtype), bandwidth)


def count(setting: Setting) -> Counted:
    """What one step must do: two views through online and target network and predictor, backward, LARS, target.

    Convolutions and matrix products read their inputs and write their outputs once. BatchNorm reads its input for the
    statistics and to normalise, and writes once; its backward reads input and gradient twice and writes once. ReLU
    costs nothing, an addition reads its second operand, pooling reads and writes.
    """
    from benches.reference.model import BYOL

    cfg = setting.config()
    with torch.device("meta"):
        byol = BYOL(cfg.model, cfg.views.channels).to(torch.bfloat16 if setting.precision != "fp32" else torch.float32)
        views = torch.empty(2, setting.batch, 1, setting.size, setting.size, dtype=next(byol.parameters()).dtype)
    with Counting() as counting:
        byol(views).backward()
    return Counted([*counting.works, *updates(byol, setting.precision != "fp32")])


def updates(byol: Any, half: bool) -> list[Work]:
    """Optimizer, target and autocast's copies, which read and write every parameter."""
    online, target = (sum(p.numel() for p in module.parameters()) for module in (byol.online, byol.target))
    trained = online + sum(p.numel() for p in byol.predictor.parameters())
    works = [Work("optimizer", 0, LARS_BYTES * trained), Work("target", 0, TARGET_BYTES * target)]
    return works + [Work("casts", 0, CAST_BYTES * (trained + target))] * half


class Counting(TorchDispatchMode):
    """Inside, every operation's FLOPs and bytes are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.works: list[Work] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        name = packet.__name__
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self.works.append(Work("products", flops, size(args) + size(out)))
        elif rule := next((rule for key, rule in RULES.items() if key in name), None):
            self.works.append(rule(args, out))
        return out


def size(tensors: Any) -> int:
    """Bytes of all tensors in it."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, Tensor))


def _norm(args: Any, out: Any) -> Work:
    return Work("norms", 0, 3 * size(args[0]))


def _norm_backward(args: Any, out: Any) -> Work:
    return Work("norms", 0, 5 * size(args[0]))


def _pool(args: Any, out: Any) -> Work:
    first = out[0] if isinstance(out, tuple) else out
    return Work("pooling", 0, size(args[0]) + size(first))


def _add(args: Any, out: Any) -> Work:
    both = all(isinstance(side, Tensor) and side.ndim == 4 for side in args[:2])
    return Work("additions", 0, size(args[1]) if both else 0)


# By a part of the operation's name, the longer ones first.
RULES: dict[str, Callable[[Any, Any], Work]] = {
    "batch_norm_backward": _norm_backward,
    "batch_norm": _norm,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "mean": _pool,
    "add": _add,
}

# ---- where the time goes ------------------------------------------------------------------------------------

# Kernels by a part of their name, the first that fits. Inductor names its own by what they fuse, convolutions that
# they follow among it, so they stand before those.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("optimizer", ("lars",)),
    ("target", ("update_target", "lerp")),
    ("loss", ("cosine",)),
    ("views", ("render_kernel", "blur_kernel")),
    ("copies", ("memcpy", "memset")),
    (
        "BatchNorm, ReLU and other elementwise",
        ("triton_poi", "triton_red", "triton_per", "bn_", "batch_norm", "batchnorm"),
    ),
    (
        "convolutions and matrix products",
        ("conv", "gemm", "grad", "fprop", "xmma", "cutlass", "nvjet", "implicit", "cublas", "triton_tem"),
    ),
    ("BatchNorm, ReLU and other elementwise", ("elementwise", "pool", "reduce", "relu", "vectorized", "norm")),
)
OTHER, IDLE = "other kernels", "no kernel runs"


def group_of(kernel: str) -> str:
    """The group of a kernel's name."""
    lower = kernel.lower()
    return next((group for group, parts in GROUPS if any(part in lower for part in parts)), OTHER)


def shares(kernels: Sequence[tuple[str, float]], wall: float) -> dict[str, float]:
    """Share of `wall` that each group of kernels takes, the largest first; the rest is idle. kernels: name, seconds."""
    found: dict[str, float] = {}
    for name, seconds in kernels:
        found[group_of(name)] = found.get(group_of(name), 0.0) + seconds / wall
    ordered = dict(sorted(found.items(), key=lambda item: -item[1]))
    return ordered | {IDLE: max(0.0, 1 - sum(found.values()))}


def profiled(step: Callable[[], Any], steps: int) -> list[tuple[str, float]] | None:
    """Name and seconds of every kernel of `steps` steps. None on a CPU, and where the driver lets nobody count."""
    if not GPU:
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(steps):
                step()
            torch.cuda.synchronize()
    except RuntimeError:
        return None
    on_gpu = torch.autograd.DeviceType.CUDA  # where torch's own marks of a span of kernels are, too
    events = [event for event in profile.events() if event.device_type == on_gpu and not event.is_user_annotation]
    return [(event.name, event.device_time_total / 1e6) for event in events] or None
