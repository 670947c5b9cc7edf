"""ONNX: a graph by torch.export, the exporter that torch keeps (the older one, by TorchScript, is deprecated)."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsdnet.errors import DataError
from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import Network, Target, comment, first_line, imported, standardising


def contents(plan: Plan) -> dict[str, bytes]:
    """The graph, with `Plan.metadata`, for batches of any number of views of `Plan.size`."""
    if isinstance(reason := imported("onnxscript"), str):
        raise DataError(f"--to onnx needs onnxscript ({reason}): pip install 'rsdnet[onnx]'")
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                plan.module(), (plan.example,), dynamo=True, dynamic_shapes=shapes, input_names=[entry(plan)],
                output_names=["features"], verbose=False,
            )  # fmt: skip
    except Exception as error:  # of many types, from models that cannot be traced
        told = f"--to onnx: torch.onnx cannot export this encoder ({first_line(error)})"
        raise DataError(f"{told}: try --to torchscript") from None
    assert program is not None
    program.model.metadata_props.update(plan.metadata())
    return {"": program.model_proto.SerializeToString()}


def entry(plan: Plan) -> str:
    """Name of the graph's input."""
    return "values" if plan.inside else "views"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself and on packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def opened(plan: Plan, path: Path) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def network(x: Tensor) -> Tensor:
        (found,) = session.run(None, {entry(plan): x.numpy()})
        return torch.from_numpy(np.asarray(found))

    return network


def loading(plan: Plan) -> str:
    before = comment(plan, plan.bands, ", numpy") + "\n" if plan.inside else standardising(plan, "np")
    given = "patches" if plan.inside else "views"
    return f"""\
{"import numpy as np" + chr(10) if not plan.inside else ""}import onnxruntime

session = onnxruntime.InferenceSession("{plan.name}", providers=["CPUExecutionProvider"])

{before}\
(features,) = session.run(None, {{"{entry(plan)}": {given}}})  # (B, {plan.expected.shape[1]})
"""


TARGET = Target("onnxruntime", "onnx", (".onnx",), contents, opened, loading, graph=True)
