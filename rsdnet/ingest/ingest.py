"""GeoTIFFs to a database: `python -m rsdnet.ingest LAYOUT SOURCE DB`.

The files are read on all cores, each source (a sample's files) on its own, and joined in a fixed order: entries into
`data.mdb`, rows into `catalog.parquet`, statistics of the training split into `stats.json`; what was left out is named
in `left_out.tsv`, what `--offset auto` decided in `offsets.tsv`. Interrupted, it continues where it stopped.
With `--shard I/N` it is one of N jobs that share the work: see rsdnet/data/shards.py.
"""

import contextlib
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from rsdnet.console import progress
from rsdnet.data import catalog
from rsdnet.data.catalog import Catalog
from rsdnet.data.statistics import Accumulator, Summary, write_histograms, write_stats
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.ingest.geotiffs import Result, Row, ingest_source, summarise_tile
from rsdnet.ingest.layouts.base import Layout, Recipe, Source, assign_splits
from rsdnet.ingest.workers import count, executor, in_order
from rsdnet.ingest.writer import DATA, JOURNAL, Journal, Writer, compare_finished, space_for

LEFT_OUT, OFFSETS = "left_out.tsv", "offsets.tsv"
INTERRUPTED = 130  # the shell's status for SIGINT
_CHUNK_BYTES, _CHUNK_SECONDS = 64 << 20, 5.0  # a transaction holds at most about this; so much is redone at most
_ALL_BAD = 32  # sources that may fail from the first on before the options are blamed


def ingest(layout: Layout) -> int:
    """Write the database `layout` describes, or continue it. Returns the exit status.

    Raises DataError for bad options, a source without samples, a full disk, a database of other options.
    """
    layout.check()
    if _finished(layout):
        return 0
    every = assign_splits(layout.sources(), layout.val, layout.test)
    recipe = layout.recipe()
    identity = layout.identity() | {"listing": _digest(every)}
    _make_folder(layout.folder)
    with space_for(layout.folder, "nothing is written yet"):
        journal = Journal(layout.folder, identity)
    try:
        return _run(layout, every, recipe, journal, identity)
    finally:
        journal.close()


def _finished(layout: Layout) -> bool:
    folder = layout.folder
    if not (folder / catalog.CATALOG).is_file() or (folder / JOURNAL).exists():
        return False
    made = Catalog.read(folder)
    if "ingest" not in made.meta:
        raise DataError(f"{folder} holds a database that ingest did not make: name another folder")
    compare_finished(folder, made.meta["ingest"], layout.identity())
    print(f"{folder} is finished: {len(made):,} samples; delete it to ingest anew")
    return True


def _make_folder(folder: Path) -> None:
    if (folder / DATA).exists() and not (folder / JOURNAL).exists():
        raise DataError(f"{folder} holds a database that ingest did not begin: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error})") from error


def _digest(sources: Sequence[Source]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}\t{source.split}\t{source.problem}\n".encode())
    return digest.hexdigest()


def _run(layout: Layout, every: list[Source], recipe: Recipe, journal: Journal, identity: dict[str, Any]) -> int:
    """Ingest the layout's part of `every` source, from where the journal ends."""
    sources = every[layout.part.stretch(len(every))] if layout.part else every
    tally = Tally()
    with Writer(layout.folder) as writer:
        if journal.done:
            _catch_up(journal, writer, tally)
            print(f"continuing {layout.folder} after {journal.done:,} of {len(sources):,} sources")
        try:
            _read_all(layout, every, sources, recipe, journal, writer, tally)
        except KeyboardInterrupt:
            print(f"interrupted: {journal.done:,} of {len(sources):,} sources are in; the same command continues")
            return INTERRUPTED
    with space_for(layout.folder, "all entries are safe"):
        _finish(layout, journal, tally, identity, recipe)
    return 0


class Tally:
    """What came out so far: counts, statistics, a few of the reasons. Its size does not grow with the data."""

    def __init__(self) -> None:
        self.samples = self.left_out = self.sources = 0
        self.first_reason = ""
        self.bands: dict[str, Accumulator] = {}
        self.offsets: Counter[int] = Counter()
        self.undecided = 0
        self.notes: Counter[str] = Counter()

    def add(self, record: dict[str, Any], summaries: Sequence[dict[str, Summary]]) -> None:
        """Count one source's journal line and its tiles' statistics."""
        self.sources += 1
        self.samples += len(record["rows"])
        self.left_out += len(record["left"])
        if record["left"] and not self.first_reason:
            self.first_reason = ": ".join(record["left"][0])
        for _, offset, why in record["offsets"]:
            self.offsets[offset] += 1
            self.undecided += why.startswith("undecided")
        self.notes.update(record["notes"])
        for summary in summaries:
            for name, band in summary.items():
                self.bands.setdefault(name, Accumulator()).add(band)


def _record(result: Result) -> dict[str, Any]:
    return {
        "rows": result.rows,
        "left": result.left_out,
        "offsets": result.offsets,
        "notes": result.notes,
        "highest": result.highest,
    }


def _catch_up(journal: Journal, writer: Writer, tally: Tally) -> None:
    """Count again what the journal tells of; the statistics come from the entries it names."""
    for record in journal.records():
        rows = [Row(*row) for row in record["rows"]]
        tally.add(record, [_summaries(row, writer) for row in rows if row.split == "train"])


def _summaries(row: Row, writer: Writer) -> dict[str, Summary]:
    return summarise_tile(*(load(writer.get(key)) if key else {} for key in (row.ms, row.sar)))


def _read_all(
    layout: Layout, every: list[Source], sources: list[Source], recipe: Recipe, journal: Journal, writer: Writer,
    tally: Tally,
) -> None:  # fmt: skip
    """Read those of `sources`, the layout's part of `every`, that are not yet done; commit them in chunks, each
    followed by its lines in the journal."""
    rest = sources[journal.done :]
    with (
        contextlib.closing(Chunk(layout.folder, journal, writer)) as chunk,
        progress(len(sources), journal.done) as step,
        executor(layout.workers, len(rest)) as pool,
    ):
        for result in in_order(pool, rest, recipe, look_ahead=4 * count(layout.workers)):
            record = _record(result)
            tally.add(record, result.summaries)
            if not tally.samples and tally.sources == min(_ALL_BAD, len(sources)):
                _require_hope(layout, every[:_ALL_BAD], recipe, journal, tally.first_reason)
            chunk.add(record, result)
            step(f"{tally.left_out:,} left out")
        chunk.commit()
        chunk.wait()


def _require_hope(layout: Layout, first: list[Source], recipe: Recipe, journal: Journal, reason: str) -> None:
    """Raise DataError if none of the first of all sources can be ingested: then the options are to blame.

    A shard may hold bad sources alone, as any stretch of a whole ingest may; so it looks at the first of all again.
    """
    if layout.part and any(ingest_source(source, recipe).rows for source in first):
        return
    _discard(layout.folder, journal)
    what = f"none of the first {_ALL_BAD} sources" if len(first) == _ALL_BAD else f"nothing of {layout.source}"
    raise DataError(f"{what} could be ingested: {reason}")


def _discard(folder: Path, journal: Journal) -> None:
    """Take an empty database away, so that better options may begin anew."""
    for name in (DATA, "lock.mdb"):
        (folder / name).unlink(missing_ok=True)
    journal.remove()


class Chunk:
    """Results on their way into one transaction, which a thread of its own writes while the next ones are read."""

    def __init__(self, folder: Path, journal: Journal, writer: Writer):
        self.folder, self.journal, self.writer = folder, journal, writer
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._clear()

    def _clear(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.entries: list[tuple[str, bytes]] = []
        self.bytes, self.began = 0, time.monotonic()

    def add(self, record: dict[str, Any], result: Result) -> None:
        """Keep one source's results; commit when they are many or old."""
        self.records.append(record)
        self.entries += result.entries
        self.bytes += sum(len(blob) for _, blob in result.entries)
        if self.bytes >= _CHUNK_BYTES or time.monotonic() - self.began >= _CHUNK_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Have what is kept written, once the transaction before is through."""
        self.wait()
        self._writing = self._thread.submit(self._write, self.entries, self.records)
        self._clear()

    def wait(self) -> None:
        """Until the transaction under way is on the disk; its error is raised here."""
        if self._writing is not None:
            self._writing.result()

    def _write(self, entries: list[tuple[str, bytes]], records: list[dict[str, Any]]) -> None:
        """Entries first, then the lines that speak of them."""
        with space_for(self.folder, f"{self.journal.done:,} sources are safe"):
            self.writer.put(entries)
            self.journal.append(records)

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self._thread.shutdown(wait=True)


def _finish(layout: Layout, journal: Journal, tally: Tally, identity: dict[str, Any], recipe: Recipe) -> None:
    """Statistics, lists and catalog, each aside then renamed; the journal goes last."""
    folder = layout.folder
    write_stats(folder, {name: tally.bands[name].result() for name in sorted(tally.bands)})
    if layout.part:
        write_histograms(folder, tally.bands)
    records = journal.records
    _write_list(folder / LEFT_OUT, ("sample", "reason"), (row for record in records() for row in record["left"]))
    rows_of_offsets = (row for record in records() for row in record["offsets"])
    _write_list(folder / OFFSETS, ("file", "subtracted", "why"), rows_of_offsets)
    rows = [Row(*row) for record in records() for row in record["rows"]]
    highest = max((record["highest"] for record in records()), default=-1)
    names = layout.class_names()
    meta: dict[str, Any] = {"layout": layout.NAME, "level": layout.level(), "patch": layout.patch, "ingest": identity}
    if recipe.raw_map:
        (values,) = recipe.classes.values()
        meta["values"] = {str(value): label for value, label in values.items()}
    made = Catalog(
        samples=catalog.objects([row.sample for row in rows]),
        ms=catalog.objects([row.ms for row in rows]),
        sar=catalog.objects([row.sar for row in rows]),
        map=catalog.objects([row.map for row in rows]),
        label=np.array([-1 if row.label is None else row.label for row in rows], np.int32),
        split=catalog.objects([row.split for row in rows]),
        classes=names if names is not None else tuple(str(number) for number in range(highest + 1)),
        meta=meta,
    )
    made.write(folder)
    journal.remove()
    _report(layout, tally, rows)


def _write_list(path: Path, header: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """A table of tab-separated values, if it has rows."""
    first = next(rows, None)
    if first is None:
        return
    with aside(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in (header, first, *rows):
            file.write("\t".join(str(cell).replace("\t", " ") for cell in row) + "\n")


def _report(layout: Layout, tally: Tally, rows: list[Row]) -> None:
    splits = Counter(row.split for row in rows)
    print(
        f"{layout.folder}: {tally.samples:,} samples ("
        + ", ".join(f"{splits[split]:,} {split}" for split in catalog.SPLITS)
        + f"), {(layout.folder / DATA).stat().st_size / 1e6:,.1f} MB"
    )
    if tally.left_out:
        print(f"left out {tally.left_out:,}, named in {layout.folder / LEFT_OUT}; the first: {tally.first_reason}")
    if tally.offsets:
        decided = ", ".join(f"{count:,} files -{offset} DN" for offset, count in sorted(tally.offsets.items()))
        undecided = f" ({tally.undecided:,} undecided, taken as 0)" if tally.undecided else ""
        print(f"offset auto: {decided}{undecided}, named in {layout.folder / OFFSETS}")
    for note, times in sorted(tally.notes.items()):
        print(f"{note} ({times:,} sources)")


def main() -> int:
    import tyro

    from rsdnet.ingest.layouts import LAYOUTS

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return ingest(tyro.extras.subcommand_cli_from_dict(LAYOUTS, prog="rsdnet.ingest", description=__doc__))
