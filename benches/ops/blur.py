"""gaussian_blur, a sigma for each image, beside its reference, kornia and torchvision."""

from collections.abc import Callable
from dataclasses import replace

import torch
from rsdnet.kernels.blur import gaussian_blur, gaussian_blur_reference
from torch import Tensor
from torch.nn.functional import conv1d, pad

from benches.core.clock import DEVICE
from benches.core.peers import peer, peer_version
from benches.ops.contest import Contender, Contest, Op

SHAPES = {"tiny": (4, 20), "small": (32, 64), "full": (1024, 128)}  # B, S
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCE = {
    "bf16": 4e-3,
    "fp32": 1e-5,
}  # a unit in the last place of bf16: torchvision's weights are rounded to it too
SIGMA = (0.1, 2.0)  # Grill et al. 2020, appendix B
Pair = tuple[Tensor, Tensor]


def contest(shapes: str, dtype: str) -> Contest:
    """One channel, BYOL's window of a tenth of the side, every image blurred. Must move: the images, in and out."""
    b, size = SHAPES[shapes]

    def make(seed: int) -> Pair:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        images = torch.randn(b, 1, size, size, device=DEVICE, generator=generator).to(TYPES[dtype])
        return images, SIGMA[0] + torch.rand(b, device=DEVICE, generator=generator) * (SIGMA[1] - SIGMA[0])

    def expected(pair: Pair) -> list[Tensor]:
        images, sigma = (part.double() for part in pair)
        step = torch.arange(-radius(size), radius(size) + 1, device=DEVICE)
        weights = torch.exp(-0.5 * (step / sigma[:, None]) ** 2)
        weights = (weights / weights.sum(1, keepdim=True))[:, None]
        for _ in range(2):  # along the rows, then, transposed, along the columns
            rows = pad(images, (radius(size), radius(size), 0, 0), mode="reflect")[:, 0].transpose(0, 1)
            images = conv1d(rows, weights, groups=b).transpose(0, 1)[:, None].transpose(-2, -1)
        return [images]

    moved = 2 * b * size**2 * TYPES[dtype].itemsize
    return Contest("gaussian_blur", "forward", f"B={b} S={size}", dtype, moved, make, expected, TOLERANCE[dtype])


def radius(size: int) -> int:
    """BYOL's, of a view of `size` pixels a side."""
    return size // 10 // 2


def blurring(function: Callable[..., Tensor]) -> Contender:
    """A function of images, sigma and radius."""
    return Contender(
        lambda pair: lambda: function(*pair, radius=radius(pair[0].shape[-1])), lambda _, blurred: [blurred]
    )


def kornia_blur() -> Contender:
    gaussian_blur2d = peer("kornia.filters").gaussian_blur2d

    def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
        return gaussian_blur2d(images, 2 * radius + 1, sigma[:, None].expand(-1, 2))

    return replace(blurring(blur), version=peer_version("kornia"))


def torchvision_blur() -> Contender:
    """Image by image, since it takes one sigma for all images that it is given; sigma on the host for nothing."""
    functional = peer("torchvision.transforms.v2.functional")

    def prepare(pair: Pair) -> Callable[[], Tensor]:
        images, sigma = pair[0], pair[1].tolist()
        window = [2 * radius(images.shape[-1]) + 1] * 2
        return lambda: torch.stack(
            [functional.gaussian_blur(image, window, [s, s]) for image, s in zip(images, sigma, strict=True)]
        )

    return Contender(prepare, lambda _, blurred: [blurred], peer_version("torchvision"))


OP = Op(
    "gaussian_blur", tuple(TYPES), contest,
    plain={"reference": (blurring, gaussian_blur_reference)},
    ours=lambda: blurring(gaussian_blur),
    peers={"kornia": kornia_blur, "torchvision": torchvision_blur},
)  # fmt: skip
