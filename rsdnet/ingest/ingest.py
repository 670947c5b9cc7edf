"""GeoTIFFs to a database: `python -m rsdnet.ingest LAYOUT SOURCE DB`.

Sources (a sample's files) are read on all cores and joined in a fixed order: entries into `data.mdb`, rows into
`catalog.parquet`, statistics of the training split into `stats.json`; samples left out are named in `left_out.tsv`, and
the decisions of `--offset auto` in `offsets.tsv`. An interrupted ingest continues. With `--shard I/N` it is one of N
jobs that share the work: see rsdnet/data/shards.py. LAYOUT: one of those below, or your own as package.module:Layout.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import tyro
from rich.console import Console
from safetensors.numpy import load

from rsdnet.console import progress
from rsdnet.data.catalog import DATA, JOURNAL, SPLITS
from rsdnet.data.statistics import HISTOGRAMS, write_histograms, write_stats
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.ingest.finished import check_apart, check_entries, compare_shards, finished
from rsdnet.ingest.geotiffs import Row, summarise_tile
from rsdnet.ingest.journal import Journal
from rsdnet.ingest.layouts import LAYOUTS
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.results import catalog_of, write_list
from rsdnet.ingest.source import Recipe, Source, check_names, check_values, digest, once
from rsdnet.ingest.splits import draw
from rsdnet.ingest.summary import LEFT_OUT, OFFSETS, Tally
from rsdnet.ingest.survey import survey
from rsdnet.ingest.workers import results
from rsdnet.ingest.writer import Writer, space_for
from rsdnet.options import checked, read

_VERSION = 2  # of the journal's lines, and of the rules by which sources are judged


def ingest(layout: Layout) -> int:
    """Write the database that `layout` describes, or continue it. Returns the exit status.

    Raises DataError for bad options, a source without samples, a full disk, a database of other options.
    """
    layout = replace(layout)  # a layout's findings are of one ingest
    layout.check()
    try:
        job = _prepare(layout)
    except KeyboardInterrupt:
        print("interrupted: nothing was written; run the same command again")
        return INTERRUPTED
    if job is None:
        return 0
    with contextlib.closing(job.journal):
        return job.run()


def _prepare(layout: Layout) -> "Job | None":
    """Look at the source, and begin the journal or open it; None where the database is finished."""
    folder = layout.folder
    if finished(layout):
        return None
    sources = once(layout.sources())
    if not sources:
        raise DataError(f"{layout.source} holds no {layout.FILES}")
    check_names(sources, layout.patch)
    recipe = layout.settled(layout.recipe())
    check_values(sources, recipe)
    every, splits, unmet = draw(sources, *layout.shares, layout.grouping())
    identity = layout.identity() | {"listing": digest(every), "version": _VERSION}
    if (folder / DATA).exists() and not (folder / JOURNAL).exists():
        raise DataError(f"{folder} holds a database that ingest did not begin: name another folder")
    if not (folder / JOURNAL).exists():
        check_apart(layout, sources)
    compare_shards(layout, identity)
    survey(every, recipe, layout.workers, layout.source)
    if finished(layout):  # by another process, meanwhile
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error})") from error
    with space_for(folder, "nothing is written yet"):
        journal = Journal(folder, identity)
    return Job(layout, every, recipe, identity, journal, splits, [*layout.notices, *unmet])


@dataclass
class Job:
    """The ingest of a layout's sources, or of one shard of them.

    every: the sources of the whole data set. identity: the options and the digest of `every`. splits: their origin, in
    words. notices: the layout's doubts, a line each.
    """

    layout: Layout
    every: list[Source]
    recipe: Recipe
    identity: dict[str, Any]
    journal: Journal
    splits: str = ""
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        part = self.layout.part
        self.sources = self.every[part.stretch(len(self.every))] if part else self.every
        self.tally = Tally()

    def run(self) -> int:
        """Ingest from the end of the journal on, and finish. Returns the exit status."""
        folder, journal = self.layout.folder, self.journal
        try:
            check_entries(folder, (Row(*row)[1:4] for row in self._gathered("rows")))
            with Writer(folder, journal) as writer:
                self._count_finished(writer)
                self._ingest_rest(writer)
            with space_for(folder, "all entries are safe"):
                self._finish()
        except KeyboardInterrupt:
            done = f"{journal.done:,} of {len(self.sources):,} sources are in"
            print(f"interrupted: {done}; the same command continues")
            return INTERRUPTED
        held = {source.split for source in self.sources if not source.problem}
        lost = [split for split in SPLITS if split in held and not self.tally.splits[split]]
        notices = [*self.notices, *(f"no sample is in {split}: all of its sources were left out" for split in lost)]
        print(*self.tally.report(folder, self.recipe, self.splits, notices), sep="\n")
        return 0

    def _count_finished(self, writer: Writer) -> None:
        """Count what an interrupted ingest has done: by its journal, and statistics from the entries."""
        for line in self.journal.lines():
            rows = [Row(*row) for row in line["rows"]]
            train = [row for row in rows if row.split == "train"]
            tiles = ([load(writer.get(key)) if key else {} for key in (row.ms, row.sar)] for row in train)
            self.tally.add(line, (summarise_tile(*tile) for tile in tiles))
        if self.journal.done:
            print(f"continuing {self.layout.folder} after {self.journal.done:,} of {len(self.sources):,} sources")

    def _ingest_rest(self, writer: Writer) -> None:
        """Read the sources that are not done, and write them."""
        tally, total, done = self.tally, len(self.sources), self.journal.done
        with (
            progress("ingest", total, "sources", done=done, console=Console()) as show,
            contextlib.closing(results(self.sources[done:], self.recipe, self.layout.workers)) as read,
        ):
            for result in read:
                if result.left:
                    self._require_source()
                line = result.line()
                tally.add(line, result.summaries)
                writer.add(line, result.entries)
                show(tally.sources, f"{tally.left_out:,} left out")
            writer.commit()
            writer.wait()

    def _require_source(self) -> None:
        """Raise DataError if the source is gone, as an unmounted disk: all the rest would be left out for good."""
        source = self.layout.source
        try:
            there = any(os.scandir(source))
        except OSError:
            there = False
        if not there:
            done = f"{self.journal.done:,} sources are safe"
            raise DataError(f"{source} is gone: {done}; bring it back and run the same command again")

    def _finish(self) -> None:
        """Write statistics, lists and catalog, each aside, then renamed; remove the journal."""
        folder, tally = self.layout.folder, self.tally
        write_stats(folder, {name: tally.bands[name].result() for name in sorted(tally.bands)}, checked=True)
        if self.layout.part:
            write_histograms(folder / HISTOGRAMS, tally.bands)
        write_list(folder / LEFT_OUT, ("sample", "reason"), (row[:2] for row in self._gathered("left")))
        write_list(folder / OFFSETS, ("file", "subtracted", "why"), (row[:3] for row in self._gathered("offsets")))
        rows = [Row(*row) for row in self._gathered("rows")]
        meta = {"layout": self.layout.NAME, "patch": self.layout.patch, "ingest": self.identity}
        catalog_of(rows, self.recipe, self.tally.highest, meta).write(folder)
        self.journal.remove()

    def _gathered(self, name: str) -> Iterator[list[Any]]:
        """The rows of all lines of the journal under `name`."""
        return (row for line in self.journal.lines() for row in line[name])


def main() -> int:
    """The command."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return ingest(layout_of(sys.argv[1:]))


def layout_of(argv: Sequence[str]) -> Layout:
    """The layout of a command line. Raises DataError on a mistake in it."""
    name, prog = argv[0] if argv else "", "python -m rsdnet.ingest"
    if ":" in name:
        parser = partial(tyro.cli, LAYOUTS.find(name), prog=f"{prog} {name}", args=argv[1:])
    else:
        layouts = {name: LAYOUTS.find(name) for name in LAYOUTS}
        parser = partial(tyro.extras.subcommand_cli_from_dict, layouts, prog=prog, description=__doc__, args=argv)
    return checked(read(parser, argv))
