"""From an encoder to another library's file, read back and compared, and its model card."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from pydantic import Field
from rich.console import Console

from rsdnet.encoder import load
from rsdnet.errors import DataError
from rsdnet.export import card
from rsdnet.export.plan import Plan, plan_of
from rsdnet.export.staging import require_free, staged
from rsdnet.export.targets import TARGETS
from rsdnet.export.targets.base import Target, first_line, imported
from rsdnet.options import checked, parse
from rsdnet.runfolder import ENCODER

Name = Literal["torchvision", "timm", "torchgeo", "onnx", "torchscript"]
CLOSE = 1e-4  # of the greatest feature: float32, summed in another order


@dataclasses.dataclass(frozen=True)
class Options:
    """Export an encoder to another library."""

    encoder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ENCODER")]
    """encoder.safetensors, or the folder of a run, whose metrics and evaluations then stand in the model card too."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write, for timm a folder. The model card is OUT/README.md, or beside a file OUT.md."""
    to: Name
    """Target: a state dict of torchvision's ResNets (.pth, .safetensors), a folder for timm and the Hugging Face hub, a
    checkpoint for torchgeo's trainers (.ckpt), or the encoder as a graph, onnx (.onnx) or torchscript (.pt)."""
    preprocessing: Literal["inside", "outside"] = "inside"
    """Input of a graph: raw values of --bands, in the unit of training and of one resolution, standardised inside; or
    views that are standardised already."""
    bands: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BAND [BAND ...]")] = ()
    """Bands of a graph's input, in order. As many as the encoder has channels, or more, go in as one view; else their
    features stand side by side. None: the rows that the encoder was trained on, side by side."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4])$")] = "stages"
    """Output of a graph: the encoder's output (last), the spatial means of its four stages side by side (stages), or of
    one (layer1 to layer4)."""
    licence: Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]*$", max_length=100)] = ""
    """Licence of the weights as SPDX names it, such as CC-BY-4.0; none: that in the encoder's file."""
    force: bool = False
    """Replace files that exist."""


def export(asked: Options, console: Console) -> None:
    """Write OUT and its card. Raises DataError where the target cannot hold the encoder, or OUT exists."""
    target = TARGETS[asked.to]
    require_fitting(asked, target)
    out = asked.out.absolute()
    beside = out / "README.md" if target.folder else out.with_name(f"{out.name}.md")
    require_free([asked.out] if target.folder else [asked.out, asked.out.with_name(beside.name)], asked.force)
    encoder = load(asked.encoder)
    plan = plan_of(encoder, out.name, asked.bands, asked.preprocessing, asked.features, asked.licence)
    contents = target.contents(plan)
    with staged(out) as folder:
        made = folder / out.name
        if target.folder:
            made.mkdir()
        for name, content in contents.items():
            (made / name).write_bytes(content)
        compared, reason = read_back(target, plan, made)
        text = card.card(plan, asked.to, target, run_of(asked.encoder), compared)
        (folder / beside.relative_to(out.parent)).write_text(text, encoding="utf-8")
    console.print(f"{asked.out}: {compared}{reason}", soft_wrap=True)
    console.print(f"model card: {asked.out.parent / beside.relative_to(out.parent)}", soft_wrap=True)


def require_fitting(asked: Options, target: Target) -> None:
    """Raise DataError on an option of another target, and a name that the target does not take."""
    for option in ("bands", "preprocessing", "features"):
        default = {field.name: field.default for field in dataclasses.fields(Options)}[option]
        if not target.graph and getattr(asked, option) != default:
            raise DataError(f"--{option} is of --to onnx and --to torchscript: {asked.to} takes the weights alone")
    if asked.bands and asked.preprocessing == "outside":
        raise DataError("--bands is of --preprocessing inside: outside, the graph takes standardised views of any band")
    if target.folder and asked.out.exists() and not asked.out.is_dir():
        raise DataError(f"{asked.out} is a file: --to {asked.to} writes a folder, name another")
    if not target.folder and (asked.out.is_dir() or asked.out.suffix not in target.suffixes):
        raise DataError(f"{asked.out}: --to {asked.to} writes a file: name it {' or '.join(target.suffixes)}")


def read_back(target: Target, plan: Plan, path: Path) -> tuple[str, str]:
    """The greatest difference of features by the written model, in words; where its library is not there, the reason.

    Raises DataError where the library cannot read it, or the difference is more than rounding.
    """
    if isinstance(reader := imported(target.reader), str):
        return "not compared", f", since {target.reader} cannot be imported: {reader}"
    given, expected = (plan.example, plan.expected) if target.graph else (plan.views, plan.output)
    try:
        with torch.inference_mode():
            found = target.opened(plan, path)(given)
    except Exception as error:  # of many types, from libraries of other versions
        told = f"{target.reader} {getattr(reader, '__version__', '')} cannot read it ({first_line(error)})"
        raise DataError(f"{plan.name}: {told}: nothing was written") from None
    apart, scale = float((found - expected).abs().max()), float(expected.abs().max())
    if not apart <= CLOSE * max(scale, 1):
        raise DataError(f"{plan.name}: {target.reader} gives other features, by up to {apart:.2g}: nothing was written")
    return f"{target.reader} gives the same features, up to {apart:.1g} of {scale:.2g}", ""


def run_of(encoder: Path) -> Path | None:
    """The run's folder; None of a file that has left it."""
    if encoder.is_dir():
        return encoder
    return encoder.parent if encoder.name == ENCODER else None


def main() -> None:
    """The command."""
    asked = checked(parse(Options, prog="python -m rsdnet.export", description=__doc__))
    export(asked, Console(markup=False, highlight=False))
