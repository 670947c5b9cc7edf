"""A convolution over few channels, folded: the same sums as torch's, in float64."""

import pytest
import torch
from torch import nn

from rsdnet.model.encoders import ResNet
from rsdnet.model.stem import FoldedConv2d, columns_of, fold_stem, folded_conv2d, folds

KERNELS = [(7, 3), (3, 1), (5, 2), (4, 1), (7, 0), (1, 0), (2, 0)]
SIDES = [(32, 32), (20, 24), (31, 33), (9, 12), (7, 8)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("kernel", "padding"), KERNELS)
@pytest.mark.parametrize(("height", "width"), SIDES)
def test_sums_and_gradients_are_those_of_a_convolution(
    channels: int, kernel: int, padding: int, height: int, width: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 6, kernel, 2, padding, bias=False).double()
    x = torch.randn(2, channels, height, width, dtype=torch.float64, requires_grad=True)
    expected = conv(x)
    assert folds(x, kernel, padding) is (expected.shape[3] % columns_of(channels) == 0)
    if not folds(x, kernel, padding):
        return
    found = folded_conv2d(x, conv.weight, padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (x, conv.weight), grad)
    torch.testing.assert_close(torch.autograd.grad(found, (x, conv.weight), grad), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (128, 8, 4, 3)), (2, (64, 8, 4, 4)), (3, (128, 24, 4, 3)), (6, (64, 24, 4, 4))]
)
def test_the_folded_convolution_has_channels_in_eights(channels: int, shape: tuple[int, ...]) -> None:
    """One band: 8 channels, 4 x 3 taps, two columns of the result at once."""
    called = []
    conv = FoldedConv2d(channels, 64, 7, 2, 3, bias=False)
    original = torch.nn.functional.conv2d
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsdnet.model.stem.conv2d", lambda x, weight: called.append(weight) or original(x, weight))
        conv(torch.randn(2, channels, 64, 64))
    assert [tuple(weight.shape) for weight in called] == [shape]


def test_a_side_that_does_not_divide_takes_torchs_convolution() -> None:
    conv = FoldedConv2d(1, 4, 7, 2, 3, bias=False)
    x = torch.randn(2, 1, 30, 30)  # 15 columns
    assert not folds(x, 7, 3)
    assert torch.equal(conv(x), nn.Conv2d.forward(conv, x))


@pytest.mark.parametrize(
    ("conv", "taken"),
    [
        (nn.Conv2d(1, 4, 7, 2, 3, bias=False), True),
        (nn.Conv2d(3, 4, 7, 2, 3, bias=False), True),
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
def test_which_convolutions_are_folded(conv: nn.Conv2d, taken: bool) -> None:
    fold_stem(conv)
    assert (type(conv) is FoldedConv2d) is taken


def test_a_folded_encoder_has_the_names_and_results_of_before() -> None:
    torch.manual_seed(0)
    encoder, x = ResNet("resnet18", 1, width=8).double().eval(), torch.randn(2, 1, 64, 64, dtype=torch.float64)
    names, expected = list(encoder.state_dict()), encoder(x)
    fold_stem(encoder)
    assert [name for name, part in encoder.named_modules() if type(part) is FoldedConv2d] == ["conv1"]
    assert list(encoder.state_dict()) == names
    torch.testing.assert_close(encoder(x), expected, rtol=1e-10, atol=1e-10)
