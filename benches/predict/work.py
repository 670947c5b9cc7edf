"""What a launch of each kernel has to do, the path that its warps take, and the budget that tests hold it to."""

from collections.abc import Callable, Mapping
from functools import cache
from math import ceil
from typing import Any, NamedTuple

from benches.ops import views
from benches.ops.cases import Case

Arguments = dict[str, Any]
Number = float | Callable[[Arguments], float]  # or a function of the launch's arguments


class Budget(NamedTuple):
    """instructions: of an element, at most. load: bytes, at least, of the loads that move most of what is loaded."""

    instructions: float
    load: int


class Work(NamedTuple):
    """elements: pixels or numbers of the result. moved: bytes that the launch must move, as the module of the kernel
    states them; None where that is not known. path: see `source.Known`. budgets: by case, on sm_90."""

    elements: Callable[[Case], float]
    moved: Callable[[Case], float | None] = lambda case: None
    path: Mapping[str, Number] = {}
    budgets: Mapping[str, Budget] = {}


def size_of(name: str) -> Callable[[Case], float]:
    """Number of elements of an argument."""
    return lambda case: case.arguments[name].numel()


def bytes_of(case: Case, *names: str) -> int:
    """Bytes of some arguments."""
    return sum(case.arguments[name].numel() * case.arguments[name].element_size() for name in names)


# ---- bytes that must move -----------------------------------------------------------------------------------


@cache
def cropped() -> float:
    """Bytes inside the crop of a record, on average over the benchmark's batch."""
    b, _, size = views.SHAPES["full"]
    return (views.contest("full", "augmented").moved - 2 * b * size**2 * 2) / (2 * b)


def render_bytes(case: Case) -> float:
    """The pixels inside the crops, and the views."""
    return bytes_of(case, "out") + case.arguments["records"].shape[:-1].numel() * cropped()


def select_bytes(case: Case) -> float:
    """The drawn planes in and out."""
    return bytes_of(case, "out") + case.arguments["out"].numel() * case.arguments["images"].element_size()


def select_backward_bytes(case: Case) -> float:
    """The gradient and the drawn planes in, all planes of the images' gradient out."""
    drawn = case.arguments["grad"].numel() * case.arguments["images"].element_size()
    return bytes_of(case, "total", "grad") + drawn


def cosine_bytes(case: Case) -> float:
    """Predictions and targets in, slopes out where there are gradients."""
    pairs = case.arguments["partial"].shape[0]
    slopes = case.arguments["GRAD1"] + (pairs > 1 and case.arguments["GRAD2"])
    return bytes_of(case, "q1") * (2 * pairs + slopes)


def table_elements(case: Case) -> float:
    """Of a table of tensors, all chunks full."""
    return case.programs * case.arguments["CHUNK"]


def table_bytes(fp32: int, *codes: str) -> Callable[[Case], float]:
    """Of a table of tensors: so many numbers an element in float32, and one in each of the types coded in `codes`."""
    sizes = {0: 4.0, 1: 2.0, 2: 2.0, -1: 8 / 3}  # of mixed types a third each
    return lambda case: table_elements(case) * (4 * fp32 + sum(sizes[case.arguments[code]] for code in codes))


def copied(case: Case) -> float:
    """Bytes of LARS's rounded copies."""
    return table_elements(case) * {0: 0.0, 1: 2.0, 2: 2.0, -1: 4 / 3}[case.arguments["COPY"]]


def reach(arguments: Arguments) -> float:
    """Half the width of the triangle that resamples, in pixels of the patch."""
    return max(1.0, views.SHAPES["full"][1] / arguments["SIZE"])


def source_rows(arguments: Arguments) -> float:
    """Rows of the patch that a strip of a view takes, and its blur."""
    patch = views.SHAPES["full"][1]
    rows = min(arguments["TILE"] + 2 * arguments["RADIUS"], arguments["SIZE"]) * patch / arguments["SIZE"]
    return min(rows + 2 * reach(arguments), patch)


# ---- kernels ------------------------------------------------------------------------------------------------

TABLE: dict[str, Number] = {  # long tensors at aligned addresses; of mixed types a third each
    "at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True)":
        lambda a: a["CHUNK"] / a["BLOCK"],
    "aligned & (at + BLOCK <= numel)": 1, "tl.load(found_inf) != 0.0": 0, "tl.load(rule + 6) != 0.0": 1,
    "first in range(0, count, REDUCE)": 1, "code == 0": 1 / 3, "code == 1": 1 / 2, "COPY < 0 and copy_code != 0": 2 / 3,
}  # fmt: skip

WORK = {
    # Half of the bands uint16, half float32, as an optical and a radar view of each sample are. Whole patches: no crop
    # takes more instructions.
    "render_matrix_kernel": Work(
        size_of("out"), render_bytes,
        {
            "kind == 2": 0.5, "kind == 4": 1, "kind == 0": 0, "odd": 0.5, "sigma > 0.0": 1,
            "k in range(0, tl.ceil(2.0 * reach).to(tl.int32))": lambda a: ceil(2 * reach(a)),
            "top in range(0, SIZE, TILE)": lambda a: ceil(a["SIZE"] / a["TILE"]),
            "start in range(0, y_end - y_first, DEEP)": lambda a: ceil(source_rows(a) / a["DEEP"]),
            "tile in range(0, TILES * PARTS)": 0, "start in range(0, x_end - x_first, WIDE)": 0,
        },
        {
            "S=128 C=1 bf16 NHWC": Budget(36, 16), "S=128 C=3 bf16 NHWC": Budget(43, 16),
            "S=128 C=1 bf16 NHWC blur": Budget(56, 16), "S=224 C=1 fp16 NCHW": Budget(44, 16),
        },
    ),
    "render_taps_kernel": Work(
        size_of("out"), render_bytes,
        {
            "code == 0": 0, "code == 1": 0, "code == 2": 0.5, "code == 3": 0, "code == 4": 1, "odd": 0.5,
            "k in range(0, count)": 2, "j in range(0, count_y)": 2, "i in range(0, count_x, 2)": 1,
        },
        {"S=128 C=1 bf16 NHWC": Budget(225, 2)},
    ),
    # Every image is blurred.
    "blur_kernel": Work(
        size_of("out"), lambda case: bytes_of(case, "images", "out"),
        {
            "spread > 0": 1,
            "y in range(0, 2 * RADIUS + tl.minimum(BAND, HEIGHT - top), AHEAD)":
                lambda a: (min(a["BAND"], a["HEIGHT"]) + 2 * a["RADIUS"]) / a["AHEAD"],
            "y >= 2 * RADIUS": lambda a: 1 / (1 + 2 * a["RADIUS"] / min(a["BAND"], a["HEIGHT"])),
        },
        {
            "S=128 C=1 bf16 drawn": Budget(38, 16), "S=128 C=1 fp32 given": Budget(44, 16),
            "S=128 C=3 bf16 drawn": Budget(62, 16), "S=64 C=1 bf16 drawn": Budget(27, 16),
        },
    ),
    "select_bands_kernel": Work(
        size_of("out"), select_bytes,
        budgets={
            "C=1 uint16 to bf16 NCHW drawn": Budget(14, 16), "C=3 uint16 to bf16 NHWC drawn": Budget(21, 16),
            "C=1 float32 to bf16 NCHW given": Budget(17, 16),
        },
    ),
    # One band of the pool has a gradient, or as many as there are channels.
    "select_bands_backward_kernel": Work(
        size_of("total"), select_backward_bytes,
        {
            "(tl.max(hits.to(tl.int32), 0) > 0) & (width > 0)": lambda a: a["CHANNELS"] / a["POOL"],
            "tl.load(bands + b * CHANNELS + k) == band": lambda a: 1 / a["CHANNELS"],
        },
        {"C=3 float32 to fp32 NCHW": Budget(14, 16)},
    ),
    # Elements of the predictions; the last program's sum is one of hundreds.
    "cosine_kernel": Work(
        lambda case: case.arguments["q1"].numel() * case.arguments["partial"].shape[0], cosine_bytes,
        {
            "turn in range(program, tl.cdiv(rows, ROWS), programs)":
                lambda a: -(-a["rows"] // a["ROWS"]) / a["partial"].shape[1],
            "pair == 0": lambda a: 1 / a["partial"].shape[0],
            "tl.atomic_add(arrived, 1, sem='acq_rel') == last": 0,
        },
        {"D=256 bf16": Budget(52, 16), "D=256 fp32": Budget(70, 16)},
    ),
    "cosine_backward_kernel": Work(
        lambda case: 2 * case.arguments["grad1"].numel(), lambda case: 4 * bytes_of(case, "grad1"), {"pair == 0": 0.5},
        {"D=256 bf16": Budget(9, 16), "D=256 fp32": Budget(9, 16)},
    ),
    # Results.
    "stem_kernel": Work(
        size_of("out"), lambda case: bytes_of(case, "images", "out"),
        budgets={"S=128 C=1 O=64 bf16": Budget(9, 4), "S=128 C=3 O=64 bf16": Budget(20, 4)},
    ),
    "stem_backward_kernel": Work(
        size_of("grad"), lambda case: bytes_of(case, "images", "grad"),
        {
            "turn in range(tl.program_id(0), tl.cdiv(results, BM), tl.num_programs(0))":
                lambda a: -(-a["results"] // a["BM"]) / len(a["parts"]),
        },
        {"S=128 C=1 O=64 bf16": Budget(8, 16), "S=128 C=3 O=64 bf16": Budget(31, 4)},
    ),
    # Pixels of x.
    "max_pool_kernel": Work(
        size_of("x"), lambda case: bytes_of(case, "x", "out", "position"),
        {"i in range(first, tl.minimum(first + ROWS, high))": lambda a: a["ROWS"]},
        {"S=64 C=64 bf16": Budget(14, 16), "S=64 C=64 fp32": Budget(16, 16)},
    ),
    "max_pool_backward_kernel": Work(
        size_of("total"), lambda case: bytes_of(case, "total", "grad", "position"),
        {"i in range(first, tl.minimum(first + ROWS, high))": lambda a: a["ROWS"]},
        {"S=64 C=64 bf16": Budget(13, 16), "S=64 C=64 fp32": Budget(14, 16)},
    ),
    "lars_norms_kernel": Work(
        table_elements, table_bytes(1, "GRAD"), TABLE, {"fp32": Budget(13, 16), "bf16 with masters": Budget(15, 16)}
    ),
    "lars_update_kernel": Work(
        table_elements, lambda case: table_bytes(4, "GRAD")(case) + copied(case), TABLE,
        {"fp32": Budget(18, 16), "bf16 with masters": Budget(25, 16)},
    ),
    "update_target_kernel": Work(
        table_elements, table_bytes(0, "CODE", "CODE", "CODE"), TABLE, {"fp32": Budget(12, 16)}
    ),
    "philox_kernel": Work(size_of("words_ptr"), budgets={"": Budget(24, 4)}),
}  # fmt: skip
