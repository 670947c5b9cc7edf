"""What a launch of each kernel has to do: its elements, and the path that its warps take.

path: see path.py; a number, or a function of the launch's arguments.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple

from benches.ops.cases import Case

Arguments = dict[str, Any]
Number = float | Callable[[Arguments], float]
PATCH = 120  # pixels a side

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


def reach(arguments: Arguments) -> float:
    """Half the width of the triangle that resamples, in pixels of the patch."""
    return max(1.0, PATCH / arguments["SIZE"])


def source_rows(arguments: Arguments) -> float:
    """Rows of the patch that a strip of a view takes."""
    rows = min(arguments["TILE"] + 2 * arguments["RADIUS"], arguments["SIZE"]) * PATCH / arguments["SIZE"]
    return min(rows + 2 * reach(arguments), PATCH)


WORK = {
    # Half of the bands uint16, half float32, as an optical and a radar view of each sample are: whole patches of 120 px.
    "render_taps_kernel": Work(size_of("out"), {
        "code == 0": 0, "code == 1": 0, "code == 2": 0.5, "code == 3": 0, "code == 4": 1, "odd": 0.5,
        "k in range(0, count)": 2, "j in range(0, count_y)": 2, "i in range(0, count_x, 2)": 1,
    }),
    "render_matrix_kernel": Work(size_of("out"), {
        "code == 2": 0.5, "code == 4": 1, "code == 0": 0, "odd": 0.5, "blurred": 1,
        "k in range(0, tl.ceil(2.0 * reach).to(tl.int32))": lambda a: ceil(2 * reach(a)),
        "top in range(0, SIZE, TILE)": lambda a: ceil(a["SIZE"] / a["TILE"]),
        "start in range(0, y_end - y_first, DEEP)": lambda a: ceil(source_rows(a) / a["DEEP"]),
        "tile in range(0, TILES * PARTS)": 0, "start in range(0, x_end - x_first, WIDE)": 0,
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
