"""What a run was made with and on: versions, machine, and what was chosen automatically."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("rsdnet", "torch", "triton", "numpy")


def processor() -> str:
    """The name of this machine's processor."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.11
    return str(capabilities.get("cpu_name", platform.machine()))


def environment(device: torch.device, **chosen: Any) -> dict[str, Any]:
    """Plain values by name; `chosen`: of the run, such as its precision."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if device.type == "cuda":
        found |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    else:
        found["device"] = processor()
    return found | {"cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()} | chosen
