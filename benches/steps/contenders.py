"""Who takes part: rsdnet's engine, the reference, lightly, byol-pytorch. Each is a step over views, and their source.

All train the same networks on the same bands in the same precision by LARS, channels-last. What differs is told by
`Contender.note`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benches.peers import Absent, peer_version
from benches.steps.setting import STEPS, Setting
from rsdnet.config import DataConfig
from rsdnet.training import optim

WARMUP = STEPS // 10
Step = Callable[[Tensor], Tensor]


@dataclass
class Contender:
    """One that trains.

    step: one step over views (2, B, C, S, S) on the device; returns the loss, () there. views: opens its own source of
    batches, as its users feed it. ahead: batches of it that lie ready at most. note: what a row should tell of it, once
    it has run.
    """

    name: str
    step: Step
    views: Callable[[], Any]  # a context manager of an iterator
    ahead: int
    note: Callable[[], str] = str


class Knobs:
    """Learning rate and tau of the next step of the schedule: new numbers at each, as in training."""

    def __init__(self, setting: Setting) -> None:
        self.optim, self.at = setting.config().optim, 0

    def __call__(self) -> tuple[float, float]:
        lr = optim.learning_rate(self.at % STEPS, STEPS, self.optim.lr, self.optim.batch, WARMUP)
        tau = optim.tau(self.at % STEPS, STEPS, self.optim.tau)
        self.at += 1
        return lr, tau


# ---- rsdnet -------------------------------------------------------------------------------------------------


def ours(setting: Setting, folder: Path | None, compiled: bool | None = None) -> Contender:
    """rsdnet's engine fed by its stream and its views. compiled: None for what a run does here."""
    from rsdnet.distributed import Ranks
    from rsdnet.training.step import Engine, compiles

    device, knobs = torch.device(setting.device), Knobs(setting)
    torch.manual_seed(0)
    cfg = setting.config(folder)
    compile = compiles(cfg, device) if compiled is None else compiled
    engine = Engine(cfg, device, Ranks(0, 1, 0, device), compile=compile, dtype=setting.dtype)

    def step(views: Tensor) -> Tensor:
        lr, tau = knobs()
        engine.set(lr=lr, tau=tau)
        return engine.step(views).loss

    def note() -> str:
        return "in a CUDA graph" if engine.graph.graph is not None else ""

    name = "rsdnet" if compiled is None else "rsdnet, compiled" if compiled else "rsdnet, eager"
    return Contender(name, step, lambda: our_views(setting, needed(folder)), DataConfig().slots, note)


@contextmanager
def our_views(setting: Setting, folder: Path) -> Iterator[Iterator[Tensor]]:
    """The stream's batches, rendered beside the step: what rsdnet.train does."""
    from rsdnet.augment import band_table, rendered, spec_of
    from rsdnet.data.loader import Loader, Ring
    from rsdnet.data.samples import Samples

    cfg = setting.config(folder)
    table = band_table(cfg).to(setting.device)
    spec = spec_of(cfg.views, setting.dtype, channels_last=True)
    samples = Samples(folder, split=cfg.data.split, threads=setting.workers)
    with Loader(samples, batch=setting.batch, stop=STEPS, ring=Ring(cfg.data.slots), device=setting.device) as loader:
        yield (views for _, views in rendered(loader, table, spec, cfg.views))


def needed(folder: Path | None) -> Path:
    """The database's folder, which only views need."""
    if folder is None:
        raise Absent("there is no database to stream from")
    return folder


# ---- the reference ------------------------------------------------------------------------------------------


def reference(setting: Setting, folder: Path | None, compiled: bool = False, on_batches: bool = True) -> Contender:
    """benches/reference, eager or its networks under torch.compile; transforms on batches or in the workers."""
    from benches.reference.train import Trainer, Views

    knobs = Knobs(setting)
    torch.manual_seed(0)
    cfg, device = setting.config(folder), torch.device(setting.device)
    trainer = Trainer(cfg, device, setting.precision, compiled=compiled, backend=setting.backend)
    note = f"encoder: {trainer.byol.made_of}"
    source: Views | None = None
    if folder:
        source = Views(cfg, folder, setting.side, device, setting.workers, on_batches=on_batches)
        note += f"; transforms: {source.made_by}"
    name = "reference, compiled" if compiled else "reference" if on_batches else "reference, transforms on the CPU"
    return Contender(
        name, lambda views: trainer.step(views, *knobs()), lambda: opened(source), ahead(setting), lambda: note
    )


def ahead(setting: Setting) -> int:
    """Batches that a DataLoader has ready at most."""
    from benches.reference.data import PREFETCH

    return PREFETCH * setting.workers


@contextmanager
def opened(source: Any) -> Iterator[Iterator[Tensor]]:
    """The batches of a source that ends with `close`."""
    if source is None:
        raise Absent("there is no database to read from")
    try:
        yield iter(source)
    finally:
        source.close()


# ---- lightly ------------------------------------------------------------------------------------------------


def lightly(setting: Setting, folder: Path | None) -> Contender:
    """lightly's heads, loss, LARS, moving average and transforms, put together as its example byol.py does."""
    from benches.steps.lightly import Lightly, LightlyViews

    knobs = Knobs(setting)
    torch.manual_seed(0)
    trainer = Lightly(setting)
    source = LightlyViews(setting, folder) if folder else None
    name = f"lightly {peer_version('lightly')}"
    note = f"encoder: {trainer.made_of}; its LARS, its heads, 8-bit images in its transforms"
    return Contender(
        name, lambda views: trainer.step(views, *knobs()), lambda: opened(source), ahead(setting), lambda: note
    )


# ---- byol-pytorch -------------------------------------------------------------------------------------------


def byol_pytorch(setting: Setting, folder: Path | None) -> Contender:
    """byol-pytorch's module; its two augmentations are given the two bands of a sample."""
    from benches.steps.byol_pytorch import ByolPytorch, StandardisedViews

    knobs = Knobs(setting)
    torch.manual_seed(0)
    trainer = ByolPytorch(setting, augment=folder is not None)
    source = StandardisedViews(setting, folder) if folder else None
    name = f"byol-pytorch {peer_version('byol-pytorch')}"
    note = "both views in one batch of BatchNorm; the reference's LARS"
    return Contender(
        name, lambda views: trainer.step(views, *knobs()), lambda: opened(source), ahead(setting), lambda: note
    )


CONTENDERS: dict[str, Callable[[Setting, Path | None], Contender]] = {
    "rsdnet": ours,
    "rsdnet, compiled": lambda setting, folder: ours(setting, folder, compiled=True),
    "rsdnet, eager": lambda setting, folder: ours(setting, folder, compiled=False),
    "reference": reference,
    "reference, compiled": lambda setting, folder: reference(setting, folder, compiled=True),
    "reference, transforms on the CPU": lambda setting, folder: reference(setting, folder, on_batches=False),
    "lightly": lightly,
    "byol-pytorch": byol_pytorch,
}
