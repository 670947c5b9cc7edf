"""The C++ stream as Python sees it: its errors, its threads, signals. What it delivers: csrc/tests, tests/data."""

import gc
import os
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


def samples(folder: Path) -> Table:
    """A table of the places of `write`, in order."""
    table = Table(Reader([folder], bands.spellings(), 2), "ms+sar", MS, SAR)
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


def test_a_database_that_is_written_to_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    running, _ = stream(samples(write(tmp_path / "db")))
    read_on(running, 3)
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 28) as other, other.begin(write=True) as transaction:
        transaction.put(b"new", b"value")
    with pytest.raises(ReaderError, match=r"db/data.mdb: was written to while it was open"):
        read_on(running)
    assert running.next() is None  # closed


def test_a_stream_that_is_dropped_ends_its_threads(tmp_path: Path) -> None:
    table = samples(write(tmp_path / "db"))
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(20):
        running, _ = stream(table, threads=4)
        running.next()
    del running
    gc.collect()
    assert len(os.listdir("/proc/self/task")) <= threads


def test_what_cannot_work_is_refused_with_the_numbers(tmp_path: Path) -> None:
    table = samples(write(tmp_path / "db"))
    with pytest.raises(ReaderError, match="a batch of 11 on each of 4 ranks is more than the 40 samples of an epoch"):
        stream(table, batch=11, world=4)
    with pytest.raises(ReaderError, match="band id 0 is not of the bands"):
        read_on(stream(table, bands=[0])[0])
    with pytest.raises(ValueError, match="'fast'; expected 'auto', 'on' or 'off'"):
        stream(table, hints="fast")
    slot = np.empty(16, np.uint8), np.empty((4, 1, 5, 5), np.int64), np.empty(3, np.int64), np.empty(4, np.int64)
    with pytest.raises(ValueError, match=r"samples of a slot has shape \(3,\); a batch needs 4 numbers"):
        Stream(table, [slot], seed=0, batch=4, bands=MS + SAR, last=9)


def test_signals_reach_a_consumer_that_waits(tmp_path: Path) -> None:
    code = """
        import signal, sys
        from pathlib import Path
        from tests.csrc.test_stream import samples, stream, write

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
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "rung"), done.stderr
