"""The counts of an ingest, and its summary: unit, offset, bands, splits, labels and grid as they were taken; doubts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsdnet import bands
from rsdnet.console import percent, size
from rsdnet.data.catalog import DATA, SPLITS
from rsdnet.data.statistics import Accumulator, Summary
from rsdnet.errors import IMPLAUSIBLE
from rsdnet.ingest.geotiffs import Row
from rsdnet.ingest.source import Recipe

LEFT_OUT, OFFSETS = "left_out.tsv", "offsets.tsv"
_UNITS = {"dn": "DN", "reflectance": "reflectance, stored as DN", "byte": "8-bit levels"}
_SCALES = {"db": "dB", "power": "power, stored as dB", "amplitude": "amplitude, stored as dB"}
_NAMED = 6  # values of no class, or kinds of reason, that are listed
_KEYS = 1000  # texts that are counted apart
_COVERED = 0.9  # share of the pixels in tiles, under which it is said
_BYTES = 255


class Tally:
    """Counts and statistics by band. Its size does not grow with the data."""

    def __init__(self) -> None:
        self.samples = self.left_out = self.sources = self.labelled = self.placed = self.mapped = self.several = 0
        self.snow = self.clouds = 0
        self.highest = -1
        self.labels = set[int]()
        self.present = set[str]()
        self.first_reason = ""
        self.pixels = self.covered = 0
        self.bands: dict[str, Accumulator] = {}
        self.splits: Counter[str] = Counter()
        self.offsets: Counter[tuple[int, bool]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.dropped, self.notes, self.doubts, self.sizes, self.systems = (Counter[str]() for _ in range(5))

    def add(self, line: dict[str, Any], summaries: Iterable[dict[str, Summary]]) -> None:
        """Count one source: its line of the journal, and its training tiles' statistics."""
        self.sources += 1
        self.samples += len(line["rows"])
        for row in (Row(*values) for values in line["rows"]):
            self.present |= {kind for kind, key in (("ms", row.ms), ("sar", row.sar)) if key is not None}
            self.splits[row.split] += 1
            self.labelled += row.label is not None
            if row.label is not None:
                self.labels.add(row.label)
                self.highest = max(self.highest, row.label)
            self.mapped += row.map is not None
            self.placed += row.lon is not None
            self.several += row.labels is not None
            self.snow += bool(row.snow)
            self.clouds += bool(row.clouds)
        self.left_out += len(line["left"])
        self.reasons.update(kind for *_, kind in line["left"])
        if line["left"] and not self.first_reason:
            self.first_reason = ": ".join(line["left"][0][:2])
        self.offsets.update((offset, known) for _, offset, _, known in line["offsets"])
        _count(self.notes, line["notes"])
        _count(self.doubts, line["doubts"])
        _count(self.dropped, line["dropped"])
        self.highest = max(self.highest, line["highest"])
        _count(self.sizes, filter(None, line["grid"][:1]))
        _count(self.systems, filter(None, line["grid"][1:]))
        self.pixels += line["cover"][0]
        self.covered += line["cover"][1]
        for summary in summaries:
            for name, band in summary.items():
                self.bands.setdefault(name, Accumulator()).add(band)

    def report(self, folder: Path, recipe: Recipe, splits: str, notices: Sequence[str]) -> Iterator[str]:
        """Lines on the finished database in `folder`.

        splits: the origin of the splits, in words. notices: further points that are not sure, of the layout.
        """
        yield f"{folder}: {self.samples:,} samples, {size((folder / DATA).stat().st_size)}"
        yield from self._sensors(recipe)
        yield f"splits: {', '.join(f'{self.splits[split]:,} {split}' for split in SPLITS)}; {splits}"
        if held := self.splits["val"] + self.splits["test"]:
            share = percent(held / self.samples)
            how = "rsdnet.train --split all takes all"
            yield f"held out of training: {held:,} of {self.samples:,} samples, {share}; {how}"
        yield from self._labels(recipe)
        systems = f"; in {_counted(self.systems)}" if self.systems else ""
        yield f"grid: {_counted(self.sizes)}{systems}; {self.placed:,} of {self.samples:,} samples tell their place"
        for note, times in sorted(self.notes.items()):
            yield f"{note} ({_sources(times)})"
        if self.left_out:
            yield f"left out {self.left_out:,}, named in {folder / LEFT_OUT}; the first: {self.first_reason}"
            yield f"  by reason: {_counted(self.reasons)}"
        if doubts := [*self._doubts(recipe), *notices]:
            yield "not sure of:"
            yield from (f"  - {doubt}" for doubt in doubts)

    def _sensors(self, recipe: Recipe) -> Iterator[str]:
        """Unit, bands and offset of each sensor."""
        for kind, sensor, unit in (
            ("ms", "S2", _UNITS[recipe.s2_unit]),
            ("sar", "S1", _SCALES[recipe.s1_unit]),
        ):
            names = [name for name in recipe.expected.get(kind, ()) if name in bands.BANDS]
            if names and kind in self.present:
                level = f"{recipe.level}, " if kind == "ms" and recipe.level else ""
                yield f"{sensor}: {level}{unit}; {', '.join(names)}{self._offset(recipe) if kind == 'ms' else ''}"

    def _offset(self, recipe: Recipe) -> str:
        if not self.offsets:
            return "; no offset subtracted" if recipe.s2_unit == "dn" else ""
        parts = [
            f"{offset:,} DN from {count:,} files{'' if known else ' (a guess)'}"
            for (offset, known), count in sorted(self.offsets.items())
        ]
        return f"; offset subtracted, see {OFFSETS}: {', '.join(parts)}"

    def _labels(self, recipe: Recipe) -> Iterator[str]:
        """Labels, classes, and pixels that are no class."""
        if self.several:
            many = len(recipe.class_names or ())
            yield f"labels: {self.several:,} of {self.samples:,} samples, each any number of {many} classes"
        if self.snow or self.clouds:
            yield (
                f"seasonal snow: {self.snow:,} samples, clouds or shadow: {self.clouds:,}; rsdnet.probe leaves them "
                "out (--snow keep, --clouds keep take them)"
            )
        if not self.labelled and not self.mapped:
            if not self.several:
                yield "labels: none"
            return
        classes = len(recipe.class_names) if recipe.class_names else self.highest + 1
        how = ", each the majority of its label map" if self.mapped else ""
        names = recipe.class_names or range(classes)
        unused = [name for label, name in enumerate(names) if label not in self.labels]
        more = ", ..." if len(unused) > 1 else ""
        without = f" ({len(unused):,} without a sample: {unused[0]}{more})" if self.labelled and unused else ""
        yield f"labels: {self.labelled:,} of {self.samples:,} samples, {classes:,} classes{without}{how}"
        if self.dropped:
            yield f"label maps: values that are no class: {_counted(self.dropped, ' px')}"

    def _doubts(self, recipe: Recipe) -> Iterator[str]:
        """Guesses, and facts that look wrong."""
        for doubt, times in sorted(self.doubts.items()):
            yield f"{doubt} ({_sources(times)})"
        if count := self.reasons[IMPLAUSIBLE]:
            yield f"left out as another unit or as fill, which --implausible keep takes: {_sources(count)}"
        if self.samples and not self.labelled and not self.several and (self.mapped or recipe.class_names):
            yield "no sample got a label" + (": no pixel of the label maps is a class" if self.mapped else "")
        if self.pixels and self.covered < _COVERED * self.pixels:
            share = percent(self.covered / self.pixels)
            yield f"tiles take {share} of the pixels: another --patch or --stride takes more"
        tables = {name: total.result() for name, total in self.bands.items()}
        ms = [table for name, table in tables.items() if bands.BANDS[name].modality == "ms" and table["count"]]
        if ms and recipe.s2_unit == "dn" and max(table["max"] for table in ms) <= _BYTES:
            yield "S2 has no DN above 255: 8-bit levels in a wider type?"


def _sources(count: int) -> str:
    return f"{count:,} source{'' if count == 1 else 's'}"


def _count(counts: Counter[str], found: Iterable[str]) -> None:
    """Add texts, each once, or a mapping's numbers by text; of more than `_KEYS` texts the later ones as one."""
    for text, count in (found if isinstance(found, Mapping) else Counter(found)).items():
        counts[text if text in counts or len(counts) < _KEYS else "others"] += count


def _counted(counts: Counter[str], unit: str = "") -> str:
    """The most frequent of `counts`, in words."""
    named = [f"{name} ({count:,}{unit})" for name, count in counts.most_common(_NAMED)]
    return ", ".join(named) + (f", and {len(counts) - _NAMED:,} more" if len(counts) > _NAMED else "")
