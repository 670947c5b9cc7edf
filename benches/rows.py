"""The rows of benches/results/kernels.csv: what was measured, where, and from which code. Nothing is estimated.

Times, bytes a second and the share of the copy bandwidth stand in rows of a GPU only; a CPU's row holds the ratio to
the reference in the same run. A provider that is absent, or whose results are wrong, has no row.
"""

import csv
from pathlib import Path
from typing import Any

COLUMNS = (
    "date", "commit", "device", "torch", "triton",
    "op", "provider", "version", "mode", "shape", "type", "error",
    "p20_us", "p50_us", "p80_us", "bytes", "gb_s", "copy_gb_s", "copy_share", "peak_bytes", "launches",
    "speedup",
)  # fmt: skip


def append(folder: Path, row: dict[str, Any]) -> None:
    """Add a row to folder/kernels.csv; the file's first row makes the header."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "kernels.csv", "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            writer.writeheader()
        writer.writerow(row)
