"""The pooling of a ResNet's stem by a kernel (kernels/pool.py): the same maxima and gradients."""

from torch import Tensor, nn

from rsdnet.kernels import max_pool2d


def pool_by_kernel(module: nn.Module) -> None:
    """Let every max pooling of 3 x 3 at stride 2 in `module` take the kernel."""
    for part in module.modules():
        if type(part) is nn.MaxPool2d and plain(part):
            part.__class__ = KernelMaxPool2d


def plain(pool: nn.MaxPool2d) -> bool:
    """Whether a pooling is the one that `KernelMaxPool2d` is."""
    sizes = ((pool.kernel_size, 3), (pool.stride, 2), (pool.padding, 1), (pool.dilation, 1))
    return all(size in (side, (side, side)) for size, side in sizes) and not (pool.ceil_mode or pool.return_indices)


class KernelMaxPool2d(nn.MaxPool2d):
    """Kernel 3, stride 2, padding 1."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x)
