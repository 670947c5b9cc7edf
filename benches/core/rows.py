"""The rows of benches/results/kernels.csv: what was measured, where, and from which code. Nothing is estimated.

Times, bytes a second and the share of the copy bandwidth stand in rows of a GPU only; a CPU's row holds the ratio to
the reference in the same run. A provider that is absent, or whose results are wrong, has no row.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "date", "commit", "device", "torch", "triton",
    "op", "provider", "version", "mode", "shape", "type", "error",
    "p20_us", "p50_us", "p80_us", "bytes", "gb_s", "copy_gb_s", "copy_share", "peak_bytes", "launches",
    "speedup",
)  # fmt: skip


def append(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a CSV, made with its folder where it is not there; the first row brings the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerows(rows)
