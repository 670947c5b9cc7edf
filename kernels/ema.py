"""The target network's weights: an exponential moving average of the online's, in place, many tensors at once.

    target += (1 - tau) * (online - target)        Grill et al. 2020, eq. 1

Bytes it must move: target and online once, target once again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def update_target_(targets: Sequence[Tensor], onlines: Sequence[Tensor], tau: Tensor | float) -> None:
    """Moves each target towards its online tensor, in place: no address changes, so CUDA graphs stay valid.

    targets, onlines: tensors, alike in shape, type and device pair by pair; parameters, not BatchNorm buffers.
    tau: 0-dim tensor on their device (read there: no sync, no recompilation when it changes), or a float.
    Raises ValueError where the lists differ in length, or a pair in shape, type or device.
    """
    if len(targets) != len(onlines):
        raise ValueError(f"targets and onlines: {len(targets)} and {len(onlines)} tensors, expected as many")
    for index, (target, online) in enumerate(zip(targets, onlines, strict=True)):
        if target.shape != online.shape or target.dtype != online.dtype or target.device != online.device:
            raise ValueError(
                f"targets[{index}]: {tuple(target.shape)} {target.dtype} on {target.device}, but its online tensor is "
                f"{tuple(online.shape)} {online.dtype} on {online.device}"
            )
    if not targets:
        return
    steps = torch._foreach_sub(list(onlines), list(targets))
    torch._foreach_mul_(steps, 1 - tau)
    torch._foreach_add_(list(targets), steps)
