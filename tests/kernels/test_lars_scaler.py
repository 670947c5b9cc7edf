"""LARS under a loss scale, by GradScaler's protocol, against the rule in float64 and gradients unscaled by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import LARS, lars_groups, lars_step, multi_tensor
from rsdnet.kernels.lars import PlainLARS
from torch import nn

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES

SCALES = [65536.0, 3.0]
ways = pytest.mark.parametrize("way", ["plain", "cpu", "kernel"], indirect=True)


def make_net(device="cpu", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)).to(device, dtype)


def gradients(net, seed, scale=1.0):
    """The same values for the same seed, times the scale, in the parameters' types; small: float16 ends at 65504."""
    generator = torch.Generator().manual_seed(seed + 1000)
    for p in net.parameters():
        p.grad = (torch.randn(p.shape, generator=generator) / 16 * scale).to(p.device, p.dtype)


def number(value, device):
    return torch.tensor(value, dtype=torch.float32, device=device)


def held(optimizer):
    """Copies of all that a step writes: parameters and their state, bit for bit."""
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [*groups, *(x for p in groups for x in optimizer.state.get(p, {}).values())]
    return [x.detach().clone().view(torch.int16 if x.element_size() == 2 else torch.int32) for x in tensors]


def exact_step(p, g, m, scale, lr, rule):
    """The rule in float64 on a gradient that is `scale` times too large."""
    u = g / scale + rule["weight_decay"] * p
    if rule["adapt"] and p.norm() > 0 and u.norm() > 0:
        u = u * (rule["trust"] * p.norm() / u.norm())
    m = 0.9 * m + u
    return p - lr * m, m


@ways
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", TYPES)
def test_scaled_gradients_are_unscaled_before_all_else(way, scale, dtype):
    """Also of half-precision parameters, whose masters then move as float64 says."""
    cls, device = way
    net = make_net(device, dtype)
    optimizer = cls(lars_groups(net, 1e-2), 0.3)
    expected = {p: (p.detach().double(), torch.zeros_like(p, dtype=torch.float64)) for p in net.parameters()}
    optimizer.grad_scale, optimizer.found_inf = number(scale, device), number(0.0, device)
    for step in range(3):
        gradients(net, step, scale)
        for group in optimizer.param_groups:
            for p in group["params"]:
                weight, momentum = expected[p]
                expected[p] = exact_step(weight, p.grad.double(), momentum, scale, 0.3, group)
        left = {p: p.grad.clone() for p in net.parameters()}
        optimizer.step()
    for p, (weight, momentum) in expected.items():
        state = optimizer.state[p]
        assert torch.equal(p.grad, left[p])  # still scaled
        torch.testing.assert_close(state.get("master", p).detach().double(), weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(state["momentum"].double(), momentum, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["plain", "cpu"], indirect=True)
@pytest.mark.parametrize("scale", SCALES)
def test_on_a_cpu_grad_scaler_gives_the_bits_of_unscaling_by_hand(way, scale):
    cls, _ = way
    nets = [make_net(), make_net()]
    ours, theirs = made = [cls(lars_groups(net, 1e-3), number(0.3, "cpu")) for net in nets]
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2) for _ in made]
    for step in range(6):
        for net, optimizer, scaler in zip(nets, made, scalers, strict=True):
            optimizer.zero_grad()
            x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(step))
            scaler.scale(net(x).square().mean()).backward()
            if step == 3:
                net[3].weight.grad[0, 0] = math.inf
        before = held(ours)
        scalers[0].step(ours)
        scalers[1].unscale_(theirs)
        if step != 3:
            theirs.step()
        for scaler in scalers:
            scaler.update()
        assert all(map(torch.equal, held(ours), held(theirs)))
        assert all(map(torch.equal, held(ours), before)) == (step == 3)
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert scalers[0].get_scale() == scale * 2 * 0.5 * 2
    assert not hasattr(ours, "grad_scale")


@pytest.mark.parametrize("device", DEVICES)
def test_grad_scaler_after_unscaling_does_not_unscale_again(device):
    """As before clipping: GradScaler then leaves grad_scale out, and brings found_inf."""
    nets = [make_net(device), make_net(device)]
    ours, plain = (LARS(lars_groups(net, 1e-3), 0.3) for net in nets)
    scaler = torch.amp.GradScaler(device, init_scale=256.0)
    x = torch.ones(4, 2, 4, 4, device=device)
    for found in (False, True, False):
        for net in nets:
            net.zero_grad()
        scaler.scale(nets[0](x).sum()).backward()
        nets[1](x).sum().backward()
        if found:
            nets[0][0].weight.grad.fill_(math.nan)
        scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update(256.0)
        if not found:
            plain.step()
        for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(p, q)


def test_grad_scaler_with_nothing_to_step():
    p = nn.Parameter(torch.ones(2))
    optimizer, scaler = LARS([p], 0.1), torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones((), requires_grad=True).sum()).backward()
    scaler.step(optimizer)  # without a gradient it sets found_inf to a plain 0
    assert torch.equal(p, torch.ones(2))


@ways
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("first", "found"), [(False, 1.0), (True, 2.0), (False, math.inf), (True, math.nan)])
def test_a_step_left_out_changes_no_bit(way, dtype, first, found):
    """Nor where gradients, weights and state hold NaN, inf and -0.0, or a parameter was changed beside its master."""
    cls, device = way
    net = make_net(device, dtype)
    rate = number(0.3, device)
    optimizer = cls([*lars_groups(net, 1e-2)], rate)
    if not first:
        gradients(net, 0)
        optimizer.step()
    with torch.no_grad():
        for p in net.parameters():
            for x in (p, *optimizer.state.get(p, {}).values()):
                x.view(-1)[:3] = torch.tensor([-0.0, math.nan, math.inf])
    gradients(net, 1)
    net[0].weight.grad.view(-1)[:2] = torch.tensor([math.nan, -math.inf])
    optimizer.found_inf, optimizer.grad_scale = number(found, device), number(2.0, device)
    before, addresses = held(optimizer), [p.data_ptr() for p in net.parameters()]
    optimizer.step()
    after = held(optimizer)
    assert all(map(torch.equal, before, after[: len(before)]))
    assert [p.data_ptr() for p in net.parameters()] == addresses
    if first:
        assert all((state["momentum"] == 0).all() for state in optimizer.state.values())
    assert rate.item() == pytest.approx(0.3)


@ways
def test_a_run_goes_on_after_a_step_left_out_as_if_it_had_not_been(way):
    cls, device = way
    nets = [make_net(device), make_net(device)]
    made = [cls(lars_groups(net, 1e-2), 0.3) for net in nets]
    made[0].grad_scale = number(8.0, device)
    for step, found in enumerate((0.0, 1.0, 0.0, 1.0, 1.0, 0.0)):
        gradients(nets[0], step, 8.0)
        made[0].found_inf = number(found, device)
        made[0].step()
        if not found:
            gradients(nets[1], step)
            made[1].step()
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7)


@ways
@pytest.mark.parametrize(("size", "scale"), [(1e18, 2.0**20), (1e-3, 2.0**80), (1e-3, 2.0**-80)])
def test_squares_of_scaled_gradients_may_overflow_or_vanish(way, size, scale):
    """Squared while scaled they are inf or 0 in float32: the ratio would be 0 or 1."""
    cls, device = way
    p, q = (nn.Parameter(torch.full((3, 4), 2.0, device=device)) for _ in range(2))
    p.grad, q.grad = torch.full_like(p, size) * scale, torch.full_like(p, size)
    scaled, plain = (cls([x], 0.5, trust=0.1) for x in (p, q))
    scaled.grad_scale = number(scale, device)
    scaled.step()
    plain.step()
    assert torch.equal(p, q)
    torch.testing.assert_close(p.detach(), torch.full_like(p, 2 - 0.5 * 0.1 * 2))


@pytest.mark.parametrize("way", ["kernel"], indirect=True)
@pytest.mark.parametrize("dtype", TYPES)
def test_whole_blocks_and_several_chunks_are_unscaled_too(way, dtype):
    cls, device = way
    shape = (multi_tensor.CHUNK + multi_tensor.BLOCK + 3,)
    values, grad = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    params = [nn.Parameter(values.clone()) for _ in range(2)]
    for p, size in zip(params, (256.0, 1.0), strict=True):
        p.grad = grad * size
    made = [kind([p], 0.5, weight_decay=0.01, trust=0.1) for kind, p in zip((cls, PlainLARS), params, strict=True)]
    made[0].grad_scale, made[0].found_inf = number(256.0, device), number(0.0, device)
    for optimizer in made:
        optimizer.step()
    ours, theirs = (o.state[p].get("master", p).detach() for o, p in zip(made, params, strict=True))
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


@settings(max_examples=10)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=5),
    types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3),
    exponent=st.integers(-6, 6),
    seed=st.integers(0, 99),
)
def test_trust_ratios_are_those_of_the_next_step(shapes, types, exponent, seed):
    """By the formula in float64, and by what the step does: without momentum a parameter moves by lr * ratio * u."""
    generator = torch.Generator().manual_seed(seed)
    params = []
    for k, shape in enumerate(shapes):
        params.append(nn.Parameter(torch.randn(shape, generator=generator).to(KERNEL, types[k % len(types)])))
        params[-1].grad = (torch.randn(shape, generator=generator) * 2.0**exponent).to(params[-1])
    rules = [{"params": params[0::2], "trust": 0.5}, {"params": params[1::2], "adapt": False}]
    optimizer = LARS([rule for rule in rules if rule["params"]], 1.0, momentum=0.0, weight_decay=0.125)
    optimizer.grad_scale, optimizer.found_inf = number(2.0**exponent, KERNEL), number(1.0, KERNEL)
    ratios = optimizer.trust_ratios()
    assert (ratios.shape, ratios.dtype, ratios.device) == ((len(params[0::2]),), torch.float32, params[0].device)
    assert not optimizer.state
    for p, ratio in zip(params[0::2], ratios.tolist(), strict=True):
        weight = p.detach().double()
        u = p.grad.double() / 2.0**exponent + 0.125 * weight
        both = weight.norm() > 0 and u.norm() > 0
        assert ratio == pytest.approx(float(0.5 * weight.norm() / u.norm()) if both else 1.0, rel=1e-5)
    optimizer.found_inf = None
    starts = [p.detach().double() for p in params[0::2]]
    optimizer.step()
    for p, start, ratio in zip(params[0::2], starts, ratios.double(), strict=True):
        moved = start - (p.grad.double() / 2.0**exponent + 0.125 * start) * ratio
        now = optimizer.state[p].get("master", p).detach().double()
        torch.testing.assert_close(now, moved, rtol=1e-5, atol=1e-5)


def test_trust_ratios_read_the_masters_and_skip_what_has_no_gradient():
    a, b, c = (nn.Parameter(torch.full((2, 2), 1.0, dtype=torch.bfloat16)) for _ in range(3))
    optimizer = LARS([{"params": [a, b]}, {"params": [c], "trust": 3.0}], 0.1, trust=2.0)
    assert optimizer.trust_ratios().shape == (0,)
    b.grad, c.grad = torch.full_like(b, 4.0), torch.zeros_like(c)
    optimizer.step()
    optimizer.state[b]["master"].fill_(5.0)
    assert optimizer.trust_ratios().tolist() == [2.0 * 5 / 4, 1.0]
    optimizer.param_groups[0]["adapt"] = False
    assert optimizer.trust_ratios().tolist() == [1.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_whole_and_neither_scale_nor_found_inf_recompiles(device, dtype):
    """Whether they are filled or, as GradScaler's, new tensors at each step."""
    nets = [make_net(device, dtype), make_net(device, dtype)]
    ours, theirs = made = [LARS(lars_groups(net, 1e-2), number(0.3, device)) for net in nets]
    for net, optimizer in zip(nets, made, strict=True):
        gradients(net, 0)
        optimizer.step()
    compiled = torch.compile(lambda: ours.step(), fullgraph=True, backend="aot_eager")
    scale, found = number(2.0, device), number(0.0, device)
    ours.grad_scale, ours.found_inf = scale, found
    for step, (size, left_out) in enumerate(((2.0, 0.0), (8.0, 0.0), (64.0, 1.0), (4.0, 0.0), (2.0, 1.0))):
        if step % 2:
            ours.grad_scale, ours.found_inf = number(size, device), number(left_out, device)
        else:
            ours.grad_scale, ours.found_inf = scale.fill_(size), found.fill_(left_out)
        gradients(nets[0], step, size)
        gradients(nets[1], step)
        before = held(ours)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            compiled()
        if left_out:
            assert all(map(torch.equal, held(ours), before))
        else:
            theirs.step()
        for p, q in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(p, q, rtol=2e-6 if dtype == torch.float32 else 1e-2, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(shape, generator=generator).to(device) for shape in ((3, 4), (5,))]

    rules = [number(0.1, device)] * 2, [0.9, 0.9], [0.1, 0.0], [1e-3, 1e-3], [True, False]
    for found in (0.0, 1.0):
        tensors = make(0), make(1), make(2), []
        torch.library.opcheck(lars_step._lars, (*tensors, [0, 1], *rules, number(8.0, device), number(found, device)))


@pytest.mark.parametrize("way", ["cpu", "kernel"], indirect=True)
def test_an_unfit_scale_is_refused_at_any_step(way):
    cls, device = way
    p = nn.Parameter(torch.ones(3, device=device))
    p.grad = torch.ones_like(p)
    optimizer = cls([p], 0.1)
    optimizer.step()
    before = p.detach().clone()
    for value, error in ((torch.ones(1, device=device), ValueError), (number(1.0, device).double(), TypeError)):
        optimizer.found_inf = value
        with pytest.raises(error, match="found_inf"):
            optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.skipif(not GPU, reason="host syncs are a GPU's")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # float64 goes by the reference
def test_nothing_waits_for_the_gpu(dtype):
    net = make_net("cuda", dtype)
    optimizer = LARS(lars_groups(net, 1e-2), number(0.3, "cuda"))
    optimizer.grad_scale, optimizer.found_inf = number(4.0, "cuda"), number(0.0, "cuda")
    gradients(net, 0)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
        optimizer.trust_ratios()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
def test_a_cuda_graph_reads_scale_and_found_inf_at_each_replay():
    nets = [make_net("cuda"), make_net("cuda")]
    ours, theirs = (LARS(lars_groups(net, 1e-2), 0.3) for net in nets)
    for net, optimizer in zip(nets, (ours, theirs), strict=True):
        gradients(net, 0)
        optimizer.step()
    scale, found = number(1.0, "cuda"), number(0.0, "cuda")
    ours.grad_scale, ours.found_inf = scale, found
    gradients(nets[0], 0)
    static = [p.grad for p in nets[0].parameters()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for step, (size, left_out) in enumerate(((1.0, 0.0), (64.0, 0.0), (64.0, 1.0), (8.0, 0.0))):
        scale.fill_(size)
        found.fill_(left_out)
        gradients(nets[1], step)
        for grad, p in zip(static, nets[1].parameters(), strict=True):
            grad.copy_(p.grad * size)
        before = held(ours)
        graph.replay()
        if left_out:
            assert all(map(torch.equal, held(ours), before))
        else:
            theirs.step()
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=1e-7)
