"""Encoders' files that no run wrote: random weights, and facts that the tests know."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsdnet import bands, config
from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.data.pools import pools_of
from rsdnet.encoderfile import KEY, VERSION, BandInput, DataSet, EncoderFile
from rsdnet.model.encoders import encoder_of
from rsdnet.training import checkpoint
from tests.support.runs import small

SIDE = 24  # pixels of 10 m of a training patch
MS, SAR = ("B02", "B03", "B04", "B08", "B8A"), ("VV", "VH")
VIEWS = {
    "drawn": ViewConfig(ms_bands=MS, sar_bands=SAR),
    "fixed": ViewConfig(ms_view=("B04", "B03", "B02"), sar_view=("VV", "VH", "VV-VH")),
    "alone": ViewConfig(modality="ms", ms_view=("B04", "B03", "B02")),
}


def write(path: Path, views: str, encoder: str = "resnet18", width: int = 4, size: int = 20, **facts: Any) -> Path:
    """An encoder's file at `path`, in float32, of bands of one resolution. facts: of `EncoderFile`."""
    cfg = Config(views=dataclasses.replace(VIEWS[views], size=size), model=ModelConfig(encoder=encoder, width=width))
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, precision="fp32"))
    torch.manual_seed(0)
    network = encoder_of(cfg)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    known = {name: BandInput(1000.0 + 10 * k, 200.0 + k, "dn", None, 0.0, "L2A", SIDE) for k, name in enumerate(MS)}
    known |= {name: BandInput(-12.0 - k, 4.0 + k, "db", (-25.0, 0.0), None, "", SIDE) for k, name in enumerate(SAR)}
    differences = {"VV-VH": (1.0, 3.0)} if views == "fixed" else {}
    return _save(path, cfg, network, known, metres=(5.37, 12.0), differences=differences, **facts)


def written(folder: Path, channels: int = 1, unit: str = "dn", version: int = VERSION, seed: int = 0) -> Path:
    """`encoder.safetensors` in `folder`, of a narrow ResNet-18 for views of `channels` bands of 10 to 20 m, VV, VH."""
    cfg = Config(views=ViewConfig(size=20, channels=channels), model=ModelConfig(encoder="resnet18", width=4))
    sides = {name: SIDE * 10 // bands.BANDS[name].resolution for name in bands.MS}
    known = {name: BandInput(2000, 700, unit, None, 0.0, "L2A", side) for name, side in sides.items()}
    known |= {name: BandInput(-12, 4, "db", None, None, "", SIDE) for name in bands.SAR}
    folder.mkdir(parents=True, exist_ok=True)
    return _save(folder / "encoder.safetensors", cfg, small(channels, seed), known, version=version)


def _save(path: Path, cfg: Config, network: nn.Module, known: dict[str, BandInput], **facts: Any) -> Path:
    """`network` of the run `cfg`, with statistics of the bands `known`, at `path`."""
    views, pools = cfg.views, pools_of(cfg.views)
    file = EncoderFile(
        version=VERSION, bands=known, differences={}, pools={s: pools[s] for s in views.modality.split("+")},
        views=views.fixed, channels=views.channels, size=views.size, side=SIDE, metres=(5.0, 15.0),
        encoder=cfg.model.encoder, method="byol", seed=0, step=7, split="train",
        data=(DataSet("EuroSAT", "eurosat", "L1C", 27_000),), versions={"rsdnet": "0.1.0"}, commit="abc1234",
        licence="",
    )  # fmt: skip
    meta = {"config": config.to_tables(cfg), KEY: dataclasses.replace(file, **facts).to_json()}
    checkpoint.save(path, network.state_dict(), meta)
    return path
