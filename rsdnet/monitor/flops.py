"""Cost of a step: FLOPs (counted), the device's matrix-product peak (measured), peak memory."""

import dataclasses
import resource
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rsdnet.config import Config
from rsdnet.methods import METHODS

COUNTED = 2  # samples of the batch that is counted: BatchNorm of the heads takes no single one
SIDES = {"cuda": 8192, "cpu": 1024}  # of the square matrices: enough work to hide the launch
SECONDS = 0.3  # to measure the peak in
KIBI = 1024  # ru_maxrss is in kibibytes (Linux, getrusage(2))


def step_flops(config: Config) -> int:
    """FLOPs that a training step needs for one sample, two of them a multiply-add.

    Both views: the method's forward and backward.
    Convolutions and matrix products alone are counted (torch.utils.flop_counter); what activation checkpointing
    computes again is not: these are the model's FLOPs (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, recompute=False))
    shape = (2, COUNTED, config.views.channels, config.views.size, config.views.size)
    with torch.device("meta"):  # shapes without values: nothing is computed, no random number drawn
        method, views = METHODS.find(config.model.method)(config), torch.empty(shape)
    with FlopCounterMode(display=False) as counter:
        method(views).loss.backward()
    return counter.get_total_flops() // COUNTED


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of square matrices of random numbers: the most that `device` gives a network in `dtype`.

    Of the fastest in about 0.3 s, so that a busy machine does not lower it; under the float32 precision that torch is
    set to. Leaves torch's random state alone; on a GPU it begins the count of peak memory anew.
    """
    side = SIDES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    _seconds(a, b, out)  # loads the library and chooses the kernel
    fastest, end = _seconds(a, b, out), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        fastest = min(fastest, _seconds(a, b, out))
    del a, b, out
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / fastest


def _seconds(a: Tensor, b: Tensor, out: Tensor) -> float:
    """Seconds that a product takes, its launch included."""
    began = time.perf_counter()
    torch.mm(a, b, out=out)
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU so far; on a CPU, the most that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBI
