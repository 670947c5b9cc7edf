"""Encoders with weights from elsewhere, by what names them on a command line.

A file of a ResNet with torchvision's names; a run of rsdnet, its encoder or a checkpoint; `timm:NAME=FILE`;
`imagenet:efficientnet-lite0`.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rsdnet import bands
from rsdnet.data.normalisation import unit_of
from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import BUILT_IN, Foreign, Scale, Trained, load_encoder, trained_of
from rsdnet.evaluate.imagenet import byte_scales, byte_words, efficientnet_lite0
from rsdnet.evaluate.weights import digest, fill, resnet_of, stripped, weights_of
from rsdnet.model.encoders import timm_model
from rsdnet.training import checkpoint

IMAGENET = "efficientnet-lite0"
# Normalisation of published weights by their files' names: torchgeo/models/resnet.py and vit.py, transforms of
# SSL4EO-S12's MoCo and DINO. Sentinel-2: DN / 10,000. Sentinel-1: mean and standard deviation in dB.
SENTINEL2 = re.compile(r"sentinel2_(all|rgb)_(moco|dino)")
SENTINEL1 = re.compile(r"sentinel1_all_moco")
SAR = {"VV": Scale(-12.59, 5.26), "VH": Scale(-20.26, 5.91)}


def against(names: Sequence[str], databases: Sequence[Path], sizes: Collection[int]) -> dict[str, Foreign]:
    """Encoders by a short label, to be compared on `databases`. sizes: of the views, pixels a side.

    Raises DataError on a name of none of the forms, a file that cannot be read or does not fit, an absent package, and
    an encoder that does not take the views.
    """
    unit = next((unit for database in databases if (unit := unit_of(database))), "dn")
    found: dict[str, Foreign] = {}
    for name in names:
        label, foreign = encoder_named(name, unit)
        for size in sizes:
            _try(foreign, name, size)
        found[_unique(label, {*BUILT_IN, *found})] = foreign
    return found


def encoder_named(name: str, unit: str) -> tuple[str, Foreign]:
    """A label and the encoder: see `against`. unit: of MS values in the data, "dn" or "byte"."""
    kind, _, rest = name.partition(":")
    if kind == "imagenet":
        if rest != IMAGENET:
            raise DataError(f"--against {name}: of ImageNet there is imagenet:{IMAGENET} alone; name others by file")
        network, path = efficientnet_lite0()
        own = Foreign(network, 3, _sha256(path), byte_words(unit), byte_scales(unit))
        return "ImageNet EfficientNet-Lite0", own
    if kind == "timm":
        model, _, file = rest.partition("=")
        if not (model and file):
            raise DataError(f"--against {name}: the form is timm:NAME=FILE, with a file of this model's weights")
        return model, _known(_timm(model, Path(file)), Path(file), unit)
    path = Path(name)
    if trained := _run(path):
        label = path.parent.name if path.is_file() and path.stem in ("encoder", "checkpoint") else path.stem
        return label, Foreign(trained.encoder, trained.cfg.views.channels, digest(trained.tensors))
    resnet = resnet_of(weights_of(path), path)
    return path.stem, _known(Foreign(resnet, resnet.conv1.in_channels, _sha256(path)), path, unit)


def _run(path: Path) -> Trained | None:
    """The encoder of a run's folder, of its encoder's file or of a checkpoint; None: of another file."""
    if path.is_dir():
        return load_encoder(path)
    try:
        with safe_open(path, "pt") as file:
            own = (file.metadata() or {}).get("format") == checkpoint.FORMAT
    except (SafetensorError, OSError):
        return None
    return trained_of(path, *checkpoint.load(path)) if own else None


def _timm(model: str, path: Path) -> Foreign:
    """timm's model with the weights in a file, for as many channels as they have."""
    tensors = weights_of(path)
    first = timm_model(model, 3).pretrained_cfg.get("first_conv")  # type: ignore[operator, union-attr]
    own = stripped(tensors, f"{first}.weight") if isinstance(first, str) else {}
    if not own:
        raise DataError(f"{path}: no {first}.weight, the first convolution of timm's {model}: is it this model's file?")
    channels = own[f"{first}.weight"].shape[1]
    network = timm_model(model, channels)
    fill(network, own, path)
    return Foreign(network, channels, _sha256(path))


def _known(foreign: Foreign, path: Path, unit: str) -> Foreign:
    """With its own normalisation, where the file's name tells published weights whose normalisation is known."""
    scales = dict[str, Scale]()
    words = list[str]()
    if SENTINEL2.search(path.name) and unit == "dn":
        ms = {name: Scale(0.0, float(bands.REFLECTANCE)) for name, band in bands.BANDS.items() if band.modality == "ms"}
        scales, words = scales | ms, [*words, "MS in DN / 10000"]
    if SENTINEL1.search(path.name):
        scales, words = scales | SAR, [*words, "SAR by mean and deviation of SSL4EO-S12"]
    return foreign._replace(scales=scales, normalisation=f"{words[0]}, else that of the data") if words else foreign


def _try(foreign: Foreign, name: str, size: int) -> None:
    """Raise DataError where the encoder does not take views of `size` pixels a side."""
    try:
        with torch.inference_mode():
            foreign.network.eval()(torch.zeros(1, foreign.channels, size, size))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"--against {name} does not take views of {size} pixels a side ({reason}): try --size"
        ) from None


def _unique(label: str, taken: Collection[str]) -> str:
    """A label of letters, digits and a few signs, at most 40, that is not taken."""
    label = re.sub(r"[^\w .+-]", "_", label).strip("_ ")[:40] or "weights"
    numbered = (f"{label} {number}" for number in range(2, len(taken) + 3))
    return label if label not in taken else next(each for each in numbered if each not in taken)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
