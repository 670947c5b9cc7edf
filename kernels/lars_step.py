# mypy: disallow-untyped-defs=False
"""One step of LARS on all tensors of all groups in two launches. The rule, and the reference: lars_rule.py.

The first launch sums the squares of p and u over each chunk of the tensors (tensors.py); the second adds up the sums of
its own tensor, always in the same order, and writes m and p. It walks the chunks backwards, to find in the L2 what the
first read last.
Bytes it must move: p and g twice, m once read, m and p once written: 28 an element in float32, of which the L2 may save
up to its size; 26 where p is bf16 with its master and g is bf16. For the 23.5 million of ResNet-50's encoder in float32
658 MB, a floor of 153 us at the 4.3 TB/s that a copy reaches on an H200.

Under a loss scale a program reads two numbers more, grad_scale and found_inf: it unscales what it loads, before
anything is squared, and returns at once where found_inf is not 0. Both launches unscale; writing the unscaled gradients
back, as torch's fused optimizers do, would move 4 bytes an element more. The two numbers are arguments of the launches
and not words of the table: a GradScaler brings new tensors at each step. A CUDA graph reads those of its capture.

Why the target update is not fused into the second launch: that would spare `update_target_` its read of p, 4 of 40
bytes. But tau, the targets and their pairing would move into the optimizer, which would then decide whether a target
moves in a step that found_inf leaves out; and weights changed between the two would silently part them. What is written
last, the first tensors, is what `update_target_` asks the L2 for first.
"""

import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._eager import eager
from ._triton import tl, triton
from .lars_cpu import step_on_cpu
from .lars_rule import HALF, Batch, Rule, check, check_rates, check_scaling, lars_foreach
from .multi_tensor import (
    Uploaded,
    Words,
    common_code,
    copied_as,
    current,
    is_capturing,
    is_dense,
    on_gpu,
    same_layout,
)
from .multi_tensor_kernel import CODES, LAUNCH, chunk_of, load_fp32, store_fp32

# elements, first chunk, addresses of weight, gradient, momentum and copy, group, codes of the gradient and the copy
COLUMNS = 9
GROUP = struct.Struct("q6f")  # address of the rate or 0, rate, momentum, weight decay, trust, adapts, unused
REDUCE = 256  # partial sums that a program adds up at once

# ---- kernels ------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize_on_alignment=["rules", "owners", "grad_scale", "found_inf"])
def lars_norms_kernel(
    rows,  # (T, COLUMNS) int64: see COLUMNS
    rules,  # (G, 8) fp32: two of an address, rate, momentum, weight decay, trust, adapts, unused
    owners,  # (chunks,) int32: each chunk's row
    partial,  # (chunks, 2) fp32 out: sums of squares of the weight and of u; not written where a group does not adapt
    grad_scale,  # () fp32: gradients are so many times too large; None: they are not
    found_inf,  # () fp32: not 0 leaves the step out; None: never
    GRAD: tl.constexpr,  # type of all gradients, or -1: by row
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One program: one chunk of one tensor. Grid: (chunks,)."""
    if found_inf is not None:  # noqa: SIM102 (decided when compiled)
        if tl.load(found_inf) != 0.0:
            return
    chunk = tl.program_id(0)
    row, numel, start = chunk_of(rows, owners, chunk, COLUMNS, CHUNK)
    weight, grad, code = tl.load(row + 2), tl.load(row + 3), tl.load(row + 7)
    rule = rules + tl.load(row + 6) * 8
    decay, unscale = tl.load(rule + 4), unscale_of(grad_scale)
    aligned = (weight | grad) % ALIGN == 0
    if tl.load(rule + 6) != 0.0:
        weight_squares = tl.zeros((BLOCK,), tl.float32)
        update_squares = tl.zeros((BLOCK,), tl.float32)
        for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):
            if aligned & (at + BLOCK <= numel):
                w = load_fp32(weight, 0, at, numel, 0, BLOCK, True)
                u = load_fp32(grad, code, at, numel, GRAD, BLOCK, True) * unscale + decay * w
            else:
                w = load_fp32(weight, 0, at, numel, 0, BLOCK, False)
                u = load_fp32(grad, code, at, numel, GRAD, BLOCK, False) * unscale + decay * w
            weight_squares += w * w
            update_squares += u * u
        tl.store(partial + chunk * 2, tl.sum(weight_squares, axis=0))
        tl.store(partial + chunk * 2 + 1, tl.sum(update_squares, axis=0))


@triton.jit(do_not_specialize_on_alignment=["groups", "rules", "owners", "grad_scale", "found_inf"])
def lars_update_kernel(
    rows,  # (T, COLUMNS) int64: see COLUMNS
    groups,  # (G, 4) int64: address of an fp32 rate, or 0: then the rule has it; the rest is the rule
    rules,  # (G, 8) fp32: the same memory
    owners,  # (chunks,) int32: each chunk's row
    partial,  # (chunks, 2) fp32: sums of squares of the weight and of u
    grad_scale,  # () fp32 or None: as above
    found_inf,  # () fp32 or None: as above
    GRAD: tl.constexpr,  # type of all gradients, or -1: by row
    COPY: tl.constexpr,  # type of all rounded copies, 0 where there is none, or -1: by row
    COLUMNS: tl.constexpr,
    REDUCE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One program: one chunk of one tensor, the last chunk first. Grid: (chunks,)."""
    if found_inf is not None:  # noqa: SIM102 (decided when compiled)
        if tl.load(found_inf) != 0.0:
            return
    chunk = tl.num_programs(0) - 1 - tl.program_id(0)
    row, numel, start = chunk_of(rows, owners, chunk, COLUMNS, CHUNK)
    group = tl.load(row + 6)
    rule = rules + group * 8
    rate, rate_at = tl.load(rule + 2), tl.load(groups + group * 4)
    if rate_at != 0:
        rate = tl.load(rate_at.to(tl.pointer_type(tl.float32)))
    momentum, decay, unscale = tl.load(rule + 3), tl.load(rule + 4), unscale_of(grad_scale)
    factor = 1.0
    if tl.load(rule + 6) != 0.0:
        factor = lars_factor(partial + tl.load(row + 1) * 2, tl.cdiv(numel, CHUNK), tl.load(rule + 5), REDUCE)
    weight, grad, moment, copy = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    code, copy_code = tl.load(row + 7), tl.load(row + 8)
    aligned = (weight | grad | moment | copy) % ALIGN == 0
    for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):
        if aligned & (at + BLOCK <= numel):
            lars_block(weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
                       GRAD, COPY, BLOCK, True)  # fmt: skip
        else:
            lars_block(weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
                       GRAD, COPY, BLOCK, False)  # fmt: skip


@triton.jit
def unscale_of(grad_scale):
    """1 / grad_scale rounded once; 1 without."""
    if grad_scale is None:
        return 1.0
    else:
        return tl.div_rn(1.0, tl.load(grad_scale))


@triton.jit
def lars_factor(partial, count, trust, REDUCE: tl.constexpr):
    """trust * norm(p) / norm(u) from a tensor's partial sums; 1 where either norm is 0."""
    lane = tl.arange(0, REDUCE)
    weight_squares = tl.zeros((REDUCE,), tl.float32)
    update_squares = tl.zeros((REDUCE,), tl.float32)
    for first in range(0, count, REDUCE):
        at = first + lane
        weight_squares += tl.load(partial + at * 2, mask=at < count, other=0.0)
        update_squares += tl.load(partial + at * 2 + 1, mask=at < count, other=0.0)
    weight_norm = tl.sqrt_rn(tl.sum(weight_squares, axis=0))
    update_norm = tl.sqrt_rn(tl.sum(update_squares, axis=0))
    return tl.where((weight_norm > 0.0) & (update_norm > 0.0), trust * weight_norm / update_norm, 1.0)


@triton.jit
def lars_block(
    weight, grad, moment, copy, code, copy_code, unscale, rate, momentum, decay, factor, at, numel,
    GRAD: tl.constexpr, COPY: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements from `at` of a tensor."""
    w = load_fp32(weight, 0, at, numel, 0, BLOCK, WHOLE)
    g = load_fp32(grad, code, at, numel, GRAD, BLOCK, WHOLE) * unscale
    m = load_fp32(moment, 0, at, numel, 0, BLOCK, WHOLE)
    m = momentum * m + (g + decay * w) * factor
    w = w - rate * m
    store_fp32(moment, 0, m, at, numel, 0, BLOCK, WHOLE)
    store_fp32(weight, 0, w, at, numel, 0, BLOCK, WHOLE)
    if COPY > 0:
        store_fp32(copy, copy_code, w, at, numel, COPY, BLOCK, WHOLE)
    if COPY < 0 and copy_code != 0:
        store_fp32(copy, copy_code, w, at, numel, COPY, BLOCK, WHOLE)


# ---- launch -------------------------------------------------------------------------------------------------


class Table:
    """The device's table of a batch: filled anew where a gradient has moved or a rule says something else."""

    def __init__(self, batch: Batch) -> None:
        """The batch must be one that `fits`. Keeps no gradient alive."""
        self.weights, count = batch.weights(), len(batch.params)
        self.types = [grad.dtype if grad.dtype in CODES else torch.float32 for grad in batch.grads]
        copies = [param.data_ptr() if param.dtype in HALF else 0 for param in batch.params]
        weights, momenta = [w.data_ptr() for w in self.weights], [m.data_ptr() for m in batch.momenta]
        codes = [[CODES[dtype] for dtype in types] for types in (self.types, [param.dtype for param in batch.params])]
        columns = [weights, [0] * count, momenta, copies, batch.groups, *codes]
        self.words = Words([w.numel() for w in self.weights], columns, len(batch.rules) * GROUP.size // 8)
        self.grad, self.copy = map(common_code, codes)
        # Gradients in another order of memory, or of another type, than the kernels read: copied at each step.
        self.odd = [
            k for k, (g, w) in enumerate(zip(batch.grads, self.weights, strict=True))
            if g.dtype != self.types[k] or not same_layout(g, w)
        ]  # fmt: skip
        self.filling: Any = None  # what `uploaded` was filled with
        self.uploaded: Uploaded | None = None

    def step(self, batch: Batch) -> None:
        """One update of the batch, which differs from that of `__init__` in where gradients are and what rules say."""
        grads, device = batch.grads, self.weights[0].device
        filling = [*map(Tensor.data_ptr, grads)], [packed(rule) for rule in batch.rules]
        uploaded = self.uploaded
        if uploaded is None or filling != self.filling:
            check_rates(batch.rules, device)
            grads = [*grads]
            for k in self.odd:
                grads[k] = copied_as(grads[k], self.weights[k], self.types[k])
            self.words.fill(3, [*map(Tensor.data_ptr, grads)] if self.odd else filling[0])
            self.words.fill_extra(b"".join(filling[1]))
            uploaded = Uploaded(self.words, device)
            # A copy has its address for this step alone, and what a capture uploads is there in its replays alone.
            lasting = not self.odd and not is_capturing(device)
            self.uploaded, self.filling = (uploaded, filling) if lasting else (None, None)
        partial = torch.empty((self.words.chunks, 2), dtype=torch.float32, device=device)
        launch_lars(uploaded.use(), partial, self.grad, self.copy, batch.grad_scale, batch.found_inf)
        if not torch.is_inference_mode_enabled():
            torch.autograd.graph.increment_version(batch.params)


def packed(rule: Rule) -> bytes:
    """A rule as the words of its group."""
    address, rate = (rule.lr.data_ptr(), 0.0) if isinstance(rule.lr, Tensor) else (0, rule.lr)
    return GROUP.pack(address, rate, rule.momentum, rule.weight_decay, rule.trust, rule.adapt, 0.0)


def launch_lars(
    parts: tuple[Tensor, Tensor, Tensor],
    partial: Tensor,
    grad: int,
    copy: int,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step on the tensors of a table. parts: its rows, groups and owners. partial: (chunks, 2) fp32, any values.
    grad, copy: codes of their types. grad_scale, found_inf: () fp32, or None."""
    rows, groups, owners = parts
    if not len(owners):
        return
    rules, grid = groups.view(torch.float32), (len(owners),)
    scaling = grad_scale, found_inf
    lars_norms_kernel[grid](rows, rules, owners, partial, *scaling, grad, COLUMNS, **LAUNCH)
    lars_update_kernel[grid](rows, groups, rules, owners, partial, *scaling, grad, copy, COLUMNS, REDUCE, **LAUNCH)


# ---- op -----------------------------------------------------------------------------------------------------


def fits(batch: Batch) -> bool:
    """Whether the kernels reach the batch: float32 weights, each dense and laid out as its state and copy."""
    return all(
        w.dtype == torch.float32 and is_dense(w) and same_layout(w, p) and same_layout(w, m)
        for w, p, m in zip(batch.weights(), batch.params, batch.momenta, strict=True)
    )


def run(batch: Batch, table: Table | None = None) -> Table | None:
    """One step, now. table: what the last call with the same parameters and state returned."""
    device = batch.params[0].device
    if table is None:
        check(batch)
        if not (on_gpu(device) and fits(batch)):
            (step_on_cpu if device.type == "cpu" else lars_foreach)(batch)
            return None
    else:
        check_scaling(batch)
    with current(device):
        table = table or Table(batch)
        table.step(batch)
    return table


@torch.library.custom_op("rsdnet::lars_", mutates_args=("params", "momenta", "masters"))
def _lars(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    masters: list[Tensor],
    groups: list[int],
    lr: list[Tensor],
    momentum: list[float],
    weight_decay: list[float],
    trust: list[float],
    adapt: list[bool],
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    rules = [Rule(*values) for values in zip(lr, momentum, weight_decay, trust, adapt, strict=True)]
    run(Batch(params, grads, momenta, masters, groups, rules, grad_scale, found_inf))


@_lars.register_fake
def _(*batch: Any) -> None:
    return None


def traced(batch: Batch) -> None:
    """One step, by the op."""
    check(batch)

    def on_device(rate: Tensor | float) -> Tensor:
        device = batch.params[0].device
        return rate if isinstance(rate, Tensor) else torch.full((), rate, dtype=torch.float32, device=device)

    lr = [on_device(rule.lr) for rule in batch.rules]
    rest = [list(values) for values in zip(*(rule[1:] for rule in batch.rules), strict=True)]
    _lars(*batch[:5], lr, *rest, batch.grad_scale, batch.found_inf)


@torch.no_grad()
def lars_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momenta: Sequence[Tensor],
    lr: Tensor | float,
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
    adapt: bool,
    masters: Sequence[Tensor] = (),
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """One step on lists of tensors of one device, in place, with no host sync: two launches on a GPU.

    params: float32, bfloat16 or float16 (float64 goes by torch._foreach). grads: of their shapes, any float type,
    strides at will. momenta: as params, but float32 where these are bfloat16 or float16. masters: float32, one for
    each bfloat16 or float16 parameter, in their order. lr: 0-dim float32 tensor on their device, or a float.
    grad_scale, found_inf: 0-dim float32 tensors on their device, or None: grads are divided by the first; where the
    second is not 0 nothing changes.
    Raises TypeError or ValueError on what does not fit.
    """
    rule = Rule(lr, momentum, weight_decay, trust, adapt)
    lists = list(params), list(grads), list(momenta), list(masters)
    batch = Batch(*lists, [0] * len(params), [rule], grad_scale, found_inf)
    if batch.params:
        (run if eager(batch.params[0]) else traced)(batch)
