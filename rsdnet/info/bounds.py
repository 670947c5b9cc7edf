"""The bound of reading, disk, memory or threads, from measured rates."""

from collections.abc import Iterator
from dataclasses import dataclass

from rsdnet.console import percent, size

MEMORY = 0.6  # share of memcpy's rate above which memory bounds warm reads
BUSY = 0.8  # share of the threads' time on a core above which the threads bound cold reads
DISTURBED = 1.5  # share of memcpy's rate above which memcpy was disturbed: the reader's own stores gain less
SHORT = 0.2  # seconds: a shorter measurement does not judge look-ahead
SAME = 0.8  # share of the warm rate above which cold reads have the bound of warm ones


KINDS = {
    "sequential": "disk, 1 MiB in order, cold",
    "random": "disk, {block} at random, cold",
    "off": "samples, cold, look-ahead off",
    "on": "samples, cold, look-ahead on",
    "copy": "memcpy of such blocks",
    "warm": "samples, warm",
}


@dataclass(frozen=True)
class Rate:
    """Bytes and items (blocks or samples) a second; seconds measured; share of the threads' time on a core."""

    bytes: float
    items: float
    seconds: float = 1.0
    busy: float = 0.0


Measured = Rate | str
"""A rate, or the reason why it was not measured."""


@dataclass(frozen=True)
class Figures:
    """All that was measured.

    rates: by (kind, threads); kinds are the keys of `KINDS`. threads: all of them. block: bytes of a drawn band, on
    average. size: bytes of the database. cached: share of it in the page cache before. free: bytes of RAM. host: bytes
    of the bands of all samples. gpu: name and free bytes.
    """

    rates: dict[tuple[str, int], Measured]
    threads: int
    block: int
    size: int
    cached: float | None
    free: int
    host: int
    gpu: tuple[str, int] | None

    def rate(self, kind: str, threads: int = 0) -> Rate | None:
        """A rate with so many threads, 0: all; None where it was not measured."""
        rate = self.rates[kind, threads or self.threads]
        return rate if isinstance(rate, Rate) else None


def warm_bound(figures: Figures) -> str | None:
    """The bound of warm reads: "memory" or "threads"; None where they or memcpy were not measured, or disturbed."""
    warm, copy = figures.rate("warm"), figures.rate("copy")
    if warm is None or copy is None or warm.bytes > DISTURBED * copy.bytes:
        return None
    return "memory" if warm.bytes >= MEMORY * copy.bytes else "threads"


def cold_bound(figures: Figures) -> str | None:
    """The bound of cold reads: "disk", "memory" or "threads"; None where they were not measured."""
    cold, warm = best_cold(figures), figures.rate("warm")
    if cold is None:
        return None
    if warm is not None and cold.bytes >= SAME * warm.bytes:
        return warm_bound(figures)
    return "threads" if cold.busy >= BUSY else "disk"


def best_cold(figures: Figures) -> Rate | None:
    """The faster of cold reads with and without look-ahead."""
    rates = [rate for kind in ("off", "on") if (rate := figures.rate(kind))]
    return max(rates, key=lambda rate: rate.bytes, default=None)


def verdict(figures: Figures) -> Iterator[str]:
    """A line each on warm reads, cold reads, look-ahead, RAM and caches."""
    yield _on_warm(figures)
    yield _on_cold(figures)
    off, on = figures.rate("off"), figures.rate("on")
    if off and on and min(off.seconds, on.seconds) >= SHORT:
        gain = on.items / off.items
        worth = "worth it" if gain > 1.1 else "it does harm" if gain < 0.9 else "no matter"
        yield f"look-ahead on a cold disk: {gain:.1f}x the samples/s, {worth}"
    fits = figures.size <= figures.free
    then = "it is cold in the first epoch alone" if fits else "every epoch reads the disk"
    room = f"{'fits in' if fits else 'does not fit in'} free RAM ({size(figures.free)})"
    yield f"the database ({size(figures.size)}) {room}: {then}"
    caches = [("host", figures.free, "")]
    caches += [("device", figures.gpu[1], f" on {figures.gpu[0]}")] if figures.gpu else []
    for name, free, where in caches:
        fit = "would fit" if figures.host <= free else "would not fit"
        yield f"--cache {name}: {fit} (about {size(figures.host)} of {size(free)} free{where})"


def _on_warm(figures: Figures) -> str:
    one, warm, copy = figures.rate("warm", 1), figures.rate("warm"), figures.rate("copy")
    if warm is None or copy is None:
        return f"warm reads were not measured: {figures.rates['warm' if warm is None else 'copy', figures.threads]}"
    share = f"{percent(warm.bytes / copy.bytes)} of memcpy"
    rate = f"{size(warm.bytes)}/s, {warm.items:,.0f} samples/s"
    bound = warm_bound(figures)
    if bound is None:
        return f"warm reads give {rate}: {share}, which other programs disturbed; measure again to learn their bound"
    if bound == "memory":
        return f"warm reads are bound by memory ({share}): {rate}"
    if one is not None and figures.threads > 1:
        gain = warm.bytes / one.bytes
        share += f"; {figures.threads} threads give {gain:.1f}x one"
        share += ", more cores would give more" if gain > 0.7 * figures.threads else ""
    return f"warm reads are bound by the threads ({share}): {rate}"


def _on_cold(figures: Figures) -> str:
    cold, bound = best_cold(figures), cold_bound(figures)
    if cold is None:
        return f"cold reads were not measured: {figures.rates['off', figures.threads]}"
    fed = f"at {size(cold.bytes / cold.items)} a sample that feeds {cold.items:,.0f} samples/s"
    if bound is None:
        return f"cold reads give {size(cold.bytes)}/s; {fed}"
    if bound != "disk":
        name = {"memory": "memory, as warm ones", "threads": "the threads"}[bound]
        return f"cold reads are bound by {name}: {size(cold.bytes)}/s; {fed}"
    plain = (("in order", figures.rate("sequential", 1)), ("at random", figures.rate("random")))
    rates = ", ".join(f"{size(rate.bytes)}/s {how}" for how, rate in plain if rate)
    beside = f" (plain reads give {rates})" if rates else ""
    threads = "1 thread waits" if figures.threads == 1 else f"{figures.threads} threads wait"
    waits = f"{threads} {percent(1 - min(cold.busy, 1))} of the time"
    return f"cold reads are bound by the disk: {size(cold.bytes)}/s{beside}; {waits}; {fed}"
