"""The loader: order and bytes are pure functions of (seed, epoch, sample), whatever the batch, threads or start."""

from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from rsdnet import bands
from rsdnet.catalog import Catalog
from rsdnet.config import ViewConfig
from rsdnet.errors import DataError
from rsdnet.loader import Batch, Loader, order
from rsdnet.samples import Samples, pools_of
from tests import tiny

CPU = torch.device("cpu")
POOLS = pools_of(ViewConfig())


@pytest.fixture(scope="module")
def samples(tiny_db: Path) -> Samples:
    return Samples([tiny_db], "ms+sar", POOLS, split="train")


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_an_epochs_order_is_a_permutation(seed: int, epoch: int, count: int) -> None:
    assert sorted(order(seed, epoch, count)) == list(range(count))
    assert np.array_equal(order(seed, epoch, count), order(seed, epoch, count))


def test_orders_differ_by_seed_and_epoch_and_are_fair() -> None:
    assert not np.array_equal(order(0, 0, 100), order(0, 1, 100))
    assert not np.array_equal(order(0, 0, 100), order(1, 0, 100))
    assert not np.array_equal(order(0, 0, 100), order(1 << 32, 0, 100))
    places = np.array([np.flatnonzero(order(0, epoch, 20) == 7)[0] for epoch in range(4000)])
    counts = np.bincount(places, minlength=20)
    assert abs(counts - 200).max() < 5 * 200**0.5  # five deviations of a fair draw


def copies(loader: Loader) -> list[Batch]:
    with loader:
        return [Batch(*(tensor.clone() for tensor in batch[:3]), batch.epoch) for batch in loader]


def bytes_of(batch: Batch, *at: int) -> np.ndarray:
    """The band of record `at`, by the record alone."""
    offset, code, height, width, _ = batch.records[at].tolist()
    kind = (np.uint8, np.int16, np.uint16, np.float16, np.float32)[code]
    raw = batch.data.numpy()[offset : offset + height * width * np.dtype(kind).itemsize]
    return raw.view(kind).reshape(height, width)


def test_batches_hold_the_bands_that_the_database_holds(samples: Samples, tiny_db: Path) -> None:
    catalog = Catalog.read(tiny_db)
    with lmdb.open(str(tiny_db), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for batch in copies(Loader(samples, 8, channels=2, seed=3, device=CPU, start=0, stop=6)):
            for b, row in enumerate(batch.samples.tolist()):
                assert catalog.split[row] == "train"
                for v in range(2):
                    for c in range(2):
                        name = bands.NAMES[batch.records[b, v, c, 4]]
                        key = catalog.sar[row] if name in bands.SAR else catalog.ms[row]
                        expected = load(transaction.get(key.encode()))[name]
                        assert np.array_equal(bytes_of(batch, b, v, c), expected)


def test_views_of_a_sample_are_of_two_sensors(samples: Samples) -> None:
    for batch in copies(Loader(samples, 8, channels=1, seed=0, device=CPU, start=0, stop=8)):
        is_sar = np.isin(batch.records[:, :, 0, 4], [bands.band_id(name) for name in bands.SAR])
        assert (is_sar.sum(1) == 1).all()
        assert 0 < is_sar[:, 0].sum() < len(is_sar)


def test_a_position_is_the_whole_resume_state(samples: Samples) -> None:
    whole = copies(Loader(samples, 8, channels=1, seed=1, device=CPU, start=0, stop=11))
    later = copies(Loader(samples, 8, channels=1, seed=1, device=CPU, start=6, stop=11))
    for old, new in zip(whole[6:], later, strict=True):
        assert old.epoch == new.epoch
        assert all(torch.equal(a, b) for a, b in zip(old[:3], new[:3], strict=True))


def test_an_epoch_sees_each_sample_once_and_drops_the_ragged_end(samples: Samples) -> None:
    batches = copies(Loader(samples, 10, channels=1, seed=1, device=CPU, start=0, stop=6))
    assert len(samples) == 36
    for epoch in range(2):
        seen = torch.cat([batch.samples for batch in batches if batch.epoch == epoch])
        assert len(seen) == 30
        assert len(seen.unique()) == 30


def test_leaving_in_the_middle_never_hangs(samples: Samples) -> None:
    for taken in range(4):
        with Loader(samples, 4, channels=1, seed=1, device=CPU, start=0, stop=10**6) as loader:
            for batch, _ in zip(loader, range(taken), strict=False):
                assert len(batch.samples) == 4


def test_an_entry_damaged_later_reaches_the_consumer_with_its_key(tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db", 30)
    samples = Samples([db], "ms+sar", POOLS)
    with lmdb.open(str(db), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for index in range(30):
            transaction.put(f"s1_{index}".encode(), b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(DataError), Loader(samples, 4, channels=1, seed=1, device=CPU, start=0, stop=10) as loader:
        for _ in loader:
            pass


def test_several_databases_are_read_as_one_even_with_the_same_keys(tmp_path: Path) -> None:
    first, second = tiny.make(tmp_path / "a", 15, seed=1), tiny.make(tmp_path / "b", 15, seed=2)
    samples = Samples([first, second], "ms+sar", POOLS)
    assert len(samples) == 30
    chosen = np.full((30, 1, 1), bands.band_id("VV"), np.int32)
    data, records = samples.read(np.arange(30), chosen)
    batch = Batch(data, records, torch.arange(30), 0)
    for row in range(30):
        path = (first, second)[row // 15]
        with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
            expected = load(transaction.get(f"s1_{row % 15}".encode()))["VV"]
        assert np.array_equal(bytes_of(batch, row, 0, 0), expected)


def test_samples_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db", 30)
    with lmdb.open(str(db), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"s1_3", b"short")
        transaction.delete(b"s2_5")
    samples = Samples([db], "ms+sar", POOLS)
    assert len(samples) == 28
    assert not {3, 5} & set(samples.rows.tolist())
    assert "left out 2 of 30" in (samples.report() or "")


def test_a_database_of_larger_patches_than_its_first_sample(tmp_path: Path) -> None:
    """A slot is made for the first sample's bands; it must grow for others."""
    db = tiny.make(tmp_path / "db", 12)
    from safetensors.numpy import save

    big = {name: np.full((100, 100), 7, np.uint16) for name in bands.MS}
    with lmdb.open(str(db), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"s2_4", save(big))
    samples = Samples([db], "ms", POOLS)
    batches = copies(Loader(samples, 4, channels=3, seed=0, device=CPU, start=0, stop=3))
    assert max(int(batch.records[..., 2].max()) for batch in batches) == 100
