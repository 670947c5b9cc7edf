"""The reference's step and loop: `python -m benches.reference.train` with rsdnet.train's own options.

Writes into the run's folder what `rsdnet.probe` reads: config.toml, metrics.jsonl, encoder.safetensors.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from benches.reference.data import Pair, Patches, loader
from benches.reference.model import BYOL
from benches.reference.optim import move_target, optimizer_of
from benches.reference.transforms import OnBatch, on_device
from rsdnet import config, runfolder
from rsdnet.augment import band_table
from rsdnet.config import Config, number
from rsdnet.console import progress
from rsdnet.errors import DataError, command
from rsdnet.training import checkpoint
from rsdnet.training.settings import fitted

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Trainer:
    """Networks, optimizer and the step that moves them: eager AMP, channels-last, float16 with a GradScaler.

    precision: "bf16", "fp16" or "fp32". compiled: the networks and the loss under torch.compile.
    """

    def __init__(
        self, cfg: Config, device: torch.device, precision: str, *, compiled: bool = False, backend: str = "inductor"
    ) -> None:
        self.cfg, self.device, self.dtype = cfg, device, AUTOCAST[precision]
        self.byol = BYOL(cfg.model, cfg.views.channels).to(device)
        self.byol.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self.byol.compile(backend=backend)
        trained = [self.byol.online, self.byol.predictor]
        decay = number(cfg.optim.weight_decay)
        self.optimizer = optimizer_of(cfg.optim.optimizer, trained, decay, device.type == "cuda")
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def step(self, views: Tensor, lr: float, tau: float) -> Tensor:
        """One step over views (2, B, C, S, S). Returns the loss, (), on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            loss = self.byol(views)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        move_target(self.byol.target, self.byol.online, tau)
        return loss.detach()


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine to 0 (Grill et al. 2020, section 3.3)."""
    if step < warmup:
        return peak * step / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def tau_at(step: int, steps: int, base: float) -> float:
    """The target's momentum, from `base` to 1 (Grill et al. 2020, section 3.3)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2


def table_of(cfg: Config) -> Tensor:
    """Means, deviations and ranges by band id, (K, 10)."""
    return band_table(cfg)


class Views:
    """Endless batches of views (2, B, C, S, S) on the device, read by `workers` processes.

    side: pixels that every band is brought to. batch: transform of batches on the device. each: of patches in the
    workers, where there is none of batches. Raises Absent without py-lmdb.
    """

    def __init__(
        self,
        cfg: Config,
        folder: Path,
        side: int,
        device: torch.device,
        workers: int,
        *,
        batch: OnBatch | None = None,
        each: Callable[[Pair], Pair] | None = None,
    ) -> None:
        self.device, self.transform = device, batch
        patches = Patches(folder, cfg.views, side, cfg.data.split, each)
        self.count = len(patches)
        self.loader = loader(patches, cfg.optim.batch, workers, cfg.run.seed, device.type == "cuda")

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.loader:
            images, bands, index = (part.to(self.device, non_blocking=True) for part in batch)
            yield self.transform(images, bands, index) if self.transform else images.transpose(0, 1)

    def close(self) -> None:
        """End the workers."""
        del self.loader


def train(cfg: Config, folder: Path, workers: int) -> None:
    """Run `cfg`'s whole schedule and write its folder."""
    torch.manual_seed(cfg.run.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.run.device != "cpu" else "cpu")
    precision = cfg.run.precision if cfg.run.precision != "auto" else "bf16" if device.type == "cuda" else "fp32"
    database = Path(cfg.data.data[0])
    transform = on_device(cfg.views, table_of(cfg).to(device))[1]
    with closing(Views(cfg, database, side_of(database, cfg), device, workers, batch=transform)) as views:
        cfg = fitted(cfg, views.count)
        trainer = Trainer(cfg, device, precision)
        epoch = views.count // cfg.optim.batch
        steps = cfg.optim.steps or cfg.optim.epochs * epoch
        warmup = min(round(number(cfg.optim.warmup_epochs) * epoch), steps // 10)
        peak, tau = number(cfg.optim.lr) * cfg.optim.batch / 256, number(cfg.optim.tau)
        folder.mkdir(parents=True, exist_ok=True)
        losses, began = [], time.perf_counter()
        with progress("reference", steps, "steps") as done:
            for step, batch in zip(range(steps), views, strict=False):
                rate = learning_rate(step, steps, peak, warmup)
                losses.append(trainer.step(batch, rate, tau_at(step, steps, tau)))
                done(step + 1)
    if not torch.stack(losses).isfinite().all():
        raise DataError("the reference's loss is not finite: lower --lr")
    write(cfg, folder, trainer, torch.stack(losses).tolist(), time.perf_counter() - began)


def side_of(folder: Path, cfg: Config) -> int:
    """Pixels a side of the first sample's finest band."""
    patches = Patches(folder, cfg.views, 1, cfg.data.split)
    return max(len(layer) for key in patches.keys[0] for layer in patches.entry(key).values())


def write(cfg: Config, folder: Path, trainer: Trainer, losses: list[float], seconds: float) -> None:
    """The run's folder as rsdnet.train leaves it, as far as rsdnet.probe and the loss curves go."""
    (folder / "config.toml").write_text(config.dumps(cfg))
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    weights = {name: t for name, t in trainer.byol.online[0].state_dict().items() if not name.startswith("fc.")}
    checkpoint.save(folder / runfolder.ENCODER, weights, {"step": len(losses), "config": config.to_tables(cfg)})
    print(f"{folder}: {len(losses)} steps of the reference in {seconds:,.0f} s, its encoder {trainer.byol.made_of}")


def main() -> None:
    """The command."""
    from rsdnet.train import configure  # the very options and files of rsdnet.train

    cfg, _ = configure(sys.argv[1:])
    torch.set_num_threads(cfg.run.threads or torch.get_num_threads())
    if cfg.run.run is None:
        raise DataError("the reference needs --run FOLDER to write to")
    train(cfg, cfg.run.run, workers=max(1, cfg.data.reader_threads))


if __name__ == "__main__":
    command(main)
