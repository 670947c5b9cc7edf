"""BYOL against closed forms and a second derivation in float64."""

import dataclasses
import math

import pytest
import torch
from rsdnet.kernels import LARS, lars_groups

from rsdnet.config import Config, ModelConfig
from rsdnet.methods.byol import BYOL, tau

SMALL = Config(model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16))


def test_views_go_one_after_the_other_unless_asked_otherwise() -> None:
    torch.manual_seed(0)
    views = torch.randn(2, 6, 1, 16, 16)
    views[1] += 3  # other statistics than the first view
    separate = BYOL(SMALL)
    joint = BYOL(dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, concatenate_views=True)))
    joint.load_state_dict(separate.state_dict())
    mean = separate.online.encoder.bn1.running_mean.clone()
    separate(views), joint(views)
    assert separate.online.encoder.bn1.num_batches_tracked == 2
    assert joint.online.encoder.bn1.num_batches_tracked == 1
    assert not torch.equal(mean, separate.online.encoder.bn1.running_mean)
    # DeepMind's order: view 1 enters the running mean first, view 2 second (torch's momentum 0.1).
    first, second = (separate.online.encoder.conv1(view).mean((0, 2, 3)) for view in views)
    torch.testing.assert_close(separate.online.encoder.bn1.running_mean, 0.9 * 0.1 * first + 0.1 * second)


def test_silent_error_1_the_target_is_a_network_of_its_own() -> None:
    """torchgeo PR 3954: target and online shared one backbone, so nothing was averaged."""
    torch.manual_seed(0)
    byol = BYOL(SMALL)
    online, target = list(byol.online.parameters()), list(byol.target.parameters())
    assert not {p.data_ptr() for p in online} & {p.data_ptr() for p in target}
    start = [p.detach().clone() for p in target]
    addresses = [p.data_ptr() for p in target]
    optimizer = LARS(lars_groups(byol, 1e-6), lr=torch.tensor(0.5))
    buffers = {name: b.clone() for name, b in byol.online.named_buffers()}
    byol(torch.randn(2, 8, 1, 16, 16)).loss.backward()
    assert all(p.grad is None for p in target)
    optimizer.step()
    byol.after_step(torch.tensor(True), tau=torch.tensor(0.9))
    for old, new, moved in zip(start, target, online, strict=True):
        torch.testing.assert_close(new.detach(), old + 0.1 * (moved.detach() - old))
    assert any(not torch.equal(t, o) for t, o in zip(target, online, strict=True))
    assert [p.data_ptr() for p in target] == addresses
    assert any(not torch.equal(buffers[name], b) for name, b in byol.target.named_buffers())
    before = [p.clone() for p in target]
    byol.after_step(torch.tensor(False), tau=torch.tensor(0.9))  # skipped
    assert all(torch.equal(*pair) for pair in zip(before, target, strict=True))


def test_a_forward_gives_the_projections_of_both_views_without_gradient() -> None:
    torch.manual_seed(0)
    byol, views = BYOL(SMALL), torch.randn(2, 16, 1, 32, 32)
    _, z1, z2 = byol(views)
    for found, view in zip((z1, z2), views, strict=True):
        torch.testing.assert_close(found, byol.online(view))
        assert not found.requires_grad


def test_tau_as_deepmind_wrote_it() -> None:
    assert tau(0, 100, 0.99) == pytest.approx(0.99)
    assert tau(50, 100, 0.99) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 2) + 1) / 2)
    assert tau(100, 100, 0.99) == pytest.approx(1)
