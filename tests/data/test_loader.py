"""The loader: a batch is a pure function of (seed, epoch, position), however it is read."""

import gc
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data.cache import load
from rsdnet.data.catalog import Catalog
from rsdnet.data.databases import quotas as quotas_of
from rsdnet.data.loader import Batch, Drawn, Loader, Part, Ring
from rsdnet.data.samples import Samples
from rsdnet.data.statistics import write_stats
from rsdnet.errors import DataError
from tests.support import mixed
from tests.support import order_oracle as oracle


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three databases: of other sizes, other types and other numbers of samples."""
    root = tmp_path_factory.mktemp("loader")
    return [
        mixed.make(root / "a", 23, side=12, seed=1),
        mixed.make(root / "b", 10, side=18, ms=np.float32, sar=np.int16, seed=2),
        mixed.make(root / "c", 31, side=8, ms=np.int16, sar=np.float16, seed=3),
    ]


@pytest.fixture(scope="module")
def truth(folders: list[Path]) -> mixed.Truth:
    return mixed.Truth(folders)


@pytest.fixture(scope="module")
def samples(folders: list[Path]) -> Samples:
    return mixed.samples_of(*folders)


def take(loader: Loader, count: int | None = None) -> list[Batch]:
    """Copies of the batches of one iteration, all or the first `count`."""
    return [mixed.copied(batch) for batch in itertools.islice(loader, count)]


# ---- what a batch holds ----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**63 - 1), batch=st.integers(1, 20), world=st.integers(1, 4), drop_last=st.booleans(),
    views=st.integers(1, 3), channels=st.integers(1, 3), modality=st.sampled_from(["ms+sar", "ms", "sar"]),
    weights=st.sampled_from([(), (1, 1, 1), (5, 0, 1), (0.1, 3, 0.2)]), threads=st.integers(1, 4),
    slots=st.integers(1, 5), ahead=st.integers(0, 3), epoch=st.integers(0, 3),
)  # fmt: skip
def test_every_batch_of_every_rank_is_what_plain_python_says(
    folders: list[Path], truth: mixed.Truth, seed: int, batch: int, world: int, drop_last: bool, views: int,
    channels: int, modality: str, weights: tuple[float, ...], threads: int, slots: int, ahead: int, epoch: int,
) -> None:  # fmt: skip
    samples = mixed.samples_of(*folders, modality=modality, threads=threads)
    quotas = quotas_of(weights, truth.counts, folders) if weights else None
    steps = 64 // (batch * world) if drop_last else -(-64 // (batch * world))
    for rank in range(world if steps else 0):
        with Loader(
            samples, batch=batch, seed=seed, bands=Drawn(views, channels), part=Part(rank, world), drop_last=drop_last,
            weights=weights, ring=Ring(slots, ahead), start=epoch * steps,
        ) as loader:  # fmt: skip
            assert loader.steps_per_epoch == steps
            found = take(loader)
        assert [one.step for one in found] == list(range(epoch * steps, (epoch + 1) * steps))
        for step, one in enumerate(found):
            positions = oracle.shard(64, batch, world, rank, step)
            truth.check(one, seed=seed, expected=truth.numbers(seed, epoch, quotas, positions), modality=modality)


def test_the_bands_asked_for_are_read_of_every_sample(samples: Samples, truth: mixed.Truth) -> None:
    names = ["VV", "B02", "B8A"]
    (found, *_) = take(Loader(samples, batch=16, bands=names))
    assert found.records.shape == (16, 1, 3, 5)
    assert (found.records[:, 0, :, 4] == torch.tensor([bands.band_id(name) for name in names])).all()
    truth.check_bytes(found)
    (found, *_) = take(Loader(samples, batch=16, bands="all"))
    assert [bands.NAMES[band] for band in found.records[0, 0, :, 4]] == [*bands.MS, *bands.SAR]
    truth.check_bytes(found)


def test_a_database_of_larger_patches_than_its_first_sample(tmp_path: Path) -> None:
    """A slot holds the largest band there is, of any sample."""
    db = mixed.make(tmp_path / "db", 12)
    mixed.replace(db, {"s2_4": save({name: np.full((100, 100), 7, np.uint16) for name in bands.MS})})
    samples = mixed.samples_of(db, modality="ms")
    truth = mixed.Truth([db])
    for batch in take(Loader(samples, batch=4, bands=Drawn(2, 3))):
        truth.check_bytes(batch)


# ---- the order -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 7))
def test_the_ragged_end_is_dropped_or_divided_evenly(samples: Samples, batch: int, world: int) -> None:
    for drop_last in (True, False):
        if drop_last and batch * world > 64:
            with pytest.raises(DataError, match="64 samples"):
                Loader(samples, batch=batch, part=Part(0, world))
            continue
        ranks = [take(Loader(samples, batch=batch, part=Part(r, world), drop_last=drop_last)) for r in range(world)]
        steps = 64 // (batch * world) if drop_last else -(-64 // (batch * world))
        assert {len(own) for own in ranks} == {steps}
        seen = [row for step in zip(*ranks, strict=True) for own in step for row in own.samples.tolist()]
        assert seen == [oracle.permute(0, 0, 0, 64, p) for p in range(len(seen))]
        assert len(seen) == (steps * batch * world if drop_last else 64)
        last = [len(own[-1].samples) for own in ranks]
        assert max(last) - min(last) <= 1


def test_an_epoch_sees_each_sample_once_and_the_next_in_another_order(samples: Samples) -> None:
    loader = Loader(samples, batch=8, drop_last=False)
    epochs = [[row for batch in take(loader) for row in batch.samples.tolist()] for _ in range(3)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_weights_are_kept_exactly_and_repeats_are_drawn_anew(samples: Samples, truth: mixed.Truth) -> None:
    loader = Loader(samples, batch=8, weights=(0, 3, 1))
    visits = np.zeros(64, np.int64)
    for _ in range(4):
        batches = take(loader)
        positions = torch.cat([batch.positions for batch in batches]).numpy()
        numbers = torch.cat([batch.samples for batch in batches]).numpy()
        assert np.bincount(np.searchsorted([23, 33], positions, side="right"), minlength=3).tolist() == [0, 48, 16]
        assert len(np.unique(numbers)) == 64
        assert (numbers % 64 == positions).all()
        visits += np.bincount(positions, minlength=64)
    assert np.ptp(visits[23:33]) <= 1
    assert np.ptp(visits[33:]) <= 1


# ---- positions -------------------------------------------------------------------------------------------------------


def test_a_position_is_the_whole_resume_state(samples: Samples) -> None:
    whole = take(Loader(samples, batch=9, seed=1, stop=20))
    assert [batch.step for batch in whole] == list(range(20))
    assert [batch.epoch for batch in whole] == [step // 7 for step in range(20)]
    for at in range(21):
        mixed.same(take(Loader(samples, batch=9, seed=1, start=at, stop=20)), whole[at:])
        broken = Loader(samples, batch=9, seed=1, stop=20)
        take(broken, at) if at else None
        state = broken.state_dict()
        assert (state["step"], state["epoch"]) == (at, at // 7)
        fresh = Loader(samples, batch=9, seed=1, stop=20)
        fresh.load_state_dict(state)
        mixed.same(take(fresh), whole[at:])
        mixed.same(take(broken), whole[at:])  # and the one that was broken off goes on itself


def test_ranks_may_change_at_a_resume_where_the_global_batch_does_not(samples: Samples) -> None:
    one = Loader(samples, batch=8)
    whole = take(one)
    state = {**one.state_dict(), "step": 3, "epoch": 0}
    two = [Loader(samples, batch=4, part=Part(rank, 2)) for rank in range(2)]
    for loader in two:
        loader.load_state_dict(state)
    parts = [take(loader) for loader in two]
    for batch, first, second in zip(whole[3:], *parts, strict=True):
        assert batch.samples.tolist() == first.samples.tolist() + second.samples.tolist()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"batch": 4}, "global_batch is 8 in the state and 4 here"),
        ({"seed": 1}, "seed is 0"),
        ({"drop_last": False}, "drop_last"),
        ({"weights": (1, 1, 1)}, "quotas"),
    ],
)
def test_a_state_of_another_stream_is_refused(samples: Samples, other: dict, said: str) -> None:
    state = Loader(samples, batch=8).state_dict()
    with pytest.raises(DataError, match=said):
        Loader(samples, **{"batch": 8, **other}).load_state_dict(state)


def replaced(db: Path) -> None:
    mixed.replace(db, {"s1_3": save({name: np.full((24, 24), 7, np.float32) for name in bands.SAR})})


def reordered(db: Path) -> None:
    Catalog.read(db).take(np.arange(12)[::-1]).write(db)


def other_statistics(db: Path) -> None:
    described(db, 2.0)


def described(db: Path, mean: float) -> None:
    table = {"mean": mean, "std": 1.0, "count": 9, "invalid": 0}
    write_stats(db, dict.fromkeys((*bands.MS, *bands.SAR), table))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced, "data (entries of the same names hold other pixels)"),
        (reordered, "order (of the catalog's rows, or of the databases)"),
        (other_statistics, "statistics (B02: mean 1, deviation 1 then, mean 2, deviation 1 now; 11 more bands)"),
    ],
)
def test_a_state_of_other_data_is_refused(tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    db = mixed.make(tmp_path / "db", 12)
    described(db, 1.0)
    loader = Loader(db, batch=4)
    take(loader, 2)
    state = json.loads(json.dumps(loader.state_dict()))
    moved = db.rename(tmp_path / "moved")
    again = Loader(moved, batch=4)
    again.load_state_dict(state)
    assert again.state_dict() == state
    change(moved)
    other = Loader(moved, batch=4)
    with pytest.raises(DataError, match=re.escape(f"the state is of other data: {said}: bring them back")):
        other.load_state_dict(state)
    assert other.state_dict()["step"] == 0


def test_a_state_is_of_the_bands_that_are_read(folders: list[Path], samples: Samples) -> None:
    state = Loader(samples, batch=8).state_dict()
    with pytest.raises(DataError, match=r"drawn is \[2, 1\] in the state and \[2, 3\] here"):
        Loader(samples, batch=8, bands=Drawn(2, 3)).load_state_dict(state)
    fewer = Samples(folders, "ms+sar", {"ms": ("B04",), "sar": bands.SAR})
    with pytest.raises(DataError, match=r"bands \(.* then, B04 VV VH now\)"):
        Loader(fewer, batch=8).load_state_dict(state)


def test_a_state_from_before_its_data_were_noted_is_taken_with_a_warning(samples: Samples) -> None:
    state = Loader(samples, batch=8).state_dict() | {"step": 3}
    old = {name: state[name] for name in ("step", "epoch", "seed", "global_batch", "samples", "quotas", "drop_last")}
    loader = Loader(samples, batch=8)
    with pytest.warns(UserWarning, match="they were not compared"):
        loader.load_state_dict(old)
    assert loader.state_dict() == state
    for step in (None, -1, "3", 2**70):
        with pytest.raises(DataError, match="its step is"):
            loader.load_state_dict({**state, "step": step})


def test_a_state_that_is_damaged_is_told(samples: Samples) -> None:
    loader = Loader(samples, batch=8)
    state = loader.state_dict()
    for damaged in (None, [1], {**state, "identity": None}, {**state, "identity": {"version": 1}}):
        with pytest.raises(DataError, match="the state is damaged"):
            loader.load_state_dict(damaged)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range(samples: Samples, seed: int) -> None:
    with pytest.raises(DataError, match=r"seeds go from 0 to 2\^63 - 1"):
        Loader(samples, batch=8, seed=seed)


def test_an_unknown_way_to_treat_damage(folders: list[Path]) -> None:
    with pytest.raises(DataError, match="'skip': it must be one of leave out, raise"):
        Samples(folders, damaged="skip")  # type: ignore[arg-type]


# ---- mixed schemas and damage ----------------------------------------------------------------------------------------


def test_a_database_without_a_band_is_left_out_or_raised(tmp_path: Path, folders: list[Path]) -> None:
    lacking = mixed.make(tmp_path / "lacking", 7, names=(*bands.MS[1:], *bands.SAR))
    paths = [folders[0], lacking, folders[1]]
    samples = mixed.samples_of(*paths)
    assert samples.table.counts == [23, 0, 10]
    assert sum(samples.left_out.values()) == 7
    assert "left out 7 of 40" in (samples.report() or "")
    assert "B02" in (samples.report() or "")
    assert set(samples.rows) == {*range(23), *range(30, 40)}
    assert samples.catalog.samples.tolist() == [
        *mixed.catalog(folders[0], 23).samples,
        *mixed.catalog(folders[1], 10).samples,
    ]
    with Loader(samples, batch=11) as loader:
        assert torch.cat([batch.samples for batch in take(loader)]).unique().tolist() == samples.rows.tolist()
        assert loader.stats()["left_out"] == 7
    with pytest.raises(DataError, match=r"lacking.*s2_0.*B02"):
        mixed.samples_of(*paths, damaged="raise")
    with pytest.raises(DataError, match=r"weight 2 for .*lacking"):
        Loader(samples, batch=4, weights=(1, 2, 3))
    rest = Samples(paths, "ms+sar", {"ms": bands.MS[1:], "sar": bands.SAR})
    assert rest.table.counts == [23, 7, 10]


def break_entry(db: Path, key: str) -> None:
    """Overwrite the header of an entry in the file itself, as a bad disk would."""
    with lmdb.open(str(db), readonly=True, lock=False) as environment, environment.begin() as transaction:
        value = bytes(transaction.get(key.encode()))
    path = db / "data.mdb"
    at = path.read_bytes().index(value)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 16)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_entry_damaged_later_is_named_or_another_takes_its_place(tmp_path: Path) -> None:
    db = mixed.make(tmp_path / "db", 30)
    samples = mixed.samples_of(db)
    before = take(Loader(samples, batch=5))
    break_entry(db, "s1_7")
    samples.damaged = "raise"
    with pytest.raises(DataError, match="s1_7"):
        take(Loader(samples, batch=5))
    samples.damaged = "leave out"
    loader = Loader(samples, batch=5)
    after = take(loader)
    assert loader.stats()["stand_ins"] >= 1
    assert [len(batch.samples) for batch in after] == [5] * 6
    for old, new in zip(before, after, strict=True):
        assert 7 not in new.samples.tolist()
        same_samples = old.samples == new.samples
        assert same_samples.sum() >= 4
        assert (old.samples[~same_samples] == 7).all()


# ---- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["host", "device"])
@pytest.mark.parametrize("modality", ["ms+sar", "ms", "sar"])
def test_a_cache_gives_the_same_and_touches_no_disk(tmp_path: Path, location: Any, modality: str) -> None:
    folders = [
        mixed.make(tmp_path / "a", 23, side=12, seed=1),
        mixed.make(tmp_path / "b", 10, side=18, ms=np.float32, sar=np.int16, seed=2),
    ]
    whole = take(Loader(mixed.samples_of(*folders, modality=modality), batch=7, bands=Drawn(2, 2), drop_last=False))
    samples = mixed.samples_of(*folders, modality=modality)
    chosen = np.tile(samples.pools[modality.split("+")[0]], (len(samples), 1, 1))
    samples.fill_cache(location)
    loader = Loader(samples, batch=7, bands=Drawn(2, 2), drop_last=False)
    pixels = sum(
        value.nbytes
        for folder in folders
        for key, entry in mixed.entries(folder).items()
        if key.startswith(("s2", "s1")) and ("ms" if key.startswith("s2") else "sar") in modality.split("+")
        for value in entry.values()
    )
    assert pixels <= len(samples.arena) <= pixels + 16 * 33 * 12
    for folder in folders:
        for file in folder.iterdir():
            with file.open("r+b") as opened:
                opened.truncate(0)
        shutil.rmtree(folder)
    mixed.same(take(loader), whole)
    data, records = samples.read(np.arange(len(samples)), chosen)
    assert records.shape[:3] == chosen.shape
    assert int(records[..., 0].max()) < len(data)
    if location == "device":
        assert all(batch.data.data_ptr() == samples.arena.data_ptr() for batch in loader)  # type: ignore[union-attr]


def test_samples_have_one_cache(folders: list[Path]) -> None:
    own = mixed.samples_of(*folders)
    own.fill_cache("host")
    arena = own.arena
    own.fill_cache("host")
    assert own.arena is arena
    with pytest.raises(DataError, match="in a cache on cpu already"):
        own.fill_cache("device")


def test_a_cache_on_a_gpu_is_filled_through_the_host(
    samples: Samples, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsdnet.data.cache.PIECE", 10)
    own = mixed.samples_of(*folders)
    arena = torch.empty(own.table.arena_bytes, dtype=torch.uint8)
    load(own.table, arena, through_host=True)
    own.table.keep(arena.numpy())
    mixed.same(take(Loader(own, batch=16)), take(Loader(samples, batch=16)))


def test_a_cache_that_does_not_fit_is_refused_with_both_sizes(
    samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsdnet.data.cache.free_bytes", lambda device: 1000)
    with pytest.raises(DataError, match=r"--cache host takes [\d.]+ KB of host memory and 1\.0 KB are free"):
        samples.fill_cache("host")
    assert samples.arena is None
    gpu = torch.device("cuda")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    with pytest.raises(DataError, match=r"--cache device takes .* memory of NVIDIA H200 .*: use --cache host or none"):
        samples.check_cache("device", gpu)
    monkeypatch.setattr("rsdnet.data.cache.free_bytes", lambda device: 3.5e9)
    assert samples.check_cache("device", gpu).endswith("KB of raw bands in memory of NVIDIA H200 (3.5 GB free)")


# ---- what cannot work together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 65}, "64 samples do not fill a batch of 65: use --batch 64"),
        (
            {"batch": 20, "part": Part(0, 4)},
            "64 samples over 4 ranks, 16 each, do not fill a batch of 20: use --batch 16",
        ),
        ({"batch": 0}, "a batch of 0"),
        ({"batch": 8, "part": Part(2, 2)}, "rank 2 of world 2"),
        ({"batch": 8, "weights": (1, 2)}, "2 weights for 3 databases"),
        ({"batch": 8, "bands": ["B01"]}, "B01 is not among the samples' bands"),
        ({"batch": 8, "bands": ["B99"]}, "B99"),
        ({"batch": 8, "bands": []}, "name at least one"),
        ({"batch": 8, "bands": Drawn(0, 1)}, "0 views"),
        ({"batch": 8, "start": 3, "stop": 2}, "steps 3 to 2"),
        ({"batch": 8, "ring": Ring(0)}, "0 slots"),
        (
            {"batch": 10**7, "drop_last": False, "ring": Ring(100)},
            "100 slots for batches of 10000000 take .* TB of host",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(samples: Samples, options: dict, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        Loader(samples, **options)
    assert len(str(caught.value).splitlines()) == 1


# ---- ends ------------------------------------------------------------------------------------------------------------


def within(seconds: float, job: object) -> None:
    """Run `job` on a thread of its own and fail if it hangs."""
    thread = threading.Thread(target=job, daemon=True)  # type: ignore[arg-type]
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"


def test_leaving_closing_and_dropping_in_the_middle_never_hang(samples: Samples) -> None:
    def job() -> None:
        for taken in range(6):
            with Loader(samples, batch=4, stop=10**6, ring=Ring(1 + taken % 3)) as loader:
                for batch, _ in zip(loader, range(taken), strict=False):
                    assert len(batch.samples) == 4
            iterator = iter(Loader(samples, batch=4, stop=10**6))
            for _ in range(taken):
                next(iterator)
            del iterator  # with its loader
            loader = Loader(samples, batch=4, stop=10**6)
            iterator = iter(loader)
            next(iterator)
            loader.close()
            loader.close()
            with pytest.raises(RuntimeError, match="is over"):
                next(iterator)
            gc.collect()

    before = threading.active_count()
    within(60, job)
    assert threading.active_count() <= before


LEFT_OPEN = """
import sys
from rsdnet.data.loader import Loader
loader = Loader(sys.argv[1], batch=4, stop=10**6)
iterator = iter(loader)
print(next(iterator).step)
{}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "loader.self = iterator"])
def test_a_process_ends_with_a_stream_left_open(tiny_db: Path, end: str) -> None:
    argv = [sys.executable, "-c", LEFT_OPEN.format(end), str(tiny_db)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_wait_for_a_batch_heeds_a_signal(samples: Samples) -> None:
    # A shell's background job is born ignoring SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loader = Loader(samples, batch=4, ring=Ring(1))
    iterator = iter(loader)
    next(iterator)
    assert loader._running is not None
    timer = threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loader._running.stream.next()  # no slot is free, and none will be
    timer.join()
    signal.signal(signal.SIGINT, before)
    loader.close()


def test_a_second_iteration_ends_the_first(samples: Samples) -> None:
    loader = Loader(samples, batch=8)
    first = iter(loader)
    one = mixed.copied(next(first))
    second = iter(loader)
    two = next(second)
    assert (one.step, two.step) == (0, 1)
    with pytest.raises(RuntimeError, match="another one was begun"):
        next(first)
    assert next(second).step == 2


def test_threads_of_the_reader_end_with_the_iteration(folders: list[Path]) -> None:
    def running() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    samples = mixed.samples_of(*folders, threads=3)
    take(Loader(samples, batch=8))
    before = running()
    loader = Loader(samples, batch=4, stop=10**6)
    iterator = iter(loader)
    next(iterator)
    assert running() >= before + 3
    loader.close()
    deadline = time.monotonic() + 10
    while running() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running() <= before


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_add_up(folders: list[Path]) -> None:
    loader = Loader(mixed.samples_of(*folders, threads=2), batch=10, drop_last=False)
    count = used = 0
    for _ in range(3):
        for batch in loader:
            count += len(batch.samples)
            used += len(batch.data)
            now = loader.stats()
            assert (now["samples"], now["bytes"]) == (count, used)
            assert now["threads"] == 2
            assert 0 <= now["waited"] <= now["seconds"]
            assert 0 <= now["ready"] <= 4
    end = loader.stats()
    assert (end["samples"], end["bytes"], end["ready"]) == (3 * 64, used, 0)
    assert (end["left_out"], end["stand_ins"]) == (0, 0)


def test_the_loader_opens_databases_itself(tiny_db: Path) -> None:
    own = Loader(str(tiny_db), batch=8, split="train")
    assert len(own.samples) == 36
    mixed.same(take(own), take(Loader(Samples([tiny_db], split="train"), batch=8)))
