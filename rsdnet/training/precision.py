"""Precision of a run: the autocast type, and TF32 on a GPU."""

import torch

from rsdnet.config import Config
from rsdnet.errors import DataError

# Up to this size of a view the encoder's last stage sees one pixel. There torch 2.13 on a CPU gives garbage in bf16:
# the weight gradient of a 3x3 convolution of stride 2 is left unwritten (fp32 and larger inputs are right).
TINY = 16
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def precision_of(cfg: Config, device: torch.device) -> str:
    """bf16, fp16 or fp32. auto: bf16 if the hardware has it, else fp16 on a GPU and fp32 on a CPU.

    Raises DataError on bf16 for tiny CPU views.
    """
    asked = cfg.run.precision
    if device.type == "cuda":
        return (
            asked if asked != "auto" else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        )
    tiny = cfg.views.size <= TINY
    if asked == "bf16" and tiny:
        raise DataError(
            f"--precision bf16 on a CPU needs --size above {TINY}: below, oneDNN's bf16 gradient of a strided "
            "convolution of one pixel is uninitialised memory; use --precision fp32"
        )
    if asked != "auto":
        return asked
    hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if hardware and not tiny else "fp32"


def set_policy(tf32: bool, device: torch.device) -> None:
    """Set a GPU's policy for float32 and for the choice of convolution algorithms; nothing on a CPU.

    tf32: float32 products and convolutions in TF32 (10 bits of mantissa). Under autocast the step has none.
    Shapes never change from step to step, so cuDNN measures its algorithms once and takes the fastest.
    """
    if device.type != "cuda":
        return
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
