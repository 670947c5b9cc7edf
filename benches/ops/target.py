"""update_target_ over ResNet-50 and its projector, beside its reference, torch._foreach_lerp_ and swa_utils."""

from collections.abc import Callable
from typing import Any

import torch
from rsdnet.kernels import update_target_
from rsdnet.kernels.ema import update_target_reference
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benches.core.clock import DEVICE
from benches.ops.contest import Contender, Contest, Op
from benches.ops.networks import parameters

TAU = 0.99
TOLERANCE = 2e-7  # a few roundings of float32; leaving the update out is an error of 1e-2
Lists = tuple[list[Tensor], list[Tensor], Tensor]


def contest(shapes: str, dtype: str) -> Contest:
    """Targets in place. Must move: targets and onlines read, targets written."""
    sizes = parameters(shapes, predictor=False)
    count = sum(torch.Size(size).numel() for size in sizes)

    def make(seed: int) -> Lists:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        targets, onlines = ([torch.randn(s, device=DEVICE, generator=generator) for s in sizes] for _ in range(2))
        return targets, onlines, torch.tensor(TAU, device=DEVICE)

    def expected(lists: Lists) -> list[Tensor]:
        return [TAU * target.double() + (1 - TAU) * online.double() for target, online in zip(*lists[:2], strict=True)]

    shape = f"{len(sizes)} tensors, {count / 1e6:.3g} M"
    return Contest("update_target_", "step", shape, dtype, 3 * 4 * count, make, expected, TOLERANCE)


def averaging(function: Callable[..., Any], tau: float | None = None) -> Contender:
    """A function of targets, onlines and tau: the tensor on the device, or a float."""

    def prepare(lists: Lists) -> Callable[[], Any]:
        return lambda: function(lists[0], lists[1], lists[2] if tau is None else tau)

    return Contender(prepare, lambda lists, _: lists[0])


def one_by_one(targets: list[Tensor], onlines: list[Tensor], tau: Tensor) -> None:
    for target, online in zip(targets, onlines, strict=True):
        update_target_reference(target, online, tau)


def lerp_(targets: list[Tensor], onlines: list[Tensor], tau: float) -> None:
    torch._foreach_lerp_(targets, onlines, 1 - tau)


OP = Op(
    "update_target_", ("fp32",), contest,
    plain={"reference": (averaging, one_by_one)},
    ours=lambda: averaging(update_target_),
    peers={
        "foreach_lerp_": lambda: averaging(lerp_, TAU),
        "swa_utils": lambda: averaging(get_ema_multi_avg_fn(TAU), TAU),
    },
)  # fmt: skip
