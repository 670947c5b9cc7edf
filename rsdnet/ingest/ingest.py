"""GeoTIFFs to a database: `python -m rsdnet.ingest LAYOUT SOURCE DB`.

Sources (a sample's files) are read on all cores and joined in a fixed order: entries into `data.mdb`, rows into
`catalog.parquet`, statistics of the training split into `stats.json`; samples left out are named in `left_out.tsv`, and
the decisions of `--offset auto` in `offsets.tsv`. An interrupted ingest continues. With `--shard I/N` it is one of N
jobs that share the work: see rsdnet/data/shards.py. LAYOUT: one of those below, or your own as package.module:Layout.
"""

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from safetensors.numpy import load

from rsdnet.console import progress
from rsdnet.data import catalog
from rsdnet.data.catalog import DATA, JOURNAL, Catalog
from rsdnet.data.statistics import Summary, write_histograms, write_stats
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.ingest.geotiffs import Row, ingest_source, summarise_tile
from rsdnet.ingest.journal import LEFT_OUT, OFFSETS, Journal, Tally, compare
from rsdnet.ingest.layouts import LAYOUTS
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.source import Recipe, Source, digest
from rsdnet.ingest.workers import count, executor, in_order
from rsdnet.ingest.writer import Chunk, Writer, space_for

INTERRUPTED = 130  # the shell's status for SIGINT
_ALL_BAD = 32  # if none of so many sources can be ingested, the options are to blame


def ingest(layout: Layout) -> int:
    """Write the database that `layout` describes, or continue it. Returns the exit status.

    Raises DataError for bad options, a source without samples, a full disk, a database of other options.
    """
    layout.check()
    if _finished(layout):
        return 0
    every = layout.split_sources()
    recipe = layout.tiled_recipe()
    identity = layout.identity() | {"listing": digest(every)}
    _make_folder(layout.folder)
    with space_for(layout.folder, "nothing is written yet"):
        journal = Journal(layout.folder, identity)
    with contextlib.closing(journal):
        return Job(layout, every, recipe, identity, journal).run()


def _finished(layout: Layout) -> bool:
    folder = layout.folder
    if not (folder / catalog.CATALOG).is_file() or (folder / JOURNAL).exists():
        return False
    made = Catalog.read(folder)
    if "ingest" not in made.meta:
        raise DataError(f"{folder} holds a database that ingest did not make: name another folder")
    compare(folder, made.meta["ingest"], layout.identity() | {"listing": made.meta["ingest"].get("listing")})
    print(f"{folder} is finished: {len(made):,} samples; delete it to ingest anew")
    return True


def _make_folder(folder: Path) -> None:
    if (folder / DATA).exists() and not (folder / JOURNAL).exists():
        raise DataError(f"{folder} holds a database that ingest did not begin: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error})") from error


@dataclass
class Job:
    """The ingest of a layout's sources, or of one shard of them.

    every: the sources of the whole data set. identity: the options and the digest of `every`.
    """

    layout: Layout
    every: list[Source]
    recipe: Recipe
    identity: dict[str, Any]
    journal: Journal
    tally: Tally = field(default_factory=Tally)

    @cached_property
    def sources(self) -> list[Source]:
        """The job's own sources."""
        part = self.layout.part
        return self.every[part.stretch(len(self.every))] if part else self.every

    def run(self) -> int:
        """Ingest from the end of the journal on, and finish. Returns the exit status."""
        folder, journal = self.layout.folder, self.journal
        with Writer(folder) as writer:
            if journal.done:
                self._catch_up(writer)
                print(f"continuing {folder} after {journal.done:,} of {len(self.sources):,} sources")
            try:
                self._ingest_rest(writer)
            except KeyboardInterrupt:
                done = f"{journal.done:,} of {len(self.sources):,} sources are in"
                print(f"interrupted: {done}; the same command continues")
                return INTERRUPTED
        with space_for(folder, "all entries are safe"):
            self._finish()
        for line in self.tally.report(folder, (folder / DATA).stat().st_size):
            print(line)
        return 0

    def _catch_up(self, writer: Writer) -> None:
        """Count the finished sources again: from the journal, and their statistics from the entries."""

        def summaries(row: Row) -> dict[str, Summary]:
            return summarise_tile(*(load(writer.get(key)) if key else {} for key in (row.ms, row.sar)))

        for line in self.journal.lines():
            rows = [Row(*row) for row in line["rows"]]
            self.tally.add(line, [summaries(row) for row in rows if row.split == "train"])

    def _ingest_rest(self, writer: Writer) -> None:
        """Read the sources that are not done, and commit them in chunks, each followed by its lines in the journal."""
        layout, tally, total = self.layout, self.tally, len(self.sources)
        rest = self.sources[self.journal.done :]
        with (
            contextlib.closing(Chunk(layout.folder, self.journal, writer)) as chunk,
            progress("ingest", total, "sources", done=self.journal.done, console=Console()) as show,
            executor(layout.workers, len(rest)) as pool,
        ):
            for result in in_order(pool, rest, self.recipe, look_ahead=4 * count(layout.workers)):
                line = result.line()
                tally.add(line, result.summaries)
                if not tally.samples and tally.sources == min(_ALL_BAD, total):
                    self._fail_if_nothing_ingested()
                chunk.add(line, result.entries)
                show(tally.sources, f"{tally.left_out:,} left out")
            chunk.commit()
            chunk.wait()

    def _fail_if_nothing_ingested(self) -> None:
        """Raise DataError if none of the first of all sources can be ingested, and remove the empty database.

        A shard may hold bad sources alone, as any stretch of a whole ingest may; so it tries the first of all again.
        """
        first = self.every[:_ALL_BAD]
        if self.layout.part and any(ingest_source(source, self.recipe).rows for source in first):
            return
        for name in (DATA, "lock.mdb"):
            (self.layout.folder / name).unlink(missing_ok=True)
        self.journal.remove()
        failed = (
            f"none of the first {_ALL_BAD} sources" if len(first) == _ALL_BAD else f"nothing of {self.layout.source}"
        )
        raise DataError(f"{failed} could be ingested: {self.tally.first_reason}")

    def _finish(self) -> None:
        """Write statistics, lists and catalog, each aside, then renamed; remove the journal."""
        folder, tally, lines = self.layout.folder, self.tally, self.journal.lines
        write_stats(folder, {name: tally.bands[name].result() for name in sorted(tally.bands)})
        if self.layout.part:
            write_histograms(folder, tally.bands)
        left_out = (row for line in lines() for row in line["left"])
        _write_list(folder / LEFT_OUT, ("sample", "reason"), left_out)
        _write_list(
            folder / OFFSETS, ("file", "subtracted", "why"), (row for line in lines() for row in line["offsets"])
        )
        self._catalog([Row(*row) for line in lines() for row in line["rows"]]).write(folder)
        self.journal.remove()

    def _catalog(self, rows: list[Row]) -> Catalog:
        layout, recipe = self.layout, self.recipe
        names = recipe.class_names
        meta = {"layout": layout.NAME, "level": recipe.level, "patch": layout.patch, "ingest": self.identity}
        if recipe.raw_map:
            (values,) = recipe.classes.values()
            meta["values"] = {str(value): label for value, label in values.items()}
        return Catalog(
            samples=catalog.objects([row.sample for row in rows]),
            **{name: catalog.objects([getattr(row, name) for row in rows]) for name in ("ms", "sar", "map", "split")},
            label=np.array([-1 if row.label is None else row.label for row in rows], np.int32),
            classes=names if names is not None else tuple(str(number) for number in range(self.tally.highest + 1)),
            meta=meta,
        )


def _write_list(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write tab-separated values; no file without rows."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    with aside(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in (header, first, *rows):
            file.write("\t".join(str(cell).replace("\t", " ") for cell in row) + "\n")


def main() -> int:
    """The command."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if ":" in name:
        return ingest(tyro.cli(LAYOUTS.find(name), prog=f"rsdnet.ingest {name}", args=sys.argv[2:]))
    layouts = {name: LAYOUTS.find(name) for name in LAYOUTS}
    return ingest(tyro.extras.subcommand_cli_from_dict(layouts, prog="rsdnet.ingest", description=__doc__))
