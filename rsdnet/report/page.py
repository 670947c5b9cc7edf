"""The report's page: what is shown of one run or of two, put into page.html with its style and script inside."""

import base64
import datetime
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rsdnet import __version__, config
from rsdnet.config import Config
from rsdnet.console import percent
from rsdnet.report import charts, metrics
from rsdnet.report.gallery import Gallery
from rsdnet.report.record import ENVIRONMENT, Record, Series, flat
from rsdnet.report.summary import facts, figure, notes, score

TEMPLATE = Path(__file__).with_name("page.html")
MOST = 24  # charts in a page
BARS = 4  # variants that the style has colours for
SMOOTH = 25  # a running mean takes one value in so many


class Chart(NamedTuple):
    """A figure of the page. words: its caption; alt: what it shows, in words; legend: (CSS class, label)."""

    title: str
    words: str
    alt: str
    plot: charts.Plot
    legend: Sequence[tuple[str, str]] = ()


class Row(NamedTuple):
    """A line of the probe's table. cells: (text, whether it is the run's best). last: the mean of the bands."""

    name: str
    cells: list[tuple[str, bool]]
    change: str
    last: bool


def page(records: Sequence[Record], galleries: Sequence[Gallery]) -> str:
    """The page, as HTML. galleries: one a run, or one for two that drew the same views."""
    style, script = (TEMPLATE.with_suffix(suffix).read_text() for suffix in (".css", ".js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    drawn, left = curves(records)
    called = names(records)
    return environment.from_string(TEMPLATE.read_text()).render(
        width=charts.WIDTH,
        names=called,
        facts=table([facts(record) for record in records]),
        warnings=[notes(record) for record in records],
        groups=drawn,
        undrawn=left,
        profiles=[(name, record.profile) for name, record in zip(called, records, strict=True)],
        phases=phases(records),
        probes=[(name, record.probe) for name, record in zip(called, records, strict=True)],
        bands=probe_rows(records),
        change=sum(record.probe is not None for record in records) == 2,
        apart=_protocols_differ(records),
        bars=bars(records),
        galleries=galleries,
        settings=settings(records),
        machine=table([record.environment for record in records]),
        environment=ENVIRONMENT,
        style=Markup(style),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        today=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def names(records: Sequence[Record]) -> list[str]:
    """What the page calls the runs: their folders' names, or their paths where those are the same."""
    short = [record.name for record in records]
    return short if len(set(short)) == len(short) else [str(record.folder) for record in records]


def curves(records: Sequence[Record]) -> tuple[dict[str, list[Chart]], list[str]]:
    """The charts of the metrics by group, the known ones first, and the names of those that are too many."""
    found = metrics.order(records)
    groups: dict[str, list[Chart]] = {}
    for name in found[:MOST]:
        groups.setdefault(metrics.known(name).group, []).append(_chart(records, name))
    return groups, found[MOST:]


def _chart(records: Sequence[Record], name: str) -> Chart:
    """The chart of one metric."""
    metric, called = metrics.known(name), names(records)
    having = [(run, record) for run, record in enumerate(records) if name in record.series]
    found = {run: metrics.scaled(record, name) for run, record in having}
    longest = max(len(series.values) for series in found.values())
    smooth = longest // SMOOTH if not metric.plain and longest >= 2 * SMOOTH else 0
    words = metric.words + (f" Faint: every value; line: running mean over {smooth:,}." if smooth else "")
    drawn = [charts.Curve(found[run], run, smooth, metrics.around(record, name)) for run, record in having]
    alt = " ".join(
        f"{called[run]}: {_described(curve.series, curve.around)}" for run, curve in zip(found, drawn, strict=True)
    )
    plot = charts.lines(drawn, max(record.steps for record in records), log=metric.log)
    return Chart(metric.title, words.strip(), f"{metric.title} over steps. {alt}", plot)


def _described(series: Series, around: tuple[Series, Series] | None) -> str:
    """A curve in words."""
    finite = series.finite
    if not len(finite):
        return "no value is finite."
    ends = f"from {figure(finite[0])} to {figure(finite[-1])}"
    band = [figure(part.finite[-1]) if len(part.finite) else "–" for part in around or ()]
    shaded = f", at the end shaded from {band[0]} to {band[1]}" if band else ""
    return f"{ends}, between {figure(finite.min())} and {figure(finite.max())}, {len(finite):,} values{shaded}."


def phases(records: Sequence[Record]) -> list[tuple[str, list[tuple[int, str, str, str]]]]:
    """The profiles' table, side by side: (phase, cells), in the order of the first profile that has it.

    A cell is of each run profiled: its number, milliseconds, share, and per cent of the bar.
    """
    profiles = [(run, record.profile["phases"]) for run, record in enumerate(records, 1) if record.profile]
    rows = dict.fromkeys(name for _, found in profiles for name in found)
    return [(name, [_cell(run, *found.get(name, (math.nan, math.nan))) for run, found in profiles]) for name in rows]


def _cell(run: int, ms: float, share: float) -> tuple[int, str, str, str]:
    bar = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return run, f"{ms:,.2f}" if math.isfinite(ms) else "–", percent(share, 1), f"{bar:.1f}"


def bars(records: Sequence[Record]) -> list[Chart]:
    """Charts of F1 a band: the pre-trained features of two runs together, then each run beside its baselines."""
    probes = {name: record.probe for name, record in zip(names(records), records, strict=True) if record.probe}
    found = []
    if len(probes) == 2:
        pairs = {name: _column(probe, probe["labels"][0]) for name, probe in probes.items() if probe["labels"]}
        found.append(_bar_chart("Pre-trained features of both runs", "run", pairs))
    for name, probe in probes.items():
        own = {label: _column(probe, label) for label in probe["labels"][:BARS]}
        found.append(_bar_chart(f"{name} beside its baselines", "bar", own))
    return found


def _bar_chart(title: str, kind: str, columns: dict[str, dict[str, float]]) -> Chart:
    """Bars of `columns` {label: {band: F1}}. kind: "run" or "bar", the CSS classes of the labels' colours."""
    rows = list(dict.fromkeys(band for column in columns.values() for band in column))
    scores = {label: [column.get(band, math.nan) for band in rows[:MOST]] for label, column in columns.items()}
    alt = f"{title}: bars of macro F1 for {len(rows)} bands; the table below holds the numbers."
    legend = [(f"{kind}-{index}", label) for index, label in enumerate(columns, 1)]
    return Chart(title, "", alt, charts.bars(rows[:MOST], scores, kind), legend)


def _column(probe: dict[str, Any], label: str) -> dict[str, float]:
    """F1 of a variant by band."""
    return {band: row[label]["f1"] for band, row in probe["bands"].items() if label in row}


def probe_rows(records: Sequence[Record]) -> list[Row]:
    """The probes' table, side by side: a row a band, then the mean of the bands."""
    probes = [record.probe for record in records if record.probe]
    bands = dict.fromkeys(band for probe in probes for band in probe["bands"])
    rows = [_row(band, [probe["bands"].get(band, {}) for probe in probes], probes) for band in bands]
    means = [{label: {"f1": f1} for label, f1 in probe["means"].items()} for probe in probes]
    return [*rows, _row("mean of the bands", means, probes)] if rows else []


def _row(name: str, scores: list[dict[str, dict[str, float]]], probes: list[dict[str, Any]]) -> Row:
    """A row of the scores of each probe, by label."""
    cells, first = list[tuple[str, bool]](), []
    for row, probe in zip(scores, probes, strict=True):
        f1 = [row.get(label, {}).get("f1", math.nan) for label in probe["labels"]]
        best = max((value for value in f1 if math.isfinite(value)), default=math.nan)
        for label, value in zip(probe["labels"], f1, strict=True):
            accuracy = row.get(label, {}).get("accuracy")
            cells.append((score(value) + (f" ({score(accuracy)})" if accuracy is not None else ""), value == best))
        first += f1[:1]
    change = score(first[1] - first[0], "+") if len(first) == 2 else ""
    return Row(name, cells, change, name == "mean of the bands")


def _protocols_differ(records: Sequence[Record]) -> bool:
    """Whether two probes were made on other data, or otherwise."""
    probes = [record.probe for record in records if record.probe]
    return len(probes) == 2 and probes[0]["protocol"] != probes[1]["protocol"]


def settings(records: Sequence[Record]) -> list[tuple[str, list[str], str, bool]]:
    """Rows of the configuration: key, the runs' values, the default, and whether to mark it.

    Marked is what differs between two runs; of one run, what differs from the default.
    """
    defaults = flat(config.to_tables(Config()))
    rows = []
    for key, values in table([record.config for record in records]):
        default = defaults.get(key, "–")
        rows.append((key, values, default, len({*values} if len(values) > 1 else {*values, default}) > 1))
    return rows


def table(columns: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Rows (key, a value of each column) of all keys in order; a dash where a column has none."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return [(key, [column.get(key, "–") for column in columns]) for key in keys]
