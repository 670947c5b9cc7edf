"""Counts and statistics of an ingest under way, and the report at its end."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rsdnet.data.catalog import SPLITS
from rsdnet.data.statistics import Accumulator, Summary

LEFT_OUT, OFFSETS = "left_out.tsv", "offsets.tsv"


class Tally:
    """Counts, statistics by band and the first reason. Its size does not grow with the data."""

    def __init__(self) -> None:
        self.samples = self.left_out = self.sources = self.undecided = 0
        self.highest = -1
        self.first_reason = ""
        self.bands: dict[str, Accumulator] = {}
        self.splits: Counter[str] = Counter()
        self.offsets: Counter[int] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, line: dict[str, Any], summaries: Iterable[dict[str, Summary]]) -> None:
        """Count one source: its line of the journal, and its training tiles' statistics."""
        self.sources += 1
        self.samples += len(line["rows"])
        self.left_out += len(line["left"])
        self.splits.update(row[-1] for row in line["rows"])
        if line["left"] and not self.first_reason:
            self.first_reason = ": ".join(line["left"][0])
        for _, offset, why in line["offsets"]:
            self.offsets[offset] += 1
            self.undecided += why.startswith("undecided")
        self.notes.update(line["notes"])
        self.highest = max(self.highest, line["highest"])
        for summary in summaries:
            for name, band in summary.items():
                self.bands.setdefault(name, Accumulator()).add(band)

    def report(self, folder: Path, bytes: int) -> Iterator[str]:
        """Lines on the finished database in `folder`, of so many bytes."""
        splits = ", ".join(f"{self.splits[split]:,} {split}" for split in SPLITS)
        yield f"{folder}: {self.samples:,} samples ({splits}), {bytes / 1e6:,.1f} MB"
        if self.left_out:
            yield f"left out {self.left_out:,}, named in {folder / LEFT_OUT}; the first: {self.first_reason}"
        if self.offsets:
            decided = ", ".join(f"{count:,} files -{offset} DN" for offset, count in sorted(self.offsets.items()))
            undecided = f" ({self.undecided:,} undecided, taken as 0)" if self.undecided else ""
            yield f"offset auto: {decided}{undecided}, named in {folder / OFFSETS}"
        for note, times in sorted(self.notes.items()):
            yield f"{note} ({times:,} sources)"
