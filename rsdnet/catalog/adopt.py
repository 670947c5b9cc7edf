"""Adoption: samples from keys and metadata, one pass over all entries for checks and statistics, and the catalog.

The pass is journaled: `adoption.journal` has a line a sample, `adoption.state` the statistics up to a line of it, each
flushed to the disk twice a minute. An adoption that was interrupted, however it was, continues there and ends with the
same bytes. Memory grows with the number of samples, by about 4 KB each, not with their values.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rsdnet._reader import Reader
from rsdnet.catalog.entries import Database, offsets_told, read_entry
from rsdnet.catalog.layouts import Adoption
from rsdnet.console import progress, size
from rsdnet.data import shards
from rsdnet.data.catalog import CATALOG, DATA, JOURNAL
from rsdnet.data.statistics import Accumulator, read_done, read_histograms, write_histograms, write_stats
from rsdnet.errors import DataError
from rsdnet.ingest.geotiffs import Row, ingest_source
from rsdnet.ingest.journal import Journal, differing
from rsdnet.ingest.results import catalog_of, write_list
from rsdnet.ingest.s2_offset import OFFSET, Evidence
from rsdnet.ingest.source import Recipe, Source, check_names, check_values, digest
from rsdnet.ingest.splits import draw
from rsdnet.ingest.summary import LEFT_OUT, Tally
from rsdnet.ingest.survey import survey
from rsdnet.ingest.workers import Work, results
from rsdnet.ingest.writer import space_for

INTERRUPTED = 130  # the shell's status for SIGINT
ADOPTION, STATE = "adoption.journal", "adoption.state"
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
    _check_folders(asked)
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
    journal = _begin(asked, identity)
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


def _check_folders(asked: Adoption) -> None:
    """Raise DataError where there is no database to adopt, or a catalog that may not be replaced."""
    db, home = asked.db, asked.home
    if not db.is_dir():
        raise DataError(f"{db} is no folder: name the folder of a database")
    if (db / JOURNAL).exists():
        raise DataError(f"{db} is being ingested: run its `python -m rsdnet.ingest` command again, not this one")
    if not (db / DATA).is_file():
        below = sorted(path.parent.name for path in db.glob(f"*/{DATA}"))
        hint = f", but its folders {', '.join(below[:3])} do: adopt each by itself" if below else ""
        raise DataError(f"{db} holds no {DATA}{hint}")
    if shards.found(db):
        raise DataError(f"{db} holds shards of an ingest beside {DATA}: name another folder")
    if home.exists() and not home.is_dir():
        raise DataError(f"{home} is a file: name a folder for the catalog")
    if (home / DATA).exists() and not os.path.samefile(home / DATA, db / DATA):
        raise DataError(f"{home} holds another database: name another folder for --out")
    if (home / CATALOG).exists() and not (home / ADOPTION).exists() and not asked.force:
        raise DataError(f"{home / CATALOG} exists: --force replaces it and stats.json")


def _begin(asked: Adoption, identity: dict[str, Any]) -> Journal:
    """The journal of this adoption, begun or opened; with --out also the link to data.mdb."""
    home = asked.home
    with _writing(asked, "nothing is written yet"):
        home.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(home / DATA):
            (home / DATA).symlink_to((asked.db / DATA).resolve())
        try:
            return Journal(home, identity, ADOPTION, _compare)
        except _Differs:
            if not asked.force:
                raise
        (home / ADOPTION).unlink()
        return Journal(home, identity, ADOPTION, _compare)


class _Differs(DataError):
    """The journal is of an adoption with other options, or of another database."""


def _compare(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if not (name := differing(before, now)):
        return
    how = f"with {name} {before.get(name)!r}, now it is {now.get(name)!r}"
    how = "when data.mdb or the metadata were others" if name in ("listing", "bytes", "changed") else how
    raise _Differs(f"{folder / ADOPTION} was begun {how}: use the same, or --force to begin anew")


@contextlib.contextmanager
def _writing(asked: Adoption, done: str) -> Iterator[None]:
    """A folder that may not be written to, and a full disk, become a DataError of one line."""
    try:
        with space_for(asked.home, done):
            yield
    except DataError as error:
        readonly = not asked.out and isinstance(error.__cause__, OSError) and "no space" not in str(error)
        raise DataError(f"{error}, or give --out FOLDER") if readonly else error from error.__cause__


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
            with _writing(self.asked, "all statistics are safe"):
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
        with _writing(self.asked, f"{self.journal.done:,} samples are counted"):
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
