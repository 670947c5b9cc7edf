"""How often several databases are seen: weights as exact numbers of samples in an epoch."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from rsdnet.errors import DataError


def quotas(weights: Sequence[float], counts: Sequence[int], databases: Sequence[Path]) -> list[int] | None:
    """Samples that each database gives to an epoch of sum(counts) samples; None without weights: all, once each.

    weights: one a database, of any sum; counts: samples of each. Shares are rounded by largest remainder, so that they
    add up; of equal remainders the earlier database's goes first.
    Raises DataError on weights that cannot be had.
    """
    if not weights:
        return None
    if len(weights) != len(counts):
        raise DataError(f"{len(weights)} weights for {len(counts)} databases: give one a database")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise DataError(f"weights {', '.join(map(str, weights))}: none may be negative, and one must be above 0")
    for weight, count, path in zip(weights, counts, databases, strict=True):
        if weight and not count:
            raise DataError(f"weight {weight} for {path}, which has no samples to train on: give it weight 0")
    exact = [Fraction(weight) for weight in weights]
    shares = [weight * sum(counts) / sum(exact) for weight in exact]
    whole = [math.floor(share) for share in shares]
    largest = sorted(range(len(shares)), key=lambda at: (whole[at] - shares[at], at))
    for at in largest[: sum(counts) - sum(whole)]:
        whole[at] += 1
    return whole
