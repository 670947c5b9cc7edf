"""What holds for every method: compiled without graph breaks, the gradients of eager mode, none for frozen weights."""

import dataclasses

import pytest
import torch
import torch._dynamo.testing

from rsdnet.config import Config, ModelConfig
from rsdnet.methods import METHODS
from rsdnet.methods.base import COMPILED
from rsdnet.model.batchnorm import split_views
from rsdnet.training.step import compile_regions

CFG = Config(model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16))
TOYS = ("tests.support.toys:ToyMethod", "tests.support.toys:toy_encoder")


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("method", "encoder"), [("byol", "resnet18"), ("simsiam", "resnet18"), TOYS])
def test_compiled_there_are_no_breaks_and_the_gradients_are_the_same(
    method: str, encoder: str, regions: bool, one_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one graph, and in regions as on several ranks; compiled once for changing views."""
    width = CFG.model.width if encoder == "resnet18" else ModelConfig.width
    cfg = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, method=method, encoder=encoder, width=width))
    torch.manual_seed(0)
    plain, made = (METHODS.find(method)(cfg) for _ in range(2))
    made.load_state_dict(plain.state_dict())
    made.one_pass = one_pass and split_views(made)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiler, graphs = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda *about, options, **others: compiler(*about, backend=counter, **others))
    if regions:
        compile_regions(made)
    else:
        made.compile(**COMPILED)
    for views in torch.randn(3, 2, 6, 1, 20, 20):
        expected, found = plain(views), made(views)
        torch.testing.assert_close(found.loss, expected.loss)
        plain.zero_grad(), made.zero_grad()
        expected.loss.backward(), found.loss.backward()
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1
    assert graphs[0] == 1 or regions
    for p, q in zip(plain.parameters(), made.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
    one, other = (torch.cat([p.grad.flatten() for p in m.parameters() if p.requires_grad]) for m in (made, plain))
    assert (one - other).norm() < 1e-4 * other.norm()
