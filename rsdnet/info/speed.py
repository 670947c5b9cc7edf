"""Samples a second that this machine reads from a database, and their bound: `python -m rsdnet.info DB --speed`.

Batches are read by training's own loader. Cold: after the database's files were dropped from the page cache. Warm: the
same bands again.
"""

import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rsdnet import bands
from rsdnet._reader import Reader, copy_blocks
from rsdnet.console import percent, progress, size
from rsdnet.data.catalog import DATA, MODALITIES
from rsdnet.data.databases import Databases, Piece
from rsdnet.data.loader import Drawn, Loader
from rsdnet.data.pools import Pools
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from rsdnet.hardware import cores, free_memory
from rsdnet.info.disk import COLD, evict

BATCH = 128
READS: dict[str, Drawn | Literal["all"]] = {"drawn bands": Drawn(views=2, channels=1), "all bands": "all"}
MEMORY = 0.6  # share of memcpy's rate from which memory bounds reading
HALF = 0.5  # share of the time from which waiting for batches, or computing, decides the bound
_TURNS = 3  # of warm reads and of memcpy
_SHORT = 0.2  # seconds: a shorter cold pass is not judged
_LOADED = 0.75  # load a core, beside our own, that disturbs
_SOURCE = 1 << 30  # bytes that memcpy reads from, if so many are free: more than a processor's caches hold
_BLOCKS = 1024  # blocks that memcpy copies between two looks at the clock
_KEPT = "the page cache keeps the database, or does not tell this user"
_LOST = "the page cache does not keep the database"
_PROBED = 16  # entries looked at for their bands


@dataclass(frozen=True)
class Rate:
    """Samples and bytes a second, over `seconds`.

    busy: share of the reading threads' time on a core. waited: share of the time in which the consumer of the batches
    waited for one. disk: bytes a second that came from the disk, 0 where the system does not count them.
    """

    samples: float
    bytes: float
    seconds: float
    busy: float
    waited: float
    disk: float = 0


@dataclass(frozen=True)
class Figures:
    """Everything measured.

    rates: by key of `READS` and "cold" or "warm"; a text: the reason why it was not measured. memcpy: bytes a second on
    as many threads. database, free: bytes of the files and of free memory.
    """

    rates: dict[tuple[str, str], Rate | str]
    memcpy: float
    threads: int
    database: int
    free: int

    def bound(self, rate: Rate, state: str) -> str:
        """The bound of a "cold" or "warm" rate: "memory", "consumer", "cores" or "disk"."""
        if rate.bytes >= MEMORY * self.memcpy:
            return "memory"
        if rate.waited < HALF:
            return "consumer"
        return "disk" if state == "cold" and rate.busy < HALF else "cores"


def speed(db: Path, seconds: float = 20.0) -> None:
    """Print a table of rates and their bound. seconds: of measuring, about, once the samples are open.

    Raises DataError if the database cannot be read, or has no catalog.
    """
    if not seconds > 0:
        raise DataError(f"--seconds {seconds} is not above 0: give about how long it may take")
    load, began = os.getloadavg()[0], time.perf_counter()
    samples = Samples(db, *drawn_from(db))
    print(f"{db}: {len(samples):,} samples, opened in {time.perf_counter() - began:.1f} s")
    if report := samples.report():
        print(report)
    figures = measure(samples, seconds)
    print(*rows(figures), sep="\n")
    if load > _LOADED * cores():
        print(f"other programs keep this machine busy (load {load:.1f} on {cores()} cores): rates are low")
    print(verdict(figures))


def drawn_from(db: Path) -> tuple[str, Pools]:
    """The modality, "ms+sar" if any sample has both, and the bands to draw: the paper's, or all where it has none.

    Raises DataError if no entry can be read.
    """
    databases = Databases(db)
    first: dict[str, tuple[Piece, np.ndarray]] = {}
    for piece in databases:
        for modality in MODALITIES:
            if modality not in first and (has := piece.catalog.mask(modality=modality)).any():
                first[modality] = piece, has
        if "ms+sar" in first:
            break
    if not first:
        raise DataError(f"{db}: its catalog holds no sample: ingest into the database first")
    modality = next(modality for modality in MODALITIES if modality in first)
    piece, has = first[modality]
    reader = Reader(databases.folders, bands.spellings())
    pools: Pools = {"ms": (), "sar": ()}
    for name in modality.split("+"):
        keys = getattr(piece.catalog, name)[has][:_PROBED].tolist()
        pools[name] = _held(reader, keys, piece.database, name)
    return modality, pools


def _held(reader: Reader, keys: list[str], database: int, modality: str) -> tuple[str, ...]:
    """The bands of the first sound entry among `keys`: those of the paper, else all."""
    names = {spelling: bands.NAMES[band] for band, every in enumerate(bands.spellings()) for spelling in every}
    reason = ""
    for key in keys:
        try:
            tensors = reader.describe(key, database)
        except DataError as error:
            reason = reason or f"; the first: {error}"
            continue
        held = [names[name] for name in tensors if name in names and bands.BANDS[names[name]].modality == modality]
        if held:
            return tuple(name for name in held if name in (*bands.MS, *bands.SAR)) or tuple(held)
    raise DataError(f"{reader.paths[database]}: none of {len(keys)} entries holds a band to read{reason}")


def measure(samples: Samples, seconds: float) -> Figures:
    """All rates, in about so many seconds."""
    files = [folder / DATA for folder in samples.databases.folders]
    free = free_memory()
    source = np.ones(min(_SOURCE, free // 4), np.uint8)
    rates: dict[tuple[str, str], Rate | str] = {}
    copied = []
    with progress("measuring", 2 * len(READS)) as show:
        for done, (name, drawn) in enumerate(READS.items()):
            loader = Loader(samples, batch=min(BATCH, len(samples)), bands=drawn)
            loader.stop = min(loader.steps_per_epoch, max(free // 4 // loader.shape.room, 1))
            show(2 * done, f"{name}, cold")
            cold = all(list(map(evict, files)))  # evict every one
            first = read(loader, seconds / 5)
            rates[name, "cold"] = first if cold else _KEPT
            loader.stop = loader.state_dict()["step"]  # from now on these steps alone, which are in the page cache
            show(2 * done + 1, f"{name}, warm")
            warm = []
            for _ in range(_TURNS):  # in turns, and the best of each, since other programs disturb
                warm.append(read(loader, 0.3 * seconds / 2 / _TURNS, again=True))
                block = max(int(loader.shape.room / np.prod(loader.shape[:3])), 1)
                copied.append(_memcpy(source, block, samples.threads, 0.3 * seconds / 2 / _TURNS))
            best = max(warm, key=lambda rate: rate.bytes)
            rates[name, "warm"] = best if best.disk < COLD * best.bytes else _LOST
    return Figures(rates, max(copied), samples.threads, sum(path.stat().st_size for path in files), free)


def read(loader: Loader, seconds: float, again: bool = False) -> Rate:
    """Read a loader's steps, for `seconds` at most; again: anew until then."""
    before, began, cpu, blocks = loader.stats(), time.perf_counter(), time.process_time(), _blocks()
    over = False
    while not over:
        loader.load_state_dict(loader.state_dict() | {"step": 0})
        for _ in loader:
            if over := time.perf_counter() - began >= seconds:
                break
        loader.close()
        over = over or not again
    took, used, after = time.perf_counter() - began, time.process_time() - cpu, loader.stats()
    disk = (_blocks() - blocks) * 512 / took
    samples, moved, waited = ((after[name] - before[name]) / took for name in ("samples", "bytes", "waited"))
    return Rate(samples, moved, took, min(used / took / loader.samples.threads, 1), min(waited, 1), disk)


def _blocks() -> int:
    """Blocks of 512 bytes that this process has read from disks."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _memcpy(source: np.ndarray, block: int, threads: int, seconds: float) -> float:
    """Bytes a second of memcpy on `threads` threads: blocks of so many bytes, at random, into 32 blocks a thread."""
    began = time.perf_counter()

    def work(thread: int) -> int:
        rng, out, copied = np.random.default_rng(thread), np.ones(32 * block, np.uint8), 0
        ends = np.arange(_BLOCKS) % 32 * block, np.full(_BLOCKS, block)
        while not copied or time.perf_counter() - began < seconds:
            starts = rng.integers(0, max(len(source) - block, 1), _BLOCKS)  # anew: blocks read before lie in the caches
            copy_blocks(source, np.column_stack([starts, *ends]), out)
            copied += _BLOCKS * block
        return copied

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads))) / (time.perf_counter() - began)


def rows(figures: Figures) -> Iterator[str]:
    """The table's lines."""
    line = "{:<20}{:>12}{:>12}{:>12}{:>12}   {}".format
    yield line("", "samples/s", "MB/s", "of memcpy", "cores busy", "bound")
    for (name, state), rate in figures.rates.items():
        cells = ["-", "-", "-", "-", "not measured"]
        if isinstance(rate, Rate):
            shares = percent(rate.bytes / figures.memcpy), percent(rate.busy)
            cells = [f"{rate.samples:,.0f}", f"{rate.bytes / 1e6:,.0f}", *shares, figures.bound(rate, state)]
        yield line(f"{name}, {state}", *cells)
    yield line("memcpy", "", f"{figures.memcpy / 1e6:,.0f}", "", "", "").rstrip()


def verdict(figures: Figures) -> str:
    """One sentence: the samples a second of drawn bands, as training reads them, and their bound."""
    cold, warm = (figures.rates["drawn bands", state] for state in ("cold", "warm"))
    if isinstance(cold, Rate) and cold.seconds < _SHORT:
        return f"too small to judge: the samples were read in {cold.seconds:.2f} s"
    parts = []
    for state, rate in (("cold", cold), ("warm", warm)):
        if isinstance(rate, str):
            parts.append(f"{state}, not measured: {rate}")
            continue
        why = {
            "memory": f"memory ({percent(rate.bytes / figures.memcpy)} of memcpy)",
            "disk": f"the disk ({figures.threads} threads wait {percent(1 - rate.busy)} of the time)",
            "cores": f"the cores ({figures.threads} threads on a core {percent(rate.busy)} of the time)",
            "consumer": f"the consumer of the batches (it waits {percent(rate.waited)} of the time)",
        }[figures.bound(rate, state)]
        parts.append(f"{state}, {rate.samples:,.0f} samples/s, bound by {why}")
    fits = figures.database <= figures.free
    epochs = "fits in free memory: only the first epoch is cold" if fits else "exceeds free memory: every epoch is cold"
    return f"training reads {'; '.join(parts)}; the database ({size(figures.database)}) {epochs}"
