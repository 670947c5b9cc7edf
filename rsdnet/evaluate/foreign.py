"""Encoders with weights from elsewhere: files of torchvision, timm, torchgeo and rsdnet, and ImageNet's by pip.

A file is read as safetensors or by torch.load(weights_only=True): code in it is never run. Our ResNet has torchvision's
names, which timm's and torchgeo's ResNets share; the file's shapes tell depths and width. Other models are timm's, by
name: `timm:NAME=PATH`.
"""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rsdnet.errors import DataError
from rsdnet.model.encoders import BasicBlock, Bottleneck, ResNet

NESTED = ("state_dict", "model", "teacher", "model_state_dict")  # keys under which checkpoints hold their weights
# Prefixes of encoders within the modules that trained them: DataParallel's, MoCo's, Lightning's, torch.compile's.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "encoder_q.", "online.encoder.", "resnet.")
HEADS = ("fc.", "head.", "classifier.", "projector.", "predictor.")  # left out, where the encoder has no such part


class Foreign(NamedTuple):
    """An encoder with weights from elsewhere.

    channels: of its views. rule: how its first convolution came to take them, in words. normalisation: mean and
    standard deviation by band that its input wants, in the unit of the data; None: that of the data.
    """

    network: nn.Module
    channels: int
    rule: str
    normalisation: dict[str, tuple[float, float]] | None = None


def weights_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the text metadata of a safetensors file.

    Raises DataError on a file that is absent, damaged, needs pickle, or holds no weights.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: name a file of weights") from None
    except pickle.UnpicklingError:
        raise DataError(
            f"{path} holds Python objects beside its tensors, and reading them could run code: save its state_dict() "
            "alone, or as safetensors"
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read as weights ({str(error).splitlines()[0]})") from None
    for key in NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    tensors = (
        {name: each for name, each in held.items() if isinstance(each, Tensor)} if isinstance(held, Mapping) else {}
    )
    if not tensors:
        raise DataError(f"{path} holds no weights by name: save a model's state_dict()")
    return tensors, {}


def stripped(tensors: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """Weights without the prefix before the name `first`, of those that have it; the longest prefix of PREFIXES."""
    found = Counter(name.removesuffix(first) for name in tensors if name.endswith(first))
    prefixes = [prefix for prefix in found if prefix == "" or _known(prefix)]
    if not prefixes:
        return {}
    prefix = min(prefixes, key=len)
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _known(prefix: str) -> bool:
    while prefix:
        part = next((part for part in PREFIXES if prefix.startswith(part)), None)
        if part is None:
            return False
        prefix = prefix.removeprefix(part)
    return True


def resnet_of(tensors: dict[str, Tensor], channels: int, path: Path) -> Foreign:
    """A ResNet of the depths and width of the weights, for views of `channels`. Raises DataError if they fit none."""
    own = stripped(tensors, "conv1.weight")
    stages = [len({name.split(".")[1] for name in own if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    if not own or 0 in stages:
        raise DataError(
            f"{path}: the weights are no ResNet's with torchvision's names: name timm's model, timm:NAME={path}"
        )
    block = Bottleneck if "layer1.0.conv3.weight" in own else BasicBlock
    own["conv1.weight"], rule = adapted(own["conv1.weight"], channels)
    width = len(own["conv1.weight"])
    network = ResNet.of_blocks(block, tuple(stages), channels, width)
    load(network, own, path)
    return Foreign(network, channels, rule)


def adapted(weight: Tensor, channels: int) -> tuple[Tensor, str]:
    """Weight (O, C, h, w) of a first convolution for views of `channels`, and the rule in words.

    One channel sees the sum over the channels, as if it were shown in each; more of them repeat the channels, scaled
    by their numbers, so that the output keeps its size (timm's adapt_input_conv).
    """
    held = weight.shape[1]
    if held == channels:
        return weight, f"first convolution as it is, {held} channels"
    if channels == 1:
        return weight.sum(1, keepdim=True), f"first convolution summed over its {held} channels"
    repeated = weight.repeat(1, -(-channels // held), 1, 1)[:, :channels] * (held / channels)
    return repeated, f"first convolution of {held} channels repeated over {channels}, times {held}/{channels}"


def load(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load every weight of `network`; heads that it lacks are left out. Raises DataError naming what does not fit."""
    wanted = network.state_dict()
    own = {name: each for name, each in tensors.items() if name in wanted or not name.startswith(HEADS)}
    missing = [name for name in wanted if name not in own and not name.endswith("num_batches_tracked")]
    extra = [name for name in own if name not in wanted]
    other = [name for name in own if name in wanted and own[name].shape != wanted[name].shape]
    for names, words in ((missing, "lacks"), (extra, "has, and the encoder has not,"), (other, "has in another shape")):
        if names:
            raise DataError(f"{path} does not fit the encoder: it {words} {names[0]} ({len(names)} in all)")
    network.load_state_dict(own, strict=False)


def timm_of(name: str, path: Path, channels: int) -> Foreign:
    """timm's model `name` with the weights in a file."""
    try:
        import timm
    except ImportError as error:
        raise DataError(f"timm:{name} needs timm ({error}): pip install 'rsdnet[timm]'") from None
    if not timm.is_model(name):
        raise DataError(f"timm has no model {name}")
    tensors, _ = weights_of(path)
    first = timm.create_model(name, num_classes=0).pretrained_cfg.get("first_conv") or "conv1"
    network = timm.create_model(name, num_classes=0, in_chans=channels)
    own = stripped(tensors, f"{first}.weight")
    if not own:
        raise DataError(f"{path}: no weight {first}.weight, timm's first convolution of {name}: is it this model's?")
    own[f"{first}.weight"], rule = adapted(own[f"{first}.weight"], channels)
    load(network, own, path)
    return Foreign(network, channels, rule)
