"""A finished run that was never trained: its folder holds an encoder alone."""

from pathlib import Path

import torch
from torch import nn

from rsdnet import config
from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.model.encoders import ResNet
from rsdnet.training import checkpoint


def small(channels: int = 3, seed: int = 0) -> ResNet:
    """A narrow ResNet-18 whose BatchNorm has statistics, in eval mode."""
    torch.manual_seed(seed)
    network = ResNet("resnet18", channels, width=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def run_of(folder: Path, channels: int = 1, seed: int = 0) -> Path:
    """A run with `small`'s weights in `folder`."""
    cfg = Config(views=ViewConfig(size=20, channels=channels), model=ModelConfig(encoder="resnet18", width=4))
    folder.mkdir()
    meta = {"config": config.to_tables(cfg)}
    checkpoint.save(folder / "encoder.safetensors", small(channels, seed).state_dict(), meta)
    return folder
