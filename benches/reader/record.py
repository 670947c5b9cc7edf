"""The rows of benches/results/reader.csv. A row is a ratio of two things measured side by side; no absolute times."""

import datetime
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from benches import rows
from benches.core.provenance import commit
from benches.reader.measure import Ratio, cores

COLUMNS = (
    "date", "commit", "machine", "versions", "pairs", "what", "contender", "unit",
    "p20", "p50", "p80", "target", "met", "note",
)  # fmt: skip
PACKAGES = ("numpy", "torch", "lmdb", "safetensors")


class Tell(Protocol):
    """Keep a row and show it. ratio: none where there is no figure, the note then says why. target: ">= 25" or so."""

    def __call__(
        self, what: str, contender: str, ratio: Ratio | None, unit: str = "", target: str = "", note: str = ""
    ) -> None: ...


def machine() -> str:
    """The processor and the cores that this process may use."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {cores()} cores"


def versions() -> str:
    """Of what the contenders are made of."""
    told = [f"Python {platform.python_version()}", f"Linux {platform.release().split('-')[0]}"]
    for package in PACKAGES:
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(told)


def is_met(ratio: Ratio, target: str) -> bool:
    """Whether the median reaches a target such as ">= 25" or "<= 1.3"."""
    sign, _, bound = target.partition(" ")
    return ratio.p50 >= float(bound) if sign == ">=" else ratio.p50 <= float(bound)


def teller(pairs: int, folder: Path | None, show: Callable[[str, str, str], None]) -> Tell:
    """Rows of a run over so many pairs, appended to `folder`/reader.csv where one is given."""
    shared = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine()}
    shared |= {"versions": versions(), "pairs": str(pairs)}

    def tell(what: str, contender: str, ratio: Ratio | None, unit: str = "", target: str = "", note: str = "") -> None:
        row: dict[str, Any] = shared | {
            "what": what,
            "contender": contender,
            "unit": unit,
            "target": target,
            "note": note,
        }
        outcome = note
        if ratio:
            row |= {name: f"{value:.3g}" for name, value in zip(Ratio._fields, ratio, strict=True)}
            row["met"] = ("yes" if is_met(ratio, target) else "no") if target else ""
            aim = f", target {target}: {'met' if row['met'] == 'yes' else 'MISSED'}" if target else ""
            outcome = f"{row['p50']} ({row['p20']} to {row['p80']}) {unit}{aim}" + (f"; {note}" if note else "")
        show(what, contender, outcome)
        if folder:
            rows.append(folder / "reader.csv", COLUMNS, [row])

    return tell
