"""Files of weights: read without running code in them, without the prefixes of what trained them, and loaded whole.

A file is read as safetensors or by torch.load(weights_only=True). Our ResNet has torchvision's names, which timm's and
torchgeo's ResNets share; the file's shapes tell depths, width and channels.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rsdnet.errors import DataError
from rsdnet.model.encoders import BasicBlock, Blocks, Bottleneck, ResNet

NESTED = ("state_dict", "model", "teacher", "model_state_dict")  # keys under which checkpoints hold their weights
# Prefixes of encoders in the modules that trained them: DataParallel's, torch.compile's, Lightning's, DINO's, MoCo's.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "encoder_q.", "online.", "resnet.")
HEADS = ("fc.", "head.", "classifier.", "projector.", "predictor.")  # left out, where the encoder has no such part


def weights_of(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises DataError on a file that is absent, damaged, needs pickle, or holds no weights."""
    if not path.is_file():
        raise DataError(f"{path}: no such file: name a file of weights, or the folder of a run")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path} is no file of weights, or holds Python objects beside them, and reading those could run code: "
            "save the model's state_dict() alone, or safetensors"
        ) from None
    except Exception as error:  # of many types, from a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as weights ({reason})") from None
    for key in NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    found = held.items() if isinstance(held, Mapping) else ()
    tensors = {name: each for name, each in found if isinstance(name, str) and isinstance(each, Tensor)}
    if not tensors:
        raise DataError(f"{path} holds no weights by name: save a model's state_dict()")
    if odd := [name for name, each in tensors.items() if not each.float().isfinite().all()]:
        raise DataError(f"{path}: {odd[0]} holds a value that is not finite ({len(odd)} tensors in all)")
    return tensors


def stripped(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """The weights beside that named `first`, without its prefix, the shortest made of PREFIXES; {}: there is none."""
    found = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    prefix = min(filter(_known, found), key=len, default=None)
    if prefix is None:
        return {}
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _known(prefix: str) -> bool:
    """Whether a prefix is made of PREFIXES."""
    return not prefix or any(prefix.startswith(part) and _known(prefix.removeprefix(part)) for part in PREFIXES)


def resnet_of(tensors: Mapping[str, Tensor], path: Path) -> ResNet:
    """A ResNet of the depths, width and channels of the weights. Raises DataError where they are no ResNet's."""
    own = stripped(tensors, "conv1.weight")
    depths = [len({name.split(".")[1] for name in own if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    if not own or 0 in depths or own["conv1.weight"].dim() != 4:
        raise DataError(f"{path}: no ResNet with torchvision's names; of a model of timm name it, timm:NAME={path}")
    block = Bottleneck if "layer1.0.conv3.weight" in own else BasicBlock
    width, channels = own["conv1.weight"].shape[:2]
    network = ResNet(cast(Blocks, (block, tuple(depths))), channels, width)
    fill(network, own, path)
    return network


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load every weight of `network`; heads that it lacks are left out. Raises DataError on the first misfit."""
    wanted = network.state_dict()
    own = {name: each for name, each in tensors.items() if name in wanted or not name.startswith(HEADS)}
    missing = [name for name in wanted if name not in own and not name.endswith("num_batches_tracked")]
    extra = [name for name in own if name not in wanted]
    other = [name for name in own if name in wanted and own[name].shape != wanted[name].shape]
    for names, words in ((missing, "lacks"), (extra, "has, and the encoder has not,"), (other, "has in another shape")):
        if names:
            raise DataError(f"{path} does not fit the encoder: it {words} {names[0]} ({len(names)} in all)")
    network.load_state_dict(own, strict=False)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()
