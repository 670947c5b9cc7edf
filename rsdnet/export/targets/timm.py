"""timm: a folder as the Hugging Face hub holds its models, read by `local-dir:` (timm 1.0.16) or `checkpoint_path`."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import Network, Target, architecture, standardising, weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def contents(plan: Plan) -> dict[str, bytes]:
    """Configuration and weights."""
    return {CONFIG: json.dumps(config(plan), indent=2).encode() + b"\n", WEIGHTS: save(weights(plan))}


def config(plan: Plan) -> dict[str, Any]:
    """config.json: timm's keys, and under "rsdnet" the facts of the encoder's file."""
    network, channels = plan.encoder.network, plan.encoder.channels
    own: dict[str, Any] = getattr(network, "pretrained_cfg", {"first_conv": "conv1", "classifier": "fc"})
    arguments: dict[str, Any] = {"in_chans": channels}
    if getattr(network, "dynamic_img_size", False):  # as rsdnet.model.encoders.timm_model makes it
        arguments["dynamic_img_size"] = True
    mean, std = scale(plan)
    return {
        "architecture": architecture(plan, "timm", timm=True),
        "num_classes": 0,
        "num_features": network.features,
        "global_pool": pool if isinstance(pool := getattr(network, "global_pool", "avg"), str) else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "rsdnet", "custom_load": False, "input_size": [channels, plan.size, plan.size],
            "fixed_input_size": False, "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash",
            "mean": mean, "std": std, "num_classes": 0, "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"), **({"license": plan.licence} if plan.licence else {}),
        },
        "rsdnet": plan.encoder.file.to_json(),
    }  # fmt: skip


def scale(plan: Plan) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in the unit of training; 0 and 1 where channels are drawn from
    bands, so that input is to be standardised before."""
    file, (row, *others) = plan.encoder.file, plan.rows
    if others or len(row) != plan.encoder.channels:
        return [0.0] * plan.encoder.channels, [1.0] * plan.encoder.channels
    pairs = [file.differences[name] if "-" in name else (file.bands[name].mean, file.bands[name].std) for name in row]
    return [mean for mean, _ in pairs], [std or 1.0 for _, std in pairs]


def opened(plan: Plan, path: Path) -> Network:
    import timm

    return timm.create_model(f"local-dir:{path}", pretrained=True).eval()


def loading(plan: Plan) -> str:
    return f"""\
import timm
import torch

network = timm.create_model("local-dir:{plan.name}", pretrained=True).eval()

{standardising(plan, "torch")}\
features = network(views)  # (B, {plan.output.shape[1]})
"""


TARGET = Target("timm", "timm", (), contents, opened, loading)
