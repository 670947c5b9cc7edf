"""rsdnet: fast BYOL pre-training on Sentinel-1/2 patches (Jain et al. 2022, arXiv 2205.02049)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    import torch

    from rsdnet.encoder import Encoder

__version__ = "0.1.0"


def load(path: "str | os.PathLike[str]", device: "str | torch.device" = "cpu") -> "Encoder":
    """The pre-trained encoder in a file or a run's folder: see `rsdnet.encoder.load`."""
    from rsdnet import encoder  # torch is imported when it is needed

    return encoder.load(path, device)
