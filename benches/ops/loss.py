"""byol_loss, forward and backward, beside its reference and lightly's NegativeCosineSimilarity."""

from collections.abc import Callable

import torch
from rsdnet.kernels import byol_loss
from rsdnet.kernels.loss import byol_loss_formula, byol_loss_reference
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benches.core.clock import DEVICE
from benches.core.peers import peer, peer_version
from benches.ops.contest import Contender, Contest, Op

SHAPES = {"tiny": (8, 16), "small": (512, 256), "full": (4096, 256)}  # B, D
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCE = {"bf16": 5e-3, "fp32": 1e-5}  # half a unit in the last place of the gradients' type, and a little
Four = tuple[Tensor, Tensor, Tensor, Tensor]


def contest(shapes: str, dtype: str) -> Contest:
    """Loss and gradients of q1 and q2. Must move: four inputs read, two gradients written, in the inputs' type."""
    b, d = SHAPES[shapes]
    moved = 6 * b * d * TYPES[dtype].itemsize

    def make(seed: int) -> Four:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        made = [torch.randn(b, d, device=DEVICE, generator=generator).to(TYPES[dtype]) for _ in range(4)]
        return made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3]

    def expected(four: Four) -> list[Tensor]:
        q1, q2, z1, z2 = (x.detach().double().requires_grad_() for x in four)
        loss = (4 - 2 * cosine_similarity(q1, z2) - 2 * cosine_similarity(q2, z1)).mean()
        return [loss.detach(), *torch.autograd.grad(loss, (q1, q2))]

    return Contest("byol_loss", "forward+backward", f"B={b} D={d}", dtype, moved, make, expected, TOLERANCE[dtype])


def backward(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Contender:
    """A differentiable loss, forward and backward, with a gradient of 1 that is there before: autograd would fill one
    at each call."""

    def prepare(four: Four) -> Callable[[], list[Tensor]]:
        ones = {dtype: torch.ones((), dtype=dtype, device=DEVICE) for dtype in TYPES.values()}

        def step() -> list[Tensor]:
            value = loss(*four)
            return [value, *torch.autograd.grad(value, four[:2], ones[value.dtype])]

        return step

    return Contender(prepare)


def explicit(function: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Contender:
    """The reference, which gives the gradients (2, B, D) with the loss."""

    def prepare(four: Four) -> Callable[[], list[Tensor]]:
        inputs = [x.detach() for x in four]

        def step() -> list[Tensor]:
            loss, grads = function(*inputs)
            return [loss, *grads.to(inputs[0].dtype)]

        return step

    return Contender(prepare)


def lightly_loss() -> Contender:
    """As lightly's BYOL example adds it up: the mean of both sides, which is ours up to a factor and a constant."""
    criterion = peer("lightly.loss").NegativeCosineSimilarity()
    made = backward(lambda q1, q2, z1, z2: 0.5 * (criterion(q1, z2) + criterion(q2, z1)))
    scaled = Contender(made.prepare, lambda _, got: [4 + 4 * got[0], 4 * got[1], 4 * got[2]], peer_version("lightly"))
    return scaled


OP = Op(
    "byol_loss", tuple(TYPES), contest,
    plain={"reference": (explicit, byol_loss_reference), "autograd": (backward, byol_loss_formula)},
    ours=lambda: backward(byol_loss),
    peers={"lightly": lightly_loss},
)  # fmt: skip
