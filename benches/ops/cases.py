"""Every kernel as the trainer launches it: what `benches.resources` compiles.

An op's cases are one function: it calls the op's own launch with tensors of the trainer's shapes on the device "meta",
which hold nothing; what the launch would hand to Triton is recorded, block sizes, strides and warps with it.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from rsdnet.kernels import (
    ViewSpec,
    blur_kernel,
    ema,
    lars_kernel,
    loss_kernel,
    multi_tensor,
    philox,
    pool_kernel,
    records,
    select_kernel,
    stem_kernel,
    views,
    views_matrix,
    views_taps,
)
from torch import Tensor
from triton.runtime import JITFunction

B, S, D = 1024, 128, 256  # samples, pixels a side, embedding


@dataclass(frozen=True)
class Case:
    """One launch of a kernel: its arguments by name, its programs, and Triton's options (num_warps and the like)."""

    kernel: Any
    name: str
    arguments: dict[str, Any]
    programs: int
    options: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()  # those that it is launched on so; () for all


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of a shape and type, of no bytes."""
    return torch.empty(shape, dtype=dtype, device="meta")


@contextmanager
def recorded(launches: list[tuple[Any, tuple, dict, tuple]]) -> Iterator[None]:
    """Inside, launching a kernel adds it, its arguments and its grid to `launches`."""

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append((self, args, options, grid))

    with patch.object(JITFunction, "run", run):
        yield


def cases_of(name: str, launch: Callable[..., Any], *args: Any, **others: Any) -> Iterator[Case]:
    """The kernels that `launch(*args)` launches."""
    launches: list[tuple[Any, tuple, dict, tuple]] = []
    with recorded(launches):
        launch(*args, **others)
    for kernel, values, options, grid in launches:
        named = {key: options.pop(key) for key in list(options) if key in kernel.arg_names}
        bound = inspect.signature(kernel.fn).bind(*values, **named)
        bound.apply_defaults()
        yield Case(kernel, name, dict(bound.arguments), prod(grid), options)


def render_cases() -> Iterator[Case]:
    """Views of one and three channels, in each memory format and type: by matrix products, with blur and without, and
    tap by tap."""
    data = meta(1 << 27, dtype=torch.uint8)

    def case_of(launch: Any, size: int, channels: int, dtype: torch.dtype, nhwc: bool, **others: Any) -> Iterator[Case]:
        spec = ViewSpec(size, dtype=dtype, channels_last=nhwc, **others)
        name = (
            f"S={size} C={channels} {short(dtype)} {'NHWC' if nhwc else 'NCHW'}{''.join(f' {key}' for key in others)}"
        )
        record = meta(B, 2, channels, records.FIELDS, dtype=torch.int64)
        rest = meta(B, dtype=torch.int64), meta(15, records.COLUMNS), spec, 1 << 40, meta(dtype=torch.int64)
        yield from cases_of(name, launch, views.empty_views(record, spec), data, record, *rest)

    shapes: tuple[Any, ...] = (
        (S, 1, torch.bfloat16, True, {}), (S, 1, torch.bfloat16, True, {"blur": (1.0, 0.1)}),
        (224, 1, torch.float16, False, {}), (S, 3, torch.bfloat16, True, {}),
    )  # fmt: skip
    # It compiles for ten seconds a case: two for the GPUs that it is not tuned for, one for the third of a kind.
    for tile, targets, some in (
        (64, ("cuda:90",), shapes), (32, ("cuda:100", "hip:gfx942"), shapes[:2]), (32, ("cuda:80",), shapes[:1]),
    ):  # fmt: skip
        with patch.object(views_matrix, "tile_of", lambda device, tile=tile: tile):
            for *about, others in some:
                for case in case_of(views_matrix.launch_matrix, *about, **others):
                    yield replace(case, targets=targets)
    yield from case_of(views_taps.launch_taps, S, 1, torch.bfloat16, True)
    yield from case_of(views_taps.launch_taps, S, 1, torch.bfloat16, True, speckle=True)
    yield from case_of(views_taps.launch_taps, 224, 1, torch.float32, False)


def blur_cases() -> Iterator[Case]:
    """Views of two memory formats with sigma drawn inside, images with sigma given, and the gradient of these."""
    draw = meta(B, dtype=torch.int64), meta(dtype=torch.int64), 1 << 40, (1.0, 0.1), 0.1, 2.0
    for size, channels, dtype, layout in (
        (64, 1, torch.bfloat16, torch.contiguous_format), (S, 1, torch.bfloat16, torch.contiguous_format),
        (S, 3, torch.bfloat16, torch.channels_last), (224, 3, torch.float16, torch.channels_last),
        (S, 1, torch.float32, torch.contiguous_format),
    ):  # fmt: skip
        images = meta(2 * B, channels, size, size, dtype=dtype).contiguous(memory_format=layout)
        name, radius = f"S={size} C={channels} {short(dtype)}", size // 10 // 2
        yield from cases_of(f"{name} drawn", blur_kernel.launch_blur, images, images, None, radius, False, draw)
        if dtype == torch.float32:
            given = images, images, meta(2 * B), radius
            yield from cases_of(f"{name} given", blur_kernel.launch_blur, *given)
            yield from cases_of(f"{name} backward", blur_kernel.launch_blur, *given, True)


def select_cases() -> Iterator[Case]:
    """One and three of ten bands, drawn or given, of each memory format; the gradient."""
    by_band, samples = (meta(10), meta(10)), meta(B, dtype=torch.int64)
    for channels, dtype, out, nhwc in (
        (1, torch.uint16, torch.bfloat16, False), (3, torch.uint16, torch.bfloat16, True),
        (1, torch.int16, torch.float16, False), (1, torch.float32, torch.bfloat16, False),
        (3, torch.float32, torch.float32, False),
    ):  # fmt: skip
        images, bands = meta(B, 10, 120, 120, dtype=dtype), meta(B, channels, dtype=torch.int64)
        name = f"C={channels} {str(dtype)[6:]} to {short(out)} {'NHWC' if nhwc else 'NCHW'}"
        given = select_kernel.empty_bands(images, channels, out, nhwc), images, *by_band, bands, float("nan")
        drawn = samples, meta(dtype=torch.int64), 1 << 40, 0
        yield from cases_of(f"{name} drawn", select_kernel.launch_select_bands, *given, drawn)
        if dtype == torch.float32:
            yield from cases_of(f"{name} given", select_kernel.launch_select_bands, *given)
            grad = meta(B, channels, 120, 120, dtype=out)
            yield from cases_of(
                name, select_kernel.launch_select_bands_backward, images, grad, images, by_band[1], bands, float("nan")
            )


def loss_cases() -> Iterator[Case]:
    """Rows short and long, of even and odd length, forward and backward; one side of the loss; forward alone."""
    b = 4096
    loss, arrived, factors = meta(), meta(1, dtype=torch.int32), meta(2, b)
    for d, dtype in (
        (D, torch.bfloat16), (D, torch.float32), (1025, torch.float16), (4096, torch.bfloat16), (8192, torch.float32)
    ):  # fmt: skip
        x, none = meta(b, d, dtype=dtype), meta(0, dtype=dtype)
        slopes = x, x, factors
        name, pairs = f"D={d} {short(dtype)}", meta(*loss_kernel.partial_shape(b, d, 2))
        yield from cases_of(name, loss_kernel.launch_cosine, loss, pairs, arrived, [x] * 4, *slopes)
        yield from cases_of(name, loss_kernel.launch_cosine_backward, x, x, *slopes, loss)
        if d == D:
            one, nothing = meta(*loss_kernel.partial_shape(b, d, 1)), (none, none, meta(0))
            yield from cases_of(
                f"{name} one side", loss_kernel.launch_cosine, loss, one, arrived, [x] * 2, x, none, factors
            )
            yield from cases_of(
                f"{name} no gradient", loss_kernel.launch_cosine, loss, pairs, arrived, [x] * 4, *nothing
            )


def pool_cases() -> Iterator[Case]:
    """The pooling of a ResNet's stem, forward and backward, and of channels that do not divide into vectors."""
    for c, side, dtype in (
        (64, 64, torch.bfloat16), (64, 64, torch.float32), (64, 112, torch.float16), (30, 33, torch.bfloat16)
    ):  # fmt: skip
        x, out = (meta(B, c, size, size, dtype=dtype) for size in (side, (side + 1) // 2))
        name, position = f"S={side} C={c} {short(dtype)}", meta(*out.shape, dtype=torch.uint8)
        yield from cases_of(name, pool_kernel.launch_max_pool, out, position, x)
        yield from cases_of(name, pool_kernel.launch_max_pool_backward, x, out, position)


def stem_cases() -> Iterator[Case]:
    """A ResNet's first convolution over one and three bands, and the gradient of its weights."""
    for channels, side, filters, dtype in (
        (1, S, 64, torch.bfloat16), (3, S, 64, torch.bfloat16), (1, 224, 64, torch.float16), (2, 64, 64, torch.bfloat16)
    ):  # fmt: skip
        images, weight = meta(2 * B, channels, side, side, dtype=dtype), meta(filters, channels, 7, 7)
        source, factors = stem_kernel.padded(images, 7, 3), stem_kernel.factors_of(weight.to(dtype))
        out = meta(2 * B, filters, *stem_kernel.sides_of(images, 7, 3), dtype=dtype)
        name = f"S={side} C={channels} O={filters} {short(dtype)}"
        yield from cases_of(name, stem_kernel.launch_stem, out, source, factors, 7)
        yield from cases_of(name, stem_kernel.launch_stem_backward, out, source, 7)


def lars_cases() -> Iterator[Case]:
    """Tensors of one type, of parameters in bf16 with their masters, and of several types; also with a loss scale."""
    parts = meta(169, lars_kernel.COLUMNS, dtype=torch.int64), meta(8, dtype=torch.int64), meta(5000, dtype=torch.int32)
    for name, grad, copy in (
        ("fp32", 0, 0),
        ("bf16 with masters", 1, 1),
        ("mixed", multi_tensor.MIXED, multi_tensor.MIXED),
    ):
        yield from cases_of(name, lars_kernel.launch_lars, parts, meta(5000, 2), grad, copy)
        yield from cases_of(f"{name} scaled", lars_kernel.launch_lars, parts, meta(5000, 2), grad, copy, meta(), meta())


def target_cases() -> Iterator[Case]:
    """tau on the device and as a float; pairs of one type and of several."""
    parts = meta(164, ema.COLUMNS, dtype=torch.int64), meta(0, dtype=torch.int64), meta(5000, dtype=torch.int32)
    for name, tau, code in (
        ("fp32", meta(), 0), ("fp32 fixed tau", 0.99, 0), ("bf16", meta(), 1),
        ("mixed", meta(), multi_tensor.MIXED),
    ):  # fmt: skip
        yield from cases_of(name, ema.launch_update_target, parts, tau, code)


def philox_cases() -> Iterator[Case]:
    """The generator by itself, as the tests launch it."""
    words = meta(1000, 4, dtype=torch.int64), meta(1000, 4, dtype=torch.int64)
    yield from cases_of("", philox.philox_kernel[(1,)], *words, *philox.seed_words(1 << 40), 1000, 1024)


def short(dtype: torch.dtype) -> str:
    """bf16, fp16 or fp32."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


CASES = (
    render_cases,
    blur_cases,
    select_cases,
    loss_cases,
    stem_cases,
    pool_cases,
    lars_cases,
    target_cases,
    philox_cases,
)
