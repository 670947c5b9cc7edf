"""A look at some sources before anything is written: wrong options show at once, and the S2 offset is settled."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rsdnet.console import progress
from rsdnet.errors import IMPLAUSIBLE, DataError
from rsdnet.ingest.geotiffs import Result
from rsdnet.ingest.s2_offset import Evidence, settle
from rsdnet.ingest.source import Recipe, Source
from rsdnet.ingest.workers import Work, results

_LOOKED, _BYTES = 128, 1 << 30  # sources, and bytes of their files, that are looked at, at most
_MANY = 0.1  # share of sources in another unit or with fill, beyond one, from which the options are to blame


def survey(
    every: Sequence[Source],
    recipe: Recipe,
    workers: int,
    folder: Path,
    work: Work | None = None,
    settle: Callable[[Sequence[Evidence]], None] = settle,
) -> None:
    """Read some of the sources, evenly spread.

    work: reads a source; None: from its files. settle: raises DataError where the evidence leaves the S2 offset open.

    Raises DataError if none can be ingested, many are implausible as they are taken, or the S2 offset stays open.
    """
    free = [source for source in every if not source.problem] or every  # a known problem tells nothing of the options
    some = spread(free)
    with (
        progress("look", len(some), "sources", console=Console()) as show,
        contextlib.closing(results(some, recipe, workers, work)) as read,
    ):
        looked = list[Result]()
        for result in read:
            result.entries, result.summaries = [], []  # the values are not needed
            looked.append(result)
            show(len(looked))
    left = [(kind, f"{sample}: {reason}") for result in looked for sample, reason, kind in result.left]
    units = [reason for kind, reason in left if kind == IMPLAUSIBLE]
    if len(units) == len(looked) or len(units) > max(1, _MANY * len(looked)):
        raise DataError(
            f"{units[0]} (so {len(units)} of {len(looked)} sources; --implausible keep takes them as they are)"
        )
    settle([one for result in looked for one in result.evidence])
    if not any(result.rows for result in looked):
        why = left[0][1] if left else "no source has an S2 or S1 image"
        what = "nothing" if len(looked) == len(free) else f"none of {len(looked)} sources"
        raise DataError(f"{what} of {folder} could be ingested: {why}")


def spread(every: Sequence[Source]) -> list[Source]:
    """Sources evenly spread over all: as many as the limits allow."""
    middle = every[len(every) // 2]
    one = sum(_bytes(path) for image in middle.images.values() for path, _ in image.files)
    count = max(1, min(len(every), _LOOKED, _BYTES // max(one, 1)))
    return [every[len(every) * number // count] for number in range(count)]


def _bytes(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
