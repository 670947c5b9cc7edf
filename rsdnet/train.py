"""Pre-training: `python -m rsdnet.train --data DB`. From raw bands to an encoder, in one sitting.

Raw bands of a batch come from the stream; two views are rendered; BYOL predicts one from the other; the optimizer moves
the online network and the target follows. Everything random is a pure function of (seed, epoch, sample, view), so a
step number and the tensors are the whole state of a run.
"""

import argparse
import dataclasses
import datetime
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from rsdnet import checkpoint, config, schedules, shares
from rsdnet.archive import Archive
from rsdnet.config import Config
from rsdnet.environment import FILE as ENVIRONMENT
from rsdnet.environment import environment
from rsdnet.errors import DataError, command
from rsdnet.files import aside
from rsdnet.kernels import LARS, lars_groups, update_target_
from rsdnet.model import BYOL
from rsdnet.monitor import METRICS, Monitor
from rsdnet.samples import Samples, pools_of, statistics
from rsdnet.signals import Stopper
from rsdnet.stream import Stream, check_batch
from rsdnet.views import band_table, spec_of, training_views

DESCRIPTION = """Pre-train an encoder with BYOL on Sentinel-1/2 patches (RSDnet, arXiv 2205.02049).
--config FILE.toml sets any of these options by table and key; the command line goes over it.
Without --data it trains on embedded synthetic scenes, made on the first run, with the settings of rsdnet/demo.toml."""
DEMO = Path(__file__).with_name("demo.toml")
CONFIG = "config.toml"
SGD_MOMENTUM = 0.9
# Up to this size of a view the encoder's last stage sees one pixel. There torch 2.13 on a CPU gives garbage in bf16:
# the weight gradient of a 3x3 convolution of stride 2 is left unwritten (fp32 and larger inputs are right).
TINY = 16
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Run:
    """Everything that moves while training: networks, optimizer, scaler, step. What a checkpoint holds."""

    def __init__(self, cfg: Config, samples: int, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.folder = cfg.run.run or Path("runs")
        self.steps_per_epoch = samples // cfg.optim.batch
        self.steps = cfg.optim.steps or cfg.optim.epochs * self.steps_per_epoch
        self.warmup = min(round(cfg.optim.warmup_epochs * self.steps_per_epoch), self.steps // 10)
        self.samples, self.step = samples, 0
        self.archive = Archive(self.folder, cfg.run.keep, cfg.run.keep_every)
        torch.manual_seed(cfg.run.seed)
        self.byol = BYOL(cfg.views.channels, cfg.model).to(device)
        if cfg.run.channels_last:
            self.byol.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizer_of(cfg, self.byol, device)
        self.tau = torch.zeros((), device=device)
        self.dtype = AUTOCAST[precision_of(cfg, device)]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        if cfg.run.compile == "on" or (cfg.run.compile == "auto" and device.type == "cuda"):
            self.byol.compile()

    def schedule(self) -> dict[str, float]:
        """Set learning rate and tau for this step, and name them."""
        optim = self.cfg.optim
        lr = schedules.learning_rate(self.step, self.steps, optim.lr, optim.batch, self.warmup)
        tau = schedules.tau(self.step, self.steps, optim.tau)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.tau.fill_(tau)
        return {"lr": lr, "tau": tau, "epoch": self.step // self.steps_per_epoch}

    def save(self) -> None:
        """Write a checkpoint while training goes on. Raises DataError, keeping the last, on weights not finite."""
        if not all(tensor.isfinite().all() for tensor in self.byol.online_parameters()):
            raise DataError(
                f"weights are not finite after step {self.step}: lower --lr, or train in --precision fp32; "
                "the last checkpoint is untouched"
            )
        tensors = checkpoint.prefixed("model", self.byol.state_dict())
        tensors |= checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer, self.byol))
        meta = {
            "step": self.step, "samples": self.samples, "scaler": self.scaler.state_dict(),
            "config": config.to_tables(self.cfg),
        }  # fmt: skip
        self.archive.save(self.step, tensors, meta)

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
        checkpoint.restore(self.byol, checkpoint.under("model", tensors), str(path))
        checkpoint.restore_optimizer(self.optimizer, self.byol, checkpoint.under("optimizer", tensors))
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.step = meta["step"]
        return damaged

    def export(self) -> None:
        """Write the online encoder alone, under torchvision's parameter names."""
        meta = {"step": self.step, "config": config.to_tables(self.cfg)}
        checkpoint.save(self.folder / checkpoint.ENCODER, self.byol.online.encoder.state_dict(), meta)


def train(cfg: Config, console: Console) -> int:
    """Run `cfg` until its end or a signal. Returns the exit status: 0, or 128 + the signal's number."""
    device = device_of(cfg)
    torch.set_num_threads(cfg.run.threads or torch.get_num_threads())
    samples = open_samples(cfg, device, console)
    table = band_table(cfg, statistics(cfg, pools_of(cfg.views))).to(device)
    run = Run(cfg, len(samples), device)
    spec = spec_of(cfg.views, run.dtype, cfg.run.channels_last)
    open_folder(run, console)
    if run.step >= run.steps:
        if not (run.folder / checkpoint.ENCODER).is_file():
            run.export()
        console.print(f"{run.folder} is complete: {run.steps} steps")
        return 0
    byol, optimizer, scaler, seed = run.byol, run.optimizer, run.scaler, cfg.run.seed
    online, target = byol.online_parameters(), byol.target_parameters()
    stream = open_stream(cfg, samples, device, run, console)
    monitor = Monitor(run.folder, start=run.step, steps=run.steps, batch=cfg.optim.batch, every=cfg.run.log_every,
                      console=console, tensorboard=cfg.run.tensorboard)  # fmt: skip
    with Stopper() as stopper, run.archive, stream, monitor:
        for batch in stream:
            knobs = run.schedule()
            views = training_views(*batch[:3], table, spec, cfg.views, seed=seed, epoch=batch.epoch)
            with torch.autocast(device.type, run.dtype, enabled=run.dtype is not torch.float32):
                output = byol(views)
            scaler.scale(output.loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            update_target_(target, online, run.tau)
            monitor.log(run.step, output.loss, output.spread, stream.stats, **knobs)
            run.step += 1
            if stopper.signal or run.step % cfg.run.checkpoint_every == 0 or run.step == run.steps:
                monitor.flush(stream.stats(), **knobs)  # a loss that is not finite must not reach a checkpoint
                run.save()
                monitor.skip_time()
            if stopper.signal:
                break
    if run.step < run.steps:
        console.print(f"stopped at step {run.step} of {run.steps}; go on with --run {run.folder} --resume")
        return 128 + stopper.signal
    run.export()
    console.print(f"{run.folder}: {run.steps} steps done; the encoder is {run.folder / checkpoint.ENCODER}")
    return 0


def open_samples(cfg: Config, device: torch.device, console: Console) -> Samples:
    """The samples to train on; says which were left out and what a cache takes.

    Raises DataError where a batch does not fill, or the cache does not fit.
    """
    samples = Samples(
        cfg.data.data,
        cfg.views.modality,
        pools_of(cfg.views),
        split=None if cfg.data.split == "all" else cfg.data.split,
        threads=cfg.data.reader_threads,
        access=cfg.data.access,
        damaged=cfg.data.damaged,
    )
    if report := samples.report():
        console.print(report, style="yellow")
    check_batch(samples, cfg.optim.batch)
    shares.quotas(cfg.data.weights, samples.table.counts, samples.databases)
    if cfg.data.cache != "none":
        console.print(samples.check_cache(cfg.data.cache, device), highlight=False)
    return samples


def open_stream(cfg: Config, samples: Samples, device: torch.device, run: Run, console: Console) -> Stream:
    """The batches from the run's step to its end; fills the cache where there is one."""
    return Stream(
        samples,
        batch=cfg.optim.batch,
        channels=cfg.views.channels,
        seed=cfg.run.seed,
        start=run.step,
        stop=run.steps,
        weights=cfg.data.weights,
        cache=cfg.data.cache,
        device=device,
        slots=cfg.data.slots,
        ahead=cfg.data.lookahead,
        hints="auto" if cfg.data.lookahead else "off",
        damaged=cfg.data.damaged,
        threads=cfg.data.reader_threads,
        progress=console.is_terminal,
    )


def open_folder(run: Run, console: Console) -> None:
    """Make the run's folder, or take up the run that is there. Raises DataError where the two do not fit."""
    exists = run.archive.exists()
    if exists and not run.cfg.run.resume:
        raise DataError(f"{run.folder} holds a run already: continue it with --resume, or name another with --run")
    for line in run.load() if exists else ():
        console.print(f"{line}; going on from an earlier one", style="yellow", soft_wrap=True)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        with aside(run.folder / CONFIG) as temporary:
            temporary.write_text(config.dumps(run.cfg))
        found = environment(run.device, precision=str(run.dtype), samples=run.samples, steps=run.steps)
        with aside(run.folder / ENVIRONMENT) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"{run.folder} cannot be written ({error.strerror}): name another folder with --run") from None
    checkpoint.truncate_metrics(run.folder / METRICS, run.step)
    threads = torch.get_num_threads()
    console.print(
        f"{run.folder}: {run.steps_per_epoch} steps an epoch, {run.steps} in all"
        + (f", from step {run.step}" if exists else "")
        + f"; {run.cfg.model.encoder} on {run.device}"
        + (f" ({threads} threads)" if run.device.type == "cpu" else f" ({torch.cuda.get_device_name(run.device)})")
        + f" in {run.dtype}".replace("torch.", ""),
        highlight=False,
    )


def optimizer_of(cfg: Config, byol: BYOL, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer over the online network and the predictor; no weight decay on biases and norm parameters."""
    trained = torch.nn.ModuleList([byol.online, byol.predictor])
    groups = lars_groups(trained, cfg.optim.weight_decay)
    if cfg.optim.optimizer == "lars":
        return LARS(groups, lr=torch.zeros((), device=device))
    plain = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    if cfg.optim.optimizer == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=SGD_MOMENTUM)
    return torch.optim.AdamW(plain, lr=0.0, fused=True)


def device_of(cfg: Config) -> torch.device:
    """The device a run uses. Raises DataError where a GPU is asked for and there is none."""
    found = torch.cuda.is_available()
    if cfg.run.device == "cuda" and not found:
        raise DataError(
            "--device cuda: torch sees no CUDA GPU here; use --device cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if found and cfg.run.device != "cpu" else "cpu")


def precision_of(cfg: Config, device: torch.device) -> str:
    """bf16, fp16 or fp32; auto is bf16 where the hardware has it. Raises DataError on bf16 for tiny CPU views."""
    asked = cfg.run.precision
    if device.type == "cuda":
        return (
            asked if asked != "auto" else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        )
    tiny = cfg.views.size <= TINY
    if asked == "bf16" and tiny:
        raise DataError(
            f"--precision bf16 on a CPU needs --size above {TINY}: below, oneDNN's bf16 gradient of a strided "
            "convolution of one pixel is uninitialised memory; use --precision fp32"
        )
    if asked != "auto":
        return asked
    hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if hardware and not tiny else "fp32"


def configure(argv: list[str]) -> Config:
    """The configuration of a command line. Raises DataError where it contradicts a file, or the run it continues."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--run", type=Path)
    first.add_argument("--resume", action="store_true")
    first.add_argument("--data", nargs="*")
    known, _ = first.parse_known_args(argv)
    saved = known.run / CONFIG if known.resume and known.run else None
    if known.resume and not known.run:
        raise DataError("--resume needs the run to continue: --run FOLDER")
    if known.config:
        at = next(i for i, word in enumerate(argv) if word.split("=")[0] == "--config")
        argv = argv[:at] + argv[at + (1 if "=" in argv[at] else 2) :]
        base = config.read(known.config)
    elif saved and saved.is_file():
        base = config.read(saved)
    else:
        base = Config() if known.data or {"-h", "--help"} & set(argv) else config.read(DEMO)
    cfg = config.parse(argv, base, "python -m rsdnet.train", DESCRIPTION)
    if not cfg.data.data:
        from rsdnet import demo  # needs rasterio and lmdb, which training on a database does not

        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(demo.prepare(),)))
    if saved and saved.is_file() and (changed := config.differences(config.read(saved), cfg)):
        raise DataError(f"{known.run} cannot go on with other settings: {'; '.join(changed)}")
    folder = cfg.run.run or Path("runs") / datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    return dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, run=folder))


def main() -> int:
    """The command."""
    return train(configure(sys.argv[1:]), Console())


if __name__ == "__main__":
    command(main)
