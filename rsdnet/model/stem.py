"""A ResNet's stem by kernels: the first convolution (kernels/stem.py) and the pooling (kernels/pool.py).

The same sums, maxima and gradients as torch's layers, under the same names; other inputs take torch's.
"""

from torch import Tensor, nn

from rsdnet.kernels import max_pool2d, stem_conv2d
from rsdnet.kernels.stem import CHANNELS


def convolve_by_kernel(module: nn.Module) -> None:
    """Let every convolution of stride 2 over few bands in `module` take the kernel."""
    for part in module.modules():
        if type(part) is nn.Conv2d and is_plain_convolution(part):
            part.__class__ = KernelConv2d


def is_plain_convolution(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of those that `KernelConv2d` is."""
    square = conv.stride == (2, 2) and conv.dilation == (1, 1) and len({*conv.kernel_size}) == len({*conv.padding}) == 1
    zeros = conv.bias is None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return square and zeros and conv.groups == 1 and conv.in_channels <= CHANNELS


class KernelConv2d(nn.Conv2d):
    """Square kernel, stride 2, few channels; neither bias, dilation nor groups."""

    def forward(self, x: Tensor) -> Tensor:
        return stem_conv2d(x, self.weight, padding=int(self.padding[0]))


def pool_by_kernel(module: nn.Module) -> None:
    """Let every max pooling of 3 x 3 at stride 2 in `module` take the kernel."""
    for part in module.modules():
        if type(part) is nn.MaxPool2d and is_plain_pooling(part):
            part.__class__ = KernelMaxPool2d


def is_plain_pooling(pool: nn.MaxPool2d) -> bool:
    """Whether a pooling is the one that `KernelMaxPool2d` is."""
    sizes = ((pool.kernel_size, 3), (pool.stride, 2), (pool.padding, 1), (pool.dilation, 1))
    return all(size in (side, (side, side)) for size, side in sizes) and not (pool.ceil_mode or pool.return_indices)


class KernelMaxPool2d(nn.MaxPool2d):
    """Kernel 3, stride 2, padding 1."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x)
