"""update_target_ against its closed form."""

import pytest
import torch
from rsdnet.kernels import update_target_

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make(device, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in ((3, 5), (7,), (), (1025,))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tensor_tau", [True, False])
def test_after_k_steps_the_target_is_the_closed_form(device, tensor_tau):
    """Towards a fixed online network: target_k = online + tau^k * (target_0 - online)."""
    targets, onlines = make(device, 0), make(device, 1)
    start = [t.clone() for t in targets]
    addresses = [t.data_ptr() for t in targets]
    kept = [o.clone() for o in onlines]
    tau = torch.tensor(0.96, device=device) if tensor_tau else 0.96
    for _ in range(10):
        update_target_(targets, onlines, tau)
    for t, o, s in zip(targets, onlines, start, strict=True):
        want = o.double() + 0.96**10 * (s.double() - o.double())
        torch.testing.assert_close(t.double(), want, rtol=1e-5, atol=1e-6)
    assert [t.data_ptr() for t in targets] == addresses
    assert all(torch.equal(o, k) for o, k in zip(onlines, kept, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_tau_of_one_keeps_the_target_and_of_zero_takes_the_online(device):
    targets, onlines = make(device, 0), make(device, 1)
    start = [t.clone() for t in targets]
    update_target_(targets, onlines, torch.tensor(1.0, device=device))
    assert all(torch.equal(t, s) for t, s in zip(targets, start, strict=True))
    update_target_(targets, onlines, torch.tensor(0.0, device=device))
    for t, o in zip(targets, onlines, strict=True):
        torch.testing.assert_close(t, o, rtol=0, atol=1e-6)


def test_parameters_with_gradient_are_updated_outside_autograd():
    target, online = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    update_target_(list(target.parameters()), list(online.parameters()), torch.tensor(0.5))
    assert target.weight.grad_fn is None
    assert target.weight.requires_grad


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_and_a_new_tau_does_not_recompile(device):
    ours, theirs, onlines = make(device, 0), make(device, 0), make(device, 1)
    tau = torch.tensor(0.9, device=device)
    compiled = torch.compile(update_target_, fullgraph=True, backend="aot_eager")
    compiled(ours, onlines, tau)
    update_target_(theirs, onlines, 0.9)
    with torch.compiler.set_stance("fail_on_recompile"):
        for value in (0.95, 0.99):
            compiled(ours, onlines, tau.fill_(value))
            update_target_(theirs, onlines, value)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_bad_lists_are_named():
    one, two = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match="1 and 2 tensors"):
        update_target_([one], [one, one], 0.9)
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        update_target_([one, one], [one, two], 0.9)
    with pytest.raises(ValueError, match=r"targets\[0\]"):
        update_target_([one], [one.double()], 0.9)
    update_target_([], [], 0.9)
