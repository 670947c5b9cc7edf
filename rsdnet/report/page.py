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
from rsdnet.probefile import ProbeFile, Scores
from rsdnet.report import charts, metrics
from rsdnet.report.gallery import Gallery
from rsdnet.report.metrics import Metric, figure, interval, score
from rsdnet.report.record import Record, Series, flat
from rsdnet.report.summary import facts, notes

TEMPLATE = Path(__file__).with_name("page.html")
MOST = 24  # charts in a page
CLIPPED = 400  # characters of a text that are shown
REASONS = "optim.chosen."  # of settings that training chose by itself


class Cell(NamedTuple):
    """A table's cell. bar: length of a bar behind the text, from 0 to 1, drawn in the colour of `run`, 1 or 2."""

    text: Any
    bar: float = 0.0
    run: int = 1
    best: bool = False


Table = tuple[list[str], list[tuple[str, list[Cell], bool]]]  # heads of columns, rows of (key, cells, marked)


class Evaluated(NamedTuple):
    """Scores of an evaluation. apart: the runs were evaluated on other data or otherwise."""

    title: str
    apart: bool
    table: Table


class Chart(NamedTuple):
    """A figure of the page. words: its caption; alt: its curves, in words."""

    title: str
    words: str
    alt: str
    texts: charts.Texts
    paths: charts.Paths


def page(records: Sequence[Record], galleries: Sequence[Gallery]) -> str:
    """The page, as HTML. galleries: one a run, or one for two that drew the same views."""
    shown = metrics.shown(records)
    groups: dict[str, list[Chart]] = {}
    for name, metric in list(shown.items())[:MOST]:
        groups.setdefault(metric.group, []).append(chart(records, name, metric))
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return (
        Environment(autoescape=True, finalize=text, **options)
        .from_string(TEMPLATE.read_text())
        .render(
            style=Markup(TEMPLATE.with_suffix(".css").read_text()),
            width=charts.WIDTH,
            height=charts.HEIGHT,
            records=records,
            notes={record.name: notes(record) for record in records},
            facts=table([(record.name, facts(record)) for record in records]),
            groups=groups,
            undrawn=list(shown)[MOST:],
            profile=profile_table(records),
            probes=probe_tables(records),
            galleries=galleries,
            settings=settings_table(records),
            machine=table([(record.name, record.environment) for record in records]),
            version=__version__,
            today=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        )
    )


def text(value: Any) -> str:
    """`value` as printable text of at most CLIPPED characters; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown[: CLIPPED + 1])
    return shown if len(shown) <= CLIPPED else shown[: CLIPPED - 1] + "…"


def chart(records: Sequence[Record], name: str, metric: Metric) -> Chart:
    """The chart of one metric."""
    curves, words = list[charts.Curve](), [f"{metric.title} over steps."]
    for run, record in enumerate(records, 1):
        if name in record.series:
            steps, values = record.series[name]
            series = Series(steps, values * metric.scale)
            curves.append(charts.Curve(run, series, metrics.around(record, metric.around)))
            words.append(f"{record.name}: {_described(series.finite)}")
    drawn = charts.lines(curves, max(record.steps for record in records), log=metric.log)
    return Chart(metric.title, metric.words, " ".join(words), *drawn)


def _described(finite: np.ndarray) -> str:
    """A curve's finite values in words."""
    if not len(finite):
        return "no value is finite."
    first, last, least, greatest = map(figure, (finite[0], finite[-1], finite.min(), finite.max()))
    return f"from {first} to {last}, between {least} and {greatest}, {len(finite):,} values."


def table(columns: Sequence[tuple[str, Mapping[str, Any]]], marked: Collection[str] = ()) -> Table:
    """Columns of (head, {key: cell or text}) side by side; a dash where a column lacks a key."""
    keys = dict.fromkeys(key for _, column in columns for key in column)
    rows = [(key, [column.get(key, "–") for _, column in columns]) for key in keys]
    cells = {key: [found if isinstance(found, Cell) else Cell(found) for found in row] for key, row in rows}
    return [head for head, _ in columns], [(key, row, key in marked) for key, row in cells.items()]


def profile_table(records: Sequence[Record]) -> Table:
    """Milliseconds and share of a step, by phase."""
    columns = list[tuple[str, Mapping[str, Any]]]()
    for run, record in enumerate(records, 1):
        if record.profile:
            of = f", {record.name}" if len(records) > 1 else ""
            named = {f"{each.phase}{' (beside the step)' * each.beside}": each for each in record.profile.phases}
            columns.append((f"ms{of}", {name: Cell(figure(each.ms)) for name, each in named.items()}))
            shares = {name: Cell(percent(each.share, 1), each.share, run) for name, each in named.items()}
            columns.append((f"share{of}", shares))
    return table(columns)


def probe_tables(records: Sequence[Record]) -> list[Evaluated]:
    """A table for each evaluation and share of the labels."""
    found = []
    for name in dict.fromkeys(name for record in records for name in record.probes):
        probes = [record.probes[name] for record in records if name in record.probes]
        apart = len({probe.conditions for probe in probes}) > 1
        for share in dict.fromkeys(share for probe in probes for share in probe.results):
            title = f"{name}: " * bool(name) + f"{probes[0].metric}, {probes[0].features}, {share} labels"
            found.append(Evaluated(title, apart, probe_table(records, name, share)))
    return found


def probe_table(records: Sequence[Record], name: str, share: str) -> Table:
    """Scores by band and contender, and means by depth; of two runs also the change of the first contender."""
    columns, first = list[tuple[str, Mapping[str, Any]]](), list[Mapping[str, Cell]]()
    means = set[str]()
    for run, record in enumerate(records, 1):
        if name in record.probes and share in record.probes[name].results:
            rows, marked = _probe_rows(record.probes[name], share)
            of, means = f", {record.name}" if len(records) > 1 else "", means | marked
            labels = list(dict.fromkeys(label for row in rows.values() for label in row))
            cells = [{key: _score_cell(row, label, run) for key, row in rows.items() if label in row}
                     for label in labels]  # fmt: skip
            columns += [(f"{label}{of}", column) for label, column in zip(labels, cells, strict=True)]
            first += cells[:1]
    if len(first) == 2:
        one, other = first
        columns.append(("change", {band: score(other[band].bar - one[band].bar, "+") for band in one if band in other}))
    return table(columns, means)


def _probe_rows(probe: ProbeFile, share: str) -> tuple[dict[str, Scores], set[str]]:
    """Scores by band, of the depth that was asked for, and means of every depth; the names of the means."""
    by_depth = probe.results[share]
    rows = dict(by_depth[probe.features].bands) if probe.features in by_depth else {}
    means = {f"{mean}, {depth}": row for depth, found in by_depth.items() for mean, row in found.means.items()}
    return rows | means, set(means)


def _score_cell(row: Scores, label: str, run: int) -> Cell:
    """A contender's score in a row of all contenders."""
    found = row[label].score
    best = found >= np.nanmax([-1, *(each.score for each in row.values())])
    return Cell(interval(row[label]), found, run, bool(best))


def settings_table(records: Sequence[Record]) -> Table:
    """The configurations and the defaults, marked where two runs differ, or one from the default."""
    defaults = flat(config.to_tables(Config()))
    one, other = records[0].config, records[1].config if len(records) > 1 else defaults
    marked = {key for key in {**one, **other} if one.get(key, "–") != other.get(key, "–")}
    reasons = {key for key in {**one, **other} if key.startswith(REASONS)}
    marked -= reasons | ({key.replace(REASONS, "optim.") for key in reasons} if other is defaults else set())
    return table([*((record.name, record.config) for record in records), ("default", defaults)], marked)
