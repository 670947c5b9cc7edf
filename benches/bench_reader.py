"""The reader beside its peers, on databases that are made on the spot: `pytest benches/bench_reader.py --rows=FOLDER`.

    --pairs=N       pairs of patches in the database; 20,000 unless told, 5.7 GB
    --folder=PATH   where the databases are made, and found again; a temporary folder unless told
    --rows=FOLDER   append what was measured to FOLDER/reader.csv; without it nothing is written

Each contender is first held byte for byte against what py-lmdb and the safetensors package read; what is wrong gets
no figure. Two contenders then take turns, in one process, over the same samples; a row tells the ratio of their speeds,
and its 20th and 80th percentile over the turns. The peers are given the order of the samples and the drawn bands; the
reader works them out in the time that is measured.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from benches.peers import Absent, peer
from benches.reading import processes
from benches.reading.cold import against, race
from benches.reading.disk import Direct
from benches.reading.measure import Wrong, cores, duel, one_core, quantiles, single
from benches.reading.ours import Ours
from benches.reading.pairs import BIGEARTHNET, SMALL, Pairs, Shape, make
from benches.reading.peers import ByHand, ConfigILM, Contender, Loaded, Memcpy, Raster, write_tiffs
from benches.reading.plan import Plan
from benches.reading.progress import making
from benches.reading.record import Tell, teller
from rsdnet.errors import DataError

FULL, LEAST = 20_000, 8  # pairs
SAMPLES, BYTES = "x samples/s", "x bytes/s"
DRAWN, WHOLE = "one MS and one SAR band", "all bands"
FIXED = ("B02", "VV")
ALL = (*BIGEARTHNET.ms, *BIGEARTHNET.sar)
COLD_ROUNDS, COST_ROUNDS = 5, 7


class Scale(NamedTuple):
    """How long a run is. batch: samples; steps: batches of a turn; rounds: turns of each; processes: for memory."""

    batch: int
    steps: int
    rounds: int
    processes: int


class Setting(NamedTuple):
    """What every row needs. show: an outcome in the summary; tell: that and a row."""

    show: Callable[[str, str, str], None]
    tell: Tell
    scale: Scale
    database: Callable[[Shape, int], Pairs]
    pairs: int
    shares: dict[str, float]  # of memcpy's speed, by what is read

    def plan(self, names: tuple[str, ...] = ()) -> Plan:
        """Over the large database."""
        return Plan(self.database(BIGEARTHNET, self.pairs), self.scale.batch, names)

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
            self.tell(what, other.name, ratio, unit, target, note)

    @contextmanager
    def attempt(self, what: str, contender: str) -> Iterator[None]:
        """A row that says why where a peer is absent; a failure, and no figure, where a contender is wrong."""
        try:
            yield
        except Absent as reason:
            self.tell(what, contender, None, note=f"absent: {reason}")
            pytest.skip(str(reason))
        except Wrong as error:
            self.show(what, error.contender, f"WRONG: {error}")
            pytest.fail(f"{error.contender}: {error}", pytrace=False)


@pytest.fixture(scope="session")
def setting(pytestconfig: pytest.Config) -> Iterator[Setting]:
    """Databases are made when a row first needs them, and kept for the others."""
    pairs, folder = pytestconfig.getoption("pairs"), pytestconfig.getoption("folder")
    if pairs < LEAST:
        pytest.exit(f"error: --pairs {pairs}: give at least {LEAST}", returncode=2)
    scale = Scale(256, 4, 19, 3) if pairs >= FULL else Scale(min(256, pairs // 4), 1, 3, 1)

    def show(what: str, contender: str, outcome: str) -> None:
        pytestconfig.told.append((what, contender, outcome))  # type: ignore[attr-defined]

    with TemporaryDirectory(prefix="rsdnet-bench-") if folder is None else nullcontext(folder) as place:

        @cache
        def database(shape: Shape, count: int) -> Pairs:
            try:
                with making(pytestconfig) as progress:
                    return make(Path(place), shape, count, progress)
            except DataError as error:
                pytest.exit(f"error: {error}", returncode=2)

        yield Setting(show, teller(pairs, pytestconfig.getoption("rows"), show), scale, database, pairs, {})


# ---- one thread, warm cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ALL], ids=["drawn", "whole"])
def bench_against_memcpy(setting: Setting, names: tuple[str, ...]) -> None:
    """Bytes a second of one thread, beside memcpy of the same blocks in the same order to the same slots."""
    plan = setting.plan(names)
    with one_core():
        ours = Ours(plan, 1)
        other = Memcpy(plan, [slot[0] for slot in ours.slots])
        setting.duel(f"{WHOLE if names else DRAWN}, one thread", ours, other, BYTES, ">= 0.7")


def bench_whole_against_configilm(setting: Setting) -> None:
    """All bands at native resolution, beside ConfigILM's."""
    plan = setting.plan(ALL)
    with one_core():
        other = ConfigILM(plan)
        setting.duel(f"{WHOLE}, one thread", Ours(plan, 1), other, target=">= 25", note=other.note)


def bench_drawn_against_configilm(setting: Setting) -> None:
    """Drawn bands, beside ConfigILM's all bands: it can choose its bands once, not by sample."""
    plan = setting.plan()
    with one_core():
        other = ConfigILM(plan)
        setting.duel(f"{DRAWN}, one thread", Ours(plan, 1), other, target=">= 60", note=other.note)


def bench_fixed_against_configilm(setting: Setting) -> None:
    """The two bands that ConfigILM is told once: it decodes both entries and resamples two bands."""
    plan = setting.plan(FIXED)
    with one_core():
        other = ConfigILM(plan, FIXED)
        setting.duel(f"{' and '.join(FIXED)}, one thread", Ours(plan, 1), other, note=other.note)


@pytest.mark.parametrize("frombuffer", [False, True], ids=["slices", "frombuffer"])
def bench_against_python(setting: Setting, frombuffer: bool) -> None:
    """Drawn bands, beside the best way found in pure Python, and beside np.frombuffer."""
    plan = setting.plan()
    with one_core():
        setting.duel(f"{DRAWN}, one thread", Ours(plan, 1), ByHand(plan, frombuffer), target=">= 3")


def bench_look_ahead_on_a_warm_cache(setting: Setting) -> None:
    """What look-ahead hints cost where nothing is to be fetched."""
    plan = setting.plan()
    with one_core():
        on, off = (Ours(plan, 1, hints=hints, name=f"look-ahead {hints}") for hints in ("on", "off"))
        setting.duel(f"{DRAWN}, one thread, look-ahead on", on, off)


# ---- several threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ALL], ids=["drawn", "whole"])
def bench_threads(setting: Setting, names: tuple[str, ...]) -> None:
    """Two threads, and all cores, beside one; and what threads are worth to memcpy."""
    plan, what = setting.plan(names), WHOLE if names else DRAWN
    one = Ours(plan, 1, name="one thread")
    for threads in sorted({2, cores()}):
        if threads > cores():
            setting.tell(f"{what}, {threads} threads", one.name, None, note=f"absent: {cores()} core")
            continue
        target = ">= 1.7" if threads == 2 else ">= 12" if threads >= 16 else ""
        setting.duel(f"{what}, {threads} threads", Ours(plan, threads), one, target=target)
        slots = [slot[0] for slot in one.slots]
        many, single = Memcpy(plan, slots, threads), Memcpy(plan, slots)
        setting.duel(f"{many.name}: {what}", many, single, BYTES, note="for comparison: what the memory gives")


def bench_against_dataloader(setting: Setting) -> None:
    """Drawn bands on all cores, beside torch's DataLoader with a worker a core."""
    plan = setting.plan()
    other = Loaded(plan, cores())
    try:
        setting.duel(f"{DRAWN}, {cores()} threads", Ours(plan, cores()), other, target=">= 15")
    finally:
        other.close()


def bench_against_ffcv(setting: Setting) -> None:
    """Why FFCV has no figure: where it can be imported, its fields still hold no such bands."""
    with setting.attempt(DRAWN, "FFCV"):
        peer("ffcv")
        raise Absent("its fields are 8-bit RGB images or arrays of one size, not bands of 120, 60 and 20 px")


@pytest.mark.parametrize("names", [(), ALL], ids=["drawn", "whole"])
def bench_against_rasterio(setting: Setting, names: tuple[str, ...], tmp_path: Path) -> None:
    """A few hundred pairs, beside rasterio over GeoTIFFs of them."""
    pairs = setting.plan().pairs
    count = min(len(pairs), 300)
    few = Pairs(pairs.folder, pairs.shape, pairs.ms[:count], pairs.sar[:count])
    plan = Plan(few, max(1, count // 6), names)
    what = f"{WHOLE if names else DRAWN} of {count} pairs, one thread"
    with setting.attempt(what, "rasterio, GeoTIFFs"), one_core():
        other = Raster(plan, tmp_path)
        write_tiffs(few, tmp_path)
        setting.tell(what, other.name, duel(Ours(plan, 1), other, steps=1, rounds=5), SAMPLES)


# ---- disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ALL], ids=["drawn", "whole"])
def bench_cold_cache(setting: Setting, names: tuple[str, ...]) -> None:
    """All cores on a cold cache, with look-ahead and without, by map and by pread, beside the disk itself."""
    plan, what = setting.plan(names), f"{WHOLE if names else DRAWN}, cold cache, {cores()} threads"
    asked, automatic, unasked = (f"look-ahead {hints}" for hints in ("on", "auto", "off"))
    read, alone = (f"access pread, look-ahead {hints}" for hints in ("on", "off"))
    with setting.attempt(what, unasked):
        disk = [Direct(plan, random) for random in (False, True)]
        readers = [Ours(plan, cores(), hints=name.split()[-1], name=name) for name in (asked, automatic, unasked)]
        readers += [Ours(plan, cores(), "pread", name.split()[-1], name) for name in (read, alone)]
        rounds = min(setting.scale.rounds, COLD_ROUNDS)
        speeds = race([*readers, *disk], steps=max(1, setting.scale.steps // 2), rounds=rounds)
    told = ", ".join(f"{other.name} {statistics.median(speeds[other.name]) / 1e6:,.0f} MB/s" for other in disk)
    for ours, other in ((asked, unasked), (automatic, unasked), (alone, unasked), (read, alone), (read, asked)):
        setting.tell(f"{what}, {ours}", other, against(speeds, ours, other), SAMPLES)
    for own in disk:
        setting.tell(f"{what}, {automatic}", own.name, against(speeds, automatic, own.name), BYTES, note=told)


# ---- scale: small values, so that entries cost and bytes do not ---------------------------------------------


def bench_memory_by_samples(setting: Setting) -> None:
    """Resident memory while streaming, 200,000 samples against 20,000, as a user streams them."""
    few = min(setting.pairs, FULL)
    counts = few, 10 * few
    databases = [setting.database(SMALL, count) for count in counts]
    taken = [
        [processes.memory(pairs, setting.scale.batch) for pairs in databases] for _ in range(setting.scale.processes)
    ]
    what, other = f"resident memory streaming {counts[1]:,} samples", f"{counts[0]:,} samples"
    for name, kind, target in (("own", "without pages of files", "<= 1.05"), ("all", "with pages of files", "")):
        ratio = quantiles([large[name] / small[name] for small, large in taken])
        small, large = (statistics.median(both[n][name] for both in taken) / 1024 for n in (0, 1))
        note = f"{large:,.0f} against {small:,.0f} MiB, torch's and pyarrow's own among them"
        setting.tell(f"{what}, {kind}", other, ratio, "x memory", target, note)


def bench_cost_by_entries(setting: Setting) -> None:
    """Cost of a sample in random order, 1,000,000 entries against 20,000."""
    few = min(setting.pairs, FULL) // 2
    many = 50 * few
    plans = [Plan(setting.database(SMALL, count), min(setting.scale.batch, count)) for count in (few, many)]
    with one_core():
        small, large = (Ours(plan, 1, name=f"{2 * len(plan.pairs):,} entries") for plan in plans)
        ratio = duel(small, large, steps=max(1, many // setting.scale.batch // COST_ROUNDS), rounds=COST_ROUNDS)
    what = f"cost of a sample of small values, {large.name}, one thread"
    setting.tell(what, small.name, ratio, "x time a sample", "<= 1.3")


def bench_allocations(setting: Setting) -> None:
    """Calls of malloc and its like in the steady state."""
    pairs = setting.database(SMALL, min(setting.pairs, FULL))
    for threads in sorted({1, cores()}):
        what = f"calls of malloc a batch, {threads} thread{'s' * (threads > 1)}"
        with setting.attempt(what, "none"):
            taken = processes.allocations(pairs, setting.scale.batch, threads)
        setting.tell(what, "none", single(taken["engine"]), "calls a batch", "<= 0", "the C++ stream")
        note = "rsdnet.data.loader.Loader around it: Python's objects"
        setting.tell(f"{what}, in Python", "none", single(taken["stream"]), "calls a batch", note=note)
