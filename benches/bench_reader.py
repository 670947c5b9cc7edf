"""The reader beside its peers, on databases made on the spot: `pytest benches/bench_reader.py --rows=FOLDER`.

    --pairs=N       pairs of patches in the database; 20,000 unless told, 5.7 GB
    --folder=PATH   where the databases are made, and found again; a temporary folder unless told
    --rows=FOLDER   append the rows to FOLDER/reader.csv; without it nothing is written

Each contender is first compared, byte for byte, with what py-lmdb and the safetensors package read; wrong bytes get no
figure. Two contenders then take turns, in one process, over the same samples. The peers are given the order of the
samples and the drawn bands; the reader works them out in the measured time.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from benches.core.peers import Absent, peer
from benches.core.rows import Results
from benches.core.turns import Wrong, against, cores, quantiles
from benches.reader import processes
from benches.reader.disk import Direct
from benches.reader.harness import Contender, cold_race, duel, one_core
from benches.reader.ours import Ours
from benches.reader.pairs import BIGEARTHNET, SMALL, Pairs, Shape, make
from benches.reader.peers import ByHand, ConfigILM, Loaded, Memcpy, Raster, write_tiffs
from benches.reader.workload import Workload
from rsdnet.console import progress
from rsdnet.errors import DataError

FULL, LEAST = 20_000, 8  # pairs
SAMPLES, BYTES = "x samples/s", "x bytes/s"
FIXED = ("B02", "VV")
ALL = (*BIGEARTHNET.ms, *BIGEARTHNET.sar)
READ = {(): "one MS and one SAR band", ALL: "all bands", FIXED: "B02 and VV"}
COLD_ROUNDS, COST_ROUNDS = 5, 7
drawn_and_whole = pytest.mark.parametrize("names", [(), ALL], ids=["drawn", "whole"])


class Scale(NamedTuple):
    """Length of a run. batch: samples; steps: batches of a turn; rounds: turns of each; processes: for memory."""

    batch: int
    steps: int
    rounds: int
    processes: int


class Bench:
    """Databases, rows, and the length of a run. shares: of memcpy's speed, by what is read."""

    def __init__(self, results: Results, pairs: int, database: Callable[[Shape, int], Pairs]) -> None:
        self.results, self.pairs, self.database = results, pairs, database
        self.scale = Scale(256, 4, 19, 3) if pairs >= FULL else Scale(min(256, pairs // 4), 1, 3, 1)
        self.shares: dict[str, float] = {}

    def workload(self, names: tuple[str, ...] = ()) -> Workload:
        """Over the large database."""
        return Workload(self.database(BIGEARTHNET, self.pairs), self.scale.batch, names)

    def tell(self, what: str, contender: str, measured: Any, unit: str = "", **more: str) -> None:
        """A row."""
        self.results.tell({"pairs": self.pairs}, what, contender, measured, unit, **more)  # type: ignore[arg-type]

    def duel(
        self, what: str, ours: Contender, other: Contender, unit: str = SAMPLES, target: str = "", note: str = ""
    ) -> None:
        """A row: how many times the other's speed ours is."""
        with self.attempt(what, other.name):
            ratio = duel(ours, other, steps=self.scale.steps, rounds=self.scale.rounds)
            if isinstance(other, Memcpy) and isinstance(ours, Ours):
                self.shares[what] = ratio.p50
            elif what in self.shares:  # memory bounds it where this is near 1
                note = "; ".join(filter(None, [note, f"ours moves {self.shares[what]:.2f} of memcpy's bytes/s"]))
            self.tell(what, other.name, ratio, unit, target=target, note=note)

    @contextmanager
    def attempt(self, what: str, contender: str) -> Iterator[None]:
        """A row with the reason where a peer is absent; a failure, and no row, where a contender is wrong."""
        try:
            yield
        except Absent as reason:
            self.tell(what, contender, None, note=f"absent: {reason}")
            pytest.skip(str(reason))
        except Wrong as error:
            self.results.show(what, error.contender, f"WRONG: {error}")
            pytest.fail(f"{error.contender}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config, results: Callable[..., Results]) -> Iterator[Bench]:
    """Databases are made when a row first needs them, and kept for the others."""
    pairs, folder = pytestconfig.getoption("pairs"), pytestconfig.getoption("folder")
    if pairs < LEAST:
        pytest.exit(f"error: --pairs {pairs}: give at least {LEAST}", returncode=2)
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with TemporaryDirectory(prefix="rsdnet-bench-") if folder is None else nullcontext(folder) as place:

        @cache
        def database(shape: Shape, count: int) -> Pairs:
            try:
                with capture.global_and_fixture_disabled(), progress(f"{shape.name} database", count, "pairs") as done:
                    return make(Path(place), shape, count, done)
            except DataError as error:
                pytest.exit(f"error: {error}", returncode=2)

        yield Bench(results("reader", ("numpy", "lmdb", "safetensors")), pairs, database)


# ---- one thread, warm cache ---------------------------------------------------------------------------------


@drawn_and_whole
def bench_against_memcpy(bench: Bench, names: tuple[str, ...]) -> None:
    """Bytes a second of one thread, beside memcpy of the same blocks in the same order to the same slots."""
    workload = bench.workload(names)
    with one_core():
        ours = Ours(workload, 1)
        other = Memcpy(workload, [slot[0] for slot in ours.slots])
        bench.duel(f"{READ[names]}, one thread", ours, other, BYTES, ">= 0.7")


@pytest.mark.parametrize(
    ("names", "theirs", "target"),
    [(ALL, (), ">= 25"), ((), (), ">= 60"), (FIXED, FIXED, "")],
    ids=["whole", "drawn", "fixed"],
)
def bench_against_configilm(bench: Bench, names: tuple[str, ...], theirs: tuple[str, ...], target: str) -> None:
    """Beside ConfigILM's all bands, since it cannot choose them by sample; of two fixed bands, beside its two."""
    workload, what = bench.workload(names), f"{READ[names]}, one thread"
    with bench.attempt(what, "ConfigILM"), one_core():
        bench.duel(what, Ours(workload, 1), ConfigILM(workload, theirs), target=target)


@pytest.mark.parametrize("frombuffer", [False, True], ids=["slices", "frombuffer"])
def bench_against_python(bench: Bench, frombuffer: bool) -> None:
    """Drawn bands, beside the best way found in pure Python, and beside np.frombuffer."""
    workload = bench.workload()
    with one_core():
        bench.duel(f"{READ[()]}, one thread", Ours(workload, 1), ByHand(workload, frombuffer), target=">= 3")


def bench_look_ahead_on_a_warm_cache(bench: Bench) -> None:
    """Cost of the look-ahead hints where nothing is to be fetched."""
    workload = bench.workload()
    with one_core():
        on, off = (Ours(workload, 1, hints=hints, name=f"look-ahead {hints}") for hints in ("on", "off"))
        bench.duel(f"{READ[()]}, one thread, look-ahead on", on, off)


# ---- several threads ----------------------------------------------------------------------------------------


@drawn_and_whole
def bench_threads(bench: Bench, names: tuple[str, ...]) -> None:
    """Two threads, and all cores, beside one; and the gain of memcpy by as many threads."""
    workload, what = bench.workload(names), READ[names]
    one = Ours(workload, 1, name="one thread")
    slots = [slot[0] for slot in one.slots]
    for threads in sorted({2, cores()}):
        if threads > cores():
            bench.tell(f"{what}, {threads} threads", one.name, None, note=f"absent: {cores()} core")
            continue
        target = ">= 1.7" if threads == 2 else ">= 12" if threads >= 16 else ""
        bench.duel(f"{what}, {threads} threads", Ours(workload, threads), one, target=target)
        many, single = Memcpy(workload, slots, threads), Memcpy(workload, slots)
        bench.duel(f"{many.name}: {what}", many, single, BYTES, note="for comparison: the memory's own gain")


def bench_against_dataloader(bench: Bench) -> None:
    """Drawn bands on all cores, beside torch's DataLoader with a worker a core."""
    workload = bench.workload()
    other = Loaded(workload, cores())
    try:
        bench.duel(f"{READ[()]}, {cores()} threads", Ours(workload, cores()), other, target=">= 15")
    finally:
        other.close()


def bench_against_ffcv(bench: Bench) -> None:
    """The reason why FFCV has no figure: also where it can be imported, its fields hold no such bands."""
    with bench.attempt(READ[()], "FFCV"):
        peer("ffcv")
        raise Absent("its fields are 8-bit RGB images or arrays of one size, not bands of 120, 60 and 20 px")


@drawn_and_whole
def bench_against_rasterio(bench: Bench, names: tuple[str, ...], tmp_path: Path) -> None:
    """A few hundred pairs, beside rasterio over GeoTIFFs of them."""
    pairs = bench.workload().pairs
    count = min(len(pairs), 300)
    few = Pairs(pairs.folder, pairs.shape, pairs.ms[:count], pairs.sar[:count])
    workload = Workload(few, max(1, count // 6), names)
    what = f"{READ[names]} of {count} pairs, one thread"
    with bench.attempt(what, "rasterio, GeoTIFFs"), one_core():
        other = Raster(workload, tmp_path)
        write_tiffs(few, tmp_path)
        bench.tell(what, other.name, duel(Ours(workload, 1), other, steps=1, rounds=5), SAMPLES)


# ---- disk ---------------------------------------------------------------------------------------------------


@drawn_and_whole
def bench_cold_cache(bench: Bench, names: tuple[str, ...]) -> None:
    """All cores on a cold cache, with look-ahead and without, beside the disk itself."""
    workload, what = bench.workload(names), f"{READ[names]}, cold cache, {cores()} threads"
    asked, automatic, unasked = (f"look-ahead {hints}" for hints in ("on", "auto", "off"))
    with bench.attempt(what, unasked):
        disks = [Direct(workload, random) for random in (False, True)]
        readers = [Ours(workload, cores(), hints=name.split()[-1], name=name) for name in (asked, automatic, unasked)]
        rounds = min(bench.scale.rounds, COLD_ROUNDS)
        times = cold_race(readers, disks, steps=max(1, bench.scale.steps // 2), rounds=rounds)
    for ours, other in ((asked, unasked), (automatic, unasked)):
        bench.tell(f"{what}, {ours}", other, against(times, ours, other), SAMPLES)
    told = ", ".join(f"{disk.name} {1e-6 / statistics.median(times[disk.name]):,.0f} MB/s" for disk in disks)
    for disk in disks:
        bench.tell(f"{what}, {automatic}", disk.name, against(times, automatic, disk.name), BYTES, note=told)


# ---- scale: small values, so that entries cost and bytes do not ---------------------------------------------


def bench_memory_by_samples(bench: Bench) -> None:
    """Resident memory while streaming, 200,000 samples against 20,000, as a user streams them."""
    few = min(bench.pairs, FULL)
    counts = few, 10 * few
    databases = [bench.database(SMALL, count) for count in counts]
    batch = bench.scale.batch
    taken = [[processes.memory(pairs, batch) for pairs in databases] for _ in range(bench.scale.processes)]
    what, other = f"resident memory streaming {counts[1]:,} samples", f"{counts[0]:,} samples"
    for name, kind, target in (("own", "without pages of files", "<= 1.05"), ("all", "with pages of files", "")):
        ratio = quantiles([large[name] / small[name] for small, large in taken])
        small, large = (statistics.median(both[n][name] for both in taken) / 1024 for n in (0, 1))
        note = f"{large:,.0f} against {small:,.0f} MiB, torch's and pyarrow's own among them"
        bench.tell(f"{what}, {kind}", other, ratio, "x memory", target=target, note=note)


def bench_cost_by_entries(bench: Bench) -> None:
    """Cost of a sample in random order, 1,000,000 entries against 20,000."""
    few = min(bench.pairs, FULL) // 2
    many, batch = 50 * few, bench.scale.batch
    workloads = [Workload(bench.database(SMALL, count), min(batch, count)) for count in (few, many)]
    with one_core():
        small, large = (Ours(workload, 1, name=f"{2 * len(workload.pairs):,} entries") for workload in workloads)
        ratio = duel(small, large, steps=max(1, many // batch // COST_ROUNDS), rounds=COST_ROUNDS)
    what = f"cost of a sample of small values, {large.name}, one thread"
    bench.tell(what, small.name, ratio, "x time a sample", target="<= 1.3")


def bench_allocations(bench: Bench) -> None:
    """Calls of malloc and its like in the steady state."""
    pairs = bench.database(SMALL, min(bench.pairs, FULL))
    for threads in sorted({1, cores()}):
        what = f"calls of malloc a batch, {threads} thread{'s' * (threads > 1)}"
        with bench.attempt(what, "none"):
            taken = processes.allocations(pairs, bench.scale.batch, threads)
        bench.tell(what, "none", taken["stream"], "calls a batch", target="<= 0", note="the C++ stream")
        note = "the loader around it: Python's objects"
        bench.tell(f"{what}, in Python", "none", taken["loader"], "calls a batch", note=note)
