"""select_bands from a dense batch, beside its reference, kornia and torchvision."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from rsdnet.kernels import draw_bands
from rsdnet.kernels.select import select_bands
from rsdnet.kernels.select_kernel import select_bands_backward_reference, select_bands_reference
from torch import Tensor

from benches.core.clock import DEVICE
from benches.core.peers import peer, peer_version
from benches.ops.contest import Contender, Contest, Op, with_backward

SEED, BANDS = 7, 10
SHAPES = {"tiny": (4, 8), "small": (64, 60), "full": (1024, 120)}  # B, pixels a side
KINDS = {"uint16 to bf16": ("forward", torch.uint16, torch.bfloat16),
         "fp32": ("forward+backward", torch.float32, torch.float32)}  # fmt: skip
TOLERANCE = {"uint16 to bf16": 3e-3, "fp32": 1e-6}  # half a unit in the last place of bf16; roundings of float32
Pick = Callable[["Batch"], Tensor]


@dataclass(frozen=True)
class Batch:
    """images: (B, BANDS, H, W). bands: (B, 1), those that select_bands draws. grad: of the result."""

    images: Tensor
    mean: Tensor
    std: Tensor
    samples: Tensor
    epoch: Tensor
    bands: Tensor
    grad: Tensor


def contest(shapes: str, kind: str) -> Contest:
    """One band of each image. Must move: the drawn plane in and out; backward the gradient and the drawn plane in, and
    all planes of the images' gradient out."""
    (b, side), (mode, dtype, out) = SHAPES[shapes], KINDS[kind]
    planes = dtype.itemsize + out.itemsize
    if mode != "forward":
        planes += out.itemsize + dtype.itemsize + BANDS * dtype.itemsize

    def make(seed: int) -> Batch:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        drawn = torch.randint(0, 6000, (b, BANDS, side, side), dtype=torch.int16, device=DEVICE, generator=generator)
        images = drawn.view(torch.uint16) if dtype == torch.uint16 else drawn.to(dtype).requires_grad_()
        mean, std = (torch.linspace(*ends, BANDS, device=DEVICE) for ends in ((1000, 2500), (700, 1200)))
        samples, epoch = torch.arange(b, device=DEVICE), torch.zeros((), dtype=torch.int64, device=DEVICE)
        grad = torch.randn(b, 1, side, side, device=DEVICE, generator=generator).to(out)
        return Batch(images, mean, std, samples, epoch, drawn_bands(samples, epoch), grad)

    def expected(batch: Batch) -> list[Tensor]:
        images = batch.images.detach().double()
        rows = torch.arange(b, device=DEVICE)
        mean, std = (part.double()[batch.bands][:, :, None, None] for part in (batch.mean, batch.std))
        made = (images[rows[:, None], batch.bands] - mean) / std
        if mode == "forward":
            return [made]
        images.zero_()[rows[:, None], batch.bands] = batch.grad.double() / std
        return [made, images]

    shape = f"B={b} {BANDS} bands {side} px"
    return Contest("select_bands", mode, shape, kind, planes * b * side**2, make, expected, TOLERANCE[kind])


def drawn_bands(samples: Tensor, epoch: Tensor) -> Tensor:
    return draw_bands(SEED, epoch, samples, 1, 1, {"ms": range(BANDS)}, "ms")[:, 0]


def selecting(function: Pick) -> Contender:
    """A function from a batch to its bands, with the images' gradient where they want it."""
    return with_backward(function, lambda batch: (batch.images, batch.grad))


def our_bands(batch: Batch) -> Tensor:
    x, dtype = batch, batch.grad.dtype
    return select_bands(x.images, x.mean, x.std, x.samples, seed=SEED, epoch=x.epoch, dtype=dtype)


def reference(images: Tensor, mean: Tensor, std: Tensor, samples: Tensor, epoch: Tensor, grad: Tensor) -> list[Tensor]:
    """Draw, take, and for floating images the gradient."""
    bands, nodata = drawn_bands(samples, epoch), float("nan")
    made = select_bands_reference(images, mean, std, bands, nodata).to(grad.dtype)
    if not images.dtype.is_floating_point:
        return [made]
    return [made, select_bands_backward_reference(grad, images, std, bands, nodata)]


def explicit(function: Callable[..., list[Tensor]]) -> Contender:
    return Contender(lambda x: lambda: function(x.images.detach(), x.mean, x.std, x.samples, x.epoch, x.grad))


def taken(batch: Batch) -> Tensor:
    """The drawn planes by indexing, float32."""
    images = batch.images
    stored = images.view(torch.int16) if images.dtype == torch.uint16 else images  # torch cannot index uint16
    raw = stored[batch.samples[:, None], batch.bands]
    return (raw.int() & 0xFFFF if images.dtype == torch.uint16 else raw).float()


def kornia_bands() -> Contender:
    """The drawn planes by indexing, then kornia's normalize with each sample's mean and standard deviation."""
    normalize = peer("kornia.enhance").normalize

    def select(batch: Batch) -> Tensor:
        return normalize(taken(batch), batch.mean[batch.bands], batch.std[batch.bands]).to(batch.grad.dtype)

    return replace(selecting(select), version=peer_version("kornia"))


def torchvision_bands() -> Contender:
    """Its normalize on all bands, as it takes one mean a channel for all images; then the drawn planes."""
    normalize = peer("torchvision.transforms.v2.functional").normalize

    def prepare(batch: Batch) -> Callable[[], list[Tensor]]:
        mean, std = batch.mean.tolist(), batch.std.tolist()

        def select(batch: Batch) -> Tensor:
            made = normalize(batch.images.float(), mean, std)[batch.samples[:, None], batch.bands]
            return made.to(batch.grad.dtype)

        return selecting(select).prepare(batch)

    return Contender(prepare, version=peer_version("torchvision"))


OP = Op(
    "select_bands", tuple(KINDS), contest,
    plain={"reference": (explicit, reference)},
    ours=lambda: selecting(our_bands),
    peers={"kornia": kornia_bands, "torchvision": torchvision_bands},
)  # fmt: skip
