"""A process that may not take more memory than half the batch needs, and tries the whole: prints one line, exits 2."""

import os
import resource
from pathlib import Path

import torch
from rich.console import Console

from rsdnet.config import Config, ModelConfig, OptimConfig, RunConfig, ViewConfig
from rsdnet.distributed import ALONE
from rsdnet.errors import command
from rsdnet.monitor.out_of_memory import Setting, advised, attempt

BATCH = 64
CFG = Config(
    views=ViewConfig(size=64),
    model=ModelConfig(encoder="resnet18", width=16, hidden=32, dim=16),
    optim=OptimConfig(optimizer="sgd", batch=BATCH),
    run=RunConfig(precision="fp32", channels_last=False),
)


def address_space(setting: Setting) -> int:
    """Bytes of addresses, at most, of a process that does nothing but the steps of `setting`."""
    ended, begun = os.pipe()
    if os.fork() == 0:
        attempt(CFG, setting, BATCH, ALONE.device)
        status = Path("/proc/self/status").read_text().splitlines()
        os.write(begun, next(line.split()[1] for line in status if line.startswith("VmPeak")).encode())
        os._exit(0)
    os.wait()
    return int(os.read(ended, 100)) << 10


def train() -> int:
    attempt(CFG, Setting(False, 1, 0), BATCH, ALONE.device)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # it has allocators of its own, which do not say what they lack
    attempt(CFG, Setting(False, 1, 0), 2, ALONE.device)  # what is loaded and kept once
    whole, half = (address_space(Setting(False, count, 0)) for count in (1, 2))
    limit = (whole + half) // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    command(lambda: advised(train, CFG, ALONE, Console(quiet=True)))
