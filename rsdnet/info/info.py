"""The contents of a database: samples, bands, statistics, damage."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rsdnet import bands
from rsdnet.console import progress, size
from rsdnet.data import catalog, shards
from rsdnet.data.catalog import DATA, SPLITS, Catalog
from rsdnet.data.databases import Databases
from rsdnet.data.normalisation import units_of
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.files import aside

if TYPE_CHECKING:
    from rsdnet._reader import Reader, Survey

_KEYS = ("ms", "sar", "map")
_IDS = 256  # label ids without class names that are counted, at most
_NAMED = 10  # damaged entries and absent keys printed, at most
_LEAST, _PAUSE = 64, 0.1  # entries in a piece of a survey, at least; seconds for one, about


def info(db: Path, verify: bool = False, write: Path | None = None) -> int:
    """Print the contents of the database in folder `db`, or of its shards.

    verify: read every entry whole. write: JSON file for all damaged entries and absent keys.
    Returns the exit status: 1 if an entry is damaged or a key absent, else 0.
    Raises DataError if the database cannot be opened, or its catalog is damaged.
    """
    from rsdnet._reader import Reader

    console, folders = Console(markup=False), shards.parts(db)
    if not console.is_terminal:
        console = Console(width=160, markup=False)  # a pipe or a file would squeeze tables into 80 columns
    reader = Reader(folders, bands.spellings())
    paths = [folder / DATA if folder.is_dir() else folder for folder in folders]
    samples = _count(reader, folders)
    found = survey(reader, verify)
    sizes = f"{size(sum(path.stat().st_size for path in paths))}, {size(found.payload)} of them pixels"
    name = paths[0] if len(paths) == 1 else f"{db}: {len(paths)} shards"
    console.print(f"{name}: {found.total:,} entries, {sizes}")
    if samples is None:
        console.print("no catalog: samples, labels and splits are not known; see rsdnet.catalog")
    else:
        _print_samples(console, samples, units_of(db))
    console.print(_band_table(found))
    if found.unlisted:
        console.print(f"and {found.unlisted:,} entries of so many other schemas that they are not listed")
    if (folders[0] / catalog.STATS).is_file():
        console.print(_statistics_table(read_stats(db)))
    absent = samples.absent if samples else []
    _print_faults(console, found.damaged, absent)
    if verify and not found.damaged:
        console.print(f"all {found.total:,} entries were read whole")
    if write is not None:
        _write_faults(write, paths[0] if len(paths) == 1 else db, found, absent)
    return 1 if found.damaged or absent else 0


@dataclass
class Counts:
    """Numbers of samples in a catalog.

    splits: by split (None: all), (6,) samples: all, with MS and SAR, MS alone, SAR alone, labelled, with a label map.
    labels: (3, classes) samples by split and label id, without class names of the first 256 ids. absent: keys in the
    catalog and not in the database.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    splits: dict[str | None, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros((len(SPLITS), 0), np.int64))
    absent: list[str] = field(default_factory=list)

    def add(self, piece: Catalog, reader: "Reader", database: int) -> None:
        """Count the samples of a piece of the catalog, and look its keys up in the reader's `database`."""
        self.meta, self.classes = piece.meta, piece.classes
        there = {name: np.array([key is not None for key in getattr(piece, name)], bool) for name in _KEYS}
        for name, has in there.items():
            keys = getattr(piece, name)[has]
            self.absent += keys[~reader.contains(keys.tolist(), database)].tolist()
        labelled, ms, sar = piece.label >= 0, there["ms"], there["sar"]
        columns = np.stack([np.ones(len(piece), bool), ms & sar, ms & ~sar, sar & ~ms, labelled, there["map"]])
        wide = max(len(piece.classes), min(int(piece.label.max(initial=-1)) + 1, _IDS))
        self.labels = np.pad(self.labels, ((0, 0), (0, max(wide - self.labels.shape[1], 0))))
        for row, split in enumerate((*SPLITS, None)):
            own = np.ones(len(piece), bool) if split is None else np.asarray(piece.split == split, bool)
            self.splits[split] = self.splits.get(split, 0) + columns[:, own].sum(1)
            if split is not None:
                ids = piece.label[own & labelled]
                self.labels[row] += np.bincount(ids[ids < self.labels.shape[1]], minlength=self.labels.shape[1])


def _count(reader: "Reader", folders: Sequence[Path]) -> Counts | None:
    """The catalog's counts; None without a catalog. Raises DataError where an unfinished ingest has yet to write it."""
    if not any((folders[0] / name).is_file() for name in (catalog.CATALOG, catalog.JOURNAL)):
        return None
    counts = Counts()
    for piece in Databases(folders):
        counts.add(piece.catalog, reader, piece.database)
    return counts


def survey(reader: "Reader", verify: bool) -> "Survey":
    """Check every entry's header, and with `verify` read every byte, under a progress bar."""
    from rsdnet._reader import Survey

    found = Survey(reader, None, verify)
    piece, first = _LEAST, time.perf_counter()
    with progress("reading" if verify else "checking", found.total, "entries") as show:
        while found.done < found.total:
            began = time.perf_counter()
            done = found.advance(piece)
            now = time.perf_counter()
            wanted = piece * _PAUSE / max(now - began, 1e-9)  # the bar and Ctrl-C wait about _PAUSE
            piece = int(np.clip(wanted, max(piece / 2, _LEAST), 2 * piece))
            show(done, f"{size(found.bytes / (now - first))}/s" if verify else "")
    return found


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """An empty table, its first `left` columns aligned left, the others right."""
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position < left else "right")
    return made


def _print_samples(console: Console, samples: Counts, units: dict[str, str]) -> None:
    """units: of the values, by sensor."""
    facts = [f"{name} {value}" for name in ("layout", "level", "patch") if (value := samples.meta.get(name))]
    _, both, ms, sar, *_ = samples.splits.get(None, np.zeros(6, int))
    held = {"ms": both + ms, "sar": both + sar}
    console.print(", ".join(facts + [f"{name.upper()} in {unit}" for name, unit in units.items() if held[name]]))
    splits = _table("samples", "split", "all", "ms+sar", "ms only", "sar only", "labelled", "label maps")
    for split, counts in samples.splits.items():
        splits.add_row(split or "all", *(f"{int(count):,}" for count in counts))
    console.print(splits)
    if samples.labels.any():
        classes = _table("classes", "id", "class", *SPLITS, left=2)
        for label, counts in enumerate(samples.labels.T):
            name = samples.classes[label] if label < len(samples.classes) else ""
            if name or counts.any():
                classes.add_row(str(label), name or "-", *(f"{int(count):,}" for count in counts))
        console.print(classes)


def _band_table(found: "Survey") -> Table:
    tensors: dict[str, Counter[tuple[str, tuple[int, ...]]]] = {}
    for columns, entries in found.schemas:
        for name, dtype, shape in columns:
            tensors.setdefault(name, Counter())[dtype, shape] += entries
    made = _table("tensors", "tensor", "type", "rows x columns", "entries", left=3)
    for name in sorted(tensors, key=_band_order):
        for (dtype, shape), count in tensors[name].most_common():
            made.add_row(name, dtype, " x ".join(map(str, shape)), f"{count:,}")
    return made


def _band_order(name: str) -> tuple[int, str]:
    try:
        return bands.band_id(name), name
    except DataError:
        return len(bands.NAMES), name


def _statistics_table(stats: dict[str, Any]) -> Table:
    columns = ("min", "1", "50", "99", "max", "mean", "std")
    titles = [f"{column} %" if column.isdigit() else column for column in columns]
    made = _table(f"statistics, {stats.get('split', 'train')} split", "band", *titles, "pixels", "invalid")
    for name in sorted(stats["bands"], key=_band_order):
        band = stats["bands"][name]
        values = [band.get("percentiles", {}).get(c) if c.isdigit() else band.get(c) for c in columns]
        cells = ["-" if value is None else f"{value:,.2f}" for value in values]
        made.add_row(name, *cells, f"{band['count']:,}", f"{band.get('invalid', 0):,}")
    return made


def _print_faults(console: Console, damaged: list[tuple[str, str]], absent: list[str]) -> None:
    if absent:
        names = ", ".join(absent[:_NAMED]) + (", ..." if len(absent) > _NAMED else "")
        console.print(f"the catalog names {len(absent):,} keys that are absent: {names}", soft_wrap=True)
    if damaged:
        console.print(f"{len(damaged):,} damaged entries:")
        for key, reason in damaged[:_NAMED]:
            console.print(f"  {key!r}: {reason}", soft_wrap=True)
        if len(damaged) > _NAMED:
            console.print(f"  and {len(damaged) - _NAMED:,} more (--json PATH writes all)")


def _write_faults(to: Path, db: Path, found: "Survey", absent: list[str]) -> None:
    damaged = [{"key": key, "reason": reason} for key, reason in found.damaged]
    content = {"database": str(db), "entries": found.total, "damaged": damaged, "absent": absent}
    try:
        with aside(to) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"{to} cannot be written ({error.strerror}): name another file for --json") from error
