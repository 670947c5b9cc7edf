"""FLOPs against formulas by hand and a published count; the peak against a product of its own; memory."""

import dataclasses
import resource

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rsdnet.config import Config, ModelConfig, ViewConfig
from rsdnet.model.encoders import ResNet
from rsdnet.monitor import flops

CPU = torch.device("cpu")


def config(encoder: str, width: int, size: int, channels: int = 1, **heads: int) -> Config:
    views, model = (
        ViewConfig(size=size, channels=channels),
        ModelConfig(
            encoder=encoder,
            width=width,
            variance=0.0,
            covariance=0.0,
            **heads,  # type: ignore[arg-type]
        ),
    )
    return Config(views=views, model=model)


def convolution(inputs: int, outputs: int, kernel: int, side: int) -> int:
    """Multiply-adds of a convolution whose output has `side` pixels a side."""
    return inputs * outputs * kernel**2 * side**2


def resnet18(channels: int, w: int, size: int) -> tuple[int, int]:
    """Multiply-adds of a ResNet-18 of width w on one image, by He et al. 2016, table 1: of all, and of its first."""
    first = convolution(channels, w, 7, size // 2)
    total, side, inputs = first, size // 4, w
    for stage in range(4):
        planes = w * 2**stage
        side //= 1 if stage == 0 else 2
        total += convolution(inputs, planes, 3, side) + 3 * convolution(planes, planes, 3, side)
        total += convolution(inputs, planes, 1, side) if stage else 0
        inputs = planes
    return total, first


@pytest.mark.parametrize(("channels", "width", "size"), [(1, 8, 64), (3, 16, 32)])
def test_a_step_is_counted_as_by_hand(channels: int, width: int, size: int) -> None:
    """Backward is two products for each of forward, but for the first convolution: views want no gradient."""
    hidden, dim = 96, 24
    encoder, first = resnet18(channels, width, size)
    projector, predictor = 8 * width * hidden + hidden * dim, dim * hidden + hidden * dim
    online = 3 * (encoder + projector + predictor) - first
    target = encoder + projector
    found = flops.step_flops(config("resnet18", width, size, channels, hidden=hidden, dim=dim))
    assert found == 2 * 2 * (online + target)


def test_resnet50_is_the_published_count() -> None:
    """4.1 G multiply-adds at 224 px: torchvision's table of ResNet50_Weights says 4.09, its last layer among them."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet("resnet50", 3)(torch.empty(1, 3, 224, 224))
    last = 2048 * 1000
    assert (counter.get_total_flops() / 2 + last) / 1e9 == pytest.approx(4.09, abs=0.005)


def test_the_count_is_of_the_model_and_a_sample_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    cfg = config("resnet50", 8, 32, hidden=64, dim=16)
    found = flops.step_flops(cfg)
    flops.matmul_peak(CPU, torch.float32)
    assert torch.equal(torch.rand(3), expected)
    more = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, batch=7))
    assert flops.step_flops(more) == found
    again = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, recompute=True))
    assert flops.step_flops(again) == found


def test_the_peak_is_the_flops_of_a_product_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 0.5, 0.25, 0.4])

    def seconds(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
        assert a.dtype == b.dtype == out.dtype == torch.bfloat16
        assert a.shape == b.shape == (1024, 1024)
        return next(times, 1.0)

    monkeypatch.setattr(flops, "_seconds", seconds)
    assert flops.matmul_peak(CPU, torch.bfloat16) == pytest.approx(2 * 1024**3 / 0.25)


def test_the_time_is_that_of_the_whole_product() -> None:
    a = torch.randn(300, 300)
    out = torch.full_like(a, torch.nan)
    assert 0 < flops._seconds(a, a, out) < 60
    torch.testing.assert_close(out, (a.double() @ a.double()).float(), atol=1e-3, rtol=1e-4)


def test_memory_of_a_process_is_what_the_kernel_says() -> None:
    before = flops.peak_memory(CPU)
    held = torch.ones(1 << 26)  # 256 MiB, written
    after = flops.peak_memory(CPU)
    del held
    assert after == flops.peak_memory(CPU) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert after >= 1 << 28
    assert after >= before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_memory_of_a_gpu_is_that_of_its_tensors_and_the_peak_leaves_none() -> None:
    device = torch.device("cuda")
    assert flops.matmul_peak(device, torch.bfloat16) > 1e12
    began = flops.peak_memory(device)
    held = torch.ones(1 << 26, device=device)
    assert flops.peak_memory(device) >= began + (1 << 28)
    del held
