"""torchgeo: a checkpoint that its trainers take as `weights=PATH` (torchgeo/trainers/utils.py, extract_backbone)."""

from pathlib import Path

from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import Network, Target, architecture, standardising, weights
from rsdnet.export.targets.torchvision import pickled


def contents(plan: Plan) -> dict[str, bytes]:
    """Hyper-parameters that name the model, its weights, and under "rsdnet" the facts of the encoder's file."""
    named = {f"model.{name}": each for name, each in weights(plan).items()}
    held = {
        "hyper_parameters": {"model": architecture(plan, "torchgeo", timm=True)},
        "state_dict": named,
        "rsdnet": plan.encoder.file.to_json(),
    }
    return {"": pickled(held)}


def opened(plan: Plan, path: Path) -> Network:
    from torchgeo.trainers import ClassificationTask

    network = ClassificationTask(
        model=architecture(plan, "torchgeo", timm=True), weights=str(path), in_channels=plan.encoder.channels,
        num_classes=2,
    ).model  # fmt: skip
    network.reset_classifier(0)
    return network.eval()


def loading(plan: Plan) -> str:
    name, length = architecture(plan, "torchgeo", timm=True), plan.output.shape[1]
    return f"""\
import torch
from torchgeo.trainers import ClassificationTask

task = ClassificationTask(
    model="{name}", weights="{plan.name}", in_channels={plan.encoder.channels}, task="multiclass", num_classes=10
)
network = task.model.eval()

{standardising(plan, "torch")}\
features = network.forward_head(network.forward_features(views), pre_logits=True)  # (B, {length})
"""


TARGET = Target("torchgeo", "torchgeo", (".ckpt", ".pth", ".pt"), contents, opened, loading)
