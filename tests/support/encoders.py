"""Encoders' files whose weights were never trained, with the facts that a run writes."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsdnet import bands, config
from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.encoderfile import KEY, VERSION, BandInput, DataSet, EncoderFile
from rsdnet.model.encoders import encoder_of
from rsdnet.training import checkpoint
from tests.support.runs import small

SIDE = 24  # pixels of a training patch
MS, SAR = ("B02", "B03", "B04", "B08", "B8A"), ("VV", "VH")
VIEWS = {
    "drawn": ViewConfig(ms_bands=MS, sar_bands=SAR),
    "fixed": ViewConfig(ms_view=("B04", "B03", "B02"), sar_view=("VV", "VH", "VV-VH")),
    "alone": ViewConfig(modality="ms", ms_view=("B04", "B03", "B02")),
}


def write(path: Path, views: str, encoder: str = "resnet18", width: int = 4, size: int = 20, **facts: Any) -> Path:
    """An encoder's file at `path`, in float32. facts: of `EncoderFile`, other than these."""
    views_cfg = dataclasses.replace(VIEWS[views], size=size)
    cfg = Config(views=views_cfg, model=ModelConfig(encoder=encoder, width=width))
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, precision="fp32"))
    torch.manual_seed(0)
    network = encoder_of(cfg)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    known = {name: BandInput(1000.0 + 10 * k, 200.0 + k, "dn", None, 0.0, "L2A", SIDE) for k, name in enumerate(MS)}
    known |= {name: BandInput(-12.0 - k, 4.0 + k, "db", (-25.0, 0.0), None, "", SIDE) for k, name in enumerate(SAR)}
    fixed = views_cfg.fixed
    file = EncoderFile(
        version=VERSION, bands=known, differences={"VV-VH": (1.0, 3.0)} if views == "fixed" else {},
        pools={"ms": fixed["ms"], "sar": SAR} if len(fixed) == 2 else fixed or {"ms": MS, "sar": SAR}, views=fixed,
        channels=views_cfg.channels, size=size, side=SIDE, metres=(5.37, 12.0), encoder=encoder, method="byol", seed=0,
        step=7, split="train", data=(DataSet("EuroSAT", "eurosat", "L1C", 27_000),), versions={"rsdnet": "0.1.0"},
        commit="abc1234", licence="",
    )  # fmt: skip
    meta = {"config": config.to_tables(cfg), KEY: dataclasses.replace(file, **facts).to_json()}
    checkpoint.save(path, network.state_dict(), meta)
    return path


def written(folder: Path, channels: int = 1, unit: str = "dn", version: int = VERSION, seed: int = 0) -> Path:
    """`encoder.safetensors` in `folder`, of a narrow ResNet-18 for views of `channels` bands of 10 to 20 m, VV, VH."""
    cfg = Config(views=ViewConfig(size=20, channels=channels), model=ModelConfig(encoder="resnet18", width=4))
    ms = {
        name: BandInput(2000, 700, unit, None, 0.0, "L2A", SIDE * 10 // bands.BANDS[name].resolution)
        for name in bands.MS
    }
    sar = {name: BandInput(-12, 4, "db", None, None, "", SIDE) for name in bands.SAR}
    file = EncoderFile(
        version=version, bands=ms | sar, differences={}, pools={"ms": bands.MS, "sar": bands.SAR}, views={},
        channels=channels, size=20, side=SIDE, metres=(5.0, 15.0), encoder="resnet18", method="byol", seed=0, step=1,
        split="train", data=(DataSet("db", "pairs", "L2A", 1),), versions={}, commit="none", licence="",
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"config": config.to_tables(cfg), KEY: file.to_json()}
    checkpoint.save(folder / "encoder.safetensors", small(channels, seed).state_dict(), meta)
    return folder / "encoder.safetensors"
