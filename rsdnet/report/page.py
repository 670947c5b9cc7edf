"""The report's page: tables and charts of one run or of two, put into page.html with its style inside."""

import datetime
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rsdnet import __version__, config
from rsdnet.config import Config
from rsdnet.console import percent
from rsdnet.report import charts, metrics
from rsdnet.report.gallery import Gallery
from rsdnet.report.metrics import Metric, figure, score
from rsdnet.report.record import Probe, Record, Series, flat
from rsdnet.report.summary import facts, notes

TEMPLATE = Path(__file__).with_name("page.html")
MOST = 24  # charts in a page
CLIPPED = 400  # characters of a text that are shown


class Cell(NamedTuple):
    """A table's cell. bar: length of a bar behind the text, from 0 to 1, drawn in the colour of `run`, 1 or 2."""

    text: Any = "–"
    bar: float = 0.0
    run: int = 1
    best: bool = False


class Table(NamedTuple):
    """A table: heads of its columns, and rows of (key, cells, marked)."""

    heads: list[str]
    rows: list[tuple[str, list[Cell], bool]]


class Chart(NamedTuple):
    """A figure of the page. words: its caption; alt: its curves, in words."""

    title: str
    words: str
    alt: str
    plot: charts.Plot


def page(records: Sequence[Record], galleries: Sequence[Gallery]) -> str:
    """The page, as HTML. galleries: one a run, or one for two that drew the same views."""
    names = called(records)
    shown = metrics.shown(records)
    groups: dict[str, list[Chart]] = {}
    for name, metric in list(shown.items())[:MOST]:
        groups.setdefault(metric.group, []).append(chart(records, name, metric))
    probes = [record.probe for record in records if record.probe]
    environment = Environment(
        autoescape=True, finalize=text, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text()).render(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        names=names,
        notes=[note if len(names) == 1 else f"{name}: {note}"
               for name, record in zip(names, records, strict=True) for note in notes(record)],
        facts=table([(name, facts(record)) for name, record in zip(names, records, strict=True)]),
        groups=groups,
        undrawn=list(shown)[MOST:],
        profile=profile_table(records),
        profiled=[(name, record.profile) for name, record in zip(names, records, strict=True) if record.profile],
        probe=probe_table(records),
        unprobed=[name for name, record in zip(names, records, strict=True) if not record.probe],
        apart=len(probes) == 2 and probes[0].protocol != probes[1].protocol,
        galleries=galleries,
        settings=settings_table(records),
        machine=table([(name, record.environment) for name, record in zip(names, records, strict=True)]),
        style=Markup(TEMPLATE.with_suffix(".css").read_text()),
        version=__version__,
        today=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip


def text(value: Any) -> str:
    """`value` as printable text of at most CLIPPED characters; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown[: CLIPPED + 1])
    return shown if len(shown) <= CLIPPED else shown[: CLIPPED - 1] + "…"


def called(records: Sequence[Record]) -> list[str]:
    """The runs' names on the page: of their folders, or where those are the same, their paths."""
    short = [record.folder.resolve().name or str(record.folder) for record in records]
    return short if len(set(short)) == len(short) else [str(record.folder) for record in records]


def chart(records: Sequence[Record], name: str, metric: Metric) -> Chart:
    """The chart of one metric."""
    curves, words = list[charts.Curve](), list[str]()
    for run, (label, record) in enumerate(zip(called(records), records, strict=True), 1):
        if name in record.series:
            steps, values = record.series[name]
            curves.append(
                charts.Curve(run, Series(steps, values * metric.scale), metrics.around(record, metric.around))
            )
            words.append(f"{label}: {_described(curves[-1].series.finite)}")
    longest = max(len(curve.series.values) for curve in curves)
    mean = "" if longest <= charts.PIECES else f" Line: mean of {-(-longest // charts.PIECES):,} values."
    plot = charts.lines(curves, max(record.steps for record in records), log=metric.log)
    return Chart(metric.title, (metric.words + mean).strip(), f"{metric.title} over steps. {' '.join(words)}", plot)


def _described(finite: np.ndarray) -> str:
    """A curve's finite values in words."""
    if not len(finite):
        return "no value is finite."
    first, last, least, greatest = map(figure, (finite[0], finite[-1], finite.min(), finite.max()))
    return f"from {first} to {last}, between {least} and {greatest}, {len(finite):,} values."


def table(columns: Sequence[tuple[str, Mapping[str, Any]]], marked: Collection[str] = ()) -> Table:
    """Columns of (head, {key: cell or text}) side by side; a dash where a column lacks a key."""
    keys = dict.fromkeys(key for _, column in columns for key in column)
    rows = [[column.get(key, Cell()) for _, column in columns] for key in keys]
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return Table([head for head, _ in columns], [(k, row, k in marked) for k, row in zip(keys, cells, strict=True)])


def _heads(records: Sequence[Record]) -> list[str]:
    """Prefixes of the columns' heads: none for one run, else the runs' names."""
    return [""] if len(records) == 1 else [f"{name}: " for name in called(records)]


def profile_table(records: Sequence[Record]) -> Table:
    """Milliseconds and share of a step, by phase."""
    columns = []
    for run, (head, record) in enumerate(zip(_heads(records), records, strict=True), 1):
        if record.profile:
            phases = {
                each.phase + (" (beside the step)" if each.beside else ""): each for each in record.profile.phases
            }
            columns.append((f"{head}ms", {name: Cell(figure(phase.ms)) for name, phase in phases.items()}))
            shares = {name: Cell(percent(phase.share, 1), phase.share, run) for name, phase in phases.items()}
            columns.append((f"{head}share", shares))
    return table(columns)


def probe_table(records: Sequence[Record]) -> Table:
    """F1, and accuracy in brackets, by band and variant; of two runs also the change of the first variant."""
    columns, first = [], []
    for run, (head, record) in enumerate(zip(_heads(records), records, strict=True), 1):
        if record.probe and record.probe.bands:
            scores = _scores(record.probe)
            best = {band: max((f1 for f1, _ in row.values() if f1 == f1), default=None) for band, row in scores.items()}
            for label in record.probe.mean_f1:
                column = {band: row[label] for band, row in scores.items() if label in row}
                cells = {band: Cell(words, f1, run, f1 == best[band]) for band, (f1, words) in column.items()}
                columns.append((f"{head}{label}", cells))
            first.append({band: next(iter(row.values()))[0] for band, row in scores.items() if row})
    if len(first) == 2:
        change = {band: score(first[1][band] - f1, "+") for band, f1 in first[0].items() if band in first[1]}
        columns.append(("change", change))
    return table(columns, {"mean of the bands"})


def _scores(probe: Probe) -> dict[str, dict[str, tuple[float, str]]]:
    """{band: {variant: (F1, its text)}}, and the mean of the bands."""
    bands = {
        band: {label: (each.f1, f"{score(each.f1)} ({score(each.accuracy)})") for label, each in row.items()}
        for band, row in probe.bands.items()
    }
    return bands | {"mean of the bands": {label: (f1, score(f1)) for label, f1 in probe.mean_f1.items()}}


def settings_table(records: Sequence[Record]) -> Table:
    """The configurations and the defaults, marked where two runs differ, or one from the default."""
    defaults = flat(config.to_tables(Config()))
    columns = [(name, record.config) for name, record in zip(called(records), records, strict=True)]
    one, other = columns[0][1], columns[1][1] if len(columns) == 2 else defaults
    marked = {key for _, column in columns for key in column if one.get(key, "–") != other.get(key, "–")}
    keys = dict.fromkeys(key for _, column in columns for key in column)
    return table([*columns, ("default", {key: defaults.get(key, "–") for key in keys})], marked)
