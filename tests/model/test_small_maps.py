"""Convolutions as products against torch's own, in float64; in float32 and bfloat16 by the distance from float64."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rsdnet.model import small_maps
from rsdnet.model.encoders import ResNet
from rsdnet.model.small_maps import LARGEST, SmallMapConv2d, convolve_small_maps

SHAPES = [(1, 1), (2, 2), (1, 2), (2, 1), (3, 3), (4, 4), (3, 4), (4, 1), (5, 5)]


def results(
    conv: nn.Module, x: Tensor, slope: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, gradient of the input and of the weight; under autocast where `dtype` is bfloat16."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        y = conv(x)
    by_input, by_weight = torch.autograd.grad(y, (x, conv.weight), slope.to(y.dtype))
    assert by_weight.stride() == conv.weight.stride()  # else DDP copies it
    return y.detach(), by_input, by_weight


def case(
    side: int, stride: int, shape: tuple[int, int], channels_last: bool, channels: int = 5
) -> tuple[nn.Conv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    form = torch.channels_last if channels_last else torch.contiguous_format
    conv = nn.Conv2d(channels, 7, side, stride, side // 2, bias=False).double().to(memory_format=form)
    x = torch.randn(6, channels, *shape, dtype=torch.float64).contiguous(memory_format=form)
    return conv, x, torch.randn_like(conv(x))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("channels", [5, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_gradients_are_those_of_a_convolution(
    shape: tuple[int, int], channels: int, side: int, stride: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, gradient = [], small_maps.weight_gradient
    monkeypatch.setattr(small_maps, "weight_gradient", lambda *about: products.append(1) or gradient(*about))
    conv, x, slope = case(side, stride, shape, channels_last, channels)
    own = copy.deepcopy(conv)
    convolve_small_maps(own)
    assert type(own) is SmallMapConv2d
    for found, expected in zip(results(own, x, slope), results(conv, x, slope), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert bool(products) == (side == 3 and max(shape) <= (4 if channels == 256 else 2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_as_near_to_float64_as_rounding_goes(size: int, side: int, dtype: torch.dtype, tolerance: float) -> None:
    conv, x, slope = case(side, 1, (size, size), channels_last=True, channels=256)
    own = copy.deepcopy(conv).float()
    convolve_small_maps(own)
    for found, expected in zip(results(own, x.float(), slope, dtype), results(conv, x, slope), strict=True):
        assert (found.double() - expected).norm() < tolerance * expected.norm()


def test_the_gradients_that_nobody_wants_are_not_made() -> None:
    conv, x, slope = case(3, 1, (2, 2), channels_last=True)
    convolve_small_maps(conv)
    conv(x).backward(slope)  # x wants none
    assert conv.weight.grad is not None
    conv.requires_grad_(False)
    conv(x.requires_grad_()).backward(slope)
    assert x.grad is not None
    with torch.no_grad():
        assert not conv(x).requires_grad


def test_those_that_are_more_than_a_plain_convolution_stay() -> None:
    kept = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, 1, 1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, 1, 2, dilation=2, bias=False), nn.Conv2d(4, 4, 3, (1, 2), 1, bias=False),
        nn.Conv2d(4, 4, 3, 1, 1, bias=False, padding_mode="reflect"), nn.Conv2d(4, 4, 3, padding="same", bias=False),
    )  # fmt: skip
    convolve_small_maps(kept)
    assert {type(conv) for conv in kept} == {nn.Conv2d}


def test_an_encoder_takes_products_where_its_maps_are_small_and_keeps_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At 64 px a ResNet-18's third stage has 4 x 4 pixels: its weights' gradients are products from there on."""
    torch.manual_seed(0)
    encoder = ResNet("resnet18", 1, width=8)
    names = encoder.state_dict().keys()
    convolve_small_maps(encoder)
    assert encoder.state_dict().keys() == names
    sides, convolution = [], functional.conv2d

    def noted(x: Tensor, *about: object) -> Tensor:
        sides.append(x.shape[-1])
        return convolution(x, *about)

    monkeypatch.setattr(functional, "conv2d", noted)
    with torch.no_grad():
        encoder(torch.randn(2, 1, 64, 64))
    assert min(sides) == LARGEST
