"""The step: against plain PyTorch, in micro-batches, skipped, recomputed, compiled, and at addresses that stay."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from rsdnet.kernels.lars import PlainLARS, lars_groups
from rsdnet.kernels.loss import byol_loss_formula
from torch import Tensor

from rsdnet.config import Config, ModelConfig, OptimConfig, ViewConfig
from rsdnet.distributed import ALONE
from rsdnet.methods.byol import BYOL
from rsdnet.model.encoders import recompute_shortcuts
from rsdnet.model.small_maps import SmallMapConv2d
from rsdnet.model.stem import KernelConv2d, KernelMaxPool2d
from rsdnet.training import run
from rsdnet.training.settings import fitted
from rsdnet.training.step import TrainStep, choose_layers, compiles

CPU = torch.device("cpu")
SIZE, BATCH = 32, 16
SMALL = Config(
    views=ViewConfig(size=SIZE),
    model=ModelConfig(encoder="resnet18", width=8, hidden=32, dim=16),
    optim=OptimConfig(optimizer="sgd", batch=BATCH, weight_decay=1e-6, tau=0.99),
)


def config(**changes: Any) -> Config:
    """SMALL with `changes` by the keys of its tables."""
    tables = {}
    for name in ("model", "optim", "run"):
        table = getattr(SMALL, name)
        own = {key: changes[key] for key in changes if hasattr(table, key)}
        tables[name] = dataclasses.replace(table, **own)
    return dataclasses.replace(SMALL, **tables)


def train_step(cfg: Config = SMALL, dtype: torch.dtype = torch.float32, compile: bool = False) -> TrainStep:
    torch.manual_seed(0)
    made = TrainStep(cfg, CPU, compile=compile, dtype=dtype)
    made.set(lr=0.05, tau=0.9)
    return made


def views(seed: int, batch: int = BATCH) -> Tensor:
    return torch.randn(2, batch, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def state(made: TrainStep) -> dict[str, Tensor]:
    """Everything that moves, copied."""
    found = {f"model/{name}": tensor for name, tensor in made.method.state_dict().items() if tensor.is_floating_point()}
    for index, param in enumerate(made.trained):
        found |= {f"{key}/{index}": value for key, value in made.optimizer.state[param].items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def by_hand(cfg: Config, steps: list[Tensor], kind: str) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and online network after `steps` of textbook BYOL, in float64."""
    byol = copy.deepcopy(train_step(cfg).method).double()
    groups = lars_groups(torch.nn.ModuleList([byol.online, byol.predictor]), cfg.optim.weight_decay)
    plain = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    made = {
        "lars": lambda: PlainLARS(groups, 0.05),
        "sgd": lambda: torch.optim.SGD(plain, 0.05, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(plain, 0.05, foreach=False),
    }
    optimizer = made[kind]()
    losses = []
    for batch in steps:
        optimizer.zero_grad()
        total = 0.0
        parts = [batch.double()[:, first :: cfg.optim.accumulate] for first in range(cfg.optim.accumulate)]
        for first, second in parts:
            q1, q2 = byol.predictor(byol.online(first)), byol.predictor(byol.online(second))
            with torch.no_grad():
                t1, t2 = byol.target(first), byol.target(second)
            loss = byol_loss_formula(q1, q2, t1, t2) / len(parts)
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        with torch.no_grad():
            for target, online in zip(byol.target.parameters(), byol.online.parameters(), strict=True):
                target.copy_(0.9 * target + 0.1 * online)
        losses.append(total)
    return losses, byol.state_dict()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw"])
def test_steps_are_those_of_the_textbook(optimizer: str, accumulate: int) -> None:
    cfg = config(optimizer=optimizer, accumulate=accumulate)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, variance=0.0, covariance=0.0))
    batches = [views(seed) for seed in range(2)]
    made = train_step(cfg)
    losses = [float(made.step(batch).loss) for batch in batches]
    expected, weights = by_hand(cfg, batches, optimizer)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    began = train_step(cfg).method.state_dict()
    for part in ("online.", "predictor.", "target."):  # of how far each came
        moved, off = (
            torch.cat([(tensor - other[name]).flatten() for name, tensor in weights.items() if name.startswith(part)])
            for other in (began, made.method.state_dict())
        )
        assert off.norm() < (0.1 if optimizer == "adamw" else 0.01) * moved.norm(), part  # Adam amplifies small ones


@pytest.mark.parametrize(
    ("asked", "device", "steps", "profiled", "compiled"),
    [
        ("auto", "cuda", 1999, 0, False), ("auto", "cuda", 2000, 0, True), ("auto", "cpu", 10**6, 0, False),
        ("auto", "cuda", 30, 5, True), ("auto", "cpu", 30, 5, False), ("off", "cuda", 30, 5, False),
        ("on", "cuda", 1, 0, True), ("on", "cpu", 1, 0, True), ("off", "cuda", 10**6, 0, False),
    ],
)  # fmt: skip
def test_only_long_runs_and_profiles_on_a_gpu_compile_by_themselves(
    asked: str, device: str, steps: int, profiled: int, compiled: bool
) -> None:
    assert compiles(config(compile=asked, profile=profiled), torch.device(device), steps) == compiled


def test_it_is_the_whole_run_that_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an epoch of it, here of ten steps."""
    monkeypatch.setattr(run, "compiles", lambda cfg, device, steps: steps != 37)
    assert not run.Run(fitted(config(steps=37), 10 * BATCH), samples=10 * BATCH, ranks=ALONE).compiled


@pytest.mark.parametrize(
    ("device", "compile", "dtype", "stem", "other", "pool", "one_pass"),
    [
        ("cuda", True, torch.bfloat16, KernelConv2d, torch.nn.Conv2d, KernelMaxPool2d, True),
        ("cuda", False, torch.float16, KernelConv2d, torch.nn.Conv2d, KernelMaxPool2d, False),
        ("cuda", True, torch.float32, torch.nn.Conv2d, torch.nn.Conv2d, KernelMaxPool2d, True),
        ("cpu", False, torch.bfloat16, torch.nn.Conv2d, SmallMapConv2d, torch.nn.MaxPool2d, True),
        ("cpu", True, torch.bfloat16, torch.nn.Conv2d, torch.nn.Conv2d, torch.nn.MaxPool2d, True),
    ],
)
def test_each_device_gets_its_layers(
    device: str, compile: bool, dtype: torch.dtype, stem: type, other: type, pool: type, one_pass: bool
) -> None:
    """Of both networks: the target's are as the online network's."""
    method = BYOL(SMALL)
    choose_layers(method, torch.device(device), compile, dtype)
    for network in (method.online, method.target):
        assert type(network.encoder.conv1) is stem
        assert type(network.encoder.layer1[0].conv1) is other
        assert type(network.encoder.maxpool) is pool
        assert network.encoder.layer2[0].keeps_shortcut is (device == "cpu")
    assert method.one_pass is one_pass


def test_the_norm_is_that_of_the_gradient() -> None:
    made = train_step()
    output = made.step(views(0))
    squares = sum(float(param.grad.double().square().sum()) for param in made.trained)
    assert float(output.norm) == pytest.approx(squares**0.5, rel=1e-5)


def test_the_loss_scale_of_fp16_is_not_in_the_norm_nor_in_the_step() -> None:
    wide, half = train_step(), train_step(dtype=torch.float16)
    half.scale.fill_(64.0)
    expected, output = wide.step(views(0)), half.step(views(0))
    assert int(output.skipped) == 0
    assert float(output.norm) == pytest.approx(float(expected.norm), rel=0.1)
    moved = [(a - b).norm() / b.norm() for a, b in zip(half.trained, wide.trained, strict=True) if b.ndim > 1]
    assert sorted(moved)[len(moved) // 2] < 0.02


def test_a_loss_scale_too_large_is_halved_and_the_step_skipped() -> None:
    made = train_step(dtype=torch.float16)
    made.scale.fill_(2.0**60)
    before = state(train_step())
    output = made.step(views(0))
    assert int(output.skipped) == int(output.in_a_row) == 1
    assert float(made.scale) == 2.0**59
    assert all(torch.equal(value, before[name]) for name, value in state(made).items())


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("when", [0, 1])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_step_whose_gradient_is_not_finite_leaves_every_bit(optimizer: str, when: int, value: float) -> None:
    made, other = train_step(config(optimizer=optimizer)), train_step(config(optimizer=optimizer))
    for seed in range(3):
        if seed == when:
            bad = views(9)
            bad[1, 2, 0, 0, 0] = value
            output = made.step(bad)
            assert int(output.in_a_row) == 1
        output = made.step(views(seed))
        other.step(views(seed))
        assert (int(output.skipped), int(output.in_a_row)) == (int(seed >= when), 0)
    expected = state(other)
    assert all(torch.equal(value, expected[name]) for name, value in state(made).items())


def test_skipped_steps_in_a_row_are_counted() -> None:
    made = train_step()
    bad = torch.full_like(views(0), torch.inf)
    assert [int(made.step(bad).in_a_row) for _ in range(3)] == [1, 2, 3]


def test_recomputed_activations_give_the_same_bits() -> None:
    """Also BatchNorm's running statistics, which a second forward must not move."""
    plain, less = train_step(), train_step(config(recompute=True))
    for seed in range(2):
        assert torch.equal(plain.step(views(seed)).loss, less.step(views(seed)).loss)
    expected = state(plain)
    assert all(torch.equal(value, expected[name]) for name, value in state(less).items())
    counts = [made.method.state_dict()["online.encoder.layer1.0.bn1.num_batches_tracked"] for made in (plain, less)]
    assert counts[0] == counts[1] == 4


def saved_bytes(made: TrainStep, batch: Tensor) -> int:
    """Bytes that the forward keeps for the backward, without parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in made.method.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made.method(batch)
    return sum(kept.values())


def test_recomputing_keeps_less() -> None:
    assert saved_bytes(train_step(config(recompute=True)), views(0)) < 0.6 * saved_bytes(train_step(), views(0))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_shortcut_is_computed_again_for_the_same_step(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also inside blocks that are computed again."""
    compiler = torch.compile
    backend = "aot_eager_decomp_partition"  # as inductor, but for its kernels, which take a minute to compile
    monkeypatch.setattr(torch, "compile", lambda *about, options, **to: compiler(*about, backend=backend, **to))
    plain, less = (train_step(config(recompute=recompute), compile=True) for _ in range(2))
    recompute_shortcuts(less.method)
    shapes = [(16, SIZE // 8), (32, SIZE // 16), (64, SIZE // 32)]  # channels and sides of the shortcuts' results
    results = 2 * BATCH * sum(4 * channels * side**2 for channels, side in shapes)
    saved = saved_bytes(plain, views(0)) - saved_bytes(less, views(0))
    assert saved == pytest.approx(0 if recompute else results, rel=0.01)
    for seed in range(2):
        torch.testing.assert_close(less.step(views(seed)).loss, plain.step(views(seed)).loss, rtol=1e-5, atol=1e-6)
    expected = state(plain)
    for name, value in state(less).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_target_keeps_nothing_for_the_backward() -> None:
    """As many bytes are kept as where its projections come from outside."""
    made, batch = train_step(), views(0)
    known = torch.cat([made.method.target(view).detach() for view in batch])
    whole = saved_bytes(made, batch)
    made.method.target.forward = lambda views: known
    assert saved_bytes(made, batch) == whole


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_addresses_stay(optimizer: str) -> None:
    made = train_step(config(optimizer=optimizer))
    made.step(views(0))

    def addresses() -> list[int]:
        tensors = [*made.method.state_dict().values(), made.lr, made.numbers["tau"]]
        for param in made.trained:
            tensors += [value for value in made.optimizer.state[param].values() if isinstance(value, Tensor)]
        return [tensor.data_ptr() for tensor in tensors]

    before = addresses()
    made.set(lr=0.01, tau=0.99)
    made.step(views(1))
    assert addresses() == before
    assert all(group["lr"] is made.lr for group in made.optimizer.param_groups)


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(RuntimeError, match="5 micro-batches"):
        train_step(config(accumulate=5)).step(views(0))


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_there_is_one_graph_without_breaks_or_recompilations(recompute: bool) -> None:
    """Over changing rates, skipped batches and micro-batches."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain, made = train_step(config(accumulate=2)), train_step(config(accumulate=2, recompute=recompute), compile=True)
    for step in range(4):
        batch = views(step)
        if step == 2:
            batch[0, 0] = torch.inf
        for each in (plain, made):
            each.set(lr=0.01 * step, tau=0.9 + 0.01 * step)
        expected, output = plain.step(batch), made.step(batch)
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-3, atol=1e-4, equal_nan=True)
        if step == 0:
            graphs = dict(counters["stats"])
    assert counters["graph_break"] == {}
    assert dict(counters["stats"]) == graphs
    assert graphs["unique_graphs"] == 1
    assert int(output.skipped) == 1
    moved = made.method.online.encoder.layer1[0].bn1.running_mean
    torch.testing.assert_close(moved, plain.method.online.encoder.layer1[0].bn1.running_mean, rtol=1e-2, atol=1e-3)
