"""Contenders that take turns, so that whatever else the machine does hits all of them alike.

A ratio is of two turns of the same round; a row holds its quantiles over the rounds. What is wrong gets no figure: a
contender is checked before it is timed.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple


class Wrong(Exception):
    """Results that are not what they must be: no figure for this contender."""

    def __init__(self, contender: str, reason: str) -> None:
        super().__init__(reason)
        self.contender = contender


class Ratio(NamedTuple):
    """Quantiles over the rounds."""

    p20: float
    p50: float
    p80: float


Times = dict[str, list[float]]  # seconds by contender, a number a round


def quantiles(values: Sequence[float]) -> Ratio:
    """20th, 50th and 80th percentile, interpolated linearly."""
    if len(values) == 1:
        return Ratio(*values, *values, *values)
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Ratio(fifths[0], statistics.median(values), fifths[3])


def race(
    turns: Mapping[str, Callable[[int], float]],
    rounds: int,
    *,
    left: Callable[[], float] = lambda: inf,
    done: Callable[[int], None] = lambda rounds: None,
) -> Times:
    """Results of each contender's turns, round by round; the order rotates.

    turns: by contender, a function from the round's number to its seconds (or whatever is compared). left: seconds
    that the whole run has left; a round that would outlast them is not begun, except the first. done: called with the
    number of finished rounds.
    """
    names, began = list(turns), time.monotonic()
    times: Times = {name: [] for name in names}
    for n in range(rounds):
        if n and (time.monotonic() - began) / n > left():
            break
        for name in names[n % len(names) :] + names[: n % len(names)]:
            times[name].append(turns[name](n))
        done(n + 1)
    return times


def against(times: Times, one: str, other: str) -> Ratio:
    """How many times the other's speed the one has, round by round."""
    return quantiles([b / a for a, b in zip(times[one], times[other], strict=True)])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
