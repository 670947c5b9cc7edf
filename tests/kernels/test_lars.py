"""LARS against DeepMind's rule in plain Python, and the kernels against the reference."""

import contextlib
import copy
import gc
import math
import weakref
from collections import Counter
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import (
    LARS,
    lars,
    lars_cpu,
    lars_groups,
    lars_kernel,
    lars_rule,
    lars_step,
    multi_tensor,
    uploads_after_capture,
)
from rsdnet.kernels.lars import PlainLARS
from torch import nn

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES

ODD = [(1,), (2,), (3,), (17,), (1023,), (5, 205), (), (0,), (3, 5, 2)]
ways = pytest.mark.parametrize("way", ["plain", "cpu", "kernel"], indirect=True)


def plain_step(p, g, m, lr, momentum, weight_decay, trust, adapt):
    """The rule on lists of Python floats (double precision)."""
    u = [gi + weight_decay * pi for gi, pi in zip(g, p, strict=True)]
    if adapt:
        p_norm, u_norm = math.sqrt(sum(x * x for x in p)), math.sqrt(sum(x * x for x in u))
        factor = trust * p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0
        u = [x * factor for x in u]
    m = [momentum * mi + ui for mi, ui in zip(m, u, strict=True)]
    return [pi - lr * mi for pi, mi in zip(p, m, strict=True)], m


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))


@ways
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_steps_are_those_of_the_published_rule(way, tensor_lr):
    cls, device = way
    net = make_net().to(device)
    lr = torch.tensor(0.3, device=device) if tensor_lr else 0.3
    optimizer = cls(lars_groups(net, 1e-2), lr)
    params = list(net.parameters())
    expected = [(p.detach().double().flatten().tolist(), [0.0] * p.numel()) for p in params]
    generator = torch.Generator().manual_seed(1)
    for rate in (0.3, 0.2, 0.45):
        if tensor_lr:
            lr.fill_(rate)
        else:
            for group in optimizer.param_groups:
                group["lr"] = rate
        for n, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=generator).to(device)
            adapt = p.ndim > 1
            expected[n] = plain_step(expected[n][0], p.grad.double().flatten().tolist(), expected[n][1], rate, 0.9,
                                     1e-2 if adapt else 0.0, 1e-3, adapt)  # fmt: skip
        optimizer.step()
    for p, (want, _) in zip(params, expected, strict=True):
        torch.testing.assert_close(
            p.detach().double().cpu().flatten(), torch.tensor(want).double(), rtol=1e-5, atol=1e-7
        )


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")  # the interpreter's numpy, on x / 0
@ways
@pytest.mark.parametrize("zero", ["parameter", "gradient", "both"])
def test_the_factor_is_one_where_a_norm_is_zero(zero, way):
    cls, device = way
    p = nn.Parameter((torch.zeros(3, 2) if zero != "gradient" else torch.ones(3, 2)).to(device))
    p.grad = (torch.zeros(3, 2) if zero != "parameter" else torch.full((3, 2), 0.5)).to(device)
    before = p.detach().clone()
    cls([p], 0.1).step()
    torch.testing.assert_close(p.detach(), before - 0.1 * p.grad)


@ways
def test_ratio_counts_the_weight_decay_inside_the_norm(way):
    """norm(g + wd * p), here 1; not norm(g) + wd * norm(p), here 5, as lightly and solo-learn; not norm(g), here 2."""
    cls, device = way
    p = nn.Parameter(torch.full((2, 2), 3.0, device=device))
    p.grad = torch.full((2, 2), -1.0, device=device)
    cls([p], 1.0, weight_decay=0.5, trust=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), 3 - 0.1 * 6 / 1 * 0.5, device=device))


def test_groups_split_biases_and_norms_from_weights():
    net = make_net()
    net[0].bias.requires_grad_(False)
    weights, others = lars_groups(net, 1e-6)
    assert {id(p) for p in weights["params"]} == {id(net[0].weight), id(net[3].weight)}
    assert {id(p) for p in others["params"]} == {id(net[1].weight), id(net[1].bias), id(net[3].bias)}
    assert (weights["weight_decay"], weights["adapt"]) == (1e-6, True)
    assert (others["weight_decay"], others["adapt"]) == (0.0, False)


@pytest.mark.parametrize("device", DEVICES)
def test_a_saved_state_continues_bit_for_bit_in_the_same_rate_tensor(device):
    def run(net, optimizer, steps):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=generator).to(device)
            optimizer.step()

    net = make_net().to(device)
    optimizer = LARS(lars_groups(net, 1e-3), torch.tensor(0.2, device=device))
    run(net, optimizer, range(3))
    other = copy.deepcopy(net)
    saved = copy.deepcopy(optimizer.state_dict())
    lr = torch.tensor(9.0, device=device)
    resumed = LARS(lars_groups(other, 1e-3), lr)
    resumed.load_state_dict(saved)
    assert all(group["lr"] is lr for group in resumed.param_groups)
    assert lr.item() == pytest.approx(0.2)
    run(net, optimizer, range(3, 6))
    run(other, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_parameters_without_gradient_are_left_alone_and_addresses_stay():
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([a, b], 0.1)
    a.grad = torch.ones(2, 2)
    address = a.data_ptr()
    optimizer.step()
    assert torch.equal(b, torch.ones(2, 2))
    assert a.data_ptr() == address
    assert b not in optimizer.state


def test_closure_runs_with_gradients():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([p], 0.1)

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert (p != 1).all()


def gradients(net, seed, odd=False):
    """Fresh gradients, the same for the same seed whatever the layout; odd: laid out otherwise than the parameters."""
    generator = torch.Generator().manual_seed(seed + 1000)
    for p in net.parameters():
        grad = torch.randn(p.shape, generator=generator)
        grad = grad.permute(*reversed(range(p.ndim))).contiguous().permute(*reversed(range(p.ndim))) if odd else grad
        p.grad = grad.to(p.device, p.dtype) if odd else torch.empty_like(p).copy_(grad)


def parameters_of(shapes, dtypes, seed=0, device=KERNEL, before=0):
    """Parameters inside larger buffers of NaN, `before` elements from their begin: any write beside them shows."""
    generator = torch.Generator().manual_seed(seed)
    buffers, params = [], []
    for k, shape in enumerate(shapes):
        x = torch.randn(shape, generator=generator).to(device, dtypes[k % len(dtypes)])
        buffers.append(torch.full((before + x.numel() + 9,), math.nan, dtype=x.dtype, device=device))
        params.append(nn.Parameter(buffers[-1][before : before + x.numel()].view(shape).copy_(x)))
    return buffers, params


def assert_same(ours, theirs, size=0.1):
    """Two optimizers over as many parameters hold the same weights and state, to float32's rounding of values of a
    size."""
    for a, b in zip(*(list(o.state.items()) for o in (ours, theirs)), strict=True):
        names = {"momentum", "master"} if a[0].dtype in lars_rule.HALF else {"momentum"}
        assert a[1].keys() == b[1].keys() == names
        for name in a[1]:
            assert a[1][name].dtype == torch.float32
            torch.testing.assert_close(a[1][name], b[1][name], rtol=2e-6, atol=1e-6 * size)
        eps = max(torch.finfo(a[0].dtype).eps, 2e-6)  # the interpreter truncates bf16
        torch.testing.assert_close(a[0].detach(), b[0].detach(), rtol=eps, atol=1e-6 * size)


@pytest.mark.parametrize(("dtypes", "before"), [(TYPES[:1], 8), (TYPES[1:2], 0), (TYPES[2:], 1), (TYPES, 1)])
def test_kernels_are_the_reference_on_odd_shapes_and_write_nothing_beside_them(dtypes, before, launches):
    (buffers, ours), (_, theirs) = (parameters_of(ODD, dtypes, before=before) for _ in range(2))
    made = [
        cls([{"params": p[0::3], "lr": 0.3}, {"params": p[1::3], "adapt": False},
             {"params": p[2::3], "lr": 0.1, "momentum": 0.5}],
            torch.tensor(0.2, device=KERNEL), weight_decay=0.01, trust=0.02)
        for cls, p in ((LARS, ours), (PlainLARS, theirs))
    ]  # fmt: skip
    for step in range(2):
        for params, optimizer in zip((ours, theirs), made, strict=True):
            gradients(nn.ParameterList(params), step)
            optimizer.step()
    assert_same(*made)
    for buffer, param in zip(buffers, ours, strict=True):
        assert buffer.isnan().sum() == buffer.numel() - param.numel()
    assert launches.total() == 4


def test_kernels_take_whole_blocks_and_several_chunks(launches):
    shapes = [
        (multi_tensor.CHUNK + multi_tensor.BLOCK,),
        (2, multi_tensor.BLOCK),
        (multi_tensor.BLOCK + 3,),
    ]
    (buffers, ours), (_, theirs) = (parameters_of(shapes, [torch.float32]) for _ in range(2))
    made = [cls(p, 0.5, weight_decay=0.01) for cls, p in ((LARS, ours), (PlainLARS, theirs))]
    for params, optimizer in zip((ours, theirs), made, strict=True):
        gradients(nn.ParameterList(params), 0)
        optimizer.step()
    assert_same(*made)
    assert all(b.isnan().sum() == b.numel() - p.numel() for b, p in zip(buffers, ours, strict=True))


def test_norms_of_many_chunks_are_added_up(launches, monkeypatch):
    """As of a tensor with more chunks than a program adds up at once; the whole of it with small numbers."""
    monkeypatch.setattr(multi_tensor, "CHUNK", 32)
    monkeypatch.setattr(lars_kernel, "REDUCE", 4)
    monkeypatch.setattr(lars_kernel, "LAUNCH", multi_tensor.LAUNCH | {"CHUNK": 32, "BLOCK": 16})
    (_, ours), (_, theirs) = (parameters_of([(33,), (7, 47), (16,)], [torch.float32]) for _ in range(2))
    made = [cls(p, 0.5, weight_decay=0.01) for cls, p in ((LARS, ours), (PlainLARS, theirs))]
    for params, optimizer in zip((ours, theirs), made, strict=True):
        gradients(nn.ParameterList(params), 0)
        optimizer.step()
    assert_same(*made)


@settings(max_examples=15)
@given(
    shapes=st.lists(st.lists(st.integers(0, 6), max_size=3).map(tuple), min_size=1, max_size=6),
    types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3),
    rule=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.booleans()),
    exponents=st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
    seed=st.integers(0, 99),
)
def test_a_step_on_a_cpu_is_the_reference_is_the_published_rule(shapes, types, rule, exponents, seed):
    lr, momentum, weight_decay, trust, adapt = rule
    _, params = parameters_of(shapes, types, seed, "cpu")
    _, grads = parameters_of(shapes, types, seed + 1, "cpu")
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            p.copy_((p.double() * 2.0 ** exponents[0]).clamp(-6e4, 6e4))
            p.grad = (g.double() * 2.0 ** exponents[1]).clamp(-6e4, 6e4).to(p.dtype)
    others = copy.deepcopy(params)
    for p, q in zip(params, others, strict=True):
        q.grad = p.grad.clone()
    options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
    start = [p.detach().double().flatten().tolist() for p in params]
    fast, plain = LARS(params, **options), PlainLARS(others, **options)
    with mock.patch.object(lars_cpu, "BLOCK", 7):
        fast.step()
    plain.step()
    gradients_and_weights = [*(q.grad.flatten().tolist() for q in others), *start]
    assert_same(fast, plain, max(1.0, *(abs(x) for values in gradients_and_weights for x in values), 0.0))
    for p, values in zip(others, start, strict=True):
        want, moment = plain_step(values, p.grad.double().flatten().tolist(), [0.0] * len(values), **options)
        for got, exact in ((plain.state[p].get("master", p), want), (plain.state[p]["momentum"], moment)):
            exact = torch.tensor(exact, dtype=torch.float64).view(p.shape)
            scale = exact.abs().max() + torch.tensor(values, dtype=torch.float64).abs().max() if values else 0
            torch.testing.assert_close(got.detach().double(), exact, rtol=1e-5, atol=float(1e-6 * scale))


@pytest.mark.parametrize("odd", [False, True])
def test_channels_last_weights_and_gradients_in_any_order_of_memory(odd, launches):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1)).to(KERNEL, memory_format=torch.channels_last)

    ours, theirs = net(), net().to(memory_format=torch.contiguous_format)
    made = [cls(lars_groups(n, 1e-2), 0.5) for cls, n in ((LARS, ours), (PlainLARS, theirs))]
    for step in range(3):
        gradients(ours, step, odd)
        gradients(theirs, step)
        for optimizer in made:
            optimizer.step()
    assert_same(*made)
    assert made[0].state[ours[0].weight]["momentum"].stride() == ours[0].weight.stride()


def test_layout_of_a_parameter_may_change_between_steps(launches):
    ours, theirs = (nn.Sequential(nn.Conv2d(4, 6, 3)).to(KERNEL) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    made = [cls(lars_groups(n, 1e-2), 0.5) for cls, n in ((LARS, ours), (PlainLARS, theirs))]
    for step in range(3):
        for net, optimizer in zip((ours, theirs), made, strict=True):
            gradients(net, step)
            optimizer.step()
        ours.to(memory_format=torch.channels_last)
    assert_same(*made)
    assert launches.total() == 6


def test_weights_that_are_not_dense_go_the_other_way(launches):
    (_, (wide,)), (_, (other,)) = (parameters_of([(6, 8)], [torch.float32]) for _ in range(2))
    ours, theirs = nn.Parameter(wide.detach()[:, ::2]), nn.Parameter(other.detach()[:, ::2])
    made = [cls([p], 0.5, weight_decay=0.01) for cls, p in ((LARS, ours), (PlainLARS, theirs))]
    for p, optimizer in zip((ours, theirs), made, strict=True):
        p.grad = torch.ones(6, 4, device=KERNEL)
        optimizer.step()
    assert_same(*made)
    assert torch.equal(wide[:, 1::2], other[:, 1::2])
    assert launches.total() == 0


@ways
def test_float64_stays_float64(way):
    cls, device = way
    p = nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64, device=device))
    p.grad = torch.full_like(p, -1.0)
    optimizer = cls([p], 1.0, weight_decay=0.5, trust=0.1)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 3 - 0.1 * 6 / 1 * 0.5), rtol=1e-14, atol=0)
    assert optimizer.state[p]["momentum"].dtype == torch.float64


@ways
def test_gradient_of_another_type_than_its_parameter(way):
    cls, device = way
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for dtype, grad_dtype in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32),
                              (torch.float32, torch.float64)):  # fmt: skip
        params = [nn.Parameter(values.to(device, dtype, copy=True)) for _ in range(2)]
        for p in params:
            p.grad_dtype = grad_dtype
            p.grad = (values * 3).to(device, grad_dtype)
        made = [kind([p], 0.5, weight_decay=0.1) for kind, p in zip((cls, PlainLARS), params, strict=True)]
        for optimizer in made:
            optimizer.step()
        assert_same(*made)


def test_two_launches_and_an_upload_only_where_something_moved(launches, monkeypatch):
    upload = multi_tensor.HostTable.upload

    def counted(table, device, room):
        launches["upload"] += 1
        return upload(table, device, room)

    monkeypatch.setattr(multi_tensor.HostTable, "upload", counted)
    lr = torch.tensor(0.1, device=KERNEL)
    nets = [make_net().to(KERNEL) for _ in range(3)]
    groups = [group for net in nets for group in lars_groups(net, 1e-3)]
    groups[3]["lr"] = 0.2
    optimizer = LARS(groups, lr)
    for net in nets:
        gradients(net, 0)
    counts = []

    def step():
        before = Counter(launches)
        optimizer.step()
        counts.append(
            tuple((launches - before)[name] for name in ("lars_norms_kernel", "lars_update_kernel", "upload"))
        )

    step()
    lr.fill_(0.2)
    step()
    optimizer.param_groups[3]["lr"] = 0.3
    step()
    kept = nets[0][0].weight.grad  # so that the next lies elsewhere
    nets[0][0].weight.grad = kept.clone()
    step()
    step()
    assert counts == [(1, 1, 1), (1, 1, 0), (1, 1, 1), (1, 1, 1), (1, 1, 0)]
    monkeypatch.setattr(lars_step, "is_capturing", lambda device: True)
    step()  # reads the table that is there
    optimizer.param_groups[3]["lr"] = 0.4
    step()  # makes one, which only the graph fills
    assert optimizer._table.uploaded is None
    assert counts[-2:] == [(1, 1, 0), (1, 1, 1)]


def test_a_table_holds_no_gradient_alive(launches):
    net = make_net().to(KERNEL)
    optimizer = LARS(net.parameters(), 0.1)
    gradients(net, 0)
    optimizer.step()
    seen = [weakref.ref(p.grad) for p in net.parameters()]
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    assert not any(ref() is not None for ref in seen)


def test_gradients_that_move_at_each_step_and_floats_that_change(launches):
    ours, theirs = (make_net().to(KERNEL) for _ in range(2))
    made = [cls(lars_groups(n, 1e-2), 0.5) for cls, n in ((LARS, ours), (PlainLARS, theirs))]
    kept = []
    for step in range(5):
        for net, optimizer in zip((ours, theirs), made, strict=True):
            for group in optimizer.param_groups:
                group.update(lr=0.5 / (step + 1), momentum=0.1 * step, weight_decay=0.01 * step)
            gradients(net, step)
            if step == 2:  # some have none
                net[0].weight.grad = net[3].bias.grad = None
            kept.append([p.grad for p in net.parameters()])
            optimizer.step()
    assert_same(*made)


def test_two_runs_are_bitwise_equal(launches):
    results = []
    for _ in range(2):
        net = make_net().to(KERNEL)
        optimizer = LARS(lars_groups(net, 1e-2), 0.5)
        for step in range(3):
            gradients(net, step)
            optimizer.step()
        results.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_autograd_sees_that_a_parameter_changed(launches):
    p = nn.Parameter(torch.ones(3, device=KERNEL))
    value = p.square().sum()
    p.grad = torch.ones(3, device=KERNEL)
    LARS([p], 0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("dtype", TYPES[:2])
@pytest.mark.parametrize("pair", [(LARS, PlainLARS), (PlainLARS, LARS)])
def test_state_loads_from_the_reference_and_into_it(dtype, pair):
    nets = [make_net().to(dtype)]
    optimizers = [pair[0](lars_groups(nets[0], 1e-2), 0.4)]
    for step in range(2):
        gradients(nets[0], step)
        optimizers[0].step()
    nets.append(copy.deepcopy(nets[0]))
    optimizers.append(pair[1](lars_groups(nets[1], 1e-2), 9.0))
    optimizers[1].load_state_dict(optimizers[0].state_dict())  # no copy between: nothing may be shared
    for optimizer in optimizers:
        assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        for name, value in optimizers[0].state[p].items():
            assert torch.equal(optimizers[1].state[q][name], value)
            assert optimizers[1].state[q][name].dtype == torch.float32
    for step in range(2, 4):
        for net, optimizer in zip(nets, optimizers, strict=True):
            gradients(net, step)
            optimizer.step()
    assert_same(*optimizers)


def test_masters_move_where_the_parameter_s_type_cannot(launches):
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16, device=KERNEL))
    optimizer = LARS([p], 1e-3, momentum=0.0, adapt=False)
    for _ in range(4):
        p.grad = torch.ones_like(p)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["master"], torch.full((4,), 1 - 4e-3, device=KERNEL))
    assert (p == torch.tensor(1 - 4e-3).to(torch.bfloat16)).all() or not GPU  # the interpreter truncates


@ways
def test_loading_keeps_the_tensors_that_are_there(way):
    cls, device = way
    net = make_net().to(device, torch.bfloat16)
    lr = torch.tensor(0.3, device=device)
    optimizer = cls(lars_groups(net, 1e-2), lr)
    gradients(net, 0)
    optimizer.step()
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
    addresses = [x.data_ptr() for state in optimizer.state.values() for x in state.values()]
    runs = []
    for _ in range(2):
        for step in (1, 2):
            gradients(net, step)
            optimizer.step()
        lr.fill_(0.1)
        runs.append([p.detach().clone() for p in net.parameters()])
        optimizer.load_state_dict(saved)
        net.load_state_dict(weights)
        assert lr.item() == pytest.approx(0.3)
        assert [x.data_ptr() for state in optimizer.state.values() for x in state.values()] == addresses
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    missing = copy.deepcopy(saved)
    for state in missing["state"].values():
        del state["master"]
    optimizer.load_state_dict(missing)
    assert all(torch.equal(s["master"].to(p.dtype), p) for p, s in optimizer.state.items())


def test_a_copy_goes_its_own_way(launches):
    net = make_net().to(KERNEL)
    optimizer = LARS(lars_groups(net, 1e-2), 0.3)
    gradients(net, 0)
    optimizer.step()
    net_copy, optimizer_copy = copy.deepcopy((net, optimizer))
    kept = [p.detach().clone() for p in net.parameters()]
    for each, its in ((net_copy, optimizer_copy), (net, optimizer)):
        gradients(each, 1)
        its.step()
        if each is net_copy:
            assert all(torch.equal(p, k) for p, k in zip(net.parameters(), kept, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), net_copy.parameters(), strict=True))


def test_lr_that_becomes_unfit_is_refused_before_a_launch(launches):
    p = nn.Parameter(torch.ones(4, device=KERNEL))
    p.grad = torch.ones_like(p)
    optimizer = LARS([p], 0.1)
    optimizer.step()
    before = p.detach().clone()
    elsewhere, double = torch.tensor(0.1, device="meta"), torch.tensor(0.1, dtype=torch.float64)
    for lr, error in ((elsewhere, ValueError), (double, TypeError), (-1.0, ValueError)):
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(error, match="lr"):
            optimizer.step()
    assert torch.equal(p, before)
    assert launches.total() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_compiles_whole_and_a_new_rate_does_not_recompile(dtype):
    ours, theirs = make_net().to(KERNEL, dtype), make_net().to(KERNEL, dtype)
    lr = torch.tensor(0.3, device=KERNEL)
    made = [LARS(lars_groups(net, 1e-2), lr) for net in (ours, theirs)]
    for net, optimizer in zip((ours, theirs), made, strict=True):
        gradients(net, 0)
        optimizer.step()
    compiled = torch.compile(lambda: made[0].step(), fullgraph=True, backend="aot_eager")
    for step, rate in enumerate((0.1, 0.2, 0.3)):
        lr.fill_(rate)
        gradients(ours, step)
        gradients(theirs, step)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            compiled()
        made[1].step()
    assert_same(*made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device, dtype):
    def make(dtype, seed):
        return [x.detach().clone() for x in parameters_of([(3, 4), (5,)], [dtype], seed, device)[1]]

    masters = make(torch.float32, 0) if dtype in lars_rule.HALF else []
    rules = [torch.tensor(0.1, device=device)] * 2, [0.9, 0.9], [0.1, 0.0], [1e-3, 1e-3], [True, False]
    tensors = make(dtype, 0), make(dtype, 1), make(torch.float32, 2), masters
    torch.library.opcheck(lars_step._lars, (*tensors, [0, 1], *rules))


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_types_stay(device):
    runs = []
    for enabled in (False, True):
        net = make_net().to(device)
        optimizer = LARS(lars_groups(net, 1e-2), 0.3)
        gradients(net, 0)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
            optimizer.step()
        runs.append([p.detach() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_captured_step_reads_a_table_that_is_uploaded_once_after_the_capture(launches, monkeypatch):
    """A capture by hand: its launches are kept, to be run at each replay, and memory of it that a copy has not written
    yet would be read then."""
    ours, theirs = make_net().to(KERNEL), make_net().to(KERNEL)
    made = [LARS(lars_groups(net, 1e-2), 0.3) for net in (ours, theirs)]
    for net, optimizer in zip((ours, theirs), made, strict=True):
        gradients(net, 0)
        optimizer.step()
    replay, launch, copies = [], lars_step.launch_lars, Counter()
    with monkeypatch.context() as patch:
        for module in (lars, lars_step, multi_tensor):
            patch.setattr(module, "is_capturing", lambda device: True)
        patch.setattr(lars_step, "launch_lars", lambda *args: replay.append(lambda: launch(*args)))
        copy = torch.Tensor.copy_
        patch.setattr(torch.Tensor, "copy_", lambda *args, **how: copies.update(["copy"]) or copy(*args, **how))
        gradients(ours, 1)  # elsewhere than before: a capture has memory of its own
        room = made[0]._table.room
        with uploads_after_capture():
            before = copies.total()
            made[0].step()
            assert multi_tensor._POSTPONED[-1][0][0] is room  # not the capture's own, which others use before it
            assert copies.total() == before
        assert copies.total() == before + 1
        for _ in range(2):
            replay[0]()
        assert copies.total() == before + 1
    for _ in range(2):
        gradients(theirs, 1)
        made[1].step()
    assert_same(*made)
    assert multi_tensor._POSTPONED == []


def test_a_capture_that_fails_uploads_nothing(monkeypatch):
    monkeypatch.setattr(multi_tensor, "is_capturing", lambda device: True)
    found = []

    def fail():
        with uploads_after_capture():
            room = torch.full((3,), -1)  # number of elements, first chunk, owner
            assert multi_tensor.HostTable([5], []).upload(torch.device("cpu"), room) is room
            found.append(room)
            raise RuntimeError("invalid")

    with pytest.raises(RuntimeError, match="invalid"):
        fail()
    assert bool((found[0] == -1).all())
    assert multi_tensor._POSTPONED == []


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("once", [False, True])
def test_stands_in_a_cuda_graph(once):
    ours, theirs = make_net().cuda(), make_net().cuda()
    lr = torch.tensor(0.3, device="cuda")
    made = [LARS(lars_groups(net, 1e-2), lr) for net in (ours, theirs)]
    static = [torch.zeros_like(p) for p in ours.parameters()]

    def eager(optimizer, net, step):
        gradients(net, step)
        optimizer.step()

    eager(made[0], ours, 0)
    eager(made[1], theirs, 0)
    graph = torch.cuda.CUDAGraph()
    with uploads_after_capture() if once else contextlib.nullcontext(), torch.cuda.graph(graph):
        for p, grad in zip(ours.parameters(), static, strict=True):
            p.grad = grad * 1  # allocated inside the graph: addresses of its own
        for power in range(22):  # written at each replay, in memory that what comes later gets: not the table
            torch.full((1 << power,), -1, dtype=torch.int64, device="cuda")
        made[0].step()
    for step in (1, 2, 3):
        lr.fill_(0.1 * step)
        gradients(theirs, step)
        for grad, p in zip(static, theirs.parameters(), strict=True):
            grad.copy_(p.grad)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            graph.replay()
            torch.cuda.synchronize()
        assert not (once and [event for event in profile.events() if event.name.startswith("Memcpy HtoD")])
        made[1].step()
        eager(made[0], ours, 10 + step)  # between replays, by a table of its own
        eager(made[1], theirs, 10 + step)
    assert_same(*made)


def zeros(*shape, **kind):
    return torch.zeros(*shape, **kind)


@pytest.mark.parametrize(
    ("params", "grads", "momenta", "masters", "error", "name"),
    [
        ([zeros(2)], [], [zeros(2)], [], ValueError, "grads: 0"),
        ([zeros(2)], [zeros(2)], [], [], ValueError, "momenta: 0"),
        ([zeros(2), zeros(3)], [zeros(2), zeros(2)], [zeros(2), zeros(3)], [], ValueError, r"grads\[1\]"),
        ([zeros(2)], [zeros(2)], [zeros(3)], [], ValueError, r"momenta\[0\]"),
        ([zeros(2)], [zeros(2)], [zeros(2, dtype=torch.float16)], [], TypeError, r"momenta\[0\]"),
        ([zeros(2, dtype=torch.float16)], [zeros(2)], [zeros(2)], [], ValueError, "masters: 0"),
        ([zeros(2)], [zeros(2)], [zeros(2)], [zeros(2)], ValueError, "masters: 1"),
        ([zeros(2)], [zeros(2, device="meta")], [zeros(2)], [], ValueError, r"grads\[0\]: .* on meta"),
        ([zeros(2), zeros(2, device="meta")], [zeros(2)] * 2, [zeros(2)] * 2, [], ValueError, r"params\[1\]"),
        ([zeros(2)], [zeros(2).to_sparse()], [zeros(2)], [], TypeError, r"grads\[0\]"),
        ([zeros(2)], [zeros(2).long()], [zeros(2)], [], TypeError, r"grads\[0\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(params, grads, momenta, masters, error, name):
    rule = lars_rule.Rule(0.1, 0.9, 0.1, 1e-3, True)
    with pytest.raises(error, match=name):
        lars_rule.check(lars_rule.Batch(params, grads, momenta, masters, [0] * len(params), [rule]))


def test_sparse_gradients_are_refused():
    table = nn.Embedding(4, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse"):
        LARS(table.parameters(), 0.1).step()


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match="complex"):
        LARS([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], 0.1)
    optimizer = LARS([nn.Parameter(torch.zeros(2))], 0.1)
    with pytest.raises(ValueError, match="trust"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "trust": -1.0})
    assert len(optimizer.param_groups) == 1
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"] = {0: {"momentum": torch.zeros(1)}}
    with pytest.raises(ValueError, match=r"\(1,\), expected \(2,\)"):
        optimizer.load_state_dict(saved)
    both = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, device="meta"))]
    for p in both:
        p.grad = torch.zeros_like(p)
    with pytest.raises(ValueError, match="on meta"):
        LARS(both, 0.1).step()
    LARS([nn.Parameter(torch.zeros(2))], 0.1).step()  # nothing to do


def test_a_capture_without_state_is_refused(monkeypatch):
    """Replays would run the zeroing of the momenta again."""
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = LARS([p], 0.1)
    monkeypatch.setattr(lars, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="step once before"):
        optimizer.step()
    monkeypatch.undo()
    optimizer.step()
    monkeypatch.setattr(lars, "is_capturing", lambda device: True)
    optimizer.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": torch.ones(1)}, "lr"),
        ({"lr": 0.1, "momentum": math.nan}, "momentum"),
        ({"lr": 0.1, "momentum": -0.1}, "momentum"),
        ({"lr": 0.1, "weight_decay": -1e-6}, "weight_decay"),
        ({"lr": 0.1, "trust": -1.0}, "trust"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LARS([nn.Parameter(torch.ones(1))], **options)
