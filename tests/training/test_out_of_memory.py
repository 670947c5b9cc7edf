"""Out of memory: settings that are said to fit do, the largest of their kind; the run's own memory is free by then."""

import dataclasses
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rsdnet.monitor.out_of_memory import Setting
from torch import Tensor

from rsdnet import config
from rsdnet.config import Config, ModelConfig, OptimConfig
from rsdnet.distributed import ALONE, Ranks
from rsdnet.errors import DataError
from rsdnet.monitor import out_of_memory
from rsdnet.train import main
from rsdnet.training import checkpoint
from rsdnet.training.run import Run
from rsdnet.training.step import Engine
from tests.support.torchrun import REPO

QUIET = Console(quiet=True)
CPU_SAYS = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
Fits = Callable[[Setting], int | None]


def need(setting: Setting, batch: int, saved: int) -> int:
    """A device's bytes: 10 for the weights, 100 a sample, less where recomputed, and the cache."""
    return 10 + (100 - saved * setting.recompute) * (batch // setting.accumulate) + setting.cached


def on(size: int, batch: int, saved: int = 60) -> tuple[Fits, list[Setting]]:
    """Tries settings on a device of `size` bytes, and notes them."""
    tried: list[Setting] = []

    def fits(setting: Setting) -> int | None:
        tried.append(setting)
        taken = need(setting, batch, saved)
        return taken if taken <= size else None

    return fits, tried


@given(
    batch=st.integers(2, 400),
    size=st.integers(0, 40_000),
    saved=st.integers(0, 99),
    recompute=st.booleans(),
    cached=st.sampled_from([0, 500]),
)
def test_the_first_of_each_kind(batch: int, size: int, saved: int, recompute: bool, cached: int) -> None:
    now = Setting(recompute, 1, cached)
    fits, tried = on(size, batch, saved)
    found = out_of_memory.search(now, batch, fits)
    assert len(tried) == len(set(tried))
    assert now not in tried
    assert all(taken == need(setting, batch, saved) <= size for setting, taken in found.items())
    assert all(setting in tried for setting in found)
    least = out_of_memory.smallest(now, batch)
    if need(least, batch, saved) <= size and least != now:
        assert found
    else:
        assert not found
        assert len(tried) <= 1
        return
    if cached and need(now._replace(cached=0), batch, saved) <= size:
        assert now._replace(cached=0) in found
    if not recompute and need(now._replace(recompute=True), batch, saved) <= size:
        assert now._replace(recompute=True) in found
    counts = out_of_memory.accumulations(1, batch)
    for kind in {recompute, True}:
        fitting = [count for count in counts if need(Setting(kind, count, cached), batch, saved) <= size]
        named = [each.accumulate for each in found if each[::2] == (kind, cached) and each.accumulate > 1]
        assert named in ([], fitting[:1])
        assert named or kind != recompute or not fitting


@given(st.integers(1, 6), st.integers(1, 300))
def test_numbers_of_micro_batches_to_try(now: int, parts: int) -> None:
    batch = now * parts
    counts = out_of_memory.accumulations(now, batch)
    assert all(batch % count == 0 and count % now == 0 and batch // count >= 2 for count in counts)
    assert all(after >= 2 * before for before, after in zip([now, *counts], counts, strict=False))
    if parts % 2 == 0 and parts > 2:
        assert counts[0] == 2 * now


def test_micro_batches_of_a_usual_batch() -> None:
    assert out_of_memory.accumulations(1, 1024) == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert out_of_memory.accumulations(2, 24) == [4, 8]
    assert out_of_memory.accumulations(1, 15) == [3]
    assert out_of_memory.accumulations(1, 7) == []


def cuda_says() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def limit(monkeypatch: pytest.MonkeyPatch, samples: int, more: int, error: Callable[[], Exception] = cuda_says) -> None:
    """Let a step hold no more than so many samples, `more` where activations are recomputed."""
    real = Engine.step

    def step(self: Engine, views: Tensor) -> Any:
        most = more if self.byol.online.encoder.recompute else samples
        if views.shape[1] // self.accumulate > most:
            raise error()
        return real(self, views)

    monkeypatch.setattr(Engine, "step", step)


SMALL = Config(
    views=config.ViewConfig(size=16),
    model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16),
    optim=OptimConfig(optimizer="sgd", batch=16),
)


@pytest.mark.parametrize(
    ("samples", "more", "said"),
    [
        (8, 16, "--recompute fits (the same results), --accumulate 2 fits (BatchNorm then sees 8 samples at a time)"),
        (2, 4, "--accumulate 8 fits (BatchNorm then sees 2 samples at a time), --recompute --accumulate 4 fits "
               "(BatchNorm then sees 4 samples at a time)"),
        (1, 2, "--recompute --accumulate 8 fits (BatchNorm then sees 2 samples at a time)"),
        (1, 1, "it does not fit, nor does --recompute --accumulate 8 (micro-batches of 2); use a smaller --size, "
               "--encoder, --width or --batch"),
    ],
)  # fmt: skip
def test_what_is_said(samples: int, more: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, samples, more)
    line = out_of_memory.advice(SMALL, ALONE, 3, 0, QUIET)
    assert line == f"out of memory at step 3 (micro-batches of 16): {said}"


def test_what_is_said_of_ranks_and_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synchronised BatchNorm sees the micro-batches of all ranks."""
    limit(monkeypatch, 4, 4)
    two = Ranks(1, 2, 1, ALONE.device)
    assert out_of_memory.advice(SMALL, two, 0, 0, QUIET) == (
        "out of memory on rank 1 before the first step (micro-batches of 8): "
        "--accumulate 2 fits (BatchNorm then sees 8 samples at a time)"
    )
    local = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, batchnorm="local"))
    assert "sees 4 samples" in out_of_memory.advice(local, two, 0, 0, QUIET)


def test_a_cache_on_the_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_memory, "peak", lambda cfg, setting, batch, device: None if setting.cached else 1)
    assert out_of_memory.advice(SMALL, ALONE, 1, 3 << 28, QUIET) == (
        "out of memory at step 1 (micro-batches of 16; 0.75 GiB of them --cache device): "
        "--cache host fits (the same results)"
    )


@pytest.mark.parametrize("error", [cuda_says, lambda: RuntimeError(CPU_SAYS), MemoryError])
def test_a_run_ends_in_one_line_and_its_checkpoint_stays(
    error: Callable[[], Exception], tiny_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fourth step fails; all that it held is gone before anything is tried."""
    run = tmp_path / "run"
    argv = ["train", "--data", str(tiny_db), "--run", str(run), "--size=20", "--encoder=resnet18", "--width=8",
            "--hidden=32", "--dim=16", "--batch=8", "--device=cpu", "--precision=fp32", "--log-every=1", "--steps=9",
            "--checkpoint-every=3", "--keep=9"]  # fmt: skip
    made: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    build, save = Engine.__init__, Run.save

    def noted(self: Engine, *args: Any, **kwargs: Any) -> None:
        alive.extend(other() is not None for other in made)
        build(self, *args, **kwargs)
        made.append(weakref.ref(self))

    def saved(self: Run) -> None:
        save(self)
        limit(monkeypatch, 4, 4, error)

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(Engine, "__init__", noted)
    monkeypatch.setattr(Run, "save", saved)
    with pytest.raises(DataError) as caught:
        main()
    assert str(caught.value) == (
        "out of memory at step 4 (micro-batches of 8): --accumulate 2 fits (BatchNorm then sees 4 samples at a time)"
    )
    assert len(made) > 2
    assert not any(alive)
    names = {path.name for path in run.iterdir() if path.suffix == ".safetensors" or path.name.startswith(".")}
    assert names == {"checkpoint.safetensors", "checkpoint-000000003.safetensors"}
    assert checkpoint.load(run / "checkpoint.safetensors")[1]["step"] == 3
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_other_errors_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        out_of_memory.advised(fail, SMALL, ALONE, QUIET)
    assert out_of_memory.advised(lambda: 143, SMALL, ALONE, QUIET) == 143
    limit(monkeypatch, 0, 0, lambda: RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        out_of_memory.advice(SMALL, ALONE, 1, 0, QUIET)


def test_a_process_that_gets_no_more_memory() -> None:
    """Really: what is tried runs under the same limit."""
    fixed = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is free at once
    argv = [sys.executable, "-m", "tests.support.memory_child"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **fixed}, cwd=REPO)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    begun = r"error: out of memory before the first step \(micro-batches of 64\): "
    assert re.fullmatch(begun + r".*--accumulate [24] fits .*\n", done.stderr), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_full() -> None:
    """What is said to fit under a limit does; what is not said does not."""
    device = torch.device("cuda", torch.cuda.current_device())
    ranks = Ranks(0, 1, 0, device)
    cfg = dataclasses.replace(
        SMALL,
        views=config.ViewConfig(size=128),
        model=ModelConfig(encoder="resnet18"),
        optim=OptimConfig(batch=512),
        run=config.RunConfig(compile="off"),
    )
    whole = out_of_memory.peak(cfg, Setting(False, 1, 0), 512, device)
    half = out_of_memory.peak(cfg, Setting(False, 2, 0), 512, device)
    assert whole is not None
    assert half is not None
    assert half < 0.7 * whole
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((half + 0.5 * (whole - half)) / total, device)
    try:
        line = out_of_memory.advice(cfg, ranks, 1, 0, QUIET)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert line.startswith("out of GPU memory at step 1 (micro-batches of 512; ")
    assert "--accumulate 2 fits (" in line
