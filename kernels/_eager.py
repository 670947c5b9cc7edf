"""Whether an op's body may be called as it is."""

import torch
from torch import Tensor, nn


def eager(x: Tensor) -> bool:
    """Whether x holds values and nothing traces: then the dispatcher, which costs the host more than a launch, adds
    nothing that an op without an autograd of its own needs. Not so while torch.compile traces, nor for tensors that
    stand for values to come or have a dispatch of their own: they must see the op."""
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta and not torch.compiler.is_compiling()
