"""A target of an export, and what the targets share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor

from rsdnet.errors import DataError
from rsdnet.export.plan import Plan

Network = Callable[[Tensor], Tensor]
"""From the input of `Plan.example` to its features."""
PREFIX = "timm:"
UNITS = {"dn": "DN", "byte": "8-bit levels", "db": "dB"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A form of export.

    reader: package that reads it. library: the name of that on the Hugging Face hub. suffixes: of its file; none: it
    is a folder. contents: bytes by name in the folder, or by "". opened: the model, read back. loading: code for the
    card, from `patches` to `features`. graph: the target takes `Plan.module`, not the network's weights alone.

    `contents` raises DataError where the target cannot hold the encoder.
    """

    reader: str
    library: str
    suffixes: tuple[str, ...]
    contents: Callable[[Plan], dict[str, bytes]]
    opened: Callable[[Plan, Path], Network]
    loading: Callable[[Plan], str]
    graph: bool = False

    @property
    def folder(self) -> bool:
        """Whether the target is a folder."""
        return not self.suffixes


def weights(plan: Plan) -> dict[str, Tensor]:
    """The network's weights by name, each in memory of its own."""
    return {name: each.detach().cpu().contiguous().clone() for name, each in plan.encoder.network.state_dict().items()}


def architecture(plan: Plan, target: str, *, timm: bool) -> str:
    """The encoder's name in torchvision, or in timm. Raises DataError where the target does not know the encoder."""
    name, width = plan.encoder.cfg.model.encoder, plan.encoder.cfg.model.width
    if name in ("resnet18", "resnet34", "resnet50"):
        if width == 64:  # torchvision's, and timm's stem
            return name
        name = f"{name} of width {width}"
    elif timm and name.startswith(PREFIX):
        return name.removeprefix(PREFIX).split(".")[0]  # behind the point stands the tag of other weights
    raise DataError(f"{target} has no {name}: use --to onnx or --to torchscript")


def imported(name: str) -> ModuleType | str:
    """A package, or the reason why it is not there."""
    import importlib

    try:
        return importlib.import_module(name)
    except Exception as error:  # of many types, from a package that does not fit torch
        return first_line(error)


def first_line(error: Exception) -> str:
    """Of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def standardising(plan: Plan, library: str) -> str:
    """Code from `patches` to `views`, of `plan.view`; library: torch or np."""
    file, names = plan.encoder.file, plan.view
    pairs = [file.differences[n] if "-" in n else (file.bands[n].mean, file.bands[n].std or 1.0) for n in names]
    sound = [file.bands[name.split("-")[0]] for name in names]
    make = f"{library}.tensor([{{}}])" if library == "torch" else f"{library}.array([{{}}], {library}.float32)"
    mean, std = (make.format(", ".join(f"{pair[place]:.9g}" for pair in pairs)) for place in (0, 1))
    values, invalid = "patches", f"{library}.isnan(patches)"
    if clip := sound[0].clip:
        values = f"patches.clip({clip[0]:g}, {clip[1]:g})"
    if sound[0].nodata is not None:
        invalid = f"(patches == {sound[0].nodata:g}) | {invalid}"
    return f"""\
{comment(plan, names)}
mean = {mean}[:, None, None]
std = {std}[:, None, None]
views = {library}.where({invalid}, 0, ({values} - mean) / std)
"""


def comment(plan: Plan, names: tuple[str, ...], kind: str = "") -> str:
    """The line on `patches`."""
    by_unit: dict[str, list[str]] = {}
    for name in names:
        by_unit.setdefault(UNITS[plan.encoder.file.bands[name.split("-")[0]].unit], []).append(name)
    told = " and ".join(f"{' '.join(each)} in {unit}" for unit, each in by_unit.items())
    return f"# patches: (B, {len(names)}, {plan.size}, {plan.size}){kind}, float32: {told}"
