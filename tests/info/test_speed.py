"""`python -m rsdnet.info DB --speed`: what it measures is what was read, and the verdict follows from the figures."""

import mmap
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors.numpy

pytest.importorskip("rsdnet._reader", reason="the C++ reader is not built")

from rsdnet import bands, hardware
from rsdnet._reader import Reader, ReaderError, copy_blocks, draw_bands, extents, spread
from rsdnet.errors import DataError
from rsdnet.info import bounds, disk, speed, subject
from rsdnet.info.bounds import Figures, Rate
from tests.support.databases import paired_patches, write_database, write_values

GB = 1e9


def rate(gigabytes: float, busy: float = 1.0) -> Rate:
    """Samples of 73 KB."""
    return Rate(gigabytes * GB, gigabytes * GB / 73_000, busy=busy)


FIGURES = Figures(
    threads=2,
    sequential=rate(0.25),
    random=(rate(0.1), rate(0.2)),
    cold=(rate(0.1, 0.1), rate(0.21, 0.12)),
    copy=(rate(8), rate(14)),
    warm=(rate(6), rate(11.6)),
    block=36_500,
    size=int(5.5 * GB),
    cached=0.5,
    free=int(22 * GB),
    host=int(4.4 * GB),
    gpu=None,
)


def said(figures: Figures) -> str:
    return "\n".join(bounds.verdict(figures))


def test_warm_reads_near_memcpy_are_bound_by_memory() -> None:
    assert bounds.warm_bound(FIGURES) == "memory"
    assert "warm reads are bound by memory (83 % of memcpy): 11.6 GB/s, 158,904 samples/s" in said(FIGURES)


@pytest.mark.parametrize(
    ("one", "every", "words"),
    [(3.0, 5.9, "2 threads give 2.0x one, more cores would give more"), (4.0, 4.4, "2 threads give 1.1x one)")],
)
def test_warm_reads_far_below_memcpy_are_bound_by_threads(one: float, every: float, words: str) -> None:
    figures = replace(FIGURES, warm=(rate(one), rate(every)))
    assert bounds.warm_bound(figures) == "threads"
    assert f"bound by the threads ({every / 14:.0%} of memcpy; {words}".replace("%", " %") in said(figures)


def test_nothing_is_told_from_a_disturbed_memcpy() -> None:
    figures = replace(FIGURES, copy=(rate(3.4), rate(2.2)))
    assert bounds.warm_bound(figures) is None
    assert "warm reads give 11.6 GB/s" in said(figures)
    assert "measure again" in said(figures)
    assert "bound by memory" not in said(figures)


def test_cold_reads_whose_threads_wait_are_bound_by_the_disk() -> None:
    assert bounds.cold_bound(FIGURES) == "disk"
    assert (
        "cold reads are bound by the disk: 210.0 MB/s (plain reads give 250.0 MB/s in order, 200.0 MB/s at random); "
        "2 threads wait 88 % of the time; at 73.0 KB a sample that feeds 2,877 samples/s"
    ) in said(FIGURES)


def test_cold_reads_whose_threads_work_are_bound_by_threads() -> None:
    figures = replace(FIGURES, cold=(rate(2, 0.95), rate(1.8, 0.99)))
    assert bounds.cold_bound(figures) == "threads"
    assert "cold reads are bound by the threads: 2.0 GB/s" in said(figures)


def test_cold_reads_as_fast_as_warm_ones_have_their_bound() -> None:
    figures = replace(FIGURES, cold=(rate(1, 0.9), rate(10, 0.5)))
    assert bounds.cold_bound(figures) == "memory"
    assert "cold reads are bound by memory, as warm ones" in said(figures)


@pytest.mark.parametrize(("on", "words"), [(0.21, "2.1x"), (0.1, "no matter"), (0.05, "it does harm")])
def test_look_ahead_is_told_by_what_it_gives(on: float, words: str) -> None:
    assert words in said(replace(FIGURES, cold=(rate(0.1, 0.1), rate(on, 0.1))))


def test_look_ahead_is_not_judged_by_a_moment() -> None:
    figures = replace(FIGURES, cold=(replace(rate(0.1), seconds=0.04), rate(0.2)))
    assert "look-ahead: too little was read cold to tell" in said(figures)


def test_what_was_not_measured_says_so() -> None:
    figures = replace(FIGURES, cold=("no disk", "no disk"), warm=("no cache", "no cache"))
    assert bounds.warm_bound(figures) is bounds.cold_bound(figures) is None
    assert "cold reads were not measured: no disk" in said(figures)
    assert "warm reads were not measured: no cache" in said(figures)
    assert "look-ahead" not in said(figures)
    assert speed.missing(figures, "samples") == [
        "not measured: samples, cold, look-ahead off; samples, cold, look-ahead on: no disk",
        "not measured: samples, warm: no cache",
    ]


@pytest.mark.parametrize(("free", "fits", "cache"), [(22, "fits in", "would fit"), (5, "does not fit in", "would fit")])
def test_room_for_caches(free: float, fits: str, cache: str) -> None:
    text = said(replace(FIGURES, free=int(free * GB), gpu=("a GPU", int(4 * GB))))
    assert f"the database (5.5 GB) {fits} free RAM ({free}.0 GB)" in text
    assert f"--cache host: {cache} (about 4.4 GB of {free}.0 GB free)" in text
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


def test_spread_takes_keys_from_all_over(tmp_path: Path) -> None:
    reader = Reader([write_values(tmp_path, {f"{n:03d}": b"" for n in range(100)})])
    assert spread(reader, 4) == ["000", "025", "050", "075"]
    assert spread(reader, 1000) == reader.keys()
    with pytest.raises(ValueError, match="at least 1"):
        spread(reader, 0)


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
    chosen = subject.choose(tiny_db, 1 << 30)
    assert isinstance(chosen, subject.Streamed)
    assert (chosen.name, chosen.modality, chosen.note) == ("samples", "ms+sar", "")
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
    few = chosen.first(int(chosen.extents[:6, 1].sum()))
    assert few.rows.tolist() == [0, 1, 2]
    assert few.extents.tolist() == chosen.extents[:6].tolist()
    assert few.read(1, "on", 60, once=True).samples == 3
    assert few.read(1, "off", 0.05, once=False).samples > 3


def test_without_a_catalog_entries_are_read(tiny_db: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_db / "data.mdb", tmp_path)
    chosen = subject.choose(tmp_path, 1 << 30)
    assert isinstance(chosen, subject.Gathered)
    assert "no catalog" in chosen.note
    assert chosen.keys == Reader([tmp_path]).keys()
    assert chosen.read(2, "off", 60, once=True).samples == 120
    assert chosen.first(1).read(2, "off", 60, once=True).samples == 1


def test_a_database_without_bands_is_refused(tmp_path: Path) -> None:
    write_values(tmp_path, {"a": b"x", "b": safetensors.numpy.save({"Data": np.ones((4, 4), np.uint16)})})
    with pytest.raises(DataError, match="holds a band to read"):
        subject.choose(tmp_path, 1 << 30)


def run(*words: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "rsdnet.info", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize("catalogued", [True, False])
def test_the_command_prints_all_rows_and_what_bounds(tiny_db: Path, tmp_path: Path, catalogued: bool) -> None:
    shutil.copytree(tiny_db, tmp_path / "db")
    if not catalogued:
        (tmp_path / "db" / "catalog.parquet").unlink()
    done = run(tmp_path / "db", "--speed", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    table = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines() if "│" in line]
    name = "samples" if catalogued else "entries"
    assert len(table) == 9
    assert [row[0] for row in table][3:] == [
        *(f"{name}, cold, look-ahead {hints}" for hints in ("off", "on")),
        *["memcpy of such blocks"] * 2,
        *[f"{name}, warm"] * 2,
    ]
    for what, threads, megabytes, each, _ in table:
        assert threads in ("1", str(len(os.sched_getaffinity(0))))
        assert each == "not measured" or float(megabytes.replace(",", "")) > 0, what
    assert "not measured" not in table[-1][3]
    assert re.search(r"warm reads are bound by (memory|the threads) \(\d+ % of memcpy|measure again", done.stdout)
    assert re.search(r"cold reads (are bound by (the disk|memory|the threads)|were not measured|give)", done.stdout)
    assert "fits in free RAM" in done.stdout
    assert ("--cache host: would fit" in done.stdout) == catalogued
    assert "no catalog" in done.stdout or catalogued


def test_the_command_refuses_in_one_line(tiny_db: Path, tmp_path: Path) -> None:
    for words, reason in (((tmp_path,), "data.mdb"), ((tiny_db, "--seconds", "0"), "--seconds 0.0 is not above 0")):
        done = run(*words, "--speed")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
