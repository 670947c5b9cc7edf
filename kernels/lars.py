"""LARS as DeepMind's BYOL uses it, as an optimizer: groups, state, checkpoints.

    u = g + weight_decay * p
    u = u * trust * norm(p) / norm(u)      where both norms are above 0; only where the group adapts
    m = momentum * m + u
    p = p - lr * m

The rule, its sources and its plain form: lars_rule.py. The kernels, and the bytes they move: lars_step.py.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ._eager import eager
from .lars_rule import HALF, Batch, Rule, check_rate, lars_reference, state_dtype, trust_ratios
from .lars_step import Table, lars_, run, traced
from .multi_tensor import is_capturing, is_dense, on_gpu, same_layout

PRESERVE = torch.preserve_format
__all__ = ["LARS", "PlainLARS", "lars_", "lars_groups"]


class LARS(torch.optim.Optimizer):
    """LARS with DeepMind's rule: two launches a step on a GPU, however many parameters and groups.

    params: parameters of one device, or groups; a group with adapt=False takes no adaptation: see `lars_groups`.
    lr: float, or a 0-dim float32 tensor on the parameters' device. The tensor is kept by reference: fill it to change
    the rate, with no sync and no recompilation; loading a state fills it too. momentum, weight_decay, trust:
    as in the formula.
    Mixed precision as torch's fused optimizers (torch/amp/grad_scaler.py, `GradScaler.step`): set before a step, by a
    GradScaler or by hand, `grad_scale` says how many times too large the gradients are, and a `found_inf` that is not
    0 leaves every weight and all state as they are, bit for bit. Both are 0-dim float32 tensors on the parameters'
    device, or None: read there, with no sync and no recompilation. Norms are those of the unscaled gradient, which is
    computed in float32; .grad is left scaled.
    State of a parameter: "momentum" and, of a bfloat16 or float16 parameter, "master", both float32. Such a parameter
    is overwritten from its master at each step: after changing it by hand, delete its state, or load one.
    A step may be captured in a CUDA graph, after an eager one, which makes the state; what is a float then, also the
    rate, is fixed in the graph, and tensors are read where they were: keep and fill them. Loading a state fills the
    tensors that are there, so a captured graph stays right.
    Raises TypeError or ValueError on a negative value, complex parameters, sparse gradients and, at a step,
    parameters of several devices: give each device its own optimizer. RuntimeError on a capture without state.
    """

    _step_supports_amp_scaling = True  # GradScaler.step then sets grad_scale and found_inf, and always calls step
    _table: Table | None = None  # of the class: a copy, which starts from __getstate__, makes its own
    _key: Any = None  # what the table was made for

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
        """As torch.optim.Optimizer, but looks at the values first."""
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
        """One update from the parameters' .grad; parameters without one are left alone."""
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
        """trust * norm(p) / norm(u) as a step would use it now, 1 where either norm is 0.

        Of .grad as it is, and grad_scale; whatever found_inf says. No host sync, but copies of the gradients: for a
        monitor, not for each step.
        Returns (n,) float32 on the parameters' device, of the adapting groups' parameters that have a gradient, in
        the order of the groups.
        """
        params, grads, groups = self._with_gradient()
        masters = [self.state.get(param, {}).get("master", param).float() for param in params if param.dtype in HALF]
        batch = Batch(params, grads, [], masters, groups, self._rules(), *self._scaling(params))
        return trust_ratios(batch, self.param_groups[0]["params"][0].device)

    def _gather(self) -> Batch:
        """The parameters that have a gradient, and their state, made where it is missing."""
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
        """The parameters that have a gradient, their gradients, and the numbers of their groups."""
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
        """grad_scale and found_inf as they were set, on the parameters' device: a GradScaler may live on another GPU.
        The class has neither: GradScaler multiplies by the grad_scale that it finds, and deletes both."""
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
            raise RuntimeError(
                "LARS: a captured step must find its state made, or each replay zeroes it: step once before"
            )
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
        """The batch with its state laid out as the parameters, some of which may have been given other strides."""
        for param in batch.params:
            state = self.state[param]
            for name in {"momentum", "master"} & state.keys():
                if is_dense(param) and not same_layout(state[name], param):
                    state[name] = like(param, state[name])
        return self._gather()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim.Optimizer, but state stays float32 and apart from `state_dict`, and what is there is filled:
        the tensor of a learning rate, momenta and masters that the loaded state has too."""
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
    """The same optimizer by `lars_reference`, one tensor at a time: slow, readable, on any device. Its state loads
    into LARS, and the other way round."""

    def _update(self, batch: Batch) -> None:
        masters = iter(batch.masters)
        for param, grad, momentum, group in zip(batch.params, batch.grads, batch.momenta, batch.groups, strict=True):
            master = next(masters) if param.dtype in HALF else None
            lars_reference(param, grad, momentum, batch.rules[group], master, batch.grad_scale, batch.found_inf)


def like(param: Tensor, value: Tensor) -> Tensor:
    """A copy of the value as state of the parameter: in the state's type, laid out as the parameter."""
    if value.shape != param.shape:
        raise ValueError(f"state: shape {tuple(value.shape)}, expected {tuple(param.shape)} as the parameter")
    return torch.empty_like(param, dtype=state_dtype(param), memory_format=PRESERVE).copy_(value)


def key_of(batch: Batch) -> list[Any]:
    """What a table is made for: these very parameters and states at these addresses, such gradients, these groups."""
    kept, grads = [*batch.params, *batch.momenta, *batch.masters], batch.grads
    types = [tensor.dtype for tensor in [*batch.params, *grads]]
    shapes, strides = [grad.shape for grad in grads], [*map(Tensor.stride, grads)]
    return [[*map(id, kept)], [*map(Tensor.data_ptr, kept)], types, shapes, strides, batch.groups, len(batch.rules)]


def lars_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A module's trainable parameters in two groups: weights, then biases and norm parameters (ndim <= 1)."""
    params = [param for param in module.parameters() if param.requires_grad]
    weights, others = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]
