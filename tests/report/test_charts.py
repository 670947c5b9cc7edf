"""The report's charts: points where the values are, long curves in few points, axes that fit."""

import math

import numpy as np
import pytest

from rsdnet.report import charts
from rsdnet.report.charts import Curve, lines, pieces
from rsdnet.report.record import Series


def path(curve: Curve, kind: str) -> str:
    return next(d for classes, d in lines([curve])[1] if kind in classes.split())


def curve(*values: float) -> Curve:
    return Curve(1, Series(np.arange(len(values)), np.array(values)))


def test_a_curve_goes_where_its_values_are() -> None:
    points = path(curve(0.0, 1.0, 0.5), "curve")[1:].replace("h0", "").split("L")
    (x0, low), (x1, high), (x2, middle) = [tuple(map(float, point.split())) for point in points]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert middle == pytest.approx((low + high) / 2, abs=0.2)
    assert high < low  # down is more in an SVG


def test_a_gap_breaks_a_curve_and_is_crossed() -> None:
    assert path(curve(1, 2, math.nan, 2, 1), "curve").count("M") == 2
    assert path(curve(1, 2, math.nan, 2, 1), "lost").count("M") == 1


@pytest.mark.parametrize("size", [1, charts.PIECES, charts.PIECES + 1, 1000, 200_000])
def test_a_long_curve_keeps_its_extremes_in_few_points(size: int) -> None:
    values = np.random.default_rng(0).normal(size=size)
    values[size // 3] = 77.0
    values[size // 2 + 1 : size // 2 + 20] = np.nan
    steps, least, mean, greatest = pieces(np.arange(size), values)
    each = math.ceil(size / charts.PIECES)
    assert len(steps) == math.ceil(size / each) <= charts.PIECES
    assert (np.nanmin(least), np.nanmax(greatest)) == (np.nanmin(values), 77.0)
    for at in range(len(steps)):
        piece = values[at * each : (at + 1) * each]
        assert at * each <= steps[at] < (at + 1) * each
        expected = piece[np.isfinite(piece)].mean() if np.isfinite(piece).any() else math.nan
        assert mean[at] == pytest.approx(expected, nan_ok=True)
    assert sum(len(d) for _, d in lines([Curve(1, Series(np.arange(size), values))])[1]) < 10_000


def test_the_band_around_a_curve() -> None:
    steps = np.arange(3)
    around = Series(steps, np.array([0.0, 1, 0])), Series(steps, np.array([4.0, math.nan, 4]))
    band = path(Curve(2, Series(steps, np.array([1.0, 2, 1])), around), "band")
    assert band.count("L") == 3  # to and fro over the two steps where both are finite


def test_a_logarithmic_axis_where_values_span_decades() -> None:
    def labels(*values: float) -> list[str]:
        return [words for _, _, anchor, words in lines([curve(*values)], log=True)[0] if anchor == "end"]

    assert {"0.001", "10"} <= set(labels(0.003, 2.0))
    for near in ([1.0, 20.0], [0.0, 100.0], [-1.0, 100.0], [math.nan]):
        assert len(set(np.diff([float(words) for words in labels(*near)]).round(9))) == 1
