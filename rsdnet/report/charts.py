"""Charts of the report: texts and paths of an SVG, which page.html draws in the page's colours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from rsdnet.report.record import Series

Texts = list[tuple[float, float, str, str]]  # x px, y px, SVG's text-anchor, words
Paths = list[tuple[str, str]]  # CSS classes, SVG path

WIDTH, HEIGHT = 340, 200  # px: about a phone's width, so that letters stay readable there
LEFT, RIGHT, TOP, BOTTOM = 46, 324, 12, 164  # px: the axes
FAR = 30.0  # ratio of the greatest value to the least from which on an axis may be logarithmic
PIECES = 140  # of a curve, at most: one every 2 px


class Curve(NamedTuple):
    """A run's curve. run: 1 or 2; around: least and greatest values, shaded between; None: those of its pieces."""

    run: int
    series: Series
    around: tuple[Series, Series] | None = None


class Axis(NamedTuple):
    """Values from low to high, drawn from begin to end, px."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, values: np.ndarray) -> np.ndarray:
        """Pixels of values."""
        ends = np.array([self.low, self.high])
        (low, high), values = (np.log10(ends), np.log10(values)) if self.log else (ends, values)
        return self.begin + (values - low) / (high - low) * (self.end - self.begin)

    def ticks(self, *, whole: bool = False) -> list[tuple[float, float]]:
        """(px, value) of round values about evenly apart; whole: whole numbers only."""
        linear = MaxNLocator(5, steps=[1, 2, 5, 10], integer=whole)
        values = np.asarray((LogLocator(numticks=5) if self.log else linear).tick_values(self.low, self.high))
        values = values[(self.low <= values) & (values <= self.high)]
        return list(zip(self.at(values).round(1).tolist(), values.tolist(), strict=True))


def pieces(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A curve in P <= PIECES pieces: (4, P) middle steps, least, mean and greatest finite values; NaN: there is none.

    A short curve's pieces are single values.
    """
    size = -(-len(values) // PIECES)
    starts = np.arange(0, len(values), size)
    count = np.add.reduceat(np.isfinite(values).astype(float), starts)
    mean = np.add.reduceat(np.nan_to_num(values), starts) / np.where(count, count, np.nan)
    middle = steps[np.minimum(starts + size // 2, len(steps) - 1)]
    return np.stack([middle, np.fmin.reduceat(values, starts), mean, np.fmax.reduceat(values, starts)])


def lines(curves: Sequence[Curve], steps: int = 0, *, log: bool = False) -> tuple[Texts, Paths]:
    """Curves over steps, in a chart of WIDTH x HEIGHT px. steps: the axis's end, at least;
    log: a logarithmic axis where the values lie far apart.

    A long curve is the mean of its pieces, shaded from least to greatest. Crosses mark steps without a finite value.
    """
    cut = [(pieces(*series), *(pieces(*edge) for edge in around or (series, series))) for _, series, around in curves]
    drawn = np.concatenate([values for line, low, high in cut for values in (line[2], low[1], high[3])])
    x = Axis(0, max(steps, 1, *(int(curve.series.steps[-1]) for curve in curves)), LEFT, RIGHT)
    y = _vertical(drawn[np.isfinite(drawn)], log)
    texts: Texts = [((LEFT + RIGHT) / 2, HEIGHT - 4, "middle", "step")]
    texts += [(at, BOTTOM + 15, "middle", EngFormatter(sep="")(value)) for at, value in x.ticks(whole=True)]
    texts += [(LEFT - 5, at + 4, "end", f"{value:.10g}") for at, value in y.ticks()]
    paths: Paths = [("grid", f"M{LEFT} {at:.1f}H{RIGHT}") for at, _ in y.ticks()]
    for (run, series, around), (line, low, high) in zip(curves, cut, strict=True):
        if around or line.shape[1] < len(series.steps):
            good = np.isfinite(low[1] + high[3])
            there, bottom, top = x.at(low[0][good]), y.at(low[1][good]), y.at(high[3][good])
            paths.append((f"band run-{run}", _path(np.append(there, there[::-1]), np.append(bottom, top[::-1]))))
        paths.append((f"curve run-{run}", _path(x.at(line[0]), y.at(line[2]))))
        lost = x.at(series.steps[~np.isfinite(series.values)][:PIECES])
        paths.append(("lost", "".join(f"M{at - 2:.1f} {BOTTOM - 5}l4 4m0-4l-4 4" for at in lost)))
    return texts, paths


def _vertical(values: np.ndarray, log: bool) -> Axis:
    """The axis around finite values: logarithmic where asked for and they lie far apart."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if log and 0 < FAR * low <= high:
        return Axis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), BOTTOM, TOP, log=True)
    pad = 0.05 * (high - low)
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # a constant, but for rounding
        pad = 0.1 * abs(high) or 1.0
    return Axis(low - pad, high + pad, BOTTOM, TOP)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """An SVG path through points, broken where one is not finite; a single point is a dot."""
    found, pen = [], "M{:.1f} {:.1f}h0"
    for at, up in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(up):
            found.append(pen.format(at, up))
        pen = "L{:.1f} {:.1f}" if math.isfinite(up) else "M{:.1f} {:.1f}h0"
    return "".join(found)
