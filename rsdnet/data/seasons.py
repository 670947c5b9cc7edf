"""Seasons of a place: SSL4EO-S12's samples are named <location>_<season>, tiles of them <location>_<season>_y0_x128."""

import re
from collections.abc import Iterable

import numpy as np

from rsdnet.errors import DataError

LAYOUT = "ssl4eo"  # whose samples are named so
_NAME = re.compile(r"(.+)_[0-9]+((?:_y[0-9]+_x[0-9]+)?)")


def place_of(sample: str) -> tuple[str, str]:
    """The place of a sample, by its name: its location, and its tile. Raises DataError where it names no season."""
    match = _NAME.fullmatch(sample)
    if not match:
        raise DataError(f"sample {sample!r} names no season of a place, as 0000001_0 does: leave out --pair-seasons")
    return match[1], match[2]


def cycles(places: Iterable[object]) -> np.ndarray:
    """(N,) int64: by sample the next one of its place, which the last one closes to a cycle.

    places: of each sample, hashable.
    """
    first, last, following = dict[object, int](), dict[object, int](), list[int]()
    for position, place in enumerate(places):
        following.append(first.setdefault(place, position))
        if place in last:
            following[last[place]] = position
        last[place] = position
    return np.array(following, np.int64)
