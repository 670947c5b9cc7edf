"""Rows of an evaluation: the bands of each view that is shown."""

from collections.abc import Mapping, Sequence

from rsdnet import bands
from rsdnet.data.fixed import FixedView
from rsdnet.errors import DataError

# The three-channel rows: true colour; both polarisations with the first once more.
TRIPLES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}

Rows = dict[str, list[tuple[str, ...]]]
"""By sensor: the bands of each row."""


def rows_of(asked: Sequence[str], held: Mapping[str, Sequence[str]], fixed: Mapping[str, FixedView] = {}) -> Rows:
    """The rows `asked` for, bands joined by + each; none: every band alone, three of each sensor, and fixed views.

    held: bands by sensor. fixed: of the run, by sensor. A sensor without a row is left out.
    Raises DataError on an unknown band, one that is not held, and bands of both sensors in a row.
    """
    shown = {sensor: view.names for sensor, view in fixed.items() if set(view.bands) <= set(held.get(sensor, ()))}
    if asked:
        own = {"+".join(names): (sensor, names) for sensor, names in shown.items()}
        rows = [own.get(text) or _row(text, held) for text in asked]
        found = {sensor: [names for of, names in rows if of == sensor] for sensor in held}
    else:
        found = {sensor: [(name,) for name in pool] for sensor, pool in held.items()}
        for sensor, pool in held.items():
            found[sensor] += [TRIPLES[sensor]] * (set(TRIPLES[sensor]) <= set(pool))
            found[sensor] += [shown[sensor]] if sensor in shown else []
    return {sensor: list(dict.fromkeys(names)) for sensor, names in found.items() if names}


def _row(text: str, held: Mapping[str, Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """The sensor and the bands of a row."""
    names = tuple(bands.canonical(part) for part in text.split("+"))
    sensors = {bands.BANDS[name].modality for name in names}
    every = [name for pool in held.values() for name in pool]
    if missing := [name for name in names if name not in every]:
        raise DataError(f"--bands {text}: no {missing[0]} in the samples, which have {' '.join(every)}")
    if len(sensors) > 1:
        raise DataError(f"--bands {text}: bands of both sensors in one row: name them one by one")
    return sensors.pop(), names
