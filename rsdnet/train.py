"""Pre-training: `python -m rsdnet.train --data DB`. From raw bands to an encoder.

The reader gives raw bands of a batch; two views are rendered; the method (BYOL: one view predicts the other) gives the
loss; the optimizer moves the network and the method its target. Everything random is a pure function of (seed, epoch,
sample, view), so a step number and the tensors are the whole state of a run.
"""

import os

# OpenMP's threads, when torch is imported: sleep where they wait for each other. By default they spin, which beside
# other processes takes the time from those they wait for: a step took 17 times as long on two busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import dataclasses
import datetime
import io
import sys
from pathlib import Path

import torch
from rich.console import Console

from rsdnet import config, options, runfolder
from rsdnet.augment import band_table, hidden, rendered, spec_of
from rsdnet.config import Config
from rsdnet.data.described import encoder_file
from rsdnet.data.fixed import fixed_views
from rsdnet.data.identity import shared
from rsdnet.data.inputs import inputs_of, open_loader, open_samples
from rsdnet.distributed import Ranks, open_ranks
from rsdnet.errors import DataError, Echo, command
from rsdnet.evaluate.knn import KNN
from rsdnet.hardware import keep_freed_memory
from rsdnet.health import START
from rsdnet.methods import METHODS
from rsdnet.mixing import mix_of
from rsdnet.model.encoders import ENCODERS
from rsdnet.monitor.flops import matmul_peak, step_flops
from rsdnet.monitor.metrics import Monitor
from rsdnet.monitor.profiler import Profile
from rsdnet.training.optim import SCHEDULES
from rsdnet.training.out_of_memory import explained
from rsdnet.training.precision import set_policy
from rsdnet.training.reach import warning
from rsdnet.training.run import Run
from rsdnet.training.settings import check, fitted, told
from rsdnet.training.signals import Stopper

DESCRIPTION = """Pre-train an encoder on Sentinel-1/2 patches by BYOL or SimSiam (RSDnet, arXiv 2205.02049).
--config FILE.toml ... sets any of these options by table and key; of several files the last one's value counts, and the
command line goes over them. recipes/ holds such files.
Without --data it trains on embedded synthetic scenes, made on the first run, with the settings of rsdnet/demo.toml.
On several GPUs: torchrun --nproc-per-node N -m rsdnet.train ...; on several machines: docs/cluster.md."""
DEMO = Path(__file__).with_name("demo.toml")


def train(cfg: Config, console: Console, ranks: Ranks) -> int:
    """Run `cfg` until its end or a signal. Returns the exit status: 0, or 128 + the signal's number."""
    with ranks.together():
        torch.set_num_threads(cfg.run.threads or torch.get_num_threads())
        set_policy(cfg.run.tf32, ranks.device)
        if ranks.device.type == "cpu":
            keep_freed_memory()
        samples = open_samples(cfg, ranks, console)
        cfg = fitted(cfg, len(samples))
        inputs = inputs_of(cfg, samples)
        facts = encoder_file(cfg, samples, inputs)  # now: the data may be gone at the end
    inputs = shared(inputs, ranks)
    with ranks.together():
        table = band_table(cfg)
        if doubt := hidden(table):
            console.print(doubt, style="yellow", soft_wrap=True)
        table = table.to(ranks.device)
        mix = mix_of(fixed_views(cfg.views), table, inputs["statistics"])
        mix = mix.to(ranks.device) if mix else None
        knn = None
        if cfg.run.knn_every:
            knn = KNN(cfg, cfg.run.knn_data or cfg.data.data, ranks.device, ranks, trained=inputs)
        if knn and (unsure := knn.parts[0][0].samples.databases.doubt):
            console.print(unsure, style="yellow", soft_wrap=True)
        run = Run(cfg, len(samples), ranks, inputs)
        open_folder(run, console)
    if run.step >= run.steps:
        if ranks.main and not (run.folder / runfolder.ENCODER).is_file():
            run.export(facts)
        console.print(f"{run.folder} is complete: {run.steps} steps")
        return 0
    spec = spec_of(cfg.views, run.dtype, cfg.run.channels_last)
    profile = Profile(run.train_step, run.folder, cfg.run.profile if ranks.main else 0, console)
    with ranks.together():
        loader = open_loader(cfg, samples, ranks, run.step, run.steps, progress=console.is_terminal)
    with (
        Stopper() as stopper, run.archive, loader, open_monitor(run, console) as monitor,
        explained(cfg, ranks, run, samples.arena),
    ):  # fmt: skip
        batches = rendered(loader, table, spec, profile.phase, mix)
        for _, views in profile.over(batches, monitor.pause):
            numbers = run.schedule()
            output = run.train_step.step(views)
            if knn is not None and evaluates(run):
                with monitor.pause():
                    monitor.note(**knn(run.encoder, run.dtype))
            monitor.log(run.step, output, run.train_step.trust_ratios, loader.stats, **numbers)
            run.step += 1
            stop = stopped(stopper, run)
            if stop or run.step % cfg.run.checkpoint_every == 0 or run.step == run.steps:
                monitor.flush(loader.stats())
                with monitor.pause():
                    run.save()
            if stop:
                break
    if run.step < run.steps:
        console.print(f"stopped at step {run.step} of {run.steps}; go on with --run {run.folder} --resume")
        return 128 + stop
    if ranks.main:
        run.export(facts)
    console.print(f"{run.folder}: {run.steps} steps done; the encoder is {run.folder / runfolder.ENCODER}")
    return 0


def open_monitor(run: Run, console: Console) -> Monitor:
    """The monitor of a run; measures the device's matrix-product peak first."""
    cfg = run.cfg
    return Monitor(
        run.folder,
        start=run.step,
        steps=run.steps,
        batch=cfg.optim.batch,
        every=cfg.run.log_every,
        console=console,
        tensorboard=cfg.run.tensorboard,
        flops=step_flops(cfg),
        peak=matmul_peak(run.device, run.dtype),
        max_skipped=cfg.run.max_skipped,
        ranks=run.ranks,
    )


def evaluates(run: Run) -> bool:
    """Whether the encoder is evaluated after this step: the first ones, --knn-every epochs, or the last."""
    done = run.step + 1
    return done % (run.cfg.run.knn_every * run.steps_per_epoch) == 0 or done in (START, run.steps)


def stopped(stopper: Stopper, run: Run) -> int:
    """The signal on which all ranks end after this step, or 0. Several ranks agree on it when metrics are logged."""
    if run.ranks.world == 1:
        return stopper.signal
    return max(run.ranks.collect(stopper.signal)) if run.step % run.cfg.run.log_every == 0 else 0


def open_folder(run: Run, console: Console) -> None:
    """Make the run's folder or take up the run that is there, and say so. Raises DataError where the two do not fit."""
    for line in run.open_folder():
        console.print(line, style="yellow", soft_wrap=True)
    ranks, device, model = run.ranks, run.device, run.cfg.model
    several = f"{ranks.world} ranks, each on " if ranks.world > 1 else ""
    detail = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    console.print(
        f"{run.folder}: {run.steps_per_epoch} steps an epoch, {run.steps} in all"
        + (f", from step {run.step}" if run.resumed else "")
        + f"; {model.encoder} by {model.method} on {several}{device} ({detail}) in {run.dtype}".replace("torch.", ""),
        highlight=False,
    )
    if run.compiled:
        console.print("torch.compile: a minute or two before the first step, less where its cache knows the networks")
    if not run.resumed:
        slow = warning(run.cfg, run.samples, run.train_step.trained)
        for line, style in ((told(run.cfg, run.samples), ""), (slow, "yellow")):
            if line:
                console.print(line, style=style, highlight=False, soft_wrap=True)


def configure(argv: list[str]) -> tuple[Config, Path | None]:
    """The configuration of a command line, and the configuration file of the run it continues.

    Raises DataError on a mistake in either, or an unknown name.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path, nargs="+")
    first.add_argument("--run", "--out", type=Path, dest="run")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--data", nargs="*")
    known, _ = options.read(lambda: first.parse_known_args(argv), argv)
    options.require_values(argv, "--data", "--knn-data", "--weights", "--ms-view", "--sar-view")
    saved = known.run / runfolder.CONFIG if known.resume and known.run else None
    if known.resume and not known.run:
        raise DataError("--resume needs the run to continue: --run FOLDER")
    if known.config:
        at = next(i for i, word in enumerate(argv) if word.split("=")[0] == "--config")
        argv = argv[:at] + argv[at + (1 if "=" in argv[at] else 1 + len(known.config)) :]
        base = config.read(*known.config)
    elif saved and saved.is_file():
        base = config.read_run(saved)
    else:
        base = Config() if known.data or {"-h", "--help"} & set(argv) else config.read(DEMO)
    cfg = config.parse(argv, base, "python -m rsdnet.train", DESCRIPTION)
    cfg = config.continued(cfg, config.read_run(saved) if saved and saved.is_file() else Config())
    require_known(cfg)  # before anything is made
    return cfg, saved


def require_known(cfg: Config) -> None:
    """Raise DataError on a name of a method, encoder, optimizer or schedule that there is not, and as `check` does."""
    METHODS.find(cfg.model.method), ENCODERS.find(cfg.model.encoder), SCHEDULES.find(cfg.optim.schedule)
    check(cfg.optim)


def complete(cfg: Config, saved: Path | None) -> Config:
    """`cfg` with its data and its folder named.

    Raises DataError where it contradicts the run that it continues, whose configuration is `saved`.
    """
    if not cfg.data.data:
        from rsdnet.synthetic import demo  # needs rasterio and lmdb, which training on a database does not

        db = demo.prepare()
        print(f"no --data: training on the embedded synthetic scenes, {db}")
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(db,)))
    if saved and saved.is_file() and (changed := config.differences(config.read_run(saved), cfg)):
        raise DataError(f"{saved.parent} cannot go on with other settings: {'; '.join(changed)}")
    folder = cfg.run.run or Path("runs") / datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    return dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, run=folder))


def arguments() -> list[str]:
    """The command line; a run that torchrun starts once more, since a rank was lost, goes on by itself."""
    argv = sys.argv[1:]
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return [*argv, "--resume"] if again and "--resume" not in argv else argv


def main() -> int:
    """The command."""
    first = os.environ.get("RANK", "0") == "0"
    with contextlib.ExitStack() as quiet:
        if not first:  # help and mistakes are told once
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            cfg, saved = configure(arguments())
        except DataError as error:
            raise (DataError if first else Echo)(str(error)) from None
    with open_ranks(cfg.run.device) as ranks:
        with ranks.together():
            named = complete(cfg, saved) if ranks.main else cfg
        cfg = ranks.collect(named)[0]
        console = Console(quiet=not ranks.main, markup=False)
        with explained(cfg, ranks):
            return train(cfg, console, ranks)


if __name__ == "__main__":
    command(main)
