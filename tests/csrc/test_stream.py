"""A stream whose databases go wrong under it: an exception that says what and where, never a signal, never a hang."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from rsdnet import bands
from rsdnet._reader import Reader, ReaderError, Stream, Table
from tests.support.databases import paired_patches, write_database

PLACES = 40
MS, SAR = ([bands.band_id(name) for name in names] for names in (("B02", "B05", "B12"), ("VV", "VH")))
ACCESS = pytest.mark.parametrize("access", ["map", "pread"])


def samples(folder: Path, access: str = "map") -> Table:
    """A table of the places of `write`, in order."""
    table = Table(Reader([folder], bands.spellings(), 2, access), "ms+sar", MS, SAR)
    names = range(PLACES)
    assert not table.add(0, np.arange(PLACES), [f"s2_{n}" for n in names], [f"s1_{n}" for n in names])
    return table


def write(folder: Path) -> Path:
    return write_database(folder, paired_patches(PLACES, size=96))


def stream(table: Table, batch: int = 4, slots: int = 2, **options: Any) -> tuple[Stream, list[tuple[np.ndarray, ...]]]:
    """An endless stream of all bands, and its slots."""
    each = len(MS + SAR)
    size = batch * each * max(table.band_bytes("ms"), table.band_bytes("sar"))
    memory = [
        (np.empty(size, np.uint8), np.empty((batch, 1, each, 5), np.int64), *np.empty((2, batch), np.int64))
        for _ in range(slots)
    ]
    options = {"seed": 0, "bands": MS + SAR, "last": 1 << 30, "threads": 2} | options
    return Stream(table, memory, batch=batch, **options), memory


def read_on(running: Stream, batches: int = 10_000) -> None:
    for _ in range(batches):
        taken = running.next()
        assert taken is not None
        running.release(taken[0])


@ACCESS
def test_a_database_deleted_or_written_to_ends_the_stream_with_an_error(access: str, tmp_path: Path) -> None:
    running, _ = stream(samples(write(tmp_path / "one"), access))
    read_on(running, 3)
    (tmp_path / "one" / "data.mdb").unlink()
    with pytest.raises(ReaderError, match=r"one/data.mdb: was deleted or replaced while it was open"):
        read_on(running)
    running, _ = stream(samples(write(tmp_path / "two"), access))
    with lmdb.open(str(tmp_path / "two"), map_size=1 << 28) as other, other.begin(write=True) as transaction:
        transaction.put(b"new", b"value")
    with pytest.raises(ReaderError, match=r"two/data.mdb: was written to while it was open"):
        read_on(running)
    assert running.next() is None  # closed


TRUNCATED = """
    import os, sys, threading
    from pathlib import Path
    from rsdnet._reader import ReaderError
    from tests.csrc.test_reader_stream import read_on, samples, stream, write

    folder, access = Path(sys.argv[1]), sys.argv[2]
    running, _ = stream(samples(write(folder), access))
    read_on(running, 5)
    def cut():
        with open(folder / "data.mdb", "r+b") as file:
            file.truncate(4 * 4096)
    threading.Timer(0.05, cut).start()
    try:
        read_on(running, 1 << 40)
    except ReaderError as error:
        print(error)
"""


@ACCESS
def test_a_database_truncated_under_the_threads_is_an_error_not_sigbus(access: str, tmp_path: Path) -> None:
    for attempt in range(3):
        done = child(TRUNCATED, tmp_path / str(attempt), access)
        assert done.returncode == 0, done
        assert "was truncated while it was open; copy or ingest it again" in done.stdout


def child(code: str, *argv: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


OTHERS = """
    import faulthandler, mmap, os, sys
    from pathlib import Path
    from tests.csrc.test_reader_stream import samples, stream, write
    faulthandler.enable()
    running, _ = stream(samples(write(Path(sys.argv[1]))))
    with open(sys.argv[2], "w+b") as file:
        file.truncate(8192)
        view = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        print(view[5000])
"""


def test_faults_of_others_go_where_they_went_before(tmp_path: Path) -> None:
    done = child(OTHERS, tmp_path / "db", tmp_path / "file")
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr  # faulthandler's word


def overwrite_header(folder: Path, key: str) -> None:
    """Damage an entry's header behind the reader's back."""
    file = folder / "data.mdb"
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin(buffers=True) as txn:
        value = bytes(txn.get(key.encode()))
    content = file.read_bytes()
    assert content.count(value) == 1
    with open(file, "r+b") as output:
        output.seek(content.index(value) + 10)
        output.write(b"\xff")


@ACCESS
def test_an_entry_damaged_under_the_stream_is_named(access: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "db")
    table = samples(folder, access)
    overwrite_header(folder, "s1_7")
    running, _ = stream(table)
    with pytest.raises(ReaderError, match=r"db/data.mdb: entry 's1_7': its header is not the one that was checked"):
        read_on(running)
    assert running.next() is None


@ACCESS
def test_another_sample_stands_in_for_a_damaged_one(access: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "db")
    table = samples(folder, access)
    whole, memory = stream(table, slots=1, last=PLACES // 4, threads=1)
    expected = []
    while (taken := whole.next()) is not None:
        expected.append([part.copy() for part in memory[0]])
        whole.release(taken[0])
    for n in (7, 8, 30):
        overwrite_header(folder, f"s2_{n}")
    running, memory = stream(table, damaged="stand-in", last=PLACES // 4)
    for _, records, numbers, positions in expected:
        taken = running.next()
        assert taken is not None
        _, got_records, got_numbers, got_positions = memory[taken[0]]
        for at, number in enumerate(numbers):
            stand_in = at
            while numbers[stand_in] in (7, 8, 30):
                stand_in = (stand_in + 1) % len(numbers)
            assert got_numbers[at] == numbers[stand_in] == got_positions[at] == positions[stand_in]
            np.testing.assert_array_equal(got_records[at], records[stand_in])
            assert number == got_numbers[at] or number in (7, 8, 30)
        running.release(taken[0])
    assert running.next() is None
    assert running.stats()["left_out"] == 3


def test_a_batch_with_no_sound_sample_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "db")
    table = samples(folder)
    for n in range(PLACES):
        overwrite_header(folder, f"s2_{n}")
    running, _ = stream(table, damaged="stand-in")
    with pytest.raises(ReaderError, match="step 0: none of its 4 samples can be read"):
        running.next()


def test_a_stream_can_be_closed_and_dropped_at_any_moment(tmp_path: Path) -> None:
    table = samples(write(tmp_path / "db"))
    for batches in range(6):
        for slots in (1, 3):
            running, _ = stream(table, slots=slots, threads=3, ahead=3)
            for _ in range(min(batches, slots)):
                assert running.next() is not None  # held, never released
            if batches % 2:
                running.close()
                running.close()
                assert running.next() is None
            del running
            gc.collect()
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        stream(table, threads=4)
    gc.collect()
    assert len(os.listdir("/proc/self/task")) <= threads


def test_slots_that_are_not_held_cannot_be_released(tmp_path: Path) -> None:
    running, _ = stream(samples(write(tmp_path / "db")))
    taken = running.next()
    assert taken is not None
    with pytest.raises(ReaderError, match="slot 9 is not in the consumer's hands"):
        running.release(9)
    running.release(taken[0])
    with pytest.raises(ReaderError, match="is not in the consumer's hands"):
        running.release(taken[0])


def test_what_cannot_work_is_refused_with_the_numbers(tmp_path: Path) -> None:
    table = samples(write(tmp_path / "db"))
    with pytest.raises(ReaderError, match="a batch of 11 on each of 4 ranks is more than the 40 samples of an epoch"):
        stream(table, batch=11, world=4)
    with pytest.raises(ReaderError, match="rank below the world's size"):
        stream(table, rank=2, world=2)
    with pytest.raises(ReaderError, match="a quota per database"):
        stream(table, quotas=[1, 2])
    with pytest.raises(ReaderError, match="band id 0 is not of the bands"):
        read_on(stream(table, bands=[0])[0])
    with pytest.raises(ValueError, match="'fast'; expected 'auto', 'on' or 'off'"):
        stream(table, hints="fast")
    small = (np.empty(16, np.uint8), np.empty((4, 1, 5, 5), np.int64), *np.empty((2, 4), np.int64))
    running = Stream(table, [small], seed=0, batch=4, bands=MS + SAR, last=9)
    with pytest.raises(ReaderError, match="a slot has 16 bytes, a batch"):
        running.next()


def test_signals_reach_a_consumer_that_waits(tmp_path: Path) -> None:
    code = """
        import signal, sys
        from pathlib import Path
        from tests.csrc.test_reader_stream import samples, stream, write

        running, _ = stream(samples(write(Path(sys.argv[1]))), slots=1)
        running.next()  # held: the next one never comes
        def ring(*_): raise TimeoutError("rung")
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            running.next()
        except TimeoutError as error:
            print(error)
    """
    done = child(code, tmp_path / "db")
    assert (done.returncode, done.stdout.strip()) == (0, "rung"), done.stderr
