"""The report's page: tables and charts of one run or of two, put into page.html with its style inside."""

import datetime
import json
import math
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
from rsdnet.report.record import Record, Score, Series, flat
from rsdnet.report.summary import facts, notes

TEMPLATE = Path(__file__).with_name("page.html")
MEAN = "mean of the bands"  # the last row of the probe's table
MOST = 24  # charts in a page
CLIPPED = 400  # characters of a text that are shown


class Cell(NamedTuple):
    """A table's cell. bar: length of a bar behind the text, from 0 to 1, drawn in the colour of `run`, 1 or 2."""

    text: Any
    bar: float = 0.0
    run: int = 1
    best: bool = False


Table = tuple[list[str], list[tuple[str, list[Cell], bool]]]  # heads of columns, rows of (key, cells, marked)


class Chart(NamedTuple):
    """A figure of the page. words: its caption; alt: its curves, in words."""

    title: str
    words: str
    alt: str
    texts: charts.Texts
    paths: charts.Paths


def page(records: Sequence[Record], galleries: Sequence[Gallery]) -> str:
    """The page, as HTML. galleries: one a run, or one for two that drew the same views."""
    shown, probes = metrics.shown(records), [record.probe for record in records if record.probe]
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
            probe=probe_table(records),
            apart=len({probe.conditions for probe in probes}) > 1,
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


def probe_table(records: Sequence[Record]) -> Table:
    """F1, and accuracy in brackets, by band and variant; of two runs also the change of the first variant."""
    columns, first = list[tuple[str, Mapping[str, Any]]](), list[Mapping[str, Cell]]()
    for run, record in enumerate(records, 1):
        if record.probe:
            of, variants = f", {record.name}" if len(records) > 1 else "", record.probe.mean_f1
            rows = record.probe.bands | {MEAN: {variant: Score(f1) for variant, f1 in variants.items()}}
            cells = [{band: _score_cell(row, variant, run) for band, row in rows.items() if variant in row}
                     for variant in variants]  # fmt: skip
            columns += [(f"{variant}{of}", column) for variant, column in zip(variants, cells, strict=True)]
            first += cells[:1]
    if len(first) == 2:
        one, other = first
        columns.append(("change", {band: score(other[band].bar - one[band].bar, "+") for band in one if band in other}))
    return table(columns, {MEAN})


def _score_cell(row: dict[str, Score], variant: str, run: int) -> Cell:
    """A variant's scores on a band; `row` holds those of all variants."""
    f1, accuracy = row[variant].f1, row[variant].accuracy
    best = f1 >= np.nanmax([-1, *(each.f1 for each in row.values())])
    return Cell(score(f1) + (f" ({score(accuracy)})" if math.isfinite(accuracy) else ""), f1, run, bool(best))


def settings_table(records: Sequence[Record]) -> Table:
    """The configurations and the defaults, marked where two runs differ, or one from the default."""
    defaults = flat(config.to_tables(Config()))
    one, other = records[0].config, records[1].config if len(records) > 1 else defaults
    marked = {key for key in {**one, **other} if one.get(key, "–") != other.get(key, "–")}
    return table([*((record.name, record.config) for record in records), ("default", defaults)], marked)
