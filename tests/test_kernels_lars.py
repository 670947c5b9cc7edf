"""LARS against DeepMind's rule in plain Python."""

import copy
import math

import pytest
import torch
from rsdnet.kernels import LARS, lars_groups
from rsdnet.kernels.lars import lars_
from torch import nn

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_steps_are_those_of_the_published_rule(device, tensor_lr):
    net = make_net().to(device)
    lr = torch.tensor(0.3, device=device) if tensor_lr else 0.3
    optimizer = LARS(lars_groups(net, 1e-2), lr)
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


@pytest.mark.parametrize("zero", ["parameter", "gradient", "both"])
def test_the_factor_is_one_where_a_norm_is_zero(zero):
    p = nn.Parameter(torch.zeros(3, 2) if zero != "gradient" else torch.ones(3, 2))
    p.grad = torch.zeros(3, 2) if zero != "parameter" else torch.full((3, 2), 0.5)
    before = p.detach().clone()
    LARS([p], 0.1).step()
    torch.testing.assert_close(p.detach(), before - 0.1 * p.grad)


def test_ratio_counts_the_weight_decay_inside_the_norm():
    """norm(g + wd * p), here 1; not norm(g) + wd * norm(p), here 5, as lightly and solo-learn; not norm(g), here 2."""
    p = nn.Parameter(torch.full((2, 2), 3.0))
    p.grad = torch.full((2, 2), -1.0)
    LARS([p], 1.0, weight_decay=0.5, trust=0.1).step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), 3 - 0.1 * 6 / 1 * 0.5))


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


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_and_a_new_rate_does_not_recompile(device):
    def make():
        generator = torch.Generator().manual_seed(0)
        return [[torch.randn(s, generator=generator).to(device) for s in ((3, 4), (5, 2))] for _ in range(3)]

    ours, theirs = make(), make()
    lr = torch.tensor(0.1, device=device)
    options = {"momentum": 0.9, "weight_decay": 1e-3, "trust": 1e-3, "adapt": True}
    compiled = torch.compile(lars_, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(*ours, lr, **options)
        lars_(*theirs, 0.1, **options)
        with torch.compiler.set_stance("fail_on_recompile"):
            for rate in (0.2, 0.3):
                lr.fill_(rate)
                compiled(*ours, lr, **options)
                lars_(*theirs, rate, **options)
    for a, b in zip(ours[0] + ours[2], theirs[0] + theirs[2], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": torch.ones(1)}, "lr"),
        ({"lr": 0.1, "momentum": -0.1}, "momentum"),
        ({"lr": 0.1, "weight_decay": -1e-6}, "weight_decay"),
        ({"lr": 0.1, "trust": -1.0}, "trust"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LARS([nn.Parameter(torch.ones(1))], **options)
