"""A run: its engine, its schedule, its folder. What a checkpoint holds, and how a run is taken up again."""

from pathlib import Path

import torch
from torch import Tensor

from rsdnet import config, runfolder
from rsdnet.config import Config
from rsdnet.distributed import Ranks, check_replicas
from rsdnet.errors import DataError
from rsdnet.training import checkpoint, optim
from rsdnet.training.archive import Archive
from rsdnet.training.precision import AUTOCAST, precision_of
from rsdnet.training.step import Engine, compiles


class Run:
    """Everything that moves while training, on this rank: engine and step. samples: of an epoch, over all ranks."""

    def __init__(self, cfg: Config, samples: int, ranks: Ranks) -> None:
        self.cfg, self.ranks, self.device = cfg, ranks, ranks.device
        self.folder = cfg.run.run or Path("runs")
        self.steps_per_epoch = samples // cfg.optim.batch
        self.steps = cfg.optim.steps or cfg.optim.epochs * self.steps_per_epoch
        self.warmup = min(round(cfg.optim.warmup_epochs * self.steps_per_epoch), self.steps // 10)
        self.samples, self.step = samples, 0
        self.archive = Archive(self.folder, cfg.run.keep, cfg.run.keep_every)
        torch.manual_seed(cfg.run.seed)
        self.dtype = AUTOCAST[precision_of(cfg, self.device)]
        self.engine = Engine(cfg, self.device, ranks, compile=compiles(cfg, self.device), dtype=self.dtype)

    def schedule(self) -> dict[str, float]:
        """Set learning rate and tau for this step, and name them."""
        lr = optim.learning_rate(self.step, self.steps, self.cfg.optim.lr, self.cfg.optim.batch, self.warmup)
        tau = optim.tau(self.step, self.steps, self.cfg.optim.tau)
        self.engine.set(lr=lr, tau=tau)
        return {"lr": lr, "tau": tau, "epoch": self.step // self.steps_per_epoch}

    def save(self) -> None:
        """Write a checkpoint while training goes on, on the first rank.

        Raises DataError, keeping the last one, on weights that are not finite or not the same on every rank.
        """
        trained = self.engine.trained
        if not torch.stack([tensor.isfinite().all() for tensor in trained]).all():
            raise DataError(
                f"weights are not finite after step {self.step}: lower --lr, or train in --precision fp32; "
                "the last checkpoint is untouched"
            )
        check_replicas(self.ranks, self.replicated(), self.step)
        if self.ranks.main:
            meta = {"step": self.step, "samples": self.samples, "config": config.to_tables(self.cfg)}
            self.archive.save(self.step, self.tensors(), meta)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name."""
        engine = self.engine
        return {
            **checkpoint.prefixed("model", engine.byol.state_dict()),
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(engine.optimizer, engine.byol)),
            **checkpoint.prefixed("engine", engine.counters()),
        }

    def replicated(self) -> dict[str, Tensor]:
        """What must be the same on every rank: parameters and the optimizer's state."""
        state = checkpoint.optimizer_tensors(self.engine.optimizer, self.engine.byol)
        return {**dict(self.engine.byol.named_parameters()), **state}

    def load(self) -> list[str]:
        """Take up the run's newest sound checkpoint; one line on each newer one that is damaged.

        Raises DataError where none is sound, or it is of another model or other data.
        """
        path, tensors, meta, damaged = self.archive.load()
        if meta["samples"] != self.samples:
            raise DataError(
                f"{path} was trained on {meta['samples']} samples and there are {self.samples} now, so the order would "
                "differ: bring the data back, or begin another run"
            )
        engine = self.engine
        checkpoint.restore(engine.byol, checkpoint.under("model", tensors), str(path))
        checkpoint.restore_optimizer(engine.optimizer, engine.byol, checkpoint.under("optimizer", tensors), engine.lr)
        for name, tensor in engine.counters().items():
            tensor.copy_(tensors.get(f"engine/{name}", tensor))
        self.step = meta["step"]
        return damaged

    def export(self) -> None:
        """Write the online encoder alone, under torchvision's parameter names."""
        meta = {"step": self.step, "config": config.to_tables(self.cfg)}
        checkpoint.save(self.folder / runfolder.ENCODER, self.engine.byol.online.encoder.state_dict(), meta)
