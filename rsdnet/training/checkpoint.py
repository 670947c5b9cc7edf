"""One checkpoint file: the whole state of a run as safetensors, written aside then renamed, read without pickles.

Several of them over time: archive.py.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rsdnet.errors import DataError
from rsdnet.files import aside

VERSION = 3
FORMAT = f"rsdnet-{VERSION}"


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as {"key/parameter's name in `module`": tensor}."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor], lr: Tensor
) -> None:
    """Give the optimizer the state that `optimizer_tensors` took of one like it. lr: the tensor of its rate."""
    groups = optimizer.state_dict()["param_groups"]
    ids = [number for group in groups for number in group["params"]]
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers: dict[Tensor, int] = dict(zip(order, ids, strict=True))
    parameters = dict(module.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        key, name = path.split("/", 1)
        parameter = parameters[name]
        if tensor.shape == parameter.shape:  # in the parameter's own memory format, as it was
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(numbers[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for group in optimizer.param_groups:  # torch's own optimizers take a copy
        group["lr"] = lr


def checksum(tensors: dict[str, Tensor], meta: str) -> str:
    """BLAKE2b (RFC 7693) of meta, and of every tensor's name, type, shape and bytes; a damaged file has another."""
    digest = hashlib.blake2b(meta.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with the permissions of any new file: safetensors 0.8 lets only the owner read its own.

    By `save_file`, which releases the GIL; safetensors.torch.save holds it while it copies.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def save(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-able `meta` to `path`, whole or not at all. Raises DataError on a full disk."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta)
    try:
        with aside(path) as temporary:
            write(temporary, ready, {"format": FORMAT, "meta": text, "blake2b": checksum(ready, text)})
    except (OSError, SafetensorError) as error:
        raise failed(path, error) from None


def failed(path: Path, error: Exception) -> DataError:
    """The error of a checkpoint that could not be written."""
    return DataError(
        f"{path} could not be written ({error}): make room, then go on with --resume; an earlier one is untouched"
    )


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and meta of a file that `save` wrote. Raises DataError if it is missing, damaged or of another kind."""
    if not path.is_file():
        raise DataError(f"{path} is not there: nothing to load")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (newer := re.fullmatch(r"rsdnet-(\d+)", metadata.get("format", ""))) and int(newer[1]) > VERSION:
                raise DataError(f"{path} is of a newer rsdnet ({newer[0]}, this one reads {FORMAT}): update rsdnet")
            if metadata.get("format") != FORMAT:
                raise DataError(f"{path} is not a checkpoint of rsdnet ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("blake2b", "") != checksum(tensors, metadata["meta"]):
            raise DataError(f"{path} is damaged (its checksum is another): go back to an earlier one or start anew")
        return tensors, json.loads(metadata["meta"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}): go back to an earlier one or start anew") from None


def restore(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`, in place. Raises DataError that names the first that is missing, left over or of
    another shape: a checkpoint of another architecture."""
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        have, come = (tuple(t[name].shape) if name in t else None for t in (own, tensors))
        if have != come:
            raise DataError(
                f"{where} is of another architecture: {name} is {come or 'missing'} there, {have or 'unknown'} in "
                "this model; use the configuration it was trained with"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with "prefix/" before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named "prefix/...", without the prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
