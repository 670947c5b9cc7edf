"""Adoption: samples from keys and metadata, one pass over all entries for checks and statistics, and the catalog.

The pass is journaled: `adoption.journal` has a line a sample, `adoption.state` the statistics up to a line of it, each
flushed to the disk twice a minute. An adoption that was interrupted, however it was, continues there and ends with the
same bytes. Memory grows with the number of samples, by about 4 KB each, not with their values.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console

from rsdnet._reader import Reader
from rsdnet.catalog.base import Adoption
from rsdnet.catalog.entries import Database, offsets_told, read_entry
from rsdnet.catalog.folders import ADOPTION, STATE, begin, check_folders, writing
from rsdnet.console import progress, size
from rsdnet.data.catalog import DATA
from rsdnet.data.statistics import Accumulator, read_done, read_histograms, write_histograms, write_stats
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.ingest.geotiffs import Row, ingest_source
from rsdnet.ingest.journal import Journal
from rsdnet.ingest.results import catalog_of, write_list
from rsdnet.ingest.s2_offset import OFFSET, Evidence
from rsdnet.ingest.source import Recipe, Source, check_names, check_values, digest
from rsdnet.ingest.splits import draw
from rsdnet.ingest.summary import LEFT_OUT, Tally
from rsdnet.ingest.survey import survey
from rsdnet.ingest.workers import Work, results

_VERSION = 1  # of the journal's lines, and of the rules by which entries are judged
_SECONDS = 30.0  # between two states: the most that an interruption repeats
_LINES = 1 << 16  # of the journal, between two states, at most


def adopt(asked: Adoption) -> int:
    """Write the catalog and the statistics of the database that `asked` names. Returns the exit status.

    Raises DataError for bad options, no database, keys or metadata of another data set, S2 with the offset, a catalog
    that is there already, and a full disk.
    """
    asked = replace(asked)  # its notices are of one adoption
    asked.check()
    try:
        job = _prepare(asked)
    except KeyboardInterrupt:
        print("interrupted: nothing was written; run the same command again")
        return INTERRUPTED
    with contextlib.closing(job.journal):
        return job.run()


def _prepare(asked: Adoption) -> "Job":
    """List the samples, look at some, and begin the journal or open it."""
    check_folders(asked)
    database = Database.of(asked.db)
    keys = Reader([asked.db]).keys()
    if not keys:
        raise DataError(f"{asked.db} holds no entry")
    sources, recipe = asked.sources(keys), replace(asked.recipe(), offset="tags", max_invalid=asked.max_invalid)
    recipe = replace(recipe, implausible=asked.implausible == "keep")
    check_names(sources, None)
    check_values(sources, recipe)
    told = offsets_told([source.images["ms"].key for source in sources if "ms" in source.images])
    if told and asked.offset == "refuse":
        raise DataError(
            _refusal(f"{len(told):,} S2 patches carry {_OFFSET} by {told[0].why}", told[0].path, " or leave-out")
        )
    every, splits, unmet = draw(sources, asked.val, asked.test, asked.grouping())
    work = partial(ingest_source, read=partial(read_entry, database, asked.offset), keep=False)
    survey(every, recipe, asked.workers, asked.db, work, partial(_settle, asked.offset))
    identity = asked.identity() | {"bytes": database.size, "changed": database.changed}
    identity |= {"version": _VERSION, "listing": digest(every)}
    journal = begin(asked, identity)
    return Job(asked, every, recipe, database, work, identity, journal, splits, [*asked.notices, *unmet])


_OFFSET = f"the offset of {OFFSET:,} DN of processing baseline 04.00"


def _refusal(what: str, first: str, also: str = "") -> str:
    return f"{what} (the first: {first}), which is not subtracted in place: --offset keep{also}, or ingest the files"


def _settle(policy: str, found: Sequence[Evidence]) -> None:
    """Raise DataError where most of the S2 patches looked at seem to have the offset, and tell none."""
    near = [one for one in found if one.near and not one.offset]
    if policy != "keep" and near and 2 * len(near) > len(found):
        what = f"{len(near)} of {len(found)} S2 patches looked at have their darkest pixels just above DN {OFFSET:,}"
        raise DataError(_refusal(f"{what}, as with {_OFFSET}", near[0].path))


@dataclass
class Job:
    """The adoption of a database.

    every: the samples. work: reads and judges one. identity: the options, and the digest of `every`. splits: their
    origin, in words. notices: doubts, a line each.
    """

    asked: Adoption
    every: list[Source]
    recipe: Recipe
    database: Database
    work: Work
    identity: dict[str, Any]
    journal: Journal
    splits: str
    notices: list[str]
    tally: Tally = field(default_factory=Tally)

    def run(self) -> int:
        """Read from the last state on, and finish. Returns the exit status."""
        try:
            self._restore()
            self._read_rest()
            with writing(self.asked, "all statistics are safe"):
                self._finish()
        except KeyboardInterrupt:
            done = f"{self.journal.done:,} of {len(self.every):,} samples are counted"
            print(f"interrupted: {done}; the same command continues")
            return INTERRUPTED
        print(*self.tally.report(self.asked.home, self.recipe, self.splits, self.notices), sep="\n")
        return 0

    def _restore(self) -> None:
        """Take up the last state: lines after it are forgotten."""
        state, done = self.journal.path.with_name(STATE), 0
        if not self.journal.done:
            state.unlink(missing_ok=True)  # of an adoption before this one
        elif state.exists():
            remedy = f"delete it and {ADOPTION}, and run the same command again"
            done = read_done(state, remedy)
            if done > self.journal.done:
                raise DataError(f"{state} is of {done:,} samples, {ADOPTION} of {self.journal.done:,}: {remedy}")
            for band, counts in read_histograms(state, remedy):
                self.tally.bands.setdefault(band, Accumulator()).add(counts)
        self.journal.cut(done)
        for line in self.journal.lines():
            self.tally.add(line, ())
        if done:
            print(f"continuing {self.asked.home} after {done:,} of {len(self.every):,} samples")

    def _read_rest(self) -> None:
        """Read and judge the samples that are not done."""
        tally, done, lines, read = self.tally, self.journal.done, list[dict[str, Any]](), 0
        began = last = time.monotonic()
        with (
            progress("adopt", len(self.every), "samples", done=done, console=Console()) as show,
            contextlib.closing(results(self.every[done:], self.recipe, self.asked.workers, self.work)) as found,
        ):
            for result in found:
                lines.append(result.line())
                tally.add(lines[-1], result.summaries)
                read += result.read
                now = time.monotonic()
                show(tally.sources, f"{size(read / max(now - began, 1e-9))}/s, {tally.left_out:,} left out")
                if now - last >= _SECONDS or len(lines) >= _LINES:
                    self._save(lines)
                    lines, last = [], now
        self._save(lines)
        if Database.of(self.asked.db) != self.database:
            raise DataError(f"{self.asked.db / DATA} has changed while it was read: run the command again with --force")

    def _save(self, lines: list[dict[str, Any]]) -> None:
        """Journal lines, then the statistics up to them."""
        with writing(self.asked, f"{self.journal.done:,} samples are counted"):
            self.journal.append(lines)
            write_histograms(self.journal.path.with_name(STATE), self.tally.bands, done=self.journal.done)

    def _finish(self) -> None:
        """Write statistics, list and catalog, each aside, then renamed; remove journal and state."""
        home, tally = self.asked.home, self.tally
        write_stats(home, {name: tally.bands[name].result() for name in sorted(tally.bands)}, checked=True)
        left = (row[:2] for line in self.journal.lines() for row in line["left"])
        write_list(home / LEFT_OUT, ("sample", "reason"), left)
        rows = [Row(*row) for line in self.journal.lines() for row in line["rows"]]
        meta = {"layout": self.asked.NAME, "patch": None, "adoption": self.identity}
        kept = len(offsets_told([row.ms for row in rows if row.ms]))
        meta["offset"] = {"policy": self.asked.offset, "kept": kept, "of": sum(row.ms is not None for row in rows)}
        catalog_of(rows, self.recipe, tally.highest, meta).write(home)
        self.journal.remove()
        self.journal.path.with_name(STATE).unlink(missing_ok=True)
