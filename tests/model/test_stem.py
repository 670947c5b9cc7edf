"""A ResNet's stem by kernels: which layers take them, and that results and names stay."""

import pytest
import torch
from torch import nn

from rsdnet.model.encoders import ResNet
from rsdnet.model.stem import KernelConv2d, KernelMaxPool2d, convolve_by_kernel, pool_by_kernel


@pytest.mark.parametrize(
    ("conv", "taken"),
    [
        (nn.Conv2d(1, 4, 7, 2, 3, bias=False), True),
        (nn.Conv2d(3, 4, 7, 2, 3, bias=False), True),
        (nn.Conv2d(7, 4, 4, 2, 1, bias=False), True),
        (nn.Conv2d(8, 4, 7, 2, 3, bias=False), False),
        (nn.Conv2d(1, 4, 7, 1, 3, bias=False), False),
        (nn.Conv2d(1, 4, 7, 2, 3), False),
        (nn.Conv2d(1, 4, (7, 5), 2, 3, bias=False), False),
        (nn.Conv2d(1, 4, 7, 2, (3, 2), bias=False), False),
        (nn.Conv2d(1, 4, 7, 2, 3, padding_mode="reflect", bias=False), False),
        (nn.Conv2d(1, 4, 7, 2, 3, dilation=2, bias=False), False),
        (nn.Conv2d(2, 4, 7, 2, 3, groups=2, bias=False), False),
        (type("Own", (nn.Conv2d,), {})(1, 4, 7, 2, 3, bias=False), False),
    ],
)
def test_which_convolutions_take_the_kernel(conv: nn.Conv2d, taken: bool) -> None:
    convolve_by_kernel(conv)
    assert (type(conv) is KernelConv2d) is taken


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


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoder_has_the_names_and_results_of_before(channels: int) -> None:
    torch.manual_seed(0)
    encoder, x = ResNet("resnet18", channels, width=8).double().eval(), torch.randn(2, channels, 64, 64).double()
    names, expected = list(encoder.state_dict()), encoder(x)
    convolve_by_kernel(encoder)
    pool_by_kernel(encoder)
    kinds = {name: type(part) for name, part in encoder.named_modules()}
    assert [name for name, kind in kinds.items() if kind is KernelConv2d] == ["conv1"]
    assert [name for name, kind in kinds.items() if kind is KernelMaxPool2d] == ["maxpool"]
    assert list(encoder.state_dict()) == names
    assert torch.equal(encoder(x), expected)
