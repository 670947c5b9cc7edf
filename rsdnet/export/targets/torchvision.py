"""torchvision: the state dict of a ResNet whose `fc` is nn.Identity()."""

import io
from pathlib import Path

import torch
from safetensors.torch import load, save

from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import Network, Target, architecture, standardising, weights

SAFE = ".safetensors"


def contents(plan: Plan) -> dict[str, bytes]:
    """The state dict, as safetensors or as torch.save writes tensors."""
    architecture(plan, "torchvision", timm=False)
    return {"": save(weights(plan)) if plan.name.endswith(SAFE) else pickled(weights(plan))}


def pickled(held: object) -> bytes:
    """`held` as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(held, buffer)
    return buffer.getvalue()


def opened(plan: Plan, path: Path) -> Network:
    import torchvision

    network = torchvision.models.get_model(architecture(plan, "torchvision", timm=False))
    network.conv1 = torch.nn.Conv2d(plan.encoder.channels, 64, 7, 2, 3, bias=False)
    network.fc = torch.nn.Identity()
    held = load(path.read_bytes()) if path.suffix == SAFE else torch.load(path, weights_only=True)
    network.load_state_dict(held)
    return network.eval()


def loading(plan: Plan) -> str:
    name, safe = architecture(plan, "torchvision", timm=False), plan.name.endswith(SAFE)
    read = f'load_file("{plan.name}")' if safe else f'torch.load("{plan.name}", weights_only=True)'
    imports = "import torch\nimport torchvision\n" + "from safetensors.torch import load_file\n" * safe
    return f"""\
{imports}
network = torchvision.models.{name}()
network.conv1 = torch.nn.Conv2d({plan.encoder.channels}, 64, 7, 2, 3, bias=False)
network.fc = torch.nn.Identity()
network.load_state_dict({read})
network.eval()

{standardising(plan, "torch")}\
features = network(views)  # (B, {plan.output.shape[1]})
"""


TARGET = Target("torchvision", "torchvision", (".pth", ".pt", SAFE), contents, opened, loading)
