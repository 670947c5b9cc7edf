"""Mean and standard deviation of the differences of bands in views of fixed bands."""

import numpy as np
from torch import Tensor

from rsdnet import bands
from rsdnet.config import Config
from rsdnet.data.fixed import fixed_views
from rsdnet.data.normalisation import Pair, sar_clip, statistics_of
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from rsdnet.kernels.records import BYTES, DTYPES

MEASURED = 256  # samples that a deviation is measured on, of millions of pixels  # our choice
AT_ONCE = 32  # of them
DIGITS = 6  # significant ones of a deviation, so that the order of a sum does not show


def difference_statistics(cfg: Config, samples: Samples) -> dict[str, Pair]:
    """{name: (mean, standard deviation)} of the differences in a run's views, in dB; {} where there is none.

    The mean is that of the bands' statistics. The deviation is measured on pixels that are valid in both bands, as a
    run clips them, of the same samples each time.

    Raises DataError where there is no such pixel.
    """
    names = dict.fromkeys(name for view in fixed_views(cfg.views).values() for name in view.differences)
    statistics, found = statistics_of(cfg) if names else {}, {}
    for name in names:
        one, other = name.split("-")
        mean = statistics[one][0] - statistics[other][0]
        found[name] = mean, float(f"{_deviation(samples, one, other, mean, sar_clip(cfg)):.{DIGITS}g}") or 1.0
    return found


def _deviation(samples: Samples, one: str, other: str, near: float, clip: Pair) -> float:
    """Of the band `one` less the band `other`. near: a number near the mean, for the precision of the sums."""
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.choice(len(samples), min(MEASURED, len(samples)), replace=False)).astype(np.int64)
    ids = np.array([bands.band_id(one), bands.band_id(other)], np.int32)
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(drawn), AT_ONCE):
        positions = drawn[start : start + AT_ONCE]
        data, records = samples.read(positions, np.tile(ids, (len(positions), 1, 1)))
        for pair in records[:, 0].tolist():
            a, b = (_pixels(data, record) for record in pair)
            valid = np.isfinite(a) & np.isfinite(b)
            apart = a[valid].clip(*clip) - b[valid].clip(*clip) - near
            count, total, squares = count + apart.size, total + apart.sum(), squares + (apart**2).sum()
    if not count:
        raise DataError(f"{samples.databases}: no pixel has both {one} and {other}: leave {one}-{other} out")
    return float(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)


def _pixels(data: Tensor, record: list[int]) -> np.ndarray:
    """(height * width,) float64 values of a record."""
    offset, code, height, width, _ = record
    raw = data[offset : offset + height * width * BYTES[code]]
    return raw.view(DTYPES[code]).double().numpy()
