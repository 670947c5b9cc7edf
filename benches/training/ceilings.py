"""The roofline of a step: its FLOPs and bytes, counted, over the ceilings of matrix products and copies, measured.

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

from benches.core import clock
from benches.core.clock import DEVICE, copy_bandwidth
from benches.training.setting import Setting
from rsdnet.monitor.flops import matmul_peak

# Bytes a parameter outside the networks, float32: LARS reads parameter and gradient for the norms and again with the
# momentum for the update, and writes parameter and momentum; the target's average reads both and writes one; autocast
# reads each parameter of both networks and writes it in 2 bytes.
LARS_BYTES, TARGET_BYTES, CAST_BYTES = 4 * 7, 4 * 3, 6


class Ceilings(NamedTuple):
    """Of a device: floating-point operations and bytes a second."""

    flops: float
    bytes: float


class Work(NamedTuple):
    """The least FLOPs and bytes of one operation."""

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
        """The least time: each operation after the other, at the nearer ceiling."""
        return sum(max(work.flops / ceilings.flops, work.bytes / ceilings.bytes) for work in self.works)


def measured(dtype: torch.dtype) -> Ceilings:
    """This GPU's: a matrix product of random numbers in `dtype`, and a copy."""
    return Ceilings(matmul_peak(torch.device(DEVICE), dtype), copy_bandwidth() or 0.0)


def count(setting: Setting) -> Counted:
    """The work of one step: two views through online and target network and predictor, backward, LARS, target.

    Convolutions and matrix products read their inputs and write their outputs once. BatchNorm reads its input for the
    statistics and to normalise, and writes once; its backward reads input and gradient twice and writes once. ReLU
    costs nothing, an addition reads its second operand, pooling reads and writes.
    """
    from benches.reference.model import BYOL

    cfg, half = setting.config(), setting.precision != "fp32"
    with torch.device("meta"):
        byol = BYOL(cfg.model, cfg.views.channels).to(torch.bfloat16 if half else torch.float32)
        views = torch.empty(2, setting.batch, 1, setting.size, setting.size, dtype=next(byol.parameters()).dtype)
    with Counting() as counting:
        byol(views).backward()
    online, target = (sum(p.numel() for p in module.parameters()) for module in (byol.online, byol.target))
    trained = online + sum(p.numel() for p in byol.predictor.parameters())
    works = [*counting.works, Work("optimizer", 0, LARS_BYTES * trained), Work("target", 0, TARGET_BYTES * target)]
    return Counted(works + [Work("casts", 0, CAST_BYTES * (trained + target))] * half)


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
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            self.works.append(Work("products", flops, size(args) + size(out)))
        elif found := next(((kind, rule) for part, kind, rule in RULES if part in packet.__name__), None):
            self.works.append(Work(found[0], 0, found[1](args, out)))
        return out


def size(tensors: Any) -> int:
    """Bytes of all tensors in it."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, Tensor))


def pooled(args: Any, out: Any) -> int:
    """Bytes of a pooling."""
    return size(args[0]) + size(out[0] if isinstance(out, tuple) else out)


def added(args: Any, out: Any) -> int:
    """Bytes of an addition of two activations."""
    return size(args[1]) if all(isinstance(side, Tensor) and side.ndim == 4 for side in args[:2]) else 0


# Part of the operation's name, kind, bytes from arguments and result; the first that fits.
RULES: tuple[tuple[str, str, Callable[[Any, Any], int]], ...] = (
    ("batch_norm_backward", "norms", lambda args, out: 5 * size(args[0])),
    ("batch_norm", "norms", lambda args, out: 3 * size(args[0])),
    ("max_pool2d", "pooling", pooled),
    ("avg_pool2d", "pooling", pooled),
    ("mean", "pooling", pooled),
    ("add", "additions", added),
)

# ---- shares of the step's time ------------------------------------------------------------------------------

# Kernels by a part of their name, the first that fits. Inductor names its own by the operations that they fuse, a
# preceding convolution among them, so they stand before the convolutions.
ELEMENTWISE = "BatchNorm, ReLU and other elementwise"
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("optimizer", ("lars",)),
    ("target", ("update_target", "lerp")),
    ("loss", ("cosine", "loss")),
    ("views", ("render_", "blur_kernel")),
    ("copies", ("memcpy", "memset")),
    (ELEMENTWISE, ("triton_poi", "triton_red", "triton_per", "bn_", "batch_norm", "batchnorm")),
    (
        "convolutions and matrix products",
        ("conv", "gemm", "grad", "fprop", "xmma", "cutlass", "nvjet", "implicit", "cublas", "triton_tem"),
    ),
    (ELEMENTWISE, ("elementwise", "pool", "reduce", "relu", "vectorized", "norm")),
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
    """Name and seconds of every kernel of `steps` steps. None as `clock.profiled`."""
    return clock.profiled(lambda: [step() for _ in range(steps)])
