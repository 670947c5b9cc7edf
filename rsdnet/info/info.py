"""What a database holds: `python -m rsdnet.info DB [--verify] [--speed]`.

Counts per split and class, bands with types and shapes, statistics, damaged entries, size on disk; with `--speed` how
fast this machine reads it, and what bounds that. Works on a database without a catalog too, such as rico-hdl's own.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from rsdnet import bands
from rsdnet.console import bar
from rsdnet.data import catalog, shards
from rsdnet.data.catalog import Catalog
from rsdnet.data.databases import Databases, Piece
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.info.subject import reader_file

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rsdnet._reader import Reader, Survey

Access = Literal["map", "pread"]

_KEYS = ("ms", "sar", "map")
_NAMED = 10  # damaged entries and absent keys that are named, of any number
_LEAST, _PAUSE = 64, 0.1  # entries in a piece of a survey, at least; seconds that one may take


@dataclass
class Tally:
    """The catalog's samples, counted piece by piece.

    splits: per split (None: all of them), samples, with both entries, MS alone, SAR alone, labelled, with a label map.
    labels: (3, classes) samples by split and label id. absent: keys that the catalog names and the database has not.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    splits: dict[str | None, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros((len(catalog.SPLITS), 0), np.int64))
    absent: list[str] = field(default_factory=list)

    def add(self, piece: Catalog, reader: "Reader", database: int) -> None:
        """Count the samples of a piece, and look their keys up in one of the reader's databases."""
        self.meta, self.classes = piece.meta, piece.classes
        there = {name: np.array([key is not None for key in getattr(piece, name)], bool) for name in _KEYS}
        for name, has in there.items():
            keys = getattr(piece, name)[has]
            self.absent += keys[~reader.contains(keys.tolist(), database)].tolist()
        labelled, ms, sar = piece.label >= 0, there["ms"], there["sar"]
        columns = np.stack([np.ones(len(piece), bool), ms & sar, ms & ~sar, sar & ~ms, labelled, there["map"]])
        if not self.labels.shape[1]:
            self.labels = np.zeros((len(catalog.SPLITS), len(piece.classes)), np.int64)
        for row, split in enumerate((*catalog.SPLITS, None)):
            own = np.ones(len(piece), bool) if split is None else np.asarray(piece.split == split, bool)
            self.splits[split] = self.splits.get(split, 0) + columns[:, own].sum(1)
            if split is not None and self.classes:
                self.labels[row] += np.bincount(piece.label[own & labelled], minlength=len(self.classes))


def survey(reader: "Reader", verify: bool) -> "Survey":
    """Check the headers of all entries of all databases; with `verify`, read every byte too. Shows how far it is."""
    from rsdnet._reader import Survey

    found = Survey(reader, None, verify)
    piece = _LEAST
    with bar("reading" if verify else "checking", found.total) as show:
        while found.done < found.total:
            began = time.perf_counter()
            done = found.advance(piece)
            piece = next_piece(piece, time.perf_counter() - began)
            show(done, found.bytes if verify else None)
    return found


def next_piece(entries: int, seconds: float) -> int:
    """Entries to look at next, where `entries` took `seconds`: so many that Ctrl-C and the bar need not wait."""
    wanted = entries * _PAUSE / max(seconds, 1e-9)
    return int(min(max(wanted, entries / 2, _LEAST), entries * 2))


def info(db: Path, verify: bool = False, write: Path | None = None, access: Access = "map") -> int:
    """Print what the database in folder `db`, or its shards, hold. Returns 1 if anything is damaged or absent, else 0.

    verify: read every entry whole. write: a file for all that is damaged or absent, as JSON. access: as `Reader` takes
    it.
    Raises DataError if it cannot be opened, or its catalog is damaged.
    """
    from rsdnet._reader import Reader

    console = terminal()
    folders = shards.parts(db)
    reader = Reader(folders, bands.spellings(), access=access)
    paths = [reader_file(folder) for folder in folders]
    tally = count(reader, _pieces(folders))
    found = survey(reader, verify)
    damaged = found.damaged
    sizes = f"{sum(path.stat().st_size for path in paths) / 1e6:,.1f} MB, {found.payload / 1e6:,.1f} MB of them pixels"
    what = paths[0] if len(paths) == 1 else f"{db}: {len(paths)} shards"
    console.print(f"{what}: {found.total:,} entries, {sizes}")
    if tally is None:
        console.print("no catalog: samples, labels and splits are not known")
    else:
        _print_catalog(console, tally)
    console.print(_band_table(found))
    if found.unlisted:
        console.print(f"and {found.unlisted:,} entries of so many other schemas that they are not listed")
    if (folders[0] / catalog.STATS).is_file():
        console.print(_statistics_table(read_stats(db)))
    lost = tally.absent if tally is not None else []
    _print_faults(console, damaged, lost)
    if verify and not damaged:
        console.print(f"all {found.total:,} entries were read whole")
    if write is not None:
        _write_faults(write, paths[0] if len(paths) == 1 else db, found.total, damaged, lost)
    return 1 if damaged or lost else 0


def terminal() -> "Console":
    """A console that does not squeeze a table in a pipe or a file into 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def count(reader: "Reader", pieces: Iterable[Piece] | None) -> Tally | None:
    """The samples of a catalog, counted; None where there is none."""
    if pieces is None:
        return None
    tally = Tally()
    for piece in pieces:
        tally.add(piece.catalog, reader, piece.database)
    return tally


def _pieces(folders: Sequence[Path]) -> Iterable[Piece] | None:
    """The catalog's; None where there is none, and no ingest that may yet write one."""
    there = any((folders[0] / name).is_file() for name in (catalog.CATALOG, catalog.JOURNAL))
    return Databases(folders) if there else None


def _print_catalog(console: "Console", tally: Tally) -> None:
    facts = ((name, tally.meta.get(name)) for name in ("layout", "level", "patch"))
    console.print(", ".join(f"{name} {value}" for name, value in facts if value) or "samples:")
    table = _table("samples", "split", "all", "ms+sar", "ms only", "sar only", "labelled", "label maps")
    for split, counts in tally.splits.items():
        table.add_row(split or "all", *(f"{int(count):,}" for count in counts))
    console.print(table)
    if tally.labels.any():
        console.print(_table_of_classes(tally))


def _table_of_classes(tally: Tally) -> "Table":
    table = _table("classes", "id", "class", *catalog.SPLITS, left=2)
    for label, name in enumerate(tally.classes):
        table.add_row(str(label), name, *(f"{int(count):,}" for count in tally.labels[:, label]))
    return table


def _band_table(found: "Survey") -> "Table":
    tensors: dict[str, Counter[tuple[str, tuple[int, ...]]]] = {}
    for columns, entries in found.schemas:
        for name, dtype, shape in columns:
            tensors.setdefault(name, Counter())[dtype, shape] += entries
    table = _table("tensors", "tensor", "type", "rows x columns", "entries", left=3)
    for name in sorted(tensors, key=_band_order):
        for (dtype, shape), count in tensors[name].most_common():
            table.add_row(name, dtype, " x ".join(map(str, shape)), f"{count:,}")
    return table


def _band_order(name: str) -> tuple[int, str]:
    try:
        return bands.band_id(name), name
    except DataError:
        return len(bands.NAMES), name


def _statistics_table(stats: dict[str, Any]) -> "Table":
    columns = ("min", "1", "50", "99", "max", "mean", "std")
    titles = [f"{column} %" if column.isdigit() else column for column in columns]
    table = _table(f"statistics, {stats.get('split', 'train')} split", "band", *titles, "pixels", "invalid")
    for name in sorted(stats["bands"], key=_band_order):
        band = stats["bands"][name]
        values = [band["percentiles"].get(c) if c.isdigit() else band[c] for c in columns]
        cells = ["-" if value is None else f"{value:,.2f}" for value in values]
        table.add_row(name, *cells, f"{band['count']:,}", f"{band['invalid']:,}")
    return table


def _table(title: str, *columns: str, left: int = 1) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    return table


def _print_faults(console: "Console", damaged: list[tuple[str, str]], lost: list[str]) -> None:
    if lost:
        names = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
        console.print(f"the catalog names {len(lost):,} keys that are absent: {names}", soft_wrap=True, markup=False)
    if damaged:
        console.print(f"{len(damaged):,} damaged entries:")
        for key, reason in damaged[:_NAMED]:
            console.print(f"  {key!r}: {reason}", soft_wrap=True, markup=False)
        if len(damaged) > _NAMED:
            console.print(f"  and {len(damaged) - _NAMED:,} more (--json PATH writes all)")


def _write_faults(to: Path, path: Path, entries: int, damaged: list[tuple[str, str]], lost: list[str]) -> None:
    named = [{"key": key, "reason": reason} for key, reason in damaged]
    content = {"database": str(path), "entries": entries, "damaged": named, "absent": lost}
    try:
        with aside(to) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"{to} cannot be written ({error.strerror}): name another file for --json") from error


def _largest(db: Path) -> Path:
    """The folder to measure: `db`, or the largest of its shards, which is then named."""
    folders = shards.parts(db)
    largest = max(folders, key=lambda folder: reader_file(folder).stat().st_size) if len(folders) > 1 else folders[0]
    if largest != db:
        print(f"{largest} is measured, the largest of {len(folders)} shards")
    return largest


def main() -> int:
    """The command."""

    @dataclass(frozen=True)
    class Options:
        db: tyro.conf.Positional[Path]
        """Folder of the database, or of its shards."""
        verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Read every entry whole, not its header alone."""
        json: Path | None = None
        """Write all damaged entries and absent keys into this file."""
        access: Access = "map"
        """How to read values: "map", or "pread" where the folder lies on a network file system."""
        speed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Measure how fast this machine reads the database, and say what bounds that. Parts of the database leave the
        page cache for it."""
        seconds: float = 20.0
        """How long --speed may take, about."""

    options = tyro.cli(Options, prog="rsdnet.info", description=__doc__)
    try:
        status = 0
        if options.verify or options.json or not options.speed:
            status = info(options.db, options.verify, options.json, options.access)
        if options.speed:
            from rsdnet.info.speed import speed

            speed(_largest(options.db), options.seconds)
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
