"""Out of memory ends a run in one line that names the settings that take less; its checkpoints stay."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rsdnet.config import Config, ModelConfig, OptimConfig
from rsdnet.distributed import ALONE, Ranks
from rsdnet.errors import DataError
from rsdnet.train import main
from rsdnet.training import checkpoint, out_of_memory
from rsdnet.training.out_of_memory import explained, next_division
from rsdnet.training.run import Run
from rsdnet.training.step import TrainStep
from tests.support.torchrun import REPO

CFG = Config(model=ModelConfig(encoder="resnet18"), optim=OptimConfig(batch=16))
SMALLER = "a smaller --size, --encoder or --batch"
ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    lambda: RuntimeError("could not create a primitive"),
    MemoryError,
]


def said(cfg: Config, ranks: Ranks = ALONE, run: Any = None, arena: Any = None) -> str:
    with pytest.raises(DataError) as caught, explained(cfg, ranks, run, arena):
        raise MemoryError
    return str(caught.value)


def changed(**changes: Any) -> Config:
    tables = ((name, getattr(CFG, name)) for name in ("model", "optim"))
    own = {name: {k: v for k, v in changes.items() if hasattr(table, k)} for name, table in tables}
    return dataclasses.replace(CFG, **{name: dataclasses.replace(getattr(CFG, name), **o) for name, o in own.items()})


def test_the_levers_and_their_sizes() -> None:
    line = said(CFG, run=SimpleNamespace(step=2))
    assert line == (
        "out of memory at step 3 (micro-batches of 16): --recompute keeps the inputs of the encoder's blocks alone, "
        "for the same results; --accumulate 2 takes 8 samples a micro-batch, and BatchNorm then sees 8; or " + SMALLER
    )
    arena = type("Arena", (), {"is_cuda": True, "__len__": lambda self: 3 << 30})()
    assert "--cache host frees 3.0 GiB; " in said(CFG, arena=arena)
    assert "--cache" not in said(CFG, arena=torch.zeros(9))  # in host memory already


def test_levers_that_are_used_up_are_not_named() -> None:
    line = said(changed(recompute=True, accumulate=8))
    assert line == "out of memory before the first step (micro-batches of 2): use " + SMALLER
    assert "--recompute" not in said(changed(encoder="timm:resnet18"))


def test_synchronised_batchnorm_sees_the_micro_batches_of_all_ranks() -> None:
    two = Ranks(1, 2, 1, ALONE.device)
    assert "out of memory on rank 1 " in said(CFG, two)
    assert "--accumulate 2 takes 4 samples a micro-batch, and BatchNorm then sees 8;" in said(CFG, two)
    assert "BatchNorm then sees 4;" in said(changed(batchnorm="local"), two)


@given(st.integers(1, 6), st.integers(1, 300))
def test_the_next_number_of_micro_batches_divides_the_batch(now: int, parts: int) -> None:
    batch = now * parts
    fitting = [count for count in range(1, batch + 1) if batch % count == 0 and batch // count >= 2 and count > now]
    assert next_division(now, batch) == (fitting[0] if fitting else None)


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_ends_in_one_line_and_its_checkpoint_stays(
    error: Callable[[], Exception], tiny_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fourth step fails."""
    run, step, save = tmp_path / "run", TrainStep.step, Run.save
    argv = ["train", "--data", str(tiny_db), "--run", str(run), "--size=20", "--encoder=resnet18", "--width=8",
            "--hidden=32", "--dim=16", "--batch=8", "--device=cpu", "--precision=fp32", "--log-every=1", "--steps=9",
            "--checkpoint-every=3"]  # fmt: skip

    def fail(self: TrainStep, views: Tensor) -> Any:
        raise error()

    def saved(self: Run) -> None:
        save(self)
        monkeypatch.setattr(TrainStep, "step", fail)

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(Run, "save", saved)
    with pytest.raises(
        DataError, match=r"out of memory at step 4 \(micro-batches of 8\): --recompute .*; --accumulate"
    ):
        main()
    monkeypatch.setattr(TrainStep, "step", step)
    names = {path.name for path in run.iterdir() if path.suffix == ".safetensors" or path.name.startswith(".")}
    assert names == {"checkpoint.safetensors", "checkpoint-000000003.safetensors"}
    assert checkpoint.load(run / "checkpoint.safetensors")[1]["step"] == 3
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_other_errors_are_none_of_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained(CFG, ALONE):
        raise RuntimeError("shapes do not match")
    with pytest.raises(DataError, match="of its own"), explained(CFG, ALONE):
        raise DataError("of its own")


@pytest.mark.parametrize("onednn", ["onednn", "plain"])
def test_a_process_that_gets_no_more_memory(onednn: str) -> None:
    """Really, under a limit: oneDNN and torch's own convolutions say it in words of their own."""
    fixed = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory is free at once
    argv = [sys.executable, "-m", "tests.support.memory_child", onednn]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **fixed}, cwd=REPO)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: out of memory before the first step (micro-batches of 64): --recompute")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_is_full() -> None:
    ranks = Ranks(0, 1, 0, torch.device("cuda", torch.cuda.current_device()))
    with pytest.raises(DataError, match=r"out of GPU memory .*tensors took .* at most, of "), explained(CFG, ranks):
        torch.empty(1 << 50, dtype=torch.uint8, device=ranks.device)
    assert out_of_memory.is_out_of_memory(torch.OutOfMemoryError())
