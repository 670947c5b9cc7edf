"""Both views as one batch compute what one after the other does: loss, gradients, BatchNorm's statistics."""

import dataclasses
from typing import Any

import pytest
import torch
from rsdnet.kernels.loss import byol_loss_formula
from torch import Tensor, nn

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.methods import METHODS, byol, simsiam
from rsdnet.methods.base import Method
from rsdnet.model.batchnorm import ViewBatchNorm, batch_of, split_views
from rsdnet.training.settings import fitted
from rsdnet.training.step import TrainStep

CPU = torch.device("cpu")
CFG = Config(views=ViewConfig(size=32), model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16))
HERE = "tests.methods.test_one_pass"


@pytest.fixture(autouse=True)
def any_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss by its formula, which takes float64 too."""
    for module in (byol, simsiam):
        monkeypatch.setattr(module, "byol_loss", byol_loss_formula)


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a norm with its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class BatchVariance(nn.Module):
    """As timm's EvoNorm2dB0: samples meet in a layer that is no BatchNorm, but keeps statistics as one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var((0, 2, 3))
        self.running_var.lerp_(variance.detach(), 0.1)
        return x / variance.sqrt()[None, :, None, None]


def convolutional(norm: nn.Module) -> nn.Module:
    body = nn.Conv2d(1, 6, 3, 2, bias=False), norm, nn.ReLU(), nn.Conv2d(6, 9, 3), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*body, nn.Flatten())


def activated(cfg: Config) -> nn.Module:
    return convolutional(Activated(6))


def variance(cfg: Config) -> nn.Module:
    return convolutional(BatchVariance(6))


def without_statistics(cfg: Config) -> nn.Module:
    return convolutional(nn.BatchNorm2d(6, track_running_stats=False))


def of_layers(cfg: Config) -> nn.Module:
    """No BatchNorm, as a transformer."""
    return nn.Sequential(convolutional(nn.GroupNorm(2, 6)), nn.LayerNorm(9))


def pair(dtype: torch.dtype, split: bool = True, **model: Any) -> tuple[Method, Method]:
    """A method that forwards one view after the other, and its twin in one pass, as far as it can be."""
    torch.manual_seed(0)
    if model.get("encoder", "").startswith(HERE):
        model["width"] = ModelConfig.width
    cfg = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, **model))
    plain, made = (METHODS.find(cfg.model.method)(cfg).to(dtype) for _ in range(2))
    made.load_state_dict(plain.state_dict())
    for parameter in plain.parameters():  # torch's biases of 0 would hide a gradient that is added once too often
        nn.init.normal_(parameter, std=0.1) if parameter.ndim == 1 else None
    made.load_state_dict(plain.state_dict())
    made.one_pass = split_views(made)
    assert made.one_pass is split
    return plain, made


def views(dtype: torch.dtype, batch: int = 6) -> Tensor:
    """Two views whose statistics differ much."""
    x = torch.randn(2, batch, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[1] = 3 * x[1] + 2
    return x.to(dtype)


def assert_same(plain: Method, made: Method, tolerance: float) -> None:
    """After a forward and a backward of each: loss, projections, all gradients together, statistics, counts."""
    batch = views(next(plain.parameters()).dtype)
    expected, found = plain(batch), made(batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    expected.loss.backward(), found.loss.backward()
    assert [p.grad is None for p in made.parameters()] == [not p.requires_grad for p in plain.parameters()]
    one, other = (
        torch.cat([p.grad.flatten() for p in method.parameters() if p.requires_grad]) for method in (made, plain)
    )
    assert other.norm() > 1e-3
    assert (one - other).norm() <= tolerance * other.norm()
    for (name, one), other in zip(made.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
    counts = [norm.num_batches_tracked for norm in made.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    assert all(count is None or count == 2 for count in counts)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("model", [{}, {"encoder": "resnet50"}, {"recompute": True}, {"method": "simsiam"}], ids=str)
def test_it_is_the_same_function(model: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    plain, made = pair(dtype, **model)
    assert {type(norm) for norm in made.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)} == {
        ViewBatchNorm
    }
    assert_same(plain, made, tolerance)


@pytest.mark.parametrize("encoder", ["activated", "variance", "without_statistics"])
def test_where_samples_meet_in_another_layer_views_go_one_after_the_other(encoder: str) -> None:
    """In one pass they would meet those of the other view, in silence."""
    plain, made = pair(torch.float64, split=False, encoder=f"{HERE}:{encoder}")
    assert not [norm for norm in made.modules() if isinstance(norm, ViewBatchNorm)]
    assert_same(plain, made, 1e-12)
    joint = made(views(torch.float64)).loss
    made.one_pass = True
    assert abs(made(views(torch.float64)).loss - joint) > 1e-3


def test_an_encoder_without_batchnorm_takes_one_pass() -> None:
    assert_same(*pair(torch.float64, encoder=f"{HERE}:of_layers"), 1e-12)


def test_statistics_that_are_held_still_serve_both_views_and_stay() -> None:
    plain, made = pair(torch.float64)
    batch = views(torch.float64)
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    for method in (plain, made):
        method.eval()
    torch.testing.assert_close(made(batch).loss, plain(batch).loss, rtol=1e-12, atol=0)
    assert all(torch.equal(before[name], buffer) for name, buffer in made.named_buffers())


@pytest.mark.parametrize("affine", [True, False])
def test_compiled_it_is_the_same_function(affine: bool) -> None:
    plain, made = (nn.Sequential(nn.BatchNorm2d(3, affine=affine)).double() for _ in range(2))
    if affine:
        for norm in (plain[0], made[0]):
            norm.load_state_dict({"weight": torch.tensor([0.5, -2, 3]), "bias": torch.arange(3.0)}, strict=False)
    assert split_views(made)
    made[0].compile(fullgraph=True)
    one, other = (views(torch.float64).reshape(2, -1, 3, 4, 4).requires_grad_() for _ in range(2))
    with batch_of(views=2):
        found = made(one.flatten(0, 1)).unflatten(0, (2, -1))
    expected = torch.stack([plain(view) for view in other])
    slope = torch.randn_like(expected)
    found.backward(slope), expected.backward(slope)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)
    for pair in zip([*made.parameters(), *made.buffers()], [*plain.parameters(), *plain.buffers()], strict=True):
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
    for p, q in zip(made.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-12)
    made.eval(), plain.eval()
    torch.testing.assert_close(made(one[0]), plain(one[0]), rtol=1e-12, atol=1e-12)


def test_a_network_called_outside_of_the_method_is_not_split() -> None:
    plain, made = pair(torch.float64)
    batch = views(torch.float64).flatten(0, 1)
    torch.testing.assert_close(made.online(batch), plain.online(batch), rtol=1e-12, atol=1e-12)
    assert made.online.encoder.bn1.num_batches_tracked == 1


def test_one_sample_has_no_statistics() -> None:
    made = pair(torch.float32)[1]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made(views(torch.float32, batch=1))


def test_the_target_comes_first() -> None:
    """So that its activations are gone when the online network's come."""
    made, called = pair(torch.float32)[1], []
    for name, child in made.named_children():
        child.register_forward_hook(lambda *about, name=name: called.append(name))
    made(views(torch.float32))
    assert called == ["target", "online", "predictor"]


def test_names_are_those_of_a_network_of_torchs_layers() -> None:
    """Checkpoints and encoder files of either load in the other."""
    plain, made = pair(torch.float32)
    plain.load_state_dict(made.state_dict(), strict=True)
    made.load_state_dict(plain.state_dict(), strict=True)
    assert list(plain.state_dict()) == list(made.state_dict())


@pytest.mark.parametrize("concatenate", [False, True])
def test_a_step_on_a_cpu_takes_it_and_concatenated_views_share_their_statistics(concatenate: bool) -> None:
    cfg = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, concatenate_views=concatenate))
    step = TrainStep(fitted(cfg, samples=1024), CPU, compile=False, dtype=torch.float32)
    step.set(lr=0.1, tau=0.9)
    step.step(views(torch.float32))
    norm = step.method.online.encoder.bn1
    assert type(norm) is ViewBatchNorm
    assert norm.num_batches_tracked == (1 if concatenate else 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_compiled_in_half_precision_only_its_input_and_result_are_rounded(dtype: torch.dtype, mean: float) -> None:
    """Beside float64 on the same rounded input: channels far from 0, and one that is the same everywhere."""
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(3))
    expected = nn.BatchNorm2d(3).double()
    assert split_views(norm)
    norm[0].compile(fullgraph=True, backend="aot_eager")
    x = (torch.randn(2, 16, 3, 8, 8) + mean).to(dtype)
    x[:, :, 2] = mean + 1
    given, doubled = x.clone().requires_grad_(), x.double().requires_grad_()
    with batch_of(views=2):
        found = norm(given.flatten(0, 1)).unflatten(0, (2, -1))
    wanted = torch.stack([expected(view) for view in doubled])
    slope = torch.randn_like(wanted)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=unit, atol=unit)
    gradient, exact = (
        torch.autograd.grad(found, given, slope.to(dtype))[0],
        torch.autograd.grad(wanted, doubled, slope)[0],
    )
    varying = [0, 1]
    torch.testing.assert_close(gradient.double()[:, :, varying], exact[:, :, varying], rtol=4 * unit, atol=4 * unit)
    torch.testing.assert_close(norm[0].running_mean.double(), expected.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm[0].running_var.double(), expected.running_var, rtol=1e-3, atol=1e-3)
