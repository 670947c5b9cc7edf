"""What is trained in a comparison: networks, views, batch, precision; the same for every contender."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benches.core.clock import DEVICE, GPU
from rsdnet.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, Statistics, ViewConfig

# DeepMind's constants of 100 epochs (byol/configs/byol.py) and loss: as in the reference and the peers.
DEEPMIND = OptimConfig(optimizer="lars", lr=0.45, warmup_epochs=10.0, weight_decay=1e-6, tau=0.99)
PLAIN = ModelConfig(variance=0.0, covariance=0.0)
STEPS = 10_000  # of the schedule, of which a comparison takes the first
STATISTICS: Statistics = "BigEarthNet v2 L2A"  # the made databases have no stats.json
SIDES = {"bigearthnet": 120, "tiny": 24}  # pixels of the finest band of the databases that are made
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Setting:
    """One column of comparisons.

    size: pixels of a view. batch: samples a step. patches: what the made database holds, a key of `SIDES`. workers: of
    the peers' DataLoader, and threads of our reader. threads: of torch on a CPU; 0: torch's choice. backend: of
    torch.compile.
    """

    encoder: str
    width: int
    size: int
    batch: int
    hidden: int
    dim: int
    precision: str
    patches: str
    workers: int = 1
    threads: int = 0
    backend: str = "inductor"
    device: str = DEVICE

    @property
    def shape(self) -> str:
        """As a row names it."""
        width = f" of width {self.width}" if self.width != 64 else ""
        return f"{self.encoder.replace('resnet', 'ResNet-')}{width}, 1 channel, {self.size} px"

    @property
    def side(self) -> int:
        """Pixels a side of the patches' finest band."""
        return SIDES[self.patches]

    @property
    def dtype(self) -> torch.dtype:
        """The precision's type."""
        return DTYPES[self.precision]

    def config(self, folder: Path | None = None) -> Config:
        """rsdnet's configuration of it: DeepMind's constants of 100 epochs and its loss, the paper's bands."""
        return Config(
            data=DataConfig(data=(folder,) if folder else (), statistics=STATISTICS, reader_threads=self.workers),
            views=ViewConfig(size=self.size),
            model=dataclasses.replace(PLAIN, encoder=self.encoder, width=self.width, hidden=self.hidden, dim=self.dim),
            optim=dataclasses.replace(DEEPMIND, batch=self.batch, steps=STEPS),
            run=RunConfig(precision=self.precision, threads=self.threads),  # type: ignore[arg-type]
        )

    def conditions(self) -> dict[str, Any]:
        """Of its rows."""
        told = {"shape": self.shape, "batch": self.batch, "precision": self.precision, "workers": self.workers}
        told |= {"threads": self.threads} if self.threads else {}
        waits = os.environ.get("OMP_WAIT_POLICY")  # set by whoever measures: every contender's
        return told | ({"OMP_WAIT_POLICY": waits} if waits else {})

    def speeds(self, ours: float, other: float) -> dict[str, str]:
        """Samples a second of two, from seconds a step; on a CPU, whose rows hold ratios alone, nothing."""
        both = {"samples/s": ours, "beside samples/s": other}
        return {name: f"{self.batch / seconds:.4g}" for name, seconds in both.items()} if GPU else {}


def resident(setting: Setting) -> Tensor:
    """Views (2, B, C, S, S) that stay on the device: standard normal, in the precision's type, channels-last."""
    generator = torch.Generator(setting.device).manual_seed(0)
    shape = 2, setting.batch, setting.size, setting.size, 1
    views = torch.randn(shape, generator=generator, device=setting.device)
    return views.to(setting.dtype).permute(0, 1, 4, 2, 3)


def has_bf16() -> bool:
    """Whether this machine multiplies bf16 itself."""
    if GPU:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def settings(shapes: str, *, workers: int, threads: int, backend: str = "inductor") -> list[Setting]:
    """The settings of a run, the most important first. shapes: "tiny", "small" or "full".

    full is the trainer's: ResNet-50 at 128 px and ResNet-18 at 64 px in bf16 (fp16 where there is none). small is what
    a few CPU cores take: ResNet-18 at 64 px in fp32, and in bf16 where the processor has it. tiny is for the tests.
    """
    other: dict[str, Any] = {"workers": workers, "threads": threads, "backend": backend}
    half = "bf16" if has_bf16() else "fp16"
    if shapes == "full":
        return [
            Setting("resnet50", 64, 128, 1024, 4096, 256, half, "bigearthnet", **other),
            Setting("resnet18", 64, 64, 256, 4096, 256, half, "bigearthnet", **other),
        ]
    if shapes == "small":
        small = Setting("resnet18", 64, 64, 32, 4096, 256, "fp32", "bigearthnet", **other)
        return [small, dataclasses.replace(small, precision="bf16")] if has_bf16() else [small]
    return [Setting("resnet18", 8, 32, 8, 32, 16, "fp32", "tiny", **other)]
