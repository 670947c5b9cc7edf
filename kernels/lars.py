"""LARS as DeepMind's BYOL uses it: the optimizer, with its groups, state and checkpoints.

    u = g + weight_decay * p
    u = u * trust * norm(p) / norm(u)      where both norms are above 0; only in groups that adapt
    m = momentum * m + u
    p = p - lr * m

The rule, its sources and its reference: lars_rule.py. The kernels and the bytes they move: lars_step.py.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ._dispatch import eager, on_gpu
from .lars_rule import HALF, Batch, Rule, check_rate, state_dtype, step_by_reference, trust_ratios
from .lars_step import LarsTable, run, traced
from .multi_tensor import is_capturing, is_dense, same_layout

PRESERVE = torch.preserve_format


class LARS(torch.optim.Optimizer):
    """LARS with DeepMind's rule: two launches a step on a GPU, for any number of parameters and groups.

    params: parameters of one device, or groups; a group with adapt=False takes no adaptation: see `lars_groups`.
    lr: float, or a 0-dim float32 tensor on the parameters' device. The tensor is kept by reference: fill it to change
    the rate, without sync or recompilation; load_state_dict fills it too. momentum, weight_decay, trust: as in the
    formula.
    Mixed precision follows torch's fused optimizers (torch/amp/grad_scaler.py, `GradScaler.step`). A GradScaler, or
    the caller, sets before a step `grad_scale`, the factor in the gradients, and `found_inf`: any value but 0 leaves
    all weights and state unchanged, bit for bit. Both are 0-dim float32 tensors on the parameters' device, or None,
    and are read without sync or recompilation. Norms are of the unscaled gradient, in float32; .grad stays scaled.
    State of a parameter: "momentum" and, for a bfloat16 or float16 parameter, "master", both float32. Each step
    overwrites such a parameter from its master: after changing it by hand, delete its state, or load one.
    A step may be captured in a CUDA graph after an eager step, which creates the state. Floats, the learning rate
    included, are then fixed in the graph; tensors are read at their addresses: fill them in place. load_state_dict
    fills existing tensors, so a captured graph stays valid. Capture inside `uploads_after_capture`: else each replay
    copies a table of addresses from the host.
    Raises TypeError or ValueError on a negative value, complex parameters, sparse gradients and, at a step,
    parameters of several devices: give each device its own optimizer. RuntimeError on a capture without state.
    """

    _step_supports_amp_scaling = True  # GradScaler.step then sets grad_scale and found_inf, and always calls step
    _table: LarsTable | None = None  # a class attribute: a copied optimizer, made from __getstate__, builds its own
    _key: Any = None  # `key_of` the batch that the table was built for

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim.Optimizer, after a check of the values."""
        values = {**self.defaults, **param_group}
        for name in ("momentum", "weight_decay", "trust"):
            if not values[name] >= 0:
                raise ValueError(f"{name}: {values[name]}, expected 0 or more")
        check_rate(values["lr"])
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if not param.is_floating_point():
                self.param_groups.pop()
                raise TypeError(f"params: one is {param.dtype}, expected a floating-point type")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step from the parameters' .grad; parameters without gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batch = self._gather()
        if batch.params:
            (self._update if eager(batch.params[0]) else traced)(batch)
        return loss

    @torch.no_grad()
    def trust_ratios(self) -> Tensor:
        """trust * norm(p) / norm(u) that the next step would use, 1 where either norm is 0.

        Uses .grad and grad_scale as they are, and ignores found_inf. No host sync, but several launches a tensor: for
        a monitor, not for each step.
        Returns (n,) float32 on the parameters' device: the parameters of adapting groups that have a gradient, in the
        order of the groups.
        """
        params, grads, groups = self._with_gradient()
        masters = [self.state.get(param, {}).get("master", param).float() for param in params if param.dtype in HALF]
        batch = Batch(params, grads, [], masters, groups, self._rules(), *self._scaling(params))
        return trust_ratios(batch, self.param_groups[0]["params"][0].device)

    def _gather(self) -> Batch:
        """The parameters that have a gradient, with their state; missing state is created."""
        params, grads, groups = self._with_gradient()
        try:
            momenta = [self.state[param]["momentum"] for param in params]
            masters = [self.state[param]["master"] for param in params if param.dtype in HALF]
        except KeyError:
            for param in params:
                self._make_state(param)
            return self._gather()
        return Batch(params, grads, momenta, masters, groups, self._rules(), *self._scaling(params))

    def _with_gradient(self) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """The parameters that have a gradient, their gradients, and the indices of their groups."""
        params, groups = [], []
        for number, group in enumerate(self.param_groups):
            params += group["params"]
            groups += [number] * len(group["params"])
        grads = [param.grad for param in params]
        there = [k for k, grad in enumerate(grads) if grad is not None]
        if len(there) < len(grads):
            params, grads, groups = ([values[k] for k in there] for values in (params, grads, groups))
        if {grad.layout for grad in grads} - {torch.strided}:
            raise TypeError("params: one has a sparse gradient, expected dense ones")
        return params, grads, groups

    def _scaling(self, params: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """grad_scale and found_inf, moved to the parameters' device: a GradScaler may live on another GPU.

        Neither is a class attribute: GradScaler multiplies by a grad_scale that it finds, and deletes both.
        """
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if params and grad_scale is not None:
            grad_scale = grad_scale.to(params[0].device)
        if params and found_inf is not None:
            found_inf = found_inf.to(params[0].device)
        return grad_scale, found_inf

    def _rules(self) -> list[Rule]:
        return [Rule(*(group[name] for name in Rule._fields)) for group in self.param_groups]

    def _make_state(self, param: Tensor) -> None:
        if is_capturing(param.device):
            raise RuntimeError("LARS: a captured step needs existing state, or each replay zeroes it: step once before")
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param, dtype=state_dtype(param), memory_format=PRESERVE)
        if param.dtype in HALF and "master" not in state:
            state["master"] = like(param, param)

    def _update(self, batch: Batch) -> None:
        if on_gpu(batch.params[0].device):
            key = key_of(batch)
            if key != self._key:
                batch = self._aligned(batch)
                self._table, self._key = None, key_of(batch)
        self._table = run(batch, self._table)

    def _aligned(self, batch: Batch) -> Batch:
        """The batch, its state in the memory layout of the parameters, whose strides may have changed."""
        for param in batch.params:
            state = self.state[param]
            for name in {"momentum", "master"} & state.keys():
                if is_dense(param) and not same_layout(state[name], param):
                    state[name] = like(param, state[name])
        return self._gather()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim.Optimizer, but state stays float32 and shares no memory with `state_dict`; existing tensors
        (learning rate, momenta, masters) are filled in place."""
        rates = [group["lr"] for group in self.param_groups]
        own = {param: dict(state) for param, state in self.state.items()}
        ids = [number for group in state_dict["param_groups"] for number in group["params"]]
        super().load_state_dict(state_dict)
        params = [param for group in self.param_groups for param in group["params"]]
        for number, param in zip(ids, params, strict=True):
            if "momentum" not in (loaded := state_dict["state"].get(number, {})):
                continue
            values = {"momentum": loaded["momentum"]}
            if param.dtype in HALF:
                values["master"] = loaded.get("master", param)
            self.state[param] = {name: like(param, value) for name, value in values.items()}
            for name, there in own.get(param, {}).items():
                if name in values and there.dtype == state_dtype(param):
                    self.state[param][name] = there.copy_(self.state[param][name])
        for group, lr in zip(self.param_groups, rates, strict=True):
            group["lr"] = lr.fill_(group["lr"]) if isinstance(lr, Tensor) else float(group["lr"])


class PlainLARS(LARS):
    """The same optimizer by `lars_reference`, one tensor at a time, on any device: the oracle of the tests. Its state
    loads into LARS, and vice versa."""

    def _update(self, batch: Batch) -> None:
        step_by_reference(batch)


def like(param: Tensor, value: Tensor) -> Tensor:
    """A copy of the value in the type of the parameter's state and in the parameter's memory layout."""
    if value.shape != param.shape:
        raise ValueError(f"state: shape {tuple(value.shape)}, expected {tuple(param.shape)} as the parameter")
    return torch.empty_like(param, dtype=state_dtype(param), memory_format=PRESERVE).copy_(value)


def key_of(batch: Batch) -> list[Any]:
    """Identity of a table: parameters and state with their addresses, types and layouts of gradients, groups."""
    kept, grads = [*batch.params, *batch.momenta, *batch.masters], batch.grads
    types = [tensor.dtype for tensor in [*batch.params, *grads]]
    shapes, strides = [grad.shape for grad in grads], [*map(Tensor.stride, grads)]
    return [[*map(id, kept)], [*map(Tensor.data_ptr, kept)], types, shapes, strides, batch.groups, len(batch.rules)]


def lars_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups of a module: its weights, then biases and norm parameters (ndim <= 1), which neither decay
    nor adapt. Parameters without requires_grad are left out."""
    params = [param for param in module.parameters() if param.requires_grad]
    weights, others = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]
