"""`python -m rsdnet.info DB --speed`: what it measures is what was read, and the verdict follows from the figures."""

import mmap
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip("rsdnet._reader", reason="the C++ reader is not built")

from rsdnet import bands, hardware
from rsdnet._reader import Reader, ReaderError, copy_blocks, draw_bands, extents
from rsdnet.data.catalog import Catalog, objects
from rsdnet.errors import DataError
from rsdnet.info import bounds, disk
from rsdnet.info.bounds import Figures, Measured, Rate
from rsdnet.info.selection import select
from tests.info.test_info import call
from tests.support.databases import paired_patches, write_database, write_values

GB = 1e9


def rate(gigabytes: float, busy: float = 1.0) -> Rate:
    """Samples of 73 KB."""
    return Rate(gigabytes * GB, gigabytes * GB / 73_000, busy=busy)


RATES: dict[tuple[str, int], Measured] = {
    ("sequential", 1): rate(0.25), ("random", 1): rate(0.1), ("random", 2): rate(0.2),
    ("off", 2): rate(0.1, 0.1), ("on", 2): rate(0.21, 0.12),
    ("copy", 1): rate(8), ("copy", 2): rate(14), ("warm", 1): rate(6), ("warm", 2): rate(11.6),
}  # fmt: skip


def figures(changed: dict[tuple[str, int], Measured] | None = None, **facts: object) -> Figures:
    given = {"cached": 0.5, "free": int(22 * GB), "host": int(4.4 * GB), "gpu": None} | facts
    return Figures(RATES | (changed or {}), threads=2, block=36_500, size=int(5.5 * GB), **given)  # type: ignore[arg-type]


def said(of: Figures) -> str:
    return "\n".join(bounds.verdict(of))


def test_warm_reads_near_memcpy_are_bound_by_memory() -> None:
    assert bounds.warm_bound(figures()) == "memory"
    assert "warm reads are bound by memory (83 % of memcpy): 11.6 GB/s, 158,904 samples/s" in said(figures())


@pytest.mark.parametrize(
    ("one", "every", "words"),
    [(3.0, 5.9, "2 threads give 2.0x one, more cores would give more"), (4.0, 4.4, "2 threads give 1.1x one)")],
)
def test_warm_reads_far_below_memcpy_are_bound_by_threads(one: float, every: float, words: str) -> None:
    found = figures({("warm", 1): rate(one), ("warm", 2): rate(every)})
    assert bounds.warm_bound(found) == "threads"
    assert f"bound by the threads ({every / 14:.0%} of memcpy; {words}".replace("%", " %") in said(found)


def test_nothing_is_told_from_a_disturbed_memcpy() -> None:
    found = figures({("copy", 1): rate(3.4), ("copy", 2): rate(2.2)})
    assert bounds.warm_bound(found) is None
    assert "warm reads give 11.6 GB/s" in said(found)
    assert "measure again" in said(found)


@pytest.mark.parametrize(
    ("off", "on", "bound", "words"),
    [
        (rate(0.1, 0.1), rate(0.21, 0.12), "disk", "the disk: 210.0 MB/s (plain reads give 250.0 MB/s in order, "
         "200.0 MB/s at random); 2 threads wait 88 % of the time; at 73.0 KB a sample that feeds 2,877 samples/s"),
        (rate(2, 0.95), rate(1.8, 0.99), "threads", "the threads: 2.0 GB/s"),
        (rate(1, 0.9), rate(10, 0.5), "memory", "memory, as warm ones: 10.0 GB/s"),
    ],
)  # fmt: skip
def test_the_bound_of_cold_reads(off: Rate, on: Rate, bound: str, words: str) -> None:
    found = figures({("off", 2): off, ("on", 2): on})
    assert bounds.cold_bound(found) == bound
    assert f"cold reads are bound by {words}" in said(found)


@pytest.mark.parametrize(("on", "words"), [(0.21, "2.1x"), (0.1, "no matter"), (0.05, "it does harm")])
def test_look_ahead_is_judged_by_its_gain(on: float, words: str) -> None:
    assert words in said(figures({("on", 2): rate(on, 0.1)}))
    assert "look-ahead" not in said(figures({("on", 2): rate(on, 0.1), ("off", 2): replace(rate(0.1), seconds=0.04)}))


def test_what_was_not_measured_says_so() -> None:
    found = figures({("off", 2): "no disk", ("on", 2): "no disk", ("warm", 1): "no cache", ("warm", 2): "no cache"})
    assert bounds.warm_bound(found) is bounds.cold_bound(found) is None
    assert "cold reads were not measured: no disk" in said(found)
    assert "warm reads were not measured: no cache" in said(found)
    assert "look-ahead" not in said(found)


@pytest.mark.parametrize(("free", "fits"), [(22, "fits in"), (5, "does not fit in")])
def test_room_for_caches(free: float, fits: str) -> None:
    text = said(figures(free=int(free * GB), gpu=("a GPU", int(4 * GB))))
    assert f"the database (5.5 GB) {fits} free RAM ({free}.0 GB)" in text
    assert f"--cache host: would fit (about 4.4 GB of {free}.0 GB free)" in text
    assert "--cache device: would not fit (about 4.4 GB of 4.0 GB free on a GPU)" in text


def test_free_memory_is_part_of_the_machines() -> None:
    assert 0 < hardware.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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


def test_the_page_cache_is_told_page_by_page(tmp_path: Path) -> None:
    path, page = tmp_path / "file", mmap.PAGESIZE
    path.write_bytes(os.urandom(100 * page))
    os.sync()
    whole = np.array([[0, 100 * page]])
    assert disk.cached_share(path) == 1
    if not disk.evict(path, whole):
        pytest.skip("this file system keeps all pages in memory")
    assert disk.cached_share(path) == 0
    blocks = np.array([[10 * page, page], [50 * page + 1, page]])
    reads = disk.scattered(path, blocks, 2, 60)
    assert (reads.bytes, reads.blocks) == (2 * page, 2)
    assert disk.cached_share(path) == 0.03
    assert disk.cached_share(path, blocks) == 1
    assert disk.cached_share(path, np.array([[9 * page, 2 * page], [52 * page, page]])) == pytest.approx(1 / 3)
    assert disk.evict(path, whole)
    reads = disk.sequential(path, 0, 100 * page, 60)
    assert (reads.bytes, reads.blocks) == (100 * page, 1)
    assert disk.cached_share(path) == 1


def test_reads_end_when_their_time_is_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    assert disk.scattered(path, np.array([[0, 4096]] * 100), 2, 0.0).blocks == 0
    with pytest.raises(FileNotFoundError):
        disk.scattered(tmp_path / "none", np.array([[0, 1]]), 1, 1.0)


def test_samples_are_read_as_training_draws_them(tiny_db: Path) -> None:
    chosen = select(tiny_db, 1 << 30)
    assert list(chosen.keys) == ["ms", "sar"]
    assert chosen.rows.tolist() == list(range(60))
    done = chosen.read(2, "off", 60, once=True)
    assert done.samples == 60
    pools = [[bands.band_id(name) for name in names] for names in (bands.MS, bands.SAR)]
    drawn = draw_bands(0, 0, chosen.rows, 2, 1, *pools, "ms+sar")
    sizes = {
        name: (24 * 10 // bands.BANDS[name].resolution) ** 2 * (4 if name in bands.SAR else 2) for name in bands.NAMES
    }
    assert done.bytes == sum(sizes[bands.NAMES[band]] for band in drawn.ravel())
    assert chosen.block == pytest.approx(np.mean([sizes[bands.NAMES[band]] for band in drawn.ravel()]), rel=0.2)
    assert chosen.host == 60 * sum(sizes[name] for name in (*bands.MS, *bands.SAR))
    few = chosen.first(int(chosen.extents[:3, :, 1].sum()))
    assert few.rows.tolist() == [0, 1, 2]
    assert few.read(1, "on", 60, once=True).samples == 3
    assert few.read(1, "off", 0.05, once=False).samples > 3
    assert 1 < len(select(tiny_db, int(chosen.extents[:, :, 1].sum()) // 2).rows) < 60


def test_a_database_without_bands_is_refused(tmp_path: Path) -> None:
    keys = objects(["a", "b"])
    write_values(tmp_path, {"a": b"x", "b": safetensors.numpy.save({"Data": np.ones((4, 4), np.uint16)})})
    none = objects([None, None])
    Catalog(keys, keys, none, none, np.full(2, -1, np.int32), objects(["train"] * 2)).write(tmp_path)
    with pytest.raises(DataError, match="holds a band to read"):
        select(tmp_path, 1 << 30)


def test_the_command_prints_all_rates_and_bounds(tiny_db: Path) -> None:
    done = call(tiny_db, "--speed", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    assert {row[0] for row in table} >= {"disk, 1 MiB in order, cold", "memcpy of such blocks", "samples, warm"}
    for what, threads, megabytes, each, _ in table:
        assert threads in ("1", str(len(os.sched_getaffinity(0))))
        assert each == "not measured" or float(megabytes.replace(",", "")) > 0, what
    assert "not measured" not in table[-1][3]
    assert re.search(r"warm reads are bound by (memory|the threads) \(\d+ % of memcpy|measure again", done.stdout)
    assert re.search(r"cold reads (are bound by (the disk|memory|the threads)|were not measured|give)", done.stdout)
    assert "fits in free RAM" in done.stdout
    assert "--cache host: would fit" in done.stdout


def test_the_command_refuses_in_one_line(tiny_db: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_db / "data.mdb", tmp_path)
    refused = {(tmp_path,): "catalog.parquet is missing", (tiny_db, "--seconds", "0"): "--seconds 0.0 is not above 0"}
    for words, reason in refused.items():
        done = call(*words, "--speed")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
