# mypy: disallow-untyped-defs=False
"""The target network's weights: an exponential moving average of the online network's, in place, in one launch.

    target += (1 - tau) * (online - target)        Grill et al. 2020, eq. 1

Computed from the nearer end, as torch.lerp does: with w = 1 - tau, from the target if w < 0.5, else as
online - tau * (online - target). At tau = 1 the target keeps its bits, and at tau = 0 it takes the online network's, -0
and values that are not finite included. float32 inside. A bf16 or fp16 target does not move if a step is below half its
unit in the last place (tau near 1): average in float32.

Bytes it must move: target and online once, target once again: 12 an element in float32, 6 in bf16; 282 MB for the 23.5
million of ResNet-50's encoder, a floor of 66 us at the 4.3 TB/s that a copy reaches on an H200.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import torch
from torch import Tensor

from ._dispatch import current, eager, on_gpu
from ._triton import tl, triton
from .multi_tensor import (
    CODES,
    LAUNCH,
    DeviceTable,
    HostTable,
    chunk_of,
    common_code,
    is_capturing,
    is_dense,
    load_fp32,
    same_layout,
    store_fp32,
)

COLUMNS = 5  # number of elements, first chunk, addresses of target and online tensor, type code
TABLES = 8  # lists of tensors whose tables are kept

# ---- reference ----------------------------------------------------------------------------------------------


def update_target_reference(target: Tensor, online: Tensor, tau: Tensor | float) -> None:
    """The rule for one pair, in place: float32 inside, float64 for float64."""
    inside = torch.promote_types(target.dtype, torch.float32)
    rate = tau if isinstance(tau, Tensor) else torch.full((), tau, dtype=torch.float64, device=target.device)
    t, o, w = target.to(inside), online.to(inside), (1 - rate).to(inside)
    moved = torch.where(w < 0.5, t + w * (o - t), o - (1 - w) * (o - t))
    target.copy_(torch.where(w == 0, t, torch.where(w == 1, o, moved)))


# ---- kernel -------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["step"], do_not_specialize_on_alignment=["owners", "tau"])
def update_target_kernel(
    rows,  # (T, COLUMNS) int64: see COLUMNS
    owners,  # (chunks,) int32: row of each chunk
    tau,  # () fp32, or any float type; not read where FIXED
    step,  # fp32: 1 - tau where FIXED
    FIXED: tl.constexpr,
    CODE: tl.constexpr,  # type code of all pairs, or -1: see the row
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One program: one chunk of one pair. Grid: (chunks,)."""
    row, numel, start = chunk_of(rows, owners, tl.program_id(0), COLUMNS, CHUNK)
    target, online, code = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    w = step
    if not FIXED:
        w = 1.0 - tl.load(tau).to(tl.float32)
    aligned = (target | online) % ALIGN == 0
    for at in tl.range(start, tl.minimum(start + CHUNK, numel), BLOCK, disable_licm=True):
        if aligned & (at + BLOCK <= numel):
            move(target, online, code, w, at, numel, CODE, BLOCK, True)
        else:
            move(target, online, code, w, at, numel, CODE, BLOCK, False)


@triton.jit
def move(target, online, code, w, at, numel, CODE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """The rule on BLOCK elements of a pair, from element `at`."""
    t = load_fp32(target, code, at, numel, CODE, BLOCK, WHOLE)
    o = load_fp32(online, code, at, numel, CODE, BLOCK, WHOLE)
    moved = tl.where(w < 0.5, t + w * (o - t), o - (1.0 - w) * (o - t))
    moved = tl.where(w == 0.0, t, tl.where(w == 1.0, o, moved))
    store_fp32(target, code, moved, at, numel, CODE, BLOCK, WHOLE)


class Pairs(NamedTuple):
    """The table of a list of pairs, built once and read at each call."""

    uploaded: DeviceTable
    code: int  # type code of all pairs, or MIXED
    others: list[int]  # pairs not in the table: of another type, not dense, or of two memory layouts
    tensors: list["weakref.ref[Tensor]"]  # all targets, then all onlines


def pairs_of(targets: list[Tensor], onlines: list[Tensor]) -> Pairs:
    """The table of these pairs, on their device."""
    fit = [t.dtype in CODES and is_dense(t) and same_layout(t, o) for t, o in zip(targets, onlines, strict=True)]
    taken = [k for k, fits in enumerate(fit) if fits]
    codes = [CODES[targets[k].dtype] for k in taken]
    addresses = [[x[k].data_ptr() for k in taken] for x in (targets, onlines)]
    table = HostTable([targets[k].numel() for k in taken], [*addresses, codes])
    uploaded = DeviceTable(table, targets[0].device)
    others = [k for k, fits in enumerate(fit) if not fits]
    return Pairs(uploaded, common_code(codes), others, [weakref.ref(x) for x in targets + onlines])


def launch_update_target(parts: tuple[Tensor, Tensor, Tensor], tau: Tensor | float, code: int) -> None:
    """Moves the targets of a table, in one launch. parts: rows, an empty tensor and owners. code: type of the pairs."""
    rows, _, owners = parts
    if not len(owners):
        return
    rate, fixed, step = (tau, False, 0.0) if isinstance(tau, Tensor) else (owners, True, 1.0 - tau)
    update_target_kernel[(len(owners),)](rows, owners, rate, step, fixed, code, COLUMNS, **LAUNCH)


# ---- op -----------------------------------------------------------------------------------------------------

_KNOWN: OrderedDict[tuple[int, ...], Pairs] = OrderedDict()  # by addresses; keeps no tensor of the caller alive


def known_pairs(targets: list[Tensor], onlines: list[Tensor]) -> Pairs:
    """The table of these pairs, from the last call if the tensors and their addresses are the same.

    Raises ValueError or TypeError on pairs that do not match; known pairs are not checked again.
    """
    tensors = targets + onlines
    key = tuple(map(Tensor.data_ptr, tensors))
    pairs = _KNOWN.get(key)
    if pairs is not None and all(map(is_, (ref() for ref in pairs.tensors), tensors)):
        _KNOWN.move_to_end(key)
        return pairs
    check_pairs(targets, onlines)
    check_apart(targets)
    pairs = pairs_of(targets, onlines)
    if not is_capturing(targets[0].device):  # a captured upload runs in replays only
        _KNOWN[key] = pairs
        _KNOWN.move_to_end(key)
        if len(_KNOWN) > TABLES:
            _KNOWN.popitem(last=False)
    return pairs


def _update(targets: list[Tensor], onlines: list[Tensor], tau: Tensor | float) -> None:
    if not on_gpu(targets[0].device):
        check_pairs(targets, onlines)
        check_apart(targets)
        weight = 1 - float(tau)
        if weight == 1:
            torch._foreach_copy_(targets, onlines)
        elif weight != 0:
            torch._foreach_lerp_(targets, onlines, weight)
        return
    with current(targets[0].device):
        pairs = known_pairs(targets, onlines)
        launch_update_target(pairs.uploaded.use(), tau, pairs.code)
        for k in pairs.others:
            update_target_reference(targets[k], onlines[k], tau)


@torch.library.custom_op("rsdnet::update_target_", mutates_args=("targets",))
def _update_target(targets: list[Tensor], onlines: list[Tensor], tau: Tensor) -> None:
    _update(targets, onlines, tau)


@_update_target.register_fake
def _(targets: list[Tensor], onlines: list[Tensor], tau: Tensor) -> None:
    return None


def check_pairs(targets: list[Tensor], onlines: list[Tensor]) -> None:
    """Raises ValueError or TypeError where targets and onlines do not match."""
    if len(targets) != len(onlines):
        raise ValueError(f"targets and onlines: {len(targets)} and {len(onlines)} tensors, expected as many")
    for k, (target, online) in enumerate(zip(targets, onlines, strict=True)):
        if target.shape != online.shape or target.dtype != online.dtype or target.device != online.device:
            raise ValueError(
                f"targets[{k}]: {tuple(target.shape)} {target.dtype} on {target.device}, but its online tensor is "
                f"{tuple(online.shape)} {online.dtype} on {online.device}"
            )
        if not target.dtype.is_floating_point:
            raise TypeError(f"targets[{k}]: {target.dtype}, expected a floating-point type")
        if target.device != targets[0].device:
            raise ValueError(f"targets[{k}]: on {target.device}, but targets[0] is on {targets[0].device}")


def check_apart(targets: list[Tensor]) -> None:
    """Raises ValueError where two targets share an address."""
    full = [target.data_ptr() for target in targets if target.numel()]
    if len(set(full)) != len(full):
        raise ValueError("targets: one tensor is listed twice, expected each once")


@torch.no_grad()
def update_target_(targets: Sequence[Tensor], onlines: Sequence[Tensor], tau: Tensor | float) -> None:
    """Moves each target towards its online tensor, in place: no address changes, so CUDA graphs stay valid.

    targets, onlines: tensors, alike in shape, type and device pair by pair, all on one device; parameters, not
    BatchNorm buffers. float32, bfloat16 and float16 pairs that are dense and laid out alike go in one launch on a
    GPU; others one by one.
    tau: 0-dim tensor on their device (read there: no sync, no recompilation when it changes), or a float.
    On a GPU the table of addresses is kept, weakly, for the next call with the same tensors: give a tensor other
    strides (`.data = `, `resize_`) only together with another address.
    Raises ValueError where the lists differ in length, a pair in shape, type or device, or a target is there twice,
    and where tau is not 0-dim, elsewhere or a float outside 0 to 1; TypeError on tensors that are not floating-point.
    """
    targets, onlines = list(targets), list(onlines)
    if isinstance(tau, Tensor):
        if tau.ndim or not tau.dtype.is_floating_point:
            raise ValueError(f"tau: shape {tuple(tau.shape)} {tau.dtype}, expected a 0-dim float tensor or a float")
        if targets and tau.device != targets[0].device:
            raise ValueError(f"tau: on {tau.device}, but targets[0] is on {targets[0].device}")
    elif not 0 <= tau <= 1:
        raise ValueError(f"tau: {tau}, expected 0 to 1")
    if not targets:
        check_pairs(targets, onlines)
    elif not eager(targets[0]):
        check_pairs(targets, onlines)
        device = targets[0].device
        rate = tau if isinstance(tau, Tensor) else torch.full((), tau, dtype=torch.float32, device=device)
        _update_target(targets, onlines, rate)
    else:
        _update(targets, onlines, tau)
        if not torch.is_inference_mode_enabled():
            torch.autograd.graph.increment_version(targets)
