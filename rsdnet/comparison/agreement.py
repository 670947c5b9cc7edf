"""Which evaluations compare: of the same samples, splits, classes and protocol; and the shares and bands they share."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

from rsdnet.comparison.results import Result
from rsdnet.errors import DataError

# Of a result, the parts that runs need not share: what was evaluated, and beside which contenders.
OWN = {"run", "data", "encoder", "against", "rows", "labels", "features", "samples", "results", "seed"}
# Of the samples, the parts that may differ: what a run standardises by, and a database's bands, whose digest is "data".
APART = {"statistics", "bands"}
WORDS = {"labels": "labels or splits", "data": "pixels", "maps": "label maps"}
COMMAND = "python -m rsdnet.probe RUN"


def require_alike(results: Sequence[Result], shares: Sequence[str]) -> None:
    """Raise DataError, which names two runs and their difference, where the evaluations do not compare by `shares`."""
    for one, other in combinations(results, 2):
        if one.run.samefile(other.run):
            raise DataError(f"{one.run} is named twice: name each run once")
        for why, remedy in _differences(one, other, shares):
            raise DataError(f"{one.run} and {other.run} do not compare: {why}; {remedy}")


def _differences(one: Result, other: Result, shares: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What differs, and what to do."""

    def both(of: Callable[[Result], Any]) -> tuple[Any, Any]:
        return of(one), of(other)

    same_data = f"evaluate both on one database ({COMMAND} --data DB)"
    mine, theirs = both(lambda each: each.found.metric)
    if mine != theirs:
        yield f"the metric is {mine} against {theirs}", "name runs evaluated on one task"
    sensors = [sensor for sensor in one.found.samples if sensor in other.found.samples]
    if not sensors:
        yield "they have no sensor in common", same_data
    for sensor in sensors:
        mine, theirs = both(lambda each, sensor=sensor: each.found.samples[sensor])  # type: ignore[misc]
        if mine.get("classes") != theirs.get("classes"):
            yield f"their classes are {_listed(mine)} against {_listed(theirs)}", same_data
        apart = APART | ({"data"} if mine.get("bands") != theirs.get("bands") else set())
        for key in [name for name in {**mine, **theirs} if name not in apart]:
            if mine.get(key) != theirs.get(key):
                yield f"their {WORDS.get(key, key)} ({sensor}) differ", same_data
    for key in sorted((one.plain.keys() | other.plain.keys()) - OWN):
        mine, theirs = both(lambda each, key=key: each.plain.get(key))  # type: ignore[misc]
        if mine != theirs:
            option = key.replace("_", "-")
            yield f"{key} is {mine} against {theirs}", f"evaluate both with one --{option} ({COMMAND} --force)"
    if one.found.seed != other.found.seed and set(shares) != {"all"}:
        yield f"the seed of --labels is {one.found.seed} against {other.found.seed}", "evaluate both with one --seed"
    if one.draws != other.draws:
        yield "their numbers of replicates differ", f"evaluate both again ({COMMAND} --force)"


def _listed(samples: dict[str, Any]) -> str:
    """Class names, shortened."""
    names = samples.get("classes") or []
    return f"{len(names)} ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})"


def shares_of(results: Sequence[Result], asked: Sequence[str]) -> list[str]:
    """The shares of the labels to show: those asked for, or those of all runs.

    Raises DataError where a run lacks one, or none is common to all.
    """
    common = [share for share in results[0].found.results if all(share in each.found.results for each in results)]
    held = "; ".join(f"{each.run} has {', '.join(each.found.results)}" for each in results)
    if lacking := [share for share in asked if share not in common]:
        raise DataError(f"--labels {lacking[0]} is not in every run ({held}): {COMMAND} --labels {lacking[0]}")
    if not common:
        raise DataError(f"no share of the labels is in every run ({held}): evaluate them with the same --labels")
    return list(asked) or common


def require_depth(results: Sequence[Result], shares: Sequence[str], depth: str) -> None:
    """Raise DataError where a run lacks features at `depth`."""
    for each in results:
        for share in shares:
            if depth not in (held := each.found.results[share]):
                told = f"--features {depth}: {each.run} has {', '.join(held)}"
                raise DataError(f"{told}: evaluate it with {COMMAND} --features {depth}")
