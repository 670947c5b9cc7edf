"""A process that may not take the memory that a step needs: prints one line, exits 2. Argument: "onednn" or "plain"."""

import dataclasses
import resource
import sys
from pathlib import Path

import torch

from rsdnet.config import Config, ModelConfig, OptimConfig, ViewConfig
from rsdnet.distributed import ALONE
from rsdnet.errors import command
from rsdnet.training.out_of_memory import explained
from rsdnet.training.step import TrainStep

CFG = Config(
    views=ViewConfig(size=64),
    model=ModelConfig(encoder="resnet18", width=16, hidden=32, dim=16),
    optim=OptimConfig(optimizer="sgd", batch=64, weight_decay=1e-6, tau=0.99),
)
ROOM = 24 << 20  # bytes: a step takes several times as many


def train(batch: int) -> None:
    cfg = dataclasses.replace(CFG, optim=dataclasses.replace(CFG.optim, batch=batch))
    with explained(cfg, ALONE):
        made = TrainStep(cfg, ALONE.device, compile=False, dtype=torch.float32)
        made.step(torch.randn(2, batch, 1, 64, 64))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(sys.argv[1] == "onednn")
    train(2)  # loads what is loaded once
    status = Path("/proc/self/status").read_text().splitlines()
    taken = int(next(line.split()[1] for line in status if line.startswith("VmSize"))) << 10
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    command(lambda: train(CFG.optim.batch))
