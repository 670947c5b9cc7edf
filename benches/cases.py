"""Every kernel at the shapes at which the trainer launches it: what `benches.resources` compiles.

A kernel's cases are one function; its arguments are given as a launch would: a pointer by its type ("*bf16"), an
integer by an example of its value, since Triton compiles another kernel where it is 1 or a multiple of 16.
"""

from collections.abc import Iterator
from math import log
from typing import Any, NamedTuple

from rsdnet.kernels import loss, philox, records, sampling, views

B, S, D = 1024, 128, 256  # samples, pixels a side, embedding


class Case(NamedTuple):
    """One launch of a kernel."""

    kernel: Any
    name: str
    arguments: dict[str, Any]
    warps: int


def render_cases() -> Iterator[Case]:
    """Views of one and three channels, in each memory format and type."""
    kinds = (
        (64, 1, "bf16", True, False),
        (S, 1, "bf16", True, False),
        (S, 1, "bf16", True, True),
        (S, 3, "bf16", True, False),
        (S, 1, "fp32", False, False),
        (224, 3, "fp16", True, False),
    )
    for size, channels, out, nhwc, speckle in kinds:
        arguments = {
            "out": f"*{out}", "data": "*u8", "records": "*i64", "samples": "*i64", "epoch": "*i64", "table": "*fp32",
            "k0": 1 << 30, "k1": 0, "nbytes": 1 << 27, "samples_count": B, "bands": 15,
            "VIEWS": 2, "CHANNELS": channels, "SIZE": size, "NHWC": nhwc, "TILE": min(views.TILE, size),
            "AREA": 0.08, "AREA_SPAN": 0.92, "LOG_RATIO": log(3 / 4), "LOG_RATIO_SPAN": 2 * log(4 / 3),
            "FLIP": True, "TURN": True, "JITTER": True, "MAX_SIDE": records.MAX_SIDE, "ALIGN": records.ALIGN,
            "STREAM_CROP": philox.CROP, "STREAM_TURN": philox.TURN, "STREAM_JITTER": philox.JITTER,
            "SPECKLE": speckle, "STREAM_SPECKLE": philox.SPECKLE, "LEAST": sampling.LEAST,
        }  # fmt: skip
        name = f"S={size} C={channels} {out} {'NHWC' if nhwc else 'NCHW'}{' speckle' if speckle else ''}"
        yield Case(views.render_kernel, name, arguments, views.WARPS)


def loss_cases() -> Iterator[Case]:
    """Rows short and long, of even and odd length."""
    for d, dtype in ((D, "bf16"), (D, "fp32"), (1025, "fp16"), (4096, "bf16"), (8192, "fp32")):
        rows, block_d = loss.loss_block(d)
        arguments: dict[str, Any] = dict.fromkeys(("q1", "q2", "z1", "z2"), f"*{dtype}")
        arguments |= {"partial": "*fp32", "grads": "*fp32", "rows": 4096}
        arguments |= dict.fromkeys(("q1_stride", "q2_stride", "z1_stride", "z2_stride"), d)
        arguments |= {"D": d, "EPSILON": loss.EPSILON, "GRAD": True, "ROWS": rows, "BLOCK_D": block_d}
        yield Case(loss.byol_loss_kernel, f"D={d} {dtype}", arguments, loss.loss_warps(d))


def philox_cases() -> Iterator[Case]:
    """The generator by itself, as the tests launch it."""
    arguments = {"counter_ptr": "*i64", "words_ptr": "*i64", "k0": 1 << 30, "k1": 0, "n": 1000, "BLOCK": 1024}
    yield Case(philox.philox_kernel, "", arguments, 4)


CASES = (render_cases, loss_cases, philox_cases)
