"""A cold cache: contenders over the same database, put out of the page cache before each of their turns."""

from collections.abc import Sequence

from benches.reader.disk import Direct, evict
from benches.reader.measure import Ratio, check, quantiles, seconds
from benches.reader.ours import Ours

Speeds = dict[str, list[float]]  # bytes a second by contender, a number a round


def race(contenders: Sequence[Ours | Direct], *, steps: int, rounds: int) -> Speeds:
    """The speed of each in each round. In a round all read other samples: a host may hold what one has just read.

    Raises Wrong where the reader gives wrong bytes, Absent where the machine does not evict.
    """
    plan = contenders[0].plan
    path = plan.pairs.folder / "data.mdb"
    parts = [range(n * steps, (n + 1) * steps) for n in range(rounds * len(contenders))]
    for contender in contenders:
        if isinstance(contender, Ours):
            check(contender, (0,))
        contender.prepare(range(parts[-1].stop))
    speeds: Speeds = {contender.name: [] for contender in contenders}
    for n in range(rounds):
        for turn in range(len(contenders)):
            contender = contenders[(n + turn) % len(contenders)]
            part = parts[n * len(contenders) + turn]
            evict(path)
            taken = seconds(contender, part)
            moved = contender.moved(part) if isinstance(contender, Direct) else sum(plan.sizes(s).sum() for s in part)
            speeds[contender.name].append(int(moved) / taken)
    return speeds


def against(speeds: Speeds, one: str, other: str) -> Ratio:
    """How many times the other's speed the one has, round by round."""
    return quantiles([a / b for a, b in zip(speeds[one], speeds[other], strict=True)])
