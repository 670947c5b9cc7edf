"""A run: its training step, its schedule, and its folder, from which it is taken up again."""

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsdnet import __version__, config, runfolder
from rsdnet.config import Config
from rsdnet.data.identity import Identity, comparable, differences
from rsdnet.distributed import Ranks, check_replicas
from rsdnet.encoderfile import KEY, EncoderFile
from rsdnet.errors import DataError
from rsdnet.files import aside, lock, sweep
from rsdnet.provenance import commit
from rsdnet.training import checkpoint
from rsdnet.training.archive import Archive
from rsdnet.training.optim import SCHEDULES, length_of, peak_of
from rsdnet.training.precision import AUTOCAST, precision_of
from rsdnet.training.step import TrainStep, compiles

PACKAGES = ("torch", "triton", "numpy")  # whose versions a run notes


class Run:
    """Everything that moves while training, on this rank.

    samples: of an epoch, over all ranks. inputs: their identity, which checkpoints note; None: unknown.
    Raises DataError as `TrainStep` does.
    """

    def __init__(self, cfg: Config, samples: int, ranks: Ranks, inputs: Identity | None = None) -> None:
        self.cfg, self.ranks, self.device = cfg, ranks, ranks.device
        self.folder = cfg.run.run or Path("runs")
        self.steps_per_epoch, self.steps, self.warmup = length_of(cfg, samples)
        self.learning_rate = SCHEDULES.find(cfg.optim.schedule)
        self.samples, self.inputs, self.step, self.resumed = samples, inputs or {}, 0, False
        self.archive = Archive(self.folder, cfg.run.keep, cfg.run.keep_every)
        torch.manual_seed(cfg.run.seed)
        self.dtype = AUTOCAST[precision_of(cfg, self.device)]
        self.compiled = compiles(cfg, self.device, self.steps)
        self.train_step = TrainStep(cfg, self.device, ranks, compile=self.compiled, dtype=self.dtype)

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder that is trained."""
        return self.train_step.method.online.encoder

    def schedule(self) -> dict[str, float]:
        """Set this step's learning rate and the method's numbers, and name them."""
        lr = self.learning_rate(self.step, self.steps, peak_of(self.cfg), self.warmup)
        numbers = self.train_step.method.schedule(self.step, self.steps)
        self.train_step.set(lr=lr, **numbers)
        return {"lr": lr, **numbers, "epoch": self.step // self.steps_per_epoch}

    # ---- the folder --------------------------------------------------------------------------------------------------

    def open_folder(self) -> list[str]:
        """Make the run's folder, or take up the run that is there.

        Returns one line on each damaged checkpoint passed over, and on data that could not be compared.

        Raises DataError where the folder holds another run, another process trains in it, or it cannot be written.
        """
        self.resumed = self.archive.exists()
        if not self.resumed and (self.folder / runfolder.ENCODER).is_file():
            raise DataError(
                f"{self.folder} holds an encoder and no checkpoint to go on from: name another folder with --run, or "
                f"move {runfolder.ENCODER} away"
            )
        if self.resumed and not self.cfg.run.resume:
            raise DataError(f"{self.folder} holds a run already: continue it with --resume, or name another with --run")
        if self.ranks.main:
            with self._writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = open(self.folder / runfolder.LOCK, "ab")  # noqa: SIM115 - until this process ends
            taken = f"{self.folder} is in use by another process: wait for it to end, or name another folder with --run"
            with contextlib.suppress(OSError):  # where files cannot be locked, nobody is held off
                lock(self._lock, taken)
        notes = self.load() if self.resumed else []
        if self.ranks.main:
            self._write_folder()
        return notes

    def _write_folder(self) -> None:
        """Write the run's configuration and environment; cut its metrics at its step."""
        with self._writing():
            sweep(self.folder)
            with aside(self.folder / runfolder.CONFIG) as temporary:
                temporary.write_text(config.dumps(self.cfg), "utf-8")
            with aside(self.folder / runfolder.ENVIRONMENT) as temporary:
                temporary.write_text(json.dumps(self.environment(), indent=1) + "\n")
            truncate_metrics(self.folder / runfolder.METRICS, self.step)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be written ({error.strerror}): name another folder with --run"
            ) from None

    def environment(self) -> dict[str, Any]:
        """Commit, versions, machine, and the settings that were chosen automatically; JSON-able."""
        found: dict[str, Any] = {"rsdnet": __version__, "commit": commit()}
        found |= {"python": platform.python_version(), "system": platform.platform()}
        for package in PACKAGES:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "not installed"
        if self.device.type == "cuda":
            found |= {"device": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda}
        else:
            capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.11
            found["device"] = str(capabilities.get("cpu_name", platform.machine()))
        return found | {
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "precision": str(self.dtype),
            "samples": self.samples,
            "steps": self.steps,
            "ranks": self.ranks.world,
        }

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint while training goes on, on the first rank.

        Raises DataError, keeping the last one, on weights that are not finite or not the same on every rank.
        """
        if not torch.stack([tensor.isfinite().all() for tensor in self.train_step.trained]).all():
            raise DataError(
                f"weights are not finite after step {self.step}: lower --lr, or train in --precision fp32; "
                "the last checkpoint is untouched"
            )
        check_replicas(self.ranks, self.replicated(), self.step)
        if self.ranks.main:
            meta = {"step": self.step, "samples": self.samples, "inputs": self.inputs}
            meta |= {"config": config.to_tables(self.cfg)}
            self.archive.save(self.step, self.tensors(), meta)

    def tensors(self) -> dict[str, Tensor]:
        """A checkpoint's tensors, by name."""
        moving = self.train_step
        return {
            **checkpoint.prefixed("model", moving.method.state_dict()),
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(moving.optimizer, moving.method)),
            **checkpoint.prefixed("engine", moving.counters()),
        }

    def replicated(self) -> dict[str, Tensor]:
        """Tensors that must be the same on every rank: parameters and the optimizer's state."""
        state = checkpoint.optimizer_tensors(self.train_step.optimizer, self.train_step.method)
        return {**dict(self.train_step.method.named_parameters()), **state}

    def load(self) -> list[str]:
        """Take up the run's newest sound checkpoint; one line on each newer one, damaged, and on data not compared.

        Raises DataError where none is sound, or it is of another method, other settings, another model or other data.
        """
        path, tensors, meta, damaged = self.archive.load()
        notes = [f"{line}; going on from an earlier one" for line in damaged]
        method = meta["config"]["model"].get("method", "byol")  # the only one, before it was noted
        if method != self.cfg.model.method:
            raise DataError(f"{path} was trained by --method {method}: it cannot go on by {self.cfg.model.method}")
        if changed := config.differences(config.of_run(meta["config"], str(path)), self.cfg):
            raise DataError(f"{path} cannot go on with other settings: {'; '.join(changed)}")
        notes += self._compare(path, meta)
        moving = self.train_step
        checkpoint.restore(moving.method, checkpoint.under("model", tensors), str(path))
        checkpoint.restore_optimizer(moving.optimizer, moving.method, checkpoint.under("optimizer", tensors), moving.lr)
        for name, tensor in moving.counters().items():
            tensor.copy_(tensors.get(f"engine/{name}", tensor))
        self.step = meta["step"]
        return notes

    def _compare(self, path: Path, meta: dict[str, Any]) -> list[str]:
        """One line where the checkpoint is from before its data were noted. Raises DataError where they are others."""
        then = meta.get("inputs", {})
        found = differences(then, self.inputs)
        if not found and meta["samples"] != self.samples:
            found = [f"samples ({meta['samples']} then, {self.samples} now)"]
        if found:
            raise DataError(
                f"{path} was trained on other data, so the run would not be the same: {'; '.join(found)}: bring them "
                "back as they were, or begin another run"
            )
        return [] if comparable(then) else [f"{path} does not say which data it was trained on: they were not compared"]

    def export(self, facts: EncoderFile) -> None:
        """Write the encoder alone, under its own parameter names: torchvision's for our ResNets; and the facts by which
        it is used without this run and its data."""
        found = self.environment()
        versions = {name: str(found[name]) for name in ("rsdnet", "python", *PACKAGES)}
        facts = dataclasses.replace(facts, step=self.step, versions=versions, commit=found["commit"])
        meta = {"step": self.step, "inputs": self.inputs, "config": config.to_tables(self.cfg), KEY: facts.to_json()}
        checkpoint.save(self.folder / runfolder.ENCODER, self.encoder.state_dict(), meta)


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl at or after `step`, and a last line cut short: they will be written again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line)
        except (ValueError, TypeError, KeyError):  # cut short by a kill, or blank since a power cut
            continue
    with aside(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))
