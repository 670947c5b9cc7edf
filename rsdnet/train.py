"""Pre-training: `python -m rsdnet.train --data DB`. From raw bands to an encoder, in one sitting.

Raw bands of a batch come from the loader; two views are rendered; BYOL predicts one from the other; the optimizer moves
the online network and the target follows. Everything random is a pure function of (seed, epoch, sample, view), so a
step number and the tensors are the whole state of a run.
"""

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from rsdnet import config, runfolder
from rsdnet.augment import band_table, rendered, spec_of
from rsdnet.config import Config
from rsdnet.data.loader import open_loader, open_samples
from rsdnet.distributed import Ranks, open_ranks
from rsdnet.errors import DataError, Echo, command
from rsdnet.evaluate.knn import KNN
from rsdnet.files import aside, sweep
from rsdnet.monitor.flops import matmul_peak, step_flops
from rsdnet.monitor.metrics import Monitor
from rsdnet.monitor.out_of_memory import advised, watched
from rsdnet.monitor.profiler import Profile
from rsdnet.runfolder import CONFIG, ENVIRONMENT, METRICS
from rsdnet.training import checkpoint
from rsdnet.training.environment import environment
from rsdnet.training.precision import precision_of, set_policy
from rsdnet.training.run import Run
from rsdnet.training.signals import Stopper

DESCRIPTION = """Pre-train an encoder with BYOL on Sentinel-1/2 patches (RSDnet, arXiv 2205.02049).
--config FILE.toml sets any of these options by table and key; the command line goes over it.
Without --data it trains on embedded synthetic scenes, made on the first run, with the settings of rsdnet/demo.toml.
On several GPUs: torchrun --nproc-per-node N -m rsdnet.train ...; on several machines: docs/cluster.md."""
DEMO = Path(__file__).with_name("demo.toml")


def train(cfg: Config, console: Console, ranks: Ranks) -> int:
    """Run `cfg` until its end or a signal. Returns the exit status: 0, or 128 + the signal's number."""
    with ranks.together():
        torch.set_num_threads(cfg.run.threads or torch.get_num_threads())
        set_policy(cfg.run.tf32, ranks.device)
        samples = open_samples(cfg, ranks, console)
        table = band_table(cfg).to(ranks.device)
        knn = KNN(cfg, cfg.run.knn_data or cfg.data.data, ranks.device, ranks) if cfg.run.knn_every else None
        precision_of(cfg, ranks.device)
    run = Run(cfg, len(samples), ranks)
    with ranks.together():
        open_folder(run, console)
    if run.step >= run.steps:
        if ranks.main and not (run.folder / runfolder.ENCODER).is_file():
            run.export()
        console.print(f"{run.folder} is complete: {run.steps} steps")
        return 0
    spec = spec_of(cfg.views, run.dtype, cfg.run.channels_last)
    profile = Profile(run.engine, run.folder, cfg.run.profile if ranks.main else 0, console)
    with ranks.together():
        loader = open_loader(cfg, samples, ranks, run.step, run.steps, progress=console.is_terminal)
    with Stopper() as stopper, run.archive, loader, open_monitor(run, console) as monitor, watched(run, samples.arena):
        batches = rendered(loader, table, spec, cfg.views, profile.phase)
        for _, views in profile.over(batches, monitor.pause):
            knobs = run.schedule()
            output = run.engine.step(views)
            if knn is not None and evaluated(run):
                with monitor.pause():
                    monitor.note(**knn(run.engine.byol.online.encoder, run.dtype))
            monitor.log(run.step, output, run.engine.trust_ratios, loader.stats, **knobs)
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
        run.export()
    console.print(f"{run.folder}: {run.steps} steps done; the encoder is {run.folder / runfolder.ENCODER}")
    return 0


def open_monitor(run: Run, console: Console) -> Monitor:
    """What shows and keeps the run's numbers; measures what this device can do first."""
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


def evaluated(run: Run) -> bool:
    """Whether the encoder is evaluated after this step: at the end of every --knn-every epochs, and of the run."""
    done = run.step + 1
    return done % (run.cfg.run.knn_every * run.steps_per_epoch) == 0 or done == run.steps


def stopped(stopper: Stopper, run: Run) -> int:
    """The signal on which all ranks end after this step, or 0. Several ranks agree on it when metrics are logged."""
    if run.ranks.world == 1:
        return stopper.signal
    return max(run.ranks.collect(stopper.signal)) if run.step % run.cfg.run.log_every == 0 else 0


def open_folder(run: Run, console: Console) -> None:
    """Make the run's folder, or take up the run that is there. Raises DataError where the two do not fit."""
    exists = run.archive.exists()
    if exists and not run.cfg.run.resume:
        raise DataError(f"{run.folder} holds a run already: continue it with --resume, or name another with --run")
    for line in run.load() if exists else ():
        console.print(f"{line}; going on from an earlier one", style="yellow", soft_wrap=True)
    if run.ranks.main:
        write_folder(run)
    console.print(
        f"{run.folder}: {run.steps_per_epoch} steps an epoch, {run.steps} in all"
        + (f", from step {run.step}" if exists else "")
        + f"; {run.cfg.model.encoder} on {place_of(run)} in {run.dtype}".replace("torch.", ""),
        highlight=False,
    )


def write_folder(run: Run) -> None:
    """Write down the run's configuration and environment; metrics end at its step."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        sweep(run.folder)
        with aside(run.folder / CONFIG) as temporary:
            temporary.write_text(config.dumps(run.cfg))
        found = environment(
            run.device, precision=str(run.dtype), samples=run.samples, steps=run.steps, ranks=run.ranks.world
        )
        with aside(run.folder / ENVIRONMENT) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
        checkpoint.truncate_metrics(run.folder / METRICS, run.step)
    except OSError as error:
        raise DataError(f"{run.folder} cannot be written ({error.strerror}): name another folder with --run") from None


def place_of(run: Run) -> str:
    """What a run trains on, in words."""
    several = f"{run.ranks.world} ranks, each on " if run.ranks.world > 1 else ""
    if run.device.type == "cuda":
        return f"{several}{run.device} ({torch.cuda.get_device_name(run.device)})"
    return f"{several}{run.device} ({torch.get_num_threads()} threads)"


def configure(argv: list[str]) -> tuple[Config, Path | None]:
    """The configuration of a command line, and the file with that of the run it continues.

    Raises DataError where it contradicts a file.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--run", "--out", type=Path, dest="run")
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
    return config.parse(argv, base, "python -m rsdnet.train", DESCRIPTION), saved


def complete(cfg: Config, saved: Path | None) -> Config:
    """`cfg` with its data and its folder named.

    Raises DataError where it contradicts the run that it continues, whose configuration is `saved`.
    """
    if not cfg.data.data:
        from rsdnet.synthetic import demo  # needs rasterio and lmdb, which training on a database does not

        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data=(demo.prepare(),)))
    if saved and saved.is_file() and (changed := config.differences(config.read(saved), cfg)):
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
        console = Console(quiet=not ranks.main)
        return advised(lambda: train(cfg, console, ranks), cfg, ranks, console)


if __name__ == "__main__":
    command(main)
