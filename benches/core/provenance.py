"""What a measured row says of where it comes from."""

import os
import subprocess
from pathlib import Path

import torch

from rsdnet.training.environment import processor


def commit() -> str:
    """The commit that is measured, with a + where the working tree differs from it.

    A copy without its history is told by the environment: RSDNET_COMMIT.
    """
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    told = os.environ.get("RSDNET_COMMIT", "")
    return told or subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def machine() -> str:
    """The GPU, or the processor and the number of its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"
