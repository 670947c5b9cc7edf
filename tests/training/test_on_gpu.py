"""Whole runs on a GPU, with all that a run takes there by itself, beside the same run on the CPU."""

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rsdnet import config
from rsdnet.config import Config
from rsdnet.distributed import ALONE, Ranks
from rsdnet.train import train
from rsdnet.training.cuda_graph import TIMED, WARM

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
STEPS = WARM + TIMED + 7
SMALL = (
    "--size=32", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--batch=8", "--log-every=1",
    f"--steps={STEPS}", "--checkpoint-every=4", "--optimizer=lars", "--lr=0.45",
)  # fmt: skip
GRAPH = ("--compile=off", "--cuda-graph=on")
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # options of both runs, and of that on the GPU
    "eager": ((), ("--precision=fp32", "--no-tf32", "--compile=off", "--cuda-graph=off")),
    "by itself": ((), ()),
    "compiled, in a graph": ((), ("--compile=on", "--cuda-graph=on")),
    "in a graph, with a cache on the GPU": ((), ("--cache=device", *GRAPH)),
    "fp16 in a graph": ((), ("--precision=fp16", *GRAPH)),
    "micro-batches in a graph": (("--accumulate=2",), ("--recompute", *GRAPH)),
    "AdamW in a graph": (("--optimizer=adamw", "--lr=0.01"), GRAPH),
    "three channels, blurred, in a graph": (("--channels=3", "--blur", "1", "0.1"), GRAPH),
    "profiled": ((), ("--profile=2", "--cuda-graph=auto")),
}


def losses(db: Path, run: Path, ranks: Ranks, *options: str) -> list[float]:
    """Of all steps of a run, which ends well."""
    cfg = config.parse(["--data", str(db), "--run", str(run), *SMALL, *options], Config(), "test", "")
    assert train(cfg, Console(quiet=True), ranks) == 0
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def gpu() -> Ranks:
    torch.cuda.set_device(0)
    return Ranks(0, 1, 0, torch.device("cuda", 0))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_that_of_the_cpu(way: str, tiny_db: Path, tmp_path: Path, gpu: Ranks) -> None:
    """The first losses: of the same views and weights, up to the precision; all of them finite."""
    both, options = WAYS[way]
    here = losses(tiny_db, tmp_path / "cpu", ALONE, "--precision=fp32", *both)
    there = losses(tiny_db, tmp_path / "gpu", gpu, *both, *options)
    assert len(there) == STEPS
    assert all(map(math.isfinite, there))
    assert there[0] == pytest.approx(here[0], rel=2e-3 if way == "eager" else 0.05)
    assert there[-1] == pytest.approx(here[-1], rel=0.01 if way == "eager" else 0.2)
    weights = load_file(tmp_path / "gpu" / "encoder.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_a_run_is_taken_up_again_in_a_graph(tiny_db: Path, tmp_path: Path, gpu: Ranks) -> None:
    whole = losses(tiny_db, tmp_path / "whole", gpu, *GRAPH)
    half = tmp_path / "half"
    losses(tiny_db, half, gpu, *GRAPH)
    for path in half.glob("*.safetensors"):
        if path.name != "checkpoint-000000012.safetensors":
            path.unlink()
    again = losses(tiny_db, half, gpu, *GRAPH, "--resume")
    assert again[:12] == pytest.approx(whole[:12], rel=0.05)
    assert again[12:] == pytest.approx(whole[12:], rel=0.05)
