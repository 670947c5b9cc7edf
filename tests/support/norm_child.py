"""On each of two ranks: ViewBatchNorm, compiled too, against torch's BatchNorm of the whole batch in float64.
VICReg's terms against those of the whole batch."""

import copy
import sys
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.distributed import Ranks, open_ranks
from rsdnet.methods.vicreg import vicreg_terms
from rsdnet.model.batchnorm import batch_of, synchronise
from rsdnet.training.settings import fitted
from rsdnet.training.step import TrainStep

PLAIN = ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16, variance=0.0, covariance=0.0)


def close(name: str, result: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        result.double(), expected.double(), rtol=tolerance, atol=tolerance, msg=lambda m: name + m
    )


def check(ranks: Ranks, shape: tuple[int, ...], compile: bool, affine: bool, views: int) -> None:
    """shape: of a rank's part of a view."""
    torch.manual_seed(1)
    channels = shape[1]
    whole = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(channels, affine=affine)
    for parameter in whole.parameters():
        nn.init.normal_(parameter)
    own = nn.Sequential(copy.deepcopy(whole))
    whole.double()
    synchronise(own, ranks.world)
    if compile:
        own.compile(fullgraph=True)
    for _ in range(2):  # running statistics, too, of a batch whose ranks and views differ much
        batch = torch.randn(views, ranks.world * shape[0], *shape[1:], dtype=torch.float64) * 3 + 40
        batch[:, : shape[0]] += 5
        batch[0] += 7
        slope = torch.randn_like(batch)
        mine = slice(ranks.rank * shape[0], (ranks.rank + 1) * shape[0])
        wide = batch.clone().requires_grad_()
        expected = torch.stack([whole(view) for view in wide])
        expected.backward(slope)
        part = batch[:, mine].flatten(0, 1).float().requires_grad_()
        with batch_of(views):
            result = own(part)
        result.backward(slope[:, mine].flatten(0, 1).float())
        close("result", result, expected[:, mine].flatten(0, 1), 1e-4)
        close("gradient", part.grad, wide.grad[:, mine].flatten(0, 1), 1e-4)
    norm = own[0]
    for name in ("running_mean", "running_var"):
        close(name, getattr(norm, name), getattr(whole, name), 1e-4)
    for name in ("weight", "bias") if affine else ():
        close(name, ranks.sum_(getattr(norm, name).grad), getattr(whole, name).grad, 1e-3)
    assert norm.num_batches_tracked == whole.num_batches_tracked
    own.eval(), whole.eval()
    close("eval", own(batch.float().flatten(0, 1)), whole(batch.flatten(0, 1)), 1e-4)


def step(ranks: Ranks, one_pass: bool) -> tuple[int, TrainStep]:
    """Messages of BatchNorm in a step, and the step."""
    torch.manual_seed(0)
    cfg = Config(views=ViewConfig(size=32), model=PLAIN)
    made = TrainStep(fitted(cfg, samples=1024), ranks.device, ranks, compile=False, dtype=torch.float32)
    assert made.method.one_pass
    made.method.one_pass = one_pass
    views = torch.randn(2, 8, 1, 32, 32, generator=torch.Generator().manual_seed(ranks.rank))
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced:
        made.step(views)
    return reduced.call_count, made


def check_messages(ranks: Ranks) -> None:
    """Both views' statistics go in one message: half as many, and the same gradients."""
    (fewer, made), (more, plain) = (step(ranks, one_pass) for one_pass in (True, False))
    norms = {
        name: sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
        for name, network in made.method.named_children()
    }
    assert fewer == norms["target"] + 2 * (norms["online"] + norms["predictor"])
    assert more == 2 * fewer
    one, other = (torch.cat([p.grad.flatten() for p in each.trained]) for each in (made, plain))
    assert (one - other).norm() < 1e-4 * other.norm()
    for one, other in zip(made.statistics, plain.statistics, strict=True):
        close("statistics", one, other, 1e-5)


def check_vicreg(ranks: Ranks) -> None:
    """Terms, and gradients averaged over ranks as those of parameters."""
    whole = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mine = slice(ranks.rank * 8, (ranks.rank + 1) * 8)
    own = whole.detach()[:, mine].clone().requires_grad_()
    expected, found = vicreg_terms(whole), vicreg_terms(own, ranks.world)
    for one, other in zip(found, expected, strict=True):
        close("term", one, other, 1e-5)
    sum(expected).backward(), sum(found).backward()
    close("gradient", own.grad / ranks.world, whole.grad[:, mine], 1e-5)


def main() -> None:
    with open_ranks("cpu") as ranks:
        check_vicreg(ranks)
        for shape in ((3, 5), (2, 4, 3, 7)):
            for compile, affine, views in ((False, True, 1), (True, True, 2), (False, False, 2), (False, True, 2)):
                check(ranks, shape, compile, affine, views)
        check_messages(ranks)
        if ranks.main:
            print("alike")


if __name__ == "__main__":
    sys.exit(main())
