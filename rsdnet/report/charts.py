"""Charts of the report as inline SVG: drawn by matplotlib, in the page's colours, which follow light and dark."""

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from rsdnet.report.record import Series

# The page's CSS variables, each drawn in a colour that stands for it and is replaced in the SVG.
INK, GRID = "#010101", "#020202"
CURVES = ("#030301", "#030302")  # the first and the second run
BARS = ("#040401", "#040402", "#040403", "#040404")  # contenders of a probe
BAD = "#050505"
_VARIABLES = {
    INK: "ink", GRID: "line", BAD: "bad",
    **{color: f"run-{index + 1}" for index, color in enumerate(CURVES)},
    **{color: f"bar-{index + 1}" for index, color in enumerate(BARS)},
}  # fmt: skip
WIDTH = 340.0  # points, about the pixels of a phone: letters stay readable there
BAND = 34.0  # points that a band's bars take
APART = 8.0  # times as great is a run's peak as the other's, where the axis becomes logarithmic
FAR = 30.0  # times as great is a chart's greatest value as its least, where the axis may be logarithmic
SPARSE = 4  # steps a value, on average, from which on values are marked by points
COLUMNS = 240  # of a curve: it is drawn through the extremes of as many pieces
STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": GRID, "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "grid.color": GRID, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5), "axes.formatter.useoffset": False,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One run's part of a chart.

    smooth: the number of values in a running mean drawn over them; 0: none. around: where the band around it begins
    and ends.
    """

    series: Series
    run: int
    smooth: int
    around: tuple[Series, Series] | None = None

    @property
    def finite(self) -> np.ndarray:
        """All values to be drawn that are finite."""
        return np.concatenate([part.finite for part in (self.series, *(self.around or ()))])


def lines(curves: Sequence[Curve], number: int, steps: int, *, log: bool = False) -> str:
    """An SVG of curves over steps. number: of the chart in the page; steps: where the axis ends, at least; log: on a
    logarithmic axis where values lie far apart."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes(200.0, 46.0)
        for curve in curves:
            _curve(axes, curve)
        drawn = [curve.finite for curve in curves]
        if (ends := _decades(np.concatenate(drawn)) if log else _log_from(drawn)) is not None:
            axes.set_yscale("log")
            axes.set_ylim(*ends)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        elif np.ptp(axes.get_ylim()) < 1e-6 * np.abs(axes.get_ylim()).max():  # a constant, but for rounding
            axes.set_ylim(*np.sort(np.mean(axes.get_ylim()) * np.array([0.9, 1.1])))
        axes.set_xlim(0, max(steps, *(int(curve.series.steps[-1]) for curve in curves), 1))
        axes.set_xlabel("step")
        axes.grid(axis="y", linewidth=0.6)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        return _svg(figure, number)


def _axes(height: float, left: float) -> tuple[Figure, Axes]:
    """A figure of `height` points, and its axes, which leave `left` points for the names of ticks."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    edges = {"left": left / WIDTH, "right": 1 - 16 / WIDTH, "bottom": 36 / height, "top": 1 - 12 / height}
    return figure, figure.subplots(gridspec_kw=edges)


def _log_from(values: Sequence[np.ndarray]) -> tuple[float, None] | None:
    """Where a logarithmic axis of two runs begins that are too far apart to read on one axis; None: a linear one."""
    peaks = [float(each.max()) for each in values if len(each)]
    if len(peaks) < 2 or min(each.min() for each in values if len(each)) < 0 or not 0 < APART * min(peaks) < max(peaks):
        return None
    return min(peaks) / 100, None


def _decades(values: np.ndarray) -> tuple[float, float] | None:
    """The powers of ten around values that are too far apart to read on a linear axis; None: they are not."""
    if not len(values) or values.min() <= 0 or values.max() < FAR * values.min():
        return None
    return 10.0 ** math.floor(math.log10(values.min())), 10.0 ** math.ceil(math.log10(values.max()))


def bars(names: Sequence[str], scores: dict[str, list[float]], colors: Sequence[str], number: int) -> str:
    """An SVG of grouped bars from 0 to 1: for each name one of each label in `scores`; NaN: none."""
    with mpl.rc_context(STYLE):
        thick = 0.8 / max(len(scores), 1)
        names = [name[:24] for name in names]
        figure, axes = _axes(50 + len(names) * BAND, 12 + 6.0 * max(map(len, names), default=0))
        for index, values in enumerate(scores.values()):
            at = np.arange(len(names)) + (index - (len(scores) - 1) / 2) * thick
            axes.barh(at, np.nan_to_num(values), thick * 0.92, color=colors[index % len(colors)], linewidth=0)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_xlabel("macro F1 on the test split")
        axes.grid(axis="x", linewidth=0.6)
        return _svg(figure, number)


def smoothed(values: np.ndarray, size: int) -> np.ndarray:
    """The mean of the `size` values around each (fewer at the ends), over those that are finite."""
    finite = np.isfinite(values)
    count, total = (np.concatenate(([0.0], np.cumsum(part))) for part in (finite, np.where(finite, values, 0.0)))
    at = np.arange(len(values))
    first, end = np.maximum(at - size // 2, 0), np.minimum(at + (size + 1) // 2, len(values))
    return np.where(finite, (total[end] - total[first]) / np.maximum(count[end] - count[first], 1), np.nan)


def _curve(axes: Axes, curve: Curve) -> None:
    color, dashes = CURVES[curve.run], ("solid", (0, (4, 1.2)))[curve.run]
    series, thin = curve.series, bool(curve.smooth)
    marker = "o" if len(series.finite) < 2 or len(series.steps) * SPARSE <= series.steps[-1] else None
    if curve.around is not None:
        steps, low, high = _pieces(*curve.around)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0.8)
    axes.plot(*_envelope(series.steps, series.values), color=color, linestyle=dashes if not thin else "solid",
              linewidth=0.8 if thin else 1.6, alpha=0.35 if thin else 1.0, marker=marker, markersize=3)  # fmt: skip
    if thin:
        means = smoothed(series.values, curve.smooth)
        at = np.unique(np.linspace(0, len(means) - 1, 2 * COLUMNS).round().astype(int))
        axes.plot(series.steps[at], means[at], color=color, linestyle=dashes, linewidth=1.7)
    lost = series.steps[~np.isfinite(series.values)][:COLUMNS]
    axes.plot(lost, np.full(len(lost), 0.02), "x", color=BAD, markersize=4, transform=axes.get_xaxis_transform())


def _envelope(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve as it is, or where it is long, through the least and the greatest value of each of its pieces."""
    if len(values) <= 2 * COLUMNS:
        return steps, values
    at = []
    for piece in np.array_split(np.arange(len(values)), COLUMNS):
        if np.isfinite(values[piece]).any():
            at += sorted({int(piece[np.nanargmin(values[piece])]), int(piece[np.nanargmax(values[piece])])})
        else:
            at.append(int(piece[0]))
    return steps[at], values[at]


def _pieces(low: Series, high: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and between which values the band lies there; where it is long, in as many pieces as a curve."""
    pieces = np.array_split(np.arange(len(low.steps)), min(len(low.steps), COLUMNS))
    ends = [(low.steps[at[0]], np.min(low.values[at]), np.max(high.values[at])) for at in pieces]
    steps, least, greatest = np.array(ends, float).T
    return steps, least, greatest


def _svg(figure: Figure, number: int) -> str:
    """The figure's SVG element, its colours the page's, its ids its own in a page of many."""
    buffer = io.StringIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "rsdnet"}):
        warnings.simplefilter("ignore")  # letters that the measuring font lacks; the browser's has them
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    found = re.search(r"<svg.*</svg>", buffer.getvalue(), re.DOTALL)
    assert found is not None
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", found.group(), flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="c{number}-', svg)
    svg = re.sub(r'href="#|url\(#', lambda match: f"{match.group()}c{number}-", svg)
    svg = re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match.group()]})", svg)
    svg = re.sub(r"(?<= d=\")[^\"]*", lambda path: re.sub(r"(\.\d)\d+", r"\1", path.group()), svg)
    svg = re.sub(
        r"font: ([\d.]+px)[^;\"]*|font-family: [^;\"]*; ", lambda font: f"font-size: {font[1]}" if font[1] else "", svg
    )
    return re.sub(r"\n\s*", "\n", re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1))
