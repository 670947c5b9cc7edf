"""Rows of benches/results/*.csv, one schema for all benchmarks: what was measured, where, and from which code.

    date, commit, machine, versions    provenance
    setting                            conditions, "name=value; name=value"
    what, contender                    the measured thing, and who did it or whom it is measured against
    p20, p50, p80, unit                quantiles over the turns; p50 alone where a number is counted once
    target, met                        ">= 25" and "yes" or "no"; empty without a target
    also                               further numbers, "name=value; name=value"
    note                               remark; where p50 is empty, the reason

Nothing is estimated, and a row that misses its target stays. Results that are wrong get no row.
"""

import csv
import datetime
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benches.core.peers import peer_version
from benches.core.turns import Ratio, cores
from rsdnet.errors import DataError
from rsdnet.provenance import commit

COLUMNS = (
    "date", "commit", "machine", "versions", "setting", "what", "contender",
    "p20", "p50", "p80", "unit", "target", "met", "also", "note",
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, str]
Show = Callable[[str, str, str], None]  # of a row: title, contender, outcome


class Results:
    """Rows of one run: each is kept, shown, and appended to `folder`/`name`.csv where a folder is given."""

    def __init__(self, name: str, folder: Path | None, show: Show, packages: tuple[str, ...] = ()) -> None:
        self.path, self.show = folder and folder / f"{name}.csv", show
        self.provenance = {"date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine()}
        self.provenance["versions"] = versions(packages)
        self.rows: list[Row] = []

    def tell(
        self,
        setting: Mapping[str, Any],
        what: str,
        contender: str,
        measured: Ratio | float | None,
        unit: str = "",
        *,
        target: str = "",
        note: str = "",
        also: Mapping[str, Any] | None = None,
        digits: int = 3,
    ) -> Row:
        """Add a row. measured: None for no figure, with the reason in `note`. target: ">= 25" or "<= 1.3"."""
        row = dict.fromkeys(COLUMNS, "") | self.provenance
        row |= {"setting": joined(setting), "what": what, "contender": contender, "also": joined(also or {})}
        row |= {"unit": unit, "target": target, "note": note}
        if measured is not None:
            quantiles = measured._asdict() if isinstance(measured, Ratio) else {"p50": measured}
            row |= {name: f"{value:.{digits}g}" for name, value in quantiles.items()}
            row["met"] = ("yes" if is_met(quantiles["p50"], target) else "no") if target else ""
        self.rows.append(row)
        self.show(f"{what} ({row['setting']})", contender, outcome(row))
        if self.path:
            append(self.path, row)
        return row


def is_met(value: float, target: str) -> bool:
    """Whether a median reaches a target."""
    sign, _, bound = target.partition(" ")
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def outcome(row: Row) -> str:
    """A row in one line, as the summary of a run shows it."""
    if not row["p50"]:
        return "; ".join(filter(None, [row["also"], row["note"]]))
    spread = f" ({row['p20']} to {row['p80']})" if row["p20"] else ""
    target = f", target {row['target']}: {'met' if row['met'] == 'yes' else 'MISSED'}" if row["target"] else ""
    return "; ".join(filter(None, [f"{row['p50']}{spread} {row['unit']}{target}", row["also"], row["note"]]))


def joined(values: Mapping[str, Any]) -> str:
    """Named values as one cell."""
    return "; ".join(f"{name}={value}" for name, value in values.items())


def split(cell: str) -> dict[str, str]:
    """A cell of named values, read back."""
    return dict(part.split("=", 1) for part in cell.split("; ")) if cell else {}  # type: ignore[misc]


def append(path: Path, row: Row) -> None:
    """Add a row to a CSV, which is made with its header where it is not there. Raises DataError on another schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    read(path)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)


def read(path: Path) -> list[Row]:
    """All rows of a CSV; none where it is not there. Raises DataError on another schema."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or COLUMNS) != COLUMNS:
            raise DataError(f"{path} has the columns {', '.join(reader.fieldnames or ())}: name another folder")
        return list(reader)


# ---- provenance ---------------------------------------------------------------------------------------------


def machine() -> str:
    """The GPU, or the processor and the cores that this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].partition(':')[2].strip() if names else platform.machine()}, {cores()} cores"


def versions(packages: tuple[str, ...]) -> str:
    """Versions of the system, of torch and of those packages that are installed."""
    told = [f"Python {platform.python_version()}", f"Linux {platform.release().split('-')[0]}"]
    told += [f"torch {torch.__version__}"] + (
        [f"cuDNN {torch.backends.cudnn.version()}"] if torch.cuda.is_available() else []
    )
    return ", ".join(told + [f"{package} {found}" for package in packages if (found := peer_version(package))])
