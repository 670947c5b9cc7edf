"""The pooling of a ResNet's stem by a kernel: which poolings, and that results and names stay."""

import pytest
import torch
from torch import nn

from rsdnet.model.encoders import ResNet
from rsdnet.model.pooling import KernelMaxPool2d, pool_by_kernel


@pytest.mark.parametrize(
    ("pool", "taken"),
    [
        (nn.MaxPool2d(3, 2, 1), True),
        (nn.MaxPool2d((3, 3), (2, 2), (1, 1)), True),
        (nn.MaxPool2d(2, 2, 1), False),
        (nn.MaxPool2d((3, 2), 2, 1), False),
        (nn.MaxPool2d(3, 3, 1), False),
        (nn.MaxPool2d(3, 2, 0), False),
        (nn.MaxPool2d(3, 2, 1, dilation=2), False),
        (nn.MaxPool2d(3, 2, 1, return_indices=True), False),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), False),
        (type("Own", (nn.MaxPool2d,), {})(3, 2, 1), False),
    ],
)
def test_which_poolings_take_the_kernel(pool: nn.MaxPool2d, taken: bool) -> None:
    pool_by_kernel(pool)
    assert (type(pool) is KernelMaxPool2d) is taken


def test_an_encoder_has_the_names_and_results_of_before() -> None:
    torch.manual_seed(0)
    encoder, x = ResNet("resnet18", 1, width=8).eval(), torch.randn(2, 1, 64, 64)
    names, expected = list(encoder.state_dict()), encoder(x)
    pool_by_kernel(encoder)
    assert [name for name, part in encoder.named_modules() if type(part) is KernelMaxPool2d] == ["maxpool"]
    assert list(encoder.state_dict()) == names
    assert torch.equal(encoder(x), expected)
