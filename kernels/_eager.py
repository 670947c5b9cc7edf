"""Whether an op's body may be called as it is."""

import torch
from torch import Tensor


def eager(x: Tensor) -> bool:
    """Whether x holds values and nothing traces: then the dispatcher, which costs the host more than a launch, adds
    nothing that an op without an autograd of its own needs."""
    return type(x) is Tensor and not torch.compiler.is_compiling()
