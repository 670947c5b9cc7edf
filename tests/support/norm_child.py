"""On each of two ranks: SyncBatchNorm, compiled too, against torch's BatchNorm of the whole batch in float64."""

import copy
import sys

import torch
from torch import Tensor, nn

from rsdnet.distributed import Ranks, open_ranks
from rsdnet.model.sync_batchnorm import synchronise


def close(name: str, result: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        result.double(), expected.double(), rtol=tolerance, atol=tolerance, msg=lambda m: name + m
    )


def check(ranks: Ranks, shape: tuple[int, ...], compile: bool, affine: bool) -> None:
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
    for _ in range(2):  # running statistics, too, of a batch whose ranks differ much
        batch = torch.randn(ranks.world * shape[0], *shape[1:], dtype=torch.float64) * 3 + 40
        batch[: shape[0]] += 5
        slope = torch.randn_like(batch)
        mine = slice(ranks.rank * shape[0], (ranks.rank + 1) * shape[0])
        wide = batch.clone().requires_grad_()
        expected = whole(wide)
        expected.backward(slope)
        part = batch[mine].float().requires_grad_()
        result = own(part)
        result.backward(slope[mine].float())
        close("result", result, expected[mine], 1e-4)
        close("gradient", part.grad, wide.grad[mine], 1e-4)
    norm = own[0]
    for name in ("running_mean", "running_var"):
        close(name, getattr(norm, name), getattr(whole, name), 1e-4)
    for name in ("weight", "bias") if affine else ():
        close(name, ranks.sum_(getattr(norm, name).grad), getattr(whole, name).grad, 1e-3)
    assert norm.num_batches_tracked == whole.num_batches_tracked
    own.eval(), whole.eval()
    close("eval", own(batch.float()), whole(batch), 1e-4)


def main() -> None:
    with open_ranks("cpu") as ranks:
        for shape in ((3, 5), (2, 4, 3, 7)):
            for compile, affine in ((False, True), (True, True), (False, False)):
                check(ranks, shape, compile, affine)
        if ranks.main:
            print("alike")


if __name__ == "__main__":
    sys.exit(main())
