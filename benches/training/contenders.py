"""The contenders: rsdnet's step, the reference, lightly, byol-pytorch; each a step over views, and its loader.

All train the same networks on the same bands in the same precision by LARS, channels-last. `Contender.note` tells the
differences.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benches.core.peers import Absent, peer_version
from benches.reference import train
from benches.reference.data import PREFETCH
from benches.reference.transforms import in_worker, on_device
from benches.training.setting import STEPS, Setting
from rsdnet.config import DataConfig, number

WARMUP = STEPS // 10


@dataclass
class Contender:
    """One that trains.

    step: a step over views (2, B, C, S, S) on the device; returns the loss, () there. views: opens its loader, as its
    users feed it. ahead: batches that the loader holds ready at most. note: remark for its rows, once it has run.
    """

    name: str
    step: Callable[[Tensor], Tensor]
    views: Callable[[], Any]  # a context manager of an iterator
    ahead: int
    note: Callable[[], str] = str


def schedule(setting: Setting) -> Iterator[tuple[float, float]]:
    """Learning rate and tau of each step: new numbers at each, as in training."""
    optim = setting.config().optim
    peak, tau = number(optim.lr) * optim.batch / 256, number(optim.tau)
    while True:
        for step in range(STEPS):
            yield train.learning_rate(step, STEPS, peak, WARMUP), train.tau_at(step, STEPS, tau)


# ---- rsdnet -------------------------------------------------------------------------------------------------


def ours(setting: Setting, folder: Path | None, compiled: bool | None = None, in_turn: bool = False) -> Contender:
    """rsdnet's step, fed by its loader and its views. compiled: None for a run's own choice. in_turn: views one after
    the other, by torch's own layers."""
    from rsdnet.distributed import Ranks
    from rsdnet.hardware import keep_freed_memory
    from rsdnet.training.step import TrainStep, compiles

    device, numbers = torch.device(setting.device), schedule(setting)
    torch.manual_seed(0)
    cfg = setting.config(folder)
    compile = compiles(cfg, device, STEPS) if compiled is None else compiled
    train_step = TrainStep(cfg, device, Ranks(0, 1, 0, device), compile=compile, dtype=setting.dtype)
    if in_turn:
        train_step.method.one_pass = False
        for part in train_step.method.modules():
            if isinstance(part, nn.Conv2d):
                part.__class__ = nn.Conv2d
    elif device.type == "cpu":
        keep_freed_memory()

    def step(views: Tensor) -> Tensor:
        lr, tau = next(numbers)
        train_step.set(lr=lr, tau=tau)
        return train_step.step(views).loss

    def note() -> str:
        return "in a CUDA graph" if train_step.graph.graph is not None else ""

    name = "rsdnet" if compiled is None else "rsdnet, compiled" if compiled else "rsdnet, eager"
    name = "rsdnet, views in turn" if in_turn else name
    return Contender(name, step, lambda: our_views(setting, folder), DataConfig().slots, note)


@contextmanager
def our_views(setting: Setting, folder: Path | None) -> Iterator[Iterator[Tensor]]:
    """The loader's batches, rendered beside the step as rsdnet.train does. Raises Absent without a database."""
    from rsdnet.augment import band_table, rendered, spec_of
    from rsdnet.data.loader import Loader, Ring
    from rsdnet.data.pools import pools_of
    from rsdnet.data.samples import Samples

    if folder is None:
        raise Absent("there is no database to read from")
    cfg = setting.config(folder)
    table = band_table(cfg).to(setting.device)
    spec = spec_of(cfg.views, setting.dtype, channels_last=True)
    samples = Samples(folder, pools=pools_of(cfg.views), split=cfg.data.split, threads=setting.workers)
    with Loader(samples, batch=setting.batch, stop=STEPS, device=setting.device, ring=Ring(cfg.data.slots)) as loader:
        yield (views for _, views in rendered(loader, table, spec))


# ---- the reference and the peers ----------------------------------------------------------------------------


def plain(setting: Setting, name: str, trainer: Any, views: train.Views | None, note: str) -> Contender:
    """A contender of a trainer's `step(views, lr, tau)`, fed by a DataLoader. views: None without a database."""
    numbers = schedule(setting)

    @contextmanager
    def opened() -> Iterator[Iterator[Tensor]]:
        if views is None:
            raise Absent("there is no database to read from")
        with closing(views):
            yield iter(views)

    step = lambda batch: trainer.step(batch, *next(numbers))  # noqa: E731
    return Contender(name, step, opened, PREFETCH * setting.workers, lambda: note)


def reference(setting: Setting, folder: Path | None, compiled: bool = False, on_batches: bool = True) -> Contender:
    """benches/reference, eager or its networks under torch.compile; transforms on batches or in the workers."""
    torch.manual_seed(0)
    cfg, device = setting.config(folder), torch.device(setting.device)
    trainer = train.Trainer(cfg, device, setting.precision, compiled=compiled, backend=setting.backend)
    note, views = f"encoder: {trainer.byol.made_of}", None
    if folder:
        table = train.table_of(cfg)
        made_by, batch = on_device(cfg.views, table.to(device)) if on_batches else ("", None)
        made_by, each = (made_by, None) if on_batches else in_worker(cfg.views, table)
        views = train.Views(cfg, folder, setting.side, device, setting.workers, batch=batch, each=each)
        note += f"; transforms: {made_by}"
    name = "reference, compiled" if compiled else "reference" if on_batches else "reference, transforms on the CPU"
    return plain(setting, name, trainer, views, note)


def lightly(setting: Setting, folder: Path | None) -> Contender:
    """lightly's heads, loss, LARS, moving average and transforms, put together as its example byol.py does."""
    from benches.training.lightly import Lightly, views_of

    torch.manual_seed(0)
    trainer = Lightly(setting)
    note = f"encoder: {trainer.made_of}; its LARS, its heads, 8-bit images in its transforms"
    views = views_of(setting, folder) if folder else None
    return plain(setting, f"lightly {peer_version('lightly')}", trainer, views, note)


def byol_pytorch(setting: Setting, folder: Path | None) -> Contender:
    """byol-pytorch's module; its two augmentations are given the two bands of a sample."""
    from benches.training.byol_pytorch import ByolPytorch, views_of

    torch.manual_seed(0)
    trainer = ByolPytorch(setting, augment=folder is not None)
    views = views_of(setting, folder) if folder else None
    note = "both views in one batch of BatchNorm; the reference's LARS"
    return plain(setting, f"byol-pytorch {peer_version('byol-pytorch')}", trainer, views, note)


CONTENDERS: dict[str, Callable[[Setting, Path | None], Contender]] = {
    "rsdnet": ours,
    "rsdnet, compiled": partial(ours, compiled=True),
    "rsdnet, eager": partial(ours, compiled=False),
    "rsdnet, views in turn": partial(ours, in_turn=True),
    "reference": reference,
    "reference, compiled": partial(reference, compiled=True),
    "reference, transforms on the CPU": partial(reference, on_batches=False),
    "lightly": lightly,
    "byol-pytorch": byol_pytorch,
}
