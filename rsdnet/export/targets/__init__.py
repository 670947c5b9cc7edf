"""The targets by name."""

from rsdnet.export.targets import onnx, timm, torchgeo, torchscript, torchvision
from rsdnet.export.targets.base import Target

TARGETS: dict[str, Target] = {
    "torchvision": torchvision.TARGET,
    "timm": timm.TARGET,
    "torchgeo": torchgeo.TARGET,
    "onnx": onnx.TARGET,
    "torchscript": torchscript.TARGET,
}
