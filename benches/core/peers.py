"""The public peers, imported where they are installed; where one is not, the reason is told."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch

_libraries: list[torch.library.Library] = []  # a torch.library.Library ends with its last reference


class Absent(Exception):
    """A provider that cannot take part here; the message is the reason."""


def peer(name: str) -> ModuleType:
    """The module `name` of a peer. Raises Absent where it cannot be imported."""
    try:
        return _imported(name)
    except Exception as error:  # a package built for another torch fails in any way
        lines = str(error).strip().splitlines() or [""]
        raise Absent(f"import {name}: {type(error).__name__}: {lines[0][:200]}") from error


def peer_version(package: str) -> str:
    """The version of an installed package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        # torchvision beside a torch that it was not built for has no operators; its transforms need none, only that
        # the schemas of two are there when it is imported. lightly and timm import it.
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    _libraries.append(library)
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for half in [module for module in sys.modules if module.split(".")[0] in ("torchvision", "lightly", "timm")]:
        del sys.modules[half]
    return importlib.import_module(name)
