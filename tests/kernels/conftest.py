"""Shared by the kernels' tests: devices, and a fixture that sends every op to its kernels and counts their launches."""

from collections import Counter

import pytest
import torch
from rsdnet.kernels import LARS, blur, ema, lars, lars_cpu, lars_kernel, lars_step, loss, pool, select, stem, views

GPU = torch.cuda.is_available()
DEVICES = ["cpu", *(["cuda"] if GPU else [])]  # of an op: the reference on the CPU, the kernel on a GPU
KERNEL = DEVICES[-1]  # of a kernel by itself: Triton's interpreter works on the CPU
TYPES = [torch.float32, torch.bfloat16, torch.float16]


class Cut(torch.autograd.Function):
    """A copy of x that gives x no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.fixture
def launches(monkeypatch):
    """Number of launches by kernel. Ops run their kernels, in Triton's interpreter where there is no GPU, and what they
    allocate holds NaN until it is written."""
    counts = Counter()
    kind = type(lars_kernel.lars_norms_kernel)
    launch = kind.__getitem__

    def counted(kernel, grid):
        counts[kernel.fn.__name__] += 1
        return launch(kernel, grid)

    monkeypatch.setattr(kind, "__getitem__", counted)
    if not GPU:
        for module in (blur, ema, lars, lars_step, loss, pool, select, stem, views):
            monkeypatch.setattr(module, "on_gpu", lambda device: True)
        monkeypatch.setattr(loss, "arrivals", lambda device: torch.zeros(1, dtype=torch.int32))
    ema._KNOWN.clear()
    torch.use_deterministic_algorithms(True, warn_only=True)  # so that torch.empty fills with NaN
    yield counts
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def way(request, monkeypatch):
    """An optimizer and its device: "plain", one tensor at a time; "cpu", in blocks; "kernel"."""
    if request.param == "kernel":
        request.getfixturevalue("launches")
    monkeypatch.setattr(lars_cpu, "BLOCK", 7)
    return (lars.PlainLARS if request.param == "plain" else LARS), KERNEL if request.param == "kernel" else "cpu"
