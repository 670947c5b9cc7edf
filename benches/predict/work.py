"""What a launch of each kernel has to do: its elements, and the path that its warps take.

path: see path.py; a number, or a function of the launch's arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benches.ops.cases import Case

Arguments = dict[str, Any]
Number = float | Callable[[Arguments], float]

CHUNKS = "at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True)"
TABLE: dict[str, Number] = {  # long tensors at aligned addresses; of mixed types, a third each
    CHUNKS: lambda a: a["CHUNK"] / a["BLOCK"], "aligned & (at + BLOCK <= numel)": 1,
    "tl.load(found_inf) != 0.0": 0, "tl.load(rule + 6) != 0.0": 1,
    "first in range(0, count, REDUCE)": 1, "code == 0": 1 / 3, "code == 1": 1 / 2, "COPY < 0 and copy_code != 0": 2 / 3,
}  # fmt: skip


class Work(NamedTuple):
    """elements: pixels or numbers of the result. path: of a warp."""

    elements: Callable[[Case], float]
    path: Mapping[str, Number] = {}


def size_of(name: str) -> Callable[[Case], float]:
    """Number of elements of an argument."""
    return lambda case: case.arguments[name].numel()


def chunks(case: Case) -> float:
    """Elements of a table of tensors, all chunks full."""
    return case.programs * case.arguments["CHUNK"]


WORK = {
    # Half of the bands uint16, half float32, as an optical and a radar view of each sample are; bilinear.
    "render_kernel": Work(size_of("out"), {
        "code == 0": 0, "code == 1": 0, "code == 2": 0.5, "code == 3": 0, "code == 4": 1, "odd": 0.5,
        "k in range(0, count)": 2, "j in range(0, count_y)": 2, "i in range(0, count_x, 2)": 1,
    }),
    # Every image is blurred.
    "blur_kernel": Work(size_of("out"), {
        "spread > 0": 1,
        "y in range(-RADIUS, tl.minimum(BAND, HEIGHT - top) + RADIUS, AHEAD)":
            lambda a: (min(a["BAND"], a["HEIGHT"]) + 2 * a["RADIUS"]) / a["AHEAD"],
    }),
    "select_bands_kernel": Work(size_of("out")),
    # One band of the pool has a gradient, or as many as there are channels.
    "select_bands_backward_kernel": Work(size_of("total"), {
        "c in range(CHANNELS)": lambda a: a["CHANNELS"],
        "tl.load(bands + b * CHANNELS + c) == band": lambda a: 1 / a["POOL"],
        "(drawn > 0) & (width > 0)": lambda a: a["CHANNELS"] / a["POOL"],
    }),
    # Elements of the predictions; the last program's sum is one of hundreds.
    "cosine_kernel": Work(lambda case: case.arguments["q1"].numel() * case.arguments["partial"].shape[0], {
        "turn in range(program, tl.cdiv(rows, ROWS), programs)":
            lambda a: -(-a["rows"] // a["ROWS"]) / a["partial"].shape[1],
        "pair == 0": lambda a: 1 / a["partial"].shape[0],
        "tl.atomic_add(arrived, 1, sem='acq_rel') == last": 0,
    }),
    "cosine_backward_kernel": Work(lambda case: 2 * case.arguments["grad1"].numel(), {"pair == 0": 0.5}),
    "lars_norms_kernel": Work(chunks, TABLE),
    "lars_update_kernel": Work(chunks, TABLE),
    "update_target_kernel": Work(chunks, TABLE),
    "philox_kernel": Work(size_of("words_ptr")),
}  # fmt: skip
