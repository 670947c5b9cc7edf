"""`python -m rsdnet.info DB --speed`: reads are those of training, and bounds follow from the figures."""

import os
import re
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip("rsdnet._reader", reason="the C++ reader is not built")

from rsdnet import bands, hardware
from rsdnet._reader import Reader, ReaderError, copy_blocks, extents
from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.loader import Drawn, Loader
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from rsdnet.info import disk, speed
from rsdnet.info.speed import Figures, Rate
from tests.info.test_info import call
from tests.support.databases import paired_patches, write_database, write_values

GB = 1e9


def rate(gigabytes: float, busy: float = 1.0, waited: float = 0.9, seconds: float = 1.0) -> Rate:
    """Samples of 73 KB."""
    return Rate(gigabytes * GB / 73_000, gigabytes * GB, seconds, busy, waited)


def figures(cold: Rate | str, warm: Rate | str, free: float = 22) -> Figures:
    """Of a database of 5.5 GB, where memcpy gives 14 GB/s."""
    rates = {(name, state): value for name in speed.READS for state, value in (("cold", cold), ("warm", warm))}
    return Figures(rates, 14 * GB, threads=2, database=int(5.5 * GB), free=int(free * GB))


@pytest.mark.parametrize(
    ("measured", "state", "bound", "words"),
    [
        (rate(11.6), "warm", "memory", "158,904 samples/s, bound by memory (83 % of memcpy)"),
        (rate(5.9), "warm", "cores", "the cores (2 threads on a core 100 % of the time)"),
        (rate(5.9, 0.2), "warm", "cores", "the cores (2 threads on a core 20 % of the time)"),
        (rate(5.9, 0.4, 0.1), "warm", "consumer", "the consumer of the batches (it waits 10 % of the time)"),
        (rate(0.21, 0.12), "cold", "disk", "2,877 samples/s, bound by the disk (2 threads wait 88 % of the time)"),
        (rate(2, 0.95), "cold", "cores", "the cores (2 threads on a core 95 % of the time)"),
        (rate(10, 0.5), "cold", "memory", "memory (71 % of memcpy)"),
    ],
)
def test_the_bound_follows_from_the_figures(measured: Rate, state: str, bound: str, words: str) -> None:
    found = figures(measured, "no cache") if state == "cold" else figures("no disk", measured)
    assert found.bound(measured, state) == bound
    assert words in speed.verdict(found)
    assert f"drawn bands, {state}" in "\n".join(line for line in speed.rows(found) if line.endswith(bound))


def test_what_was_not_measured_says_so() -> None:
    found = figures("no disk", "no cache")
    assert speed.verdict(found).startswith("training reads cold, not measured: no disk; warm, not measured: no cache;")
    assert sum("not measured" in line for line in speed.rows(found)) == 4
    assert "too small to judge" in speed.verdict(figures(rate(1, seconds=0.04), rate(1)))


@pytest.mark.parametrize(("free", "words"), [(22, "only the first epoch is cold"), (5, "every epoch is cold")])
def test_a_database_beyond_memory_stays_cold(free: float, words: str) -> None:
    assert speed.verdict(figures(rate(1), rate(1), free)).endswith(words)


def test_free_memory_is_part_of_the_machines() -> None:
    assert 0 < hardware.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_samples_are_read_as_training_draws_them(tiny_db: Path) -> None:
    samples = Samples(tiny_db, *speed.drawn_from(tiny_db))
    assert (samples.modality, len(samples)) == ("ms+sar", 60)
    sizes = {
        name: (24 * 10 // bands.BANDS[name].resolution) ** 2 * (4 if name in bands.SAR else 2) for name in bands.NAMES
    }
    drawn = samples.draw(np.arange(60), 0, 0, views=2, channels=1)
    once = speed.read(Loader(samples, batch=60, bands=Drawn(2, 1)), 60)
    assert once.samples * once.seconds == pytest.approx(60)
    assert once.bytes * once.seconds == pytest.approx(sum(sizes[bands.NAMES[band]] for band in drawn.ravel()))
    whole = speed.read(Loader(samples, batch=60, bands="all"), 60)
    assert whole.bytes / whole.samples == pytest.approx(sum(sizes[name] for name in (*bands.MS, *bands.SAR)))
    again = speed.read(Loader(samples, batch=20, stop=2), 0.05, again=True)
    assert again.samples * again.seconds > 60


def test_a_single_sensors_bands_are_read_even_where_none_is_of_the_paper(tmp_path: Path) -> None:
    def write(folder: Path, **tensors: np.ndarray) -> Path:
        write_values(folder, {"a": b"x", "b": safetensors.numpy.save(tensors)})
        keys, none = objects(["a", "b"]), objects([None, None])
        Catalog(keys, keys, none, none, np.full(2, -1, np.int32), objects(["train"] * 2)).write(folder)
        return folder

    pixels = np.ones((4, 4), np.uint16)
    assert speed.drawn_from(write(tmp_path / "1", B01=pixels, B9=pixels)) == ("ms", {"ms": ("B01", "B09"), "sar": ()})
    paper = write(tmp_path / "2", B01=pixels, B02=pixels, VV=pixels)
    assert speed.drawn_from(paper) == ("ms", {"ms": ("B02",), "sar": ()})
    with pytest.raises(DataError, match="none of 2 entries holds a band to read"):
        speed.drawn_from(write(tmp_path / "3", Data=pixels))


def test_extents_are_where_the_values_lie(tmp_path: Path) -> None:
    write_database(tmp_path, paired_patches(6, size=6) | {"large": paired_patches(1, size=60)["s1_0"]})
    reader = Reader([tmp_path])
    content = (tmp_path / "data.mdb").read_bytes()
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        entries = dict(transaction.cursor())
    found = extents(reader, list(entries))
    assert [content[first : first + count] for first, count in found.tolist()] == list(entries.values())
    with pytest.raises(ReaderError, match="has no entry 'none'"):
        extents(reader, ["none"])


def test_memcpy_copies_its_blocks_and_nothing_else() -> None:
    source, out = np.arange(1, 4097, dtype=np.uint16).view(np.uint8), np.zeros(3000, np.uint8)
    copy_blocks(source, np.array([[64, 0, 1000], [8, 1500, 7], [0, 3000, 0], [8191, 2999, 1]]), out)
    expected = np.zeros(3000, np.uint8)
    expected[:1000], expected[1500:1507], expected[2999] = source[64:1064], source[8:15], source[8191]
    np.testing.assert_array_equal(out, expected)
    for wrong in ([8191, 0, 2], [-1, 0, 8], [0, 2999, 2], [0, -1, 1], [0, 0, -1], [2**62, 0, 2**62]):
        with pytest.raises(IndexError, match="a block lies outside source or out"):
            copy_blocks(source, np.array([wrong]), out)


def test_the_page_cache_is_told_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, page = tmp_path / "file", 4096
    path.write_bytes(os.urandom(99 * page + 1))
    monkeypatch.setattr(disk, "_WINDOW", 32 * page)  # several windows
    assert disk.cached_share(path) == 1
    if not disk.evict(path):
        pytest.skip("this file system keeps all pages in memory")
    assert disk.cached_share(path) == 0
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no more than is asked for
        os.pread(file.fileno(), page, 40 * page)
    assert disk.cached_share(path) == 0.01


def test_the_command_prints_rates_and_leaves_the_folder_as_it_was(tiny_db: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in tiny_db.iterdir()}
    done = call(tiny_db, "--speed", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in tiny_db.iterdir()} == before
    lines = done.stdout.splitlines()
    for name in ("drawn bands, warm", "all bands, warm"):
        [cells] = [line.removeprefix(name).split() for line in lines if line.startswith(name)]
        assert float(cells[0].replace(",", "")) > 0
        assert cells[-1] in ("memory", "cores", "consumer")
    assert re.search(r"^(training reads|too small to judge)", lines[-1])


def test_a_database_without_a_catalog_and_no_time_are_refused(tiny_db: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_db / "data.mdb", tmp_path)
    with pytest.raises(DataError, match=r"catalog\.parquet is missing"):
        speed.speed(tmp_path)
    with pytest.raises(DataError, match=r"--seconds 0 is not above 0"):
        speed.speed(tiny_db, 0)
