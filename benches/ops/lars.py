"""LARS over the parameters of ResNet-50 and BYOL's heads, beside its reference, lightly's and timm's."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from rsdnet.kernels import LARS
from rsdnet.kernels.lars_rule import Batch, Rule, step_by_reference
from torch import Tensor

from benches.core.clock import DEVICE
from benches.core.peers import Absent, peer, peer_version
from benches.ops.contest import Contender, Contest, Op
from benches.ops.networks import parameters

LR, MOMENTUM, WEIGHT_DECAY, TRUST = 1.0, 0.9, 1e-6, 1e-3
# A few roundings of float32; a first step moves a weight by 1e-3 of itself. lightly's and timm's ratio has an epsilon,
# and norm(g) + weight_decay * norm(p) for norm(u): beside gradients of the weights' size neither shows.
TOLERANCE = 1e-6
STEPS = 3  # that are checked, so that momentum counts
Tensors = dict[str, list[Tensor]]


def contest(shapes: str, dtype: str) -> Contest:
    """A step in place. Must move: gradients, parameters and momenta read, the last two written; and where the norms say
    by how much, parameters and gradients read once before (no cache holds those of a ResNet-50)."""
    sizes = parameters(shapes)
    count = sum(torch.Size(size).numel() for size in sizes)
    adapting = sum(torch.Size(size).numel() for size in sizes if len(size) > 1)

    def make(seed: int) -> Tensors:
        generator = torch.Generator(DEVICE).manual_seed(seed)

        def draw() -> list[Tensor]:
            return [torch.randn(size, device=DEVICE, generator=generator) for size in sizes]

        params = [param.requires_grad_() for param in draw()]
        for param, grad in zip(params, draw(), strict=True):
            param.grad = grad
        return {"params": params}

    def expected(tensors: Tensors) -> list[Tensor]:
        return [stepped(p.detach().double(), p.grad.double()) for p in tensors["params"] if p.grad is not None]

    shape = f"{len(sizes)} tensors, {count / 1e6:.3g} M"
    return Contest("LARS", "step", shape, dtype, 4 * (5 * count + 2 * adapting), make, expected, TOLERANCE, STEPS)


def stepped(param: Tensor, grad: Tensor) -> Tensor:
    """DeepMind's rule, one tensor, STEPS times with one gradient."""
    momentum = torch.zeros_like(param)
    for _ in range(STEPS):
        update = grad
        if param.ndim > 1:
            update = grad + WEIGHT_DECAY * param
            update = update * (TRUST * param.norm() / update.norm())
        momentum = MOMENTUM * momentum + update
        param = param - LR * momentum
    return param


def groups(tensors: Tensors, **others: Any) -> list[dict[str, Any]]:
    """Weights, then biases and norms, which take no weight decay and no adaptation."""
    weights = [param for param in tensors["params"] if param.ndim > 1]
    rest = [param for param in tensors["params"] if param.ndim <= 1]
    return [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0, **others}]


def optimiser(make: Callable[[Tensors], torch.optim.Optimizer], package: str = "") -> Contender:
    """An optimiser's step."""
    return Contender(
        lambda tensors: make(tensors).step,
        lambda tensors, _: tensors["params"],
        peer_version(package) if package else "",
    )


def our_lars(tensors: Tensors) -> torch.optim.Optimizer:
    """With its momenta made, as before a capture: by a step at rate 0, and set to 0 again."""
    lr = torch.zeros((), device=DEVICE)
    optimiser = LARS(groups(tensors, adapt=False), lr, momentum=MOMENTUM, trust=TRUST)
    optimiser.step()
    for state in optimiser.state.values():
        state["momentum"].zero_()
    lr.fill_(LR)
    return optimiser


def lightly_lars() -> Contender:
    """Leaves the adaptation out where the weight decay is 0."""
    lars = peer("lightly.utils.lars").LARS
    return optimiser(lambda t: lars(groups(t), lr=LR, momentum=MOMENTUM, trust_coefficient=TRUST), "lightly")


def timm_lars(foreach: bool) -> Contender:
    """Leaves the adaptation out where the weight decay is 0, unless always_adapt."""
    lars = peer("timm.optim").Lars
    made = {"lr": LR, "momentum": MOMENTUM, "trust_coeff": TRUST}
    if "foreach" in signature(lars).parameters:
        made["foreach"] = foreach
    elif foreach:
        raise Absent("this timm's Lars has no foreach")
    return optimiser(lambda t: lars(groups(t), **made), "timm")


def on_batch(function: Callable[[Batch], None]) -> Contender:
    """A function of a batch of two groups."""

    def prepare(tensors: Tensors) -> Callable[[], None]:
        lr, params = torch.tensor(LR, device=DEVICE), [param.detach() for param in tensors["params"]]
        grads = [param.grad for param in tensors["params"] if param.grad is not None]
        momenta = [torch.zeros_like(param) for param in params]
        rules = [Rule(lr, MOMENTUM, WEIGHT_DECAY, TRUST, True), Rule(lr, MOMENTUM, 0.0, TRUST, False)]
        batch = Batch(params, grads, momenta, [], [int(param.ndim <= 1) for param in params], rules)
        return lambda: function(batch)

    return Contender(prepare, lambda tensors, _: tensors["params"])


OP = Op(
    "LARS", ("fp32",), contest,
    plain={"reference": (on_batch, step_by_reference)},
    ours=lambda: optimiser(our_lars),
    peers={"lightly": lightly_lars, "timm": partial(timm_lars, False), "timm, foreach": partial(timm_lars, True)},
)  # fmt: skip
