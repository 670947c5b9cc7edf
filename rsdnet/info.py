"""What a database holds: `python -m rsdnet.info DB [--verify]`.

Counts per split and class, bands with types and shapes, statistics, damaged entries, size on disk. Works on a database
without a catalog too, such as rico-hdl's own.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from rsdnet import bands, catalog
from rsdnet.catalog import Catalog
from rsdnet.errors import DataError, command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rsdnet._reader import Reader

_NAMED = 10  # damaged entries and absent keys that are named, of any number


@dataclass(frozen=True)
class Survey:
    """What a pass over all entries found.

    schemas: per tensor name, how many entries hold it with a (type, shape). damaged: (key, reason). payload: bytes of
    tensors.
    """

    schemas: dict[str, Counter[tuple[str, tuple[int, ...]]]]
    damaged: list[tuple[str, str]]
    payload: int


def survey(reader: "Reader", keys: list[str], verify: bool, console: "Console") -> Survey:
    """Check the headers of all entries; with `verify`, read every tensor too."""
    from rich.progress import track

    schemas: dict[str, Counter[tuple[str, tuple[int, ...]]]] = {}
    damaged, payload = [], 0
    for key in track(keys, "reading" if verify else "checking", console=console, disable=not console.is_terminal):
        try:
            tensors = reader.describe(key)
            if verify:
                reader.read(key)
        except DataError as error:
            damaged.append((key, str(error)))
            continue
        for name, (dtype, shape) in tensors.items():
            schemas.setdefault(name, Counter())[dtype, tuple(shape)] += 1
            payload += int(np.prod(shape)) * np.dtype(dtype).itemsize
    return Survey(schemas, damaged, payload)


def absent(reader: "Reader", made: Catalog) -> list[str]:
    """Keys the catalog names that the database has not."""
    named = [key for column in (made.ms, made.sar, made.map) for key in column if key is not None]
    return [key for key, there in zip(named, reader.contains(named), strict=True) if not there]


def info(db: Path, verify: bool = False) -> int:
    """Print what the database in folder `db` holds. Returns 1 if anything in it is damaged or absent, else 0.

    Raises DataError if it cannot be opened, or its catalog is damaged.
    """
    from rich.console import Console

    from rsdnet._reader import Reader

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a table in a pipe or a file is not squeezed into 80 columns
    reader = Reader([db], bands.spellings())
    keys = reader.keys()
    path = db / "data.mdb" if db.is_dir() else db
    if not keys:
        raise DataError(f"{path} holds no entry: ingest into it, or name another database")
    made = _catalog(db)
    found = survey(reader, keys, verify, console)
    size = path.stat().st_size
    console.print(f"{path}: {len(keys):,} entries, {size / 1e6:,.1f} MB, {found.payload / 1e6:,.1f} MB of them pixels")
    if made is None:
        console.print("no catalog: samples, labels and splits are not known")
    else:
        _print_catalog(console, made)
    console.print(_band_table(found))
    if (db / catalog.STATS).is_file():
        console.print(_statistics_table(catalog.read_stats(db)))
    lost = absent(reader, made) if made is not None else []
    _print_faults(console, found, lost)
    if verify and not found.damaged:
        console.print(f"all {len(keys):,} entries were read whole")
    return 1 if found.damaged or lost else 0


def _catalog(db: Path) -> Catalog | None:
    unfinished = (db / "ingest.journal").exists()
    return Catalog.read(db) if (db / catalog.CATALOG).is_file() or unfinished else None


def _print_catalog(console: "Console", made: Catalog) -> None:
    facts = ((name, made.meta.get(name)) for name in ("layout", "level", "patch"))
    console.print(", ".join(f"{name} {value}" for name, value in facts if value) or "samples:")
    console.print(_table_of_splits(made))
    if made.classes and (made.label >= 0).any():
        console.print(_table_of_classes(made))


def _table_of_splits(made: Catalog) -> "Table":
    table = _table("samples", "split", "all", "ms+sar", "ms only", "sar only", "labelled", "label maps")
    for split in (*catalog.SPLITS, None):
        part = made.select(split=split)
        ms = np.array([key is not None for key in part.ms], bool)
        sar = np.array([key is not None for key in part.sar], bool)
        maps = sum(key is not None for key in part.map)
        counts = (len(part), (ms & sar).sum(), (ms & ~sar).sum(), (sar & ~ms).sum(), (part.label >= 0).sum(), maps)
        table.add_row(split or "all", *(f"{int(count):,}" for count in counts))
    return table


def _table_of_classes(made: Catalog) -> "Table":
    table = _table("classes", "id", "class", *catalog.SPLITS, left=2)
    counts = [np.bincount(part[part >= 0], minlength=len(made.classes)) for part in _labels(made)]
    for label, name in enumerate(made.classes):
        table.add_row(str(label), name, *(f"{int(count[label]):,}" for count in counts))
    return table


def _labels(made: Catalog) -> list[np.ndarray]:
    return [made.label[made.split == split] for split in catalog.SPLITS]


def _band_table(found: Survey) -> "Table":
    table = _table("tensors", "tensor", "type", "rows x columns", "entries", left=3)
    for name in sorted(found.schemas, key=_band_order):
        for (dtype, shape), count in found.schemas[name].most_common():
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


def _print_faults(console: "Console", found: Survey, lost: list[str]) -> None:
    if lost:
        console.print(
            f"the catalog names {len(lost):,} keys that are absent: {', '.join(lost[:_NAMED])}", soft_wrap=True
        )
    if found.damaged:
        console.print(f"{len(found.damaged):,} damaged entries:")
        for _, reason in found.damaged[:_NAMED]:
            console.print(f"  {reason}", soft_wrap=True, markup=False)


def main() -> int:
    """The command."""

    @dataclass(frozen=True)
    class Options:
        db: tyro.conf.Positional[Path]
        """Folder of the database."""
        verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Read every entry whole, not its header alone."""

    options = tyro.cli(Options, prog="rsdnet.info", description=__doc__)
    return info(options.db, options.verify)


if __name__ == "__main__":
    command(main)
