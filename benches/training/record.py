"""The rows of benches/results/training.csv: ratios of two contenders side by side; absolute speeds of a GPU alone."""

import datetime
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benches import rows
from benches.core.clock import GPU
from benches.core.peers import peer_version
from benches.core.provenance import commit, machine
from benches.reader.measure import Ratio
from benches.reader.record import is_met
from benches.training.setting import Setting

COLUMNS = (
    "date", "commit", "device", "versions", "shape", "batch", "precision", "workers", "what", "beside",
    "p20", "p50", "p80", "unit", "target", "met", "note", "samples_per_s", "beside_samples_per_s",
)  # fmt: skip
FILE = "training.csv"
PACKAGES = ("numpy", "triton", "torchvision", "kornia", "lightly", "byol-pytorch", "lmdb", "safetensors")
SPEED, MEMORY, SHARE = "x samples/s", "x memory", "of the step"


def versions() -> str:
    """Of what the contenders are made of."""
    told = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    told += [f"cuDNN {torch.backends.cudnn.version()}"] if GPU else []
    return ", ".join(told + [f"{package} {found}" for package in PACKAGES if (found := peer_version(package))])


def notes(*told: str) -> str:
    """Those that tell something, in one."""
    return "; ".join(filter(None, told))


class Book:
    """Keeps and shows the rows of one run.

    folder: gets training.csv; None: nothing is written. show: called with what, beside, outcome.
    """

    def __init__(self, folder: Path | None, show: Callable[[str, str, str], None]) -> None:
        self.folder, self.show = folder, show
        self.rows: list[dict[str, Any]] = []
        self.shared = {"date": datetime.date.today().isoformat(), "commit": commit(), "device": machine()}
        self.shared |= {"versions": versions()}

    def tell(
        self,
        setting: Setting,
        what: str,
        beside: str,
        ratio: Ratio | None,
        *,
        unit: str = SPEED,
        target: str = "",
        note: str = "",
        seconds: tuple[float, float] | None = None,
    ) -> None:
        """A row. ratio: None where there is no figure, the note then says why. target: ">= 1.8" or so.

        seconds: of a step of each of the two, from which a GPU's row has samples a second.
        """
        row: dict[str, Any] = self.shared | {
            "shape": setting.shape, "batch": setting.batch, "precision": setting.precision,
            "workers": setting.workers, "what": what, "beside": beside, "unit": unit, "target": target, "note": note,
        }  # fmt: skip
        outcome = note
        if ratio:
            row |= {name: f"{value:.3g}" for name, value in zip(Ratio._fields, ratio, strict=True)}
            row["met"] = ("yes" if is_met(ratio, target) else "no") if target else ""
            aim = f", target {target}: {'met' if row['met'] == 'yes' else 'MISSED'}" if target else ""
            outcome = f"{row['p50']} ({row['p20']} to {row['p80']}) {unit}{aim}" + (f"; {note}" if note else "")
        if GPU and seconds:
            names = "samples_per_s", "beside_samples_per_s"
            row |= {name: f"{setting.batch / each:.4g}" for name, each in zip(names, seconds, strict=True)}
        self.rows.append(row)
        self.show(f"{setting.shape}, batch {setting.batch}, {setting.precision}: {what}", beside, outcome)
        if self.folder:
            rows.append(self.folder / FILE, COLUMNS, [row])
