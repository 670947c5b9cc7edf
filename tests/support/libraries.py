"""Libraries that no test needs, imported where they are installed: `PYTHONPATH=FOLDER` of `pip install --target`."""

import functools
import importlib
import importlib.util
from types import ModuleType

import pytest
import torch

ON_TORCHVISION = ("torchvision", "timm", "torchgeo")
KEPT = []  # a library of operators goes with its last reference


def library(name: str) -> ModuleType:
    """The package `name`; skips the test where it is not installed or does not import."""
    if name in ON_TORCHVISION:
        define_operators()
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be imported: {error}")


@functools.cache
def define_operators() -> None:
    """Let torchvision's wheel import beside a torch without CUDA, under which its own operators do not load."""
    if torch.version.cuda is None and importlib.util.find_spec("torchvision"):
        own = torch.library.Library("torchvision", "DEF")
        own.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        own.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(own)
