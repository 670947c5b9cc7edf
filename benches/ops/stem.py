"""stem_conv2d, a ResNet's first convolution over one band, forward and with its backward, beside torch's."""

from collections.abc import Callable
from functools import partial

import torch
from rsdnet.kernels.stem import stem_conv2d, stem_conv2d_reference
from torch import Tensor

from benches.core.clock import DEVICE
from benches.ops.contest import Contender, Contest, Op, with_backward

SHAPES = {"tiny": (2, 8, 16), "small": (16, 64, 32), "full": (2048, 64, 128)}  # B, O, S: full is both views of 1,024
FORWARD, BOTH = "forward", "forward+backward"
KERNEL, PADDING = 7, 3
TOLERANCE = 5e-3  # of the norm: products of bf16 numbers, rounded to bf16 once
Given = tuple[Tensor, Tensor, Tensor]  # images, weight, gradient of the result


def contest(shapes: str, mode: str) -> Contest:
    """Channels-last bf16. Must move: the images in and the results out; for the gradient the images again, and the
    results' gradients in."""
    b, filters, size = SHAPES[shapes]
    images, results = b * size**2, b * filters * (size // 2) ** 2

    def make(seed: int) -> Given:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        draw = partial(torch.randn, device=DEVICE, generator=generator)
        x = draw(b, size, size, 1, dtype=torch.bfloat16).permute(0, 3, 1, 2)
        grad = draw(b, size // 2, size // 2, filters, dtype=torch.bfloat16).permute(0, 3, 1, 2)
        return x, draw(filters, 1, KERNEL, KERNEL).bfloat16().requires_grad_(mode == BOTH), grad

    def expected(given: Given) -> list[Tensor]:
        x, weight, grad = (part.detach().double() for part in given)
        out = torch.nn.functional.conv2d(x, weight.requires_grad_(), None, 2, PADDING)
        return [out.detach()] if mode == FORWARD else [out.detach(), *torch.autograd.grad(out, weight, grad)]

    moved = 2 * (images + results) * (1 if mode == FORWARD else 2)
    return Contest("stem_conv2d", mode, f"B={b} O={filters} S={size}", "bf16", moved, make, expected, TOLERANCE)


def convolving(function: Callable[..., Tensor]) -> Contender:
    """A function of images and weight, with its backward where the weight wants a gradient."""
    return with_backward(lambda given: function(*given[:2], padding=PADDING), lambda given: given[1:])


OP = Op(
    "stem_conv2d", (FORWARD, BOTH), contest,
    plain={"reference": (convolving, stem_conv2d_reference)},
    ours=lambda: convolving(stem_conv2d),
)  # fmt: skip
