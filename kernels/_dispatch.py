"""The way of a call: kernel or reference, eager body or dispatched op."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ._triton import HAS_TRITON


def on_gpu(device: torch.device) -> bool:
    """Whether kernels run on this device; elsewhere the references do."""
    return HAS_TRITON and device.type == "cuda"


def current(device: torch.device) -> AbstractContextManager[None]:
    """A context in which a GPU is the current device, as launches and asynchronous copies require."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def eager(x: Tensor) -> bool:
    """Whether an op's body may be called without the dispatcher, which costs the host more time than a launch.

    True for plain tensors and parameters outside torch.compile. Meta and fake tensors and subclasses must go through
    the op, and so must a function that torch.compile traces.
    """
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta and not torch.compiler.is_compiling()
