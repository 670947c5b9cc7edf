"""max_pool2d, the pooling of a ResNet's stem, forward and with its backward, beside torch's."""

from collections.abc import Callable

import torch
from rsdnet.kernels.pool import max_pool2d, max_pool2d_reference
from torch import Tensor

from benches.core.clock import DEVICE
from benches.ops.contest import Contender, Contest, Op, with_backward

SHAPES = {"tiny": (2, 8, 16), "small": (16, 64, 32), "full": (2048, 64, 64)}  # B, C, S: full is both views of 1,024
FORWARD, BOTH = "forward", "forward+backward"
TOLERANCE = 2e-3  # the maxima are exact; sums of up to four gradients are rounded to bf16
Pair = tuple[Tensor, Tensor]


def contest(shapes: str, mode: str) -> Contest:
    """Channels-last bf16. Must move: the images in and the maxima out; for the gradient a byte for each maximum out and
    in, the maxima's gradients in and the images' gradient out."""
    b, c, size = SHAPES[shapes]
    images, maxima = b * c * size**2, b * c * (size // 2) ** 2

    def make(seed: int) -> Pair:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        x, grad = (
            torch.randn(b, side, side, c, dtype=torch.bfloat16, device=DEVICE, generator=generator).permute(0, 3, 1, 2)
            for side in (size, size // 2)
        )
        return x.requires_grad_(mode == BOTH), grad

    def expected(pair: Pair) -> list[Tensor]:
        x = pair[0].detach().double().requires_grad_()
        out = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        return [out.detach()] if mode == FORWARD else [out.detach(), *torch.autograd.grad(out, x, pair[1].double())]

    moved = 2 * (images + maxima) if mode == FORWARD else 4 * (images + maxima) + 2 * maxima
    return Contest("max_pool2d", mode, f"B={b} C={c} S={size}", "bf16", moved, make, expected, TOLERANCE)


def pooling(function: Callable[[Tensor], Tensor]) -> Contender:
    """A function of x, with its backward where x wants a gradient."""
    return with_backward(lambda pair: function(pair[0]), lambda pair: pair)


OP = Op(
    "max_pool2d", (FORWARD, BOTH), contest,
    plain={"reference": (pooling, max_pool2d_reference)},
    ours=lambda: pooling(max_pool2d),
)  # fmt: skip
