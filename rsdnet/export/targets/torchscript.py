"""TorchScript: a traced graph for torch.jit.load, also in C++, without rsdnet."""

import io
import json
import warnings
from pathlib import Path

import torch

from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import Network, Target, comment, standardising

FACTS = "facts.json"  # among the archive's extra files


def contents(plan: Plan) -> dict[str, bytes]:
    """The traced graph, with `Plan.metadata`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, and tells of shapes that are constant
        traced = torch.jit.trace(plan.module(), plan.example, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={FACTS: json.dumps(plan.metadata())})
    return {"": buffer.getvalue()}


def opened(plan: Plan, path: Path) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)


def loading(plan: Plan) -> str:
    before = comment(plan, plan.bands) + "\n" if plan.inside else standardising(plan, "torch")
    return f"""\
import torch

network = torch.jit.load("{plan.name}")

{before}\
features = network({"patches" if plan.inside else "views"})  # (B, {plan.expected.shape[1]})
"""


TARGET = Target("torch", "pytorch", (".pt", ".ts", ".pth"), contents, opened, loading, graph=True)
