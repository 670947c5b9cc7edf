"""What bounds reading: disk, memory or threads, told from what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from rsdnet.console import percent, size

MEMORY = 0.6  # share of memcpy's bytes/s above which memory is said to bound
BUSY = 0.8  # share of the threads' time on a core above which the threads are said to bound
DISTURBED = 1.5  # share of memcpy's bytes/s that only a disturbed memcpy leaves: the reader's own stores gain less
SHORT = 0.2  # seconds: what took less says how long it took, and nothing is told of look-ahead
SAME = 0.8  # cold reads of this share of the warm rate are bound by what bounds warm ones


@dataclass(frozen=True)
class Rate:
    """bytes, items: a second; an item is a block or a sample. busy: share of the threads' time on a core."""

    bytes: float
    items: float
    seconds: float = 1.0
    busy: float = 0.0


Measured = Rate | str
"""A rate, or why there is none."""


@dataclass(frozen=True)
class Figures:
    """What was measured. Pairs: with one thread, with all.

    cold: without look-ahead, with it. size: bytes of the database; cached: the share of it that the page cache held at
    the begin. free: bytes of RAM. host: bytes that the bands of all samples take. gpu: name and free bytes.
    block: bytes of a band, on average. unit: "samples" or "entries", what the reader reads.
    """

    threads: int
    sequential: Measured
    random: tuple[Measured, Measured]
    cold: tuple[Measured, Measured]
    copy: tuple[Measured, Measured]
    warm: tuple[Measured, Measured]
    block: int
    size: int
    cached: float | None
    free: int
    host: int | None
    gpu: tuple[str, int] | None
    unit: str = "samples"


def warm_bound(figures: Figures) -> str | None:
    """What bounds warm reads: "memory" or "threads"; None where it was not measured, or measured too badly."""
    warm, copy = figures.warm[1], figures.copy[1]
    if isinstance(warm, str) or isinstance(copy, str) or warm.bytes > DISTURBED * copy.bytes:
        return None
    return "memory" if warm.bytes >= MEMORY * copy.bytes else "threads"


def cold_bound(figures: Figures) -> str | None:
    """What bounds cold reads: "disk", "memory" or "threads"; None where it was not measured."""
    cold, warm = best_cold(figures), figures.warm[1]
    if cold is None:
        return None
    if isinstance(warm, Rate) and cold.bytes >= SAME * warm.bytes:
        return warm_bound(figures)
    return "threads" if cold.busy >= BUSY else "disk"


def best_cold(figures: Figures) -> Rate | None:
    """The faster of cold reads with and without look-ahead."""
    rates = [rate for rate in figures.cold if isinstance(rate, Rate)]
    return max(rates, key=lambda rate: rate.bytes, default=None)


def verdict(figures: Figures) -> list[str]:
    """What the figures say, in plain words: one line each on warm reads, cold reads, look-ahead and caches."""
    return [*_say_warm(figures), *_say_cold(figures), *_say_ahead(figures), *_say_room(figures)]


def _say_warm(figures: Figures) -> Iterator[str]:
    one, warm = figures.warm
    copy = figures.copy[1]
    if isinstance(warm, str) or isinstance(copy, str):
        yield f"warm reads were not measured: {warm if isinstance(warm, str) else copy}"
        return
    share = f"{percent(warm.bytes / copy.bytes)} of memcpy"
    fed = f"{size(warm.bytes)}/s, {warm.items:,.0f} {figures.unit}/s"
    if warm_bound(figures) is None:
        yield f"warm reads give {fed}: {share}, which other programs disturbed; measure again to learn what bounds them"
        return
    if warm_bound(figures) == "memory":
        yield f"warm reads are bound by memory ({share}): {fed}"
        return
    gain = warm.bytes / one.bytes if isinstance(one, Rate) else None
    more = "" if gain is None or figures.threads == 1 else f"; {figures.threads} threads give {gain:.1f}x one"
    advice = "" if gain is None else ", more cores would give more" if gain > 0.7 * figures.threads else ""
    yield f"warm reads are bound by the threads ({share}{more}{advice}): {fed}"


def _say_cold(figures: Figures) -> Iterator[str]:
    cold, bound = best_cold(figures), cold_bound(figures)
    if cold is None:
        yield f"cold reads were not measured: {figures.cold[0]}"
        return
    one = {"samples": "a sample", "entries": "an entry"}[figures.unit]
    sample = f"at {size(cold.bytes / cold.items)} {one} that feeds {cold.items:,.0f} {figures.unit}/s"
    if bound == "disk":
        wait = "threads wait" if figures.threads > 1 else "thread waits"
        threads = f"{figures.threads} {wait} {percent(1 - min(cold.busy, 1))} of the time"
        yield f"cold reads are bound by the disk: {size(cold.bytes)}/s{_plain(figures)}; {threads}; {sample}"
    elif bound is None:
        yield f"cold reads give {size(cold.bytes)}/s; {sample}"
    else:
        name = {"memory": "memory, as warm ones", "threads": "the threads"}[bound]
        yield f"cold reads are bound by {name}: {size(cold.bytes)}/s; {sample}"


def _plain(figures: Figures) -> str:
    """What pread without the reader gives, in parentheses."""
    rates = {"in order": figures.sequential, "at random": figures.random[1]}
    told = [f"{size(rate.bytes)}/s {how}" for how, rate in rates.items() if isinstance(rate, Rate)]
    return f" (plain reads give {', '.join(told)})" if told else ""


def _say_ahead(figures: Figures) -> Iterator[str]:
    off, on = figures.cold
    if isinstance(off, Rate) and isinstance(on, Rate) and min(off.seconds, on.seconds) < SHORT:
        yield "look-ahead: too little was read cold to tell what it gives"
    elif isinstance(off, Rate) and isinstance(on, Rate):
        gain = on.items / off.items
        worth = "worth it" if gain > 1.1 else "it does harm" if gain < 0.9 else "no matter"
        yield f"look-ahead on a cold disk: {gain:.1f}x the {figures.unit}/s, {worth}"


def _say_room(figures: Figures) -> Iterator[str]:
    free = figures.free
    fits = "fits in" if figures.size <= free else "does not fit in"
    then = "it is cold in the first epoch alone" if figures.size <= free else "every epoch reads the disk"
    yield f"the database ({size(figures.size)}) {fits} free RAM ({size(free)}): {then}"
    if figures.host is None:
        return
    fits = "would fit" if figures.host <= free else "would not fit"
    yield f"--cache host: {fits} (about {size(figures.host)} of {size(free)} free)"
    if figures.gpu is not None:
        name, room = figures.gpu
        fits = "would fit" if figures.host <= room else "would not fit"
        yield f"--cache device: {fits} (about {size(figures.host)} of {size(room)} free on {name})"
