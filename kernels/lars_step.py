"""One step of LARS: the table of a batch on a GPU, the choice between kernels and CPU, the op.

Rule and reference: lars_rule.py. Kernels: lars_kernel.py. CPU: lars_cpu.py.
"""

from typing import Any

import torch
from torch import Tensor

from ._dispatch import current, on_gpu
from .lars_cpu import step_on_cpu
from .lars_kernel import GROUP, launch_lars
from .lars_rule import HALF, Batch, Rule, check, check_rates, check_scaling, step_by_reference
from .multi_tensor import (
    CODES,
    DeviceTable,
    HostTable,
    common_code,
    copied_as,
    is_capturing,
    is_dense,
    same_layout,
)

# ---- table --------------------------------------------------------------------------------------------------


class LarsTable:
    """The device table of a batch, uploaded again only after a gradient's address or a rule has changed."""

    def __init__(self, batch: Batch) -> None:
        """batch: one that `fits`. Keeps no gradient alive."""
        self.weights, count = batch.weights(), len(batch.params)
        self.types = [grad.dtype if grad.dtype in CODES else torch.float32 for grad in batch.grads]
        copies = [param.data_ptr() if param.dtype in HALF else 0 for param in batch.params]
        weights, momenta = [w.data_ptr() for w in self.weights], [m.data_ptr() for m in batch.momenta]
        codes = [[CODES[dtype] for dtype in types] for types in (self.types, [param.dtype for param in batch.params])]
        columns = [weights, [0] * count, momenta, copies, batch.groups, *codes]
        self.words = HostTable([w.numel() for w in self.weights], columns, len(batch.rules) * GROUP.size // 8)
        self.grad, self.copy = map(common_code, codes)
        # Gradients of a memory layout or type that the kernels cannot read: copied at each step.
        self.odd = [
            k for k, (g, w) in enumerate(zip(batch.grads, self.weights, strict=True))
            if g.dtype != self.types[k] or not same_layout(g, w)
        ]  # fmt: skip
        self.filling: Any = None  # addresses and rules in `uploaded`
        self.uploaded: DeviceTable | None = None
        self.room: Tensor | None = None  # for the table of a capture that may follow

    def step(self, batch: Batch) -> None:
        """One step on the batch of `__init__`, whose gradients may have moved and whose rules may have changed."""
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
            uploaded, captured = DeviceTable(self.words, device, self.room), is_capturing(device)
            # A copied gradient keeps its address for this step only; a captured upload runs in replays only.
            self.uploaded, self.filling = (None, None) if self.odd or captured else (uploaded, filling)
            if captured:
                self.room = None  # it is the graph's
            elif self.room is None:
                self.room = torch.empty_like(uploaded.words)
        partial = torch.empty((self.words.chunks, 2), dtype=torch.float32, device=device)
        launch_lars(uploaded.use(), partial, self.grad, self.copy, batch.grad_scale, batch.found_inf)
        if not torch.is_inference_mode_enabled():
            torch.autograd.graph.increment_version(batch.params)


def packed(rule: Rule) -> bytes:
    """A rule as the bytes of one GROUP."""
    address, rate = (rule.lr.data_ptr(), 0.0) if isinstance(rule.lr, Tensor) else (0, rule.lr)
    return GROUP.pack(address, rate, rule.momentum, rule.weight_decay, rule.trust, rule.adapt, 0.0)


# ---- op -----------------------------------------------------------------------------------------------------


def fits(batch: Batch) -> bool:
    """Whether the kernels can update the batch: float32 weights, each dense, of one layout with its state and copy."""
    return all(
        w.dtype == torch.float32 and is_dense(w) and same_layout(w, p) and same_layout(w, m)
        for w, p, m in zip(batch.weights(), batch.params, batch.momenta, strict=True)
    )


def run(batch: Batch, table: LarsTable | None = None) -> LarsTable | None:
    """One step, eagerly. table: as returned by the last call with the same parameters and state, or None."""
    device = batch.params[0].device
    if table is None:
        check(batch)
        if not (on_gpu(device) and fits(batch)):
            (step_on_cpu if device.type == "cpu" else step_by_reference)(batch)
            return None
    else:
        check_scaling(batch)
    with current(device):
        table = table or LarsTable(batch)
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
    """One step through the op, for torch.compile and tensor subclasses."""
    check(batch)

    def on_device(rate: Tensor | float) -> Tensor:
        device = batch.params[0].device
        return rate if isinstance(rate, Tensor) else torch.full((), rate, dtype=torch.float32, device=device)

    lr = [on_device(rule.lr) for rule in batch.rules]
    rest = [list(values) for values in zip(*(rule[1:] for rule in batch.rules), strict=True)]
    _lars(*batch[:5], lr, *rest, batch.grad_scale, batch.found_inf)
