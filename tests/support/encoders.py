"""An encoder's file that no run wrote: random weights, and facts that the tests know."""

from pathlib import Path

from rsdnet import bands, config
from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.encoderfile import KEY, VERSION, BandInput, DataSet, EncoderFile
from rsdnet.training import checkpoint
from tests.support.runs import small

SIDE = 24  # px of 10 m of the patches that it claims to be trained on


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
