"""Charts of the report: the texts and paths of an SVG, which page.html draws in the page's colours, light or dark."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from rsdnet.report.record import Series

WIDTH, LEFT, RIGHT = 340, 46, 324  # px of a chart, about a phone's, so that letters stay readable there; its axes
TOP, BOTTOM = 12, 36  # px above and below the axes
HEIGHT = 200  # px of a chart of curves
BAND = 34  # px that a band's bars take
APART = 8.0  # ratio of two runs' peaks from which on the axis is logarithmic
FAR = 30.0  # ratio of a chart's greatest value to its least from which on the axis may be logarithmic
SPARSE = 4  # steps a value, on average, from which on values are marked by points
COLUMNS = 240  # of a curve: it is drawn through the extremes of as many pieces
TICKS = 5  # of an axis, at most about


class Curve(NamedTuple):
    """One run's part of a chart.

    run: 0 or 1. smooth: the number of values in a running mean drawn over them; 0: none. around: the least and the
    greatest values, between which a band is drawn.
    """

    series: Series
    run: int = 0
    smooth: int = 0
    around: tuple[Series, Series] | None = None

    @property
    def parts(self) -> tuple[Series, ...]:
        """All series to be drawn."""
        return (self.series, *(self.around or ()))

    @property
    def finite(self) -> np.ndarray:
        """All finite values to be drawn."""
        return np.concatenate([part.finite for part in self.parts])


class Text(NamedTuple):
    """Words at (x, y) px. anchor: SVG's text-anchor."""

    x: float
    y: float
    anchor: str
    words: str


class Plot(NamedTuple):
    """A chart of WIDTH x height px. paths: (CSS classes, SVG path)."""

    height: int
    texts: list[Text]
    paths: list[tuple[str, str]]


class Axis(NamedTuple):
    """Values from low to high, drawn from begin to end, px."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, values: np.ndarray) -> np.ndarray:
        """Pixels of values."""
        if self.log:
            low, high, values = math.log10(self.low), math.log10(self.high), np.log10(np.maximum(values, self.low))
        else:
            low, high = self.low, self.high
        return self.begin + (values - low) / (high - low) * (self.end - self.begin)

    def ticks(self, *, whole: bool = False) -> list[tuple[float, float]]:
        """(px, value) of round values about evenly apart, whole numbers where asked for."""
        linear = MaxNLocator(TICKS, steps=[1, 2, 5, 10], integer=whole)
        locator = LogLocator(numticks=TICKS) if self.log else linear
        values = np.asarray(locator.tick_values(self.low, self.high))
        values = values[(self.low <= values) & (values <= self.high)]
        return list(zip(self.at(values).tolist(), values.tolist(), strict=True))


def lines(curves: Sequence[Curve], steps: int = 0, *, log: bool = False) -> Plot:
    """Curves over steps. steps: the axis's end, at least; log: a logarithmic axis where values lie far apart."""
    last = max(int(part.steps[-1]) for curve in curves for part in curve.parts)
    x = Axis(0, max(steps, last, 1), LEFT, RIGHT)
    y = _vertical([curve.finite for curve in curves], log)._replace(begin=HEIGHT - BOTTOM, end=TOP)
    up = y.ticks()
    plot = Plot(HEIGHT, [Text((LEFT + RIGHT) / 2, HEIGHT - 4, "middle", "step")], [])
    plot.texts.extend(Text(at, HEIGHT - 21, "middle", EngFormatter(sep="")(v)) for at, v in x.ticks(whole=True))
    plot.texts.extend(Text(LEFT - 5, at + 4, "end", f"{v:.10g}") for at, v in up)
    plot.paths.append(("grid", "".join(f"M{LEFT} {at:.1f}H{RIGHT}" for at, _ in up)))
    for curve in curves:
        plot.paths.extend(_curve(curve, x, y))
    return plot


def bars(names: Sequence[str], scores: dict[str, list[float]], kind: str) -> Plot:
    """Grouped bars from 0 to 1: for each name one of each label in `scores`; NaN: none. kind: CSS class less number."""
    names = [name[:24] for name in names]
    height, thick = 50 + len(names) * BAND, 0.8 * BAND / max(len(scores), 1)
    x = Axis(0, 1, 14 + 6.8 * max(map(len, names), default=0), RIGHT)
    middles = TOP + BAND * (np.arange(len(names)) + 0.5)
    plot = Plot(height, [Text((x.begin + x.end) / 2, height - 4, "middle", "macro F1 on the test split")], [])
    plot.texts.extend(Text(at, height - 21, "middle", f"{v:g}") for at, v in x.ticks())
    plot.texts.extend(Text(x.begin - 5, at + 4, "end", name) for at, name in zip(middles, names, strict=True))
    plot.paths.append(("grid", "".join(f"M{at:.1f} {TOP}V{height - BOTTOM}" for at, _ in x.ticks())))
    for index, values in enumerate(scores.values()):
        tops = middles + (index - len(scores) / 2) * thick
        ends = x.at(np.clip(np.nan_to_num(values), 0, 1))
        drawn = (
            f"M{x.begin:.1f} {top:.1f}H{end:.1f}v{0.92 * thick:.1f}H{x.begin:.1f}z"
            for top, end in zip(tops, ends, strict=True)
        )
        plot.paths.append((f"solid {kind}-{index + 1}", "".join(drawn)))
    return plot


def smoothed(values: np.ndarray, size: int) -> np.ndarray:
    """The mean of the `size` values around each (fewer at the ends), over those that are finite."""
    finite = np.isfinite(values)
    count, total = (np.concatenate(([0.0], np.cumsum(part))) for part in (finite, np.where(finite, values, 0.0)))
    at = np.arange(len(values))
    first, end = np.maximum(at - size // 2, 0), np.minimum(at + (size + 1) // 2, len(values))
    return np.where(finite, (total[end] - total[first]) / np.maximum(count[end] - count[first], 1), np.nan)


def _vertical(drawn: Sequence[np.ndarray], log: bool) -> Axis:
    """The axis around the finite values of each curve: logarithmic, where runs or values lie far apart."""
    values, peaks = np.concatenate(drawn), [float(each.max()) for each in drawn if len(each)]
    if not len(values):
        return Axis(0, 1, 0, 0)
    low, high = float(values.min()), float(values.max())
    if log and low > 0 and high >= FAR * low:
        return Axis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), 0, 0, log=True)
    if not log and len(peaks) == 2 and low >= 0 and 0 < APART * min(peaks) < max(peaks):
        return Axis(min(peaks) / 100, 1.5 * high, 0, 0, log=True)
    pad = 0.05 * (high - low)
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # a constant, but for rounding
        pad = 0.1 * abs(high) or 1.0
    return Axis(low - pad, high + pad, 0, 0)


def _curve(curve: Curve, x: Axis, y: Axis) -> Iterable[tuple[str, str]]:
    """A curve's paths: the band around it, its values, their running mean, and crosses where they are not finite."""
    run, series = f"run-{curve.run + 1}", curve.series
    if curve.around is not None:
        steps, least, greatest = _pieces(*curve.around)
        there, back = _path(x.at(steps), y.at(least)), _path(x.at(steps[::-1]), y.at(greatest[::-1]))
        yield f"band {run}", f"{there}{back.replace('M', 'L')}z"
    steps, values = _envelope(series.steps, series.values)
    yield f"{'faint' if curve.smooth else 'curve'} {run}", _path(x.at(steps), y.at(values))
    if len(series.finite) < 2 or len(series.steps) * SPARSE <= series.steps[-1]:
        good = np.isfinite(values)
        points = zip(x.at(steps[good]), y.at(values[good]), strict=True)
        yield f"dots {run}", "".join(f"M{at:.1f} {up:.1f}h0" for at, up in points)
    if curve.smooth:
        means = smoothed(series.values, curve.smooth)
        at = np.unique(np.linspace(0, len(means) - 1, 2 * COLUMNS).round().astype(int))
        yield f"curve {run}", _path(x.at(series.steps[at]), y.at(means[at]))
    lost = series.steps[~np.isfinite(series.values)][:COLUMNS]
    yield "lost", "".join(f"M{at - 2:.1f} {y.begin - 5}l4 4m0-4l-4 4" for at in x.at(lost))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """An SVG path through points; broken where one is not finite."""
    found, pen = [], "M"
    for at, up in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(up):
            found.append(f"{pen}{at:.1f} {up:.1f}")
        pen = "L" if math.isfinite(up) else "M"
    return "".join(found)


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
    """Steps and the band's two edges; where it is long, in as many pieces as a curve."""
    good = np.isfinite(low.values) & np.isfinite(high.values)
    pieces = np.array_split(np.flatnonzero(good), max(min(good.sum(), COLUMNS), 1))
    ends = [(low.steps[at[0]], np.min(low.values[at]), np.max(high.values[at])) for at in pieces if len(at)]
    steps, least, greatest = np.array(ends, float).reshape(-1, 3).T
    return steps, least, greatest
