"""Ingest against bad input, a full disk and sudden death: one line each, and nothing lost."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.data.statistics import read_stats
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.ingest import ingest, journal, workers, writer
from rsdnet.ingest.layouts import LAYOUTS
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from tests.ingest.test_ingest import pairs, s1, s2
from tests.support import geotiffs

REPO = Path(__file__).resolve().parents[2]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_words(*words), capture_output=True, text=True, timeout=120, env=_environment())


def _words(*words: object) -> list[str]:
    return [sys.executable, "-m", "rsdnet.ingest", *map(str, words)]


def _environment() -> dict[str, str]:
    path = f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def refused(layout: Layout) -> str:
    """The line an ingest is refused with; it must be one, and leave no database behind."""
    with pytest.raises(DataError) as caught:
        ingest.ingest(layout)
    assert not (layout.db / "data.mdb").exists()
    return " ".join(str(caught.value).split())


def same(one: Path, two: Path) -> None:
    """Two databases hold the same entries, catalog and statistics."""
    assert geotiffs.entries(one) == geotiffs.entries(two)
    assert read_stats(one) == read_stats(two)
    left, right = Catalog.read(one), Catalog.read(two)
    for column in ("samples", "ms", "sar", "map", "label", "split"):
        assert getattr(left, column).tolist() == getattr(right, column).tolist()
    assert left.classes == right.classes
    for name in ("left_out.tsv", "offsets.tsv"):
        assert (one / name).exists() == (two / name).exists()
        assert not (one / name).exists() or (one / name).read_text() == (two / name).read_text()


def test_one_process_or_many_write_the_same(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=40, size=6)
    ingest.ingest(Sen12ms(source, tmp_path / "one", workers=1))
    with mock.patch.object(workers, "_THREADS", 0):
        ingest.ingest(Sen12ms(source, tmp_path / "two", workers=2))
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_folder_without_geotiffs(tmp_path: Path, layout: str) -> None:
    (tmp_path / "src" / "s2").mkdir(parents=True)
    (tmp_path / "src" / "readme.txt").write_text("no image")
    make, options = LAYOUTS.find(layout), {"s2": Path("s2")} if layout == "pairs" else {}
    assert str(tmp_path / "src") in refused(make(tmp_path / "src", tmp_path / "db", **options))
    assert "is not a folder" in refused(make(tmp_path / "none", tmp_path / "db"))


def test_the_command_says_one_line_and_ends_with_2(tmp_path: Path) -> None:
    done = command("sen12ms", tmp_path, tmp_path / "db")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} holds no GeoTIFF")
    assert done.stderr.count("\n") == 1


def test_one_truncated_geotiff_among_many_is_left_out_and_named(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=6)
    path = next(source.rglob("*s2_2_p1.tif"))
    path.write_bytes(path.read_bytes()[:9000])
    header = next(source.rglob("*s1_3_p2.tif"))
    header.write_bytes(header.read_bytes()[:5])
    assert ingest.ingest(Sen12ms(source, tmp_path / "db")) == 0
    assert len(Catalog.read(tmp_path / "db")) == 4
    assert len(geotiffs.entries(tmp_path / "db")) == 12
    rows = (tmp_path / "db" / "left_out.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["ROIs1158_spring_2_p1", "ROIs1158_spring_3_p2"]
    assert all("cannot be read" in row and "is it whole?" in row for row in rows)
    assert str(path) in rows[0]


def test_nothing_but_bad_files_is_an_error_and_may_be_tried_again(tmp_path: Path) -> None:
    geotiffs.pair(tmp_path, "a", s2(), s1())
    whole = (tmp_path / "s2" / "a.tif").read_bytes()
    (tmp_path / "s2" / "a.tif").write_bytes(whole[: len(whole) // 2])
    line = refused(pairs(tmp_path, tmp_path / "db"))
    assert "nothing of" in line
    assert "cannot be read" in line
    (tmp_path / "s2" / "a.tif").write_bytes(whole)
    assert ingest.ingest(pairs(tmp_path, tmp_path / "db")) == 0


def test_a_band_missing_in_one_file_of_many(tmp_path: Path) -> None:
    geotiffs.write(tmp_path / "s2" / "a.tif", s2(), ("B02", "B03"))
    geotiffs.write(tmp_path / "s2" / "b.tif", s2(), ("B02", "B04"))
    ingest.ingest(Pairs(tmp_path, tmp_path / "db", s2=Path("s2"), offset="0"))
    assert Catalog.read(tmp_path / "db").samples.tolist() == ["a"]
    assert "has no band B03: it has B02, B04" in (tmp_path / "db" / "left_out.tsv").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 13}, "smaller than --patch 13"),
        ({"stride": 6}, "--stride needs --patch"),
        ({"patch": 0}, "--patch 0"),
        ({"max_invalid": 1.5}, "--max-invalid 1.5"),
        ({"val": 0.6, "test": 0.5}, "must be shares"),
        ({"offset": "some"}, "--offset is 'some'"),
        ({"classes": "water"}, "wants a value and a name"),
        ({"classes": "1=water"}, "it needs --label DIR"),
        ({"s1": Path("none")}, "none is not a folder"),
        ({"s2": None, "s1": None}, "needs --s2 DIR, --s1 DIR or both"),
        ({"s1": Path("other")}, "no file name in common"),
        ({"s1": Path("small")}, "S2 is 12x12 px, but S1 is 11x11 px"),
        ({"s2_bands": "B02,B13"}, "unknown band 'B13': did you mean"),
        ({"s2_bands": "B02,VV"}, "VV is no band of S2"),
        ({"s2_bands": "B02,B2"}, "names a band twice"),
        ({"s2_bands": ""}, "does not name its 2 layers: give --s2-bands"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: dict, said: str) -> None:
    geotiffs.pair(tmp_path, "a", s2(), s1())
    geotiffs.write(tmp_path / "other" / "b.tif", s1())
    geotiffs.write(tmp_path / "small" / "a.tif", s1(11))
    assert said in refused(pairs(tmp_path, tmp_path / "db", **options))


def test_finished_databases_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=3)
    ingest.ingest(Sen12ms(source, tmp_path / "db"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "db").iterdir()}
    assert ingest.ingest(Sen12ms(source, tmp_path / "db")) == 0
    assert "is finished: 3 samples" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "db").iterdir()}
    with pytest.raises(DataError, match="was begun with patch None, now it is 12"):
        ingest.ingest(Sen12ms(source, tmp_path / "db", patch=12))


def test_databases_of_others_are_left_alone(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=1)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"theirs")
    with pytest.raises(DataError, match="did not begin: name another folder"):
        ingest.ingest(Sen12ms(source, tmp_path / "db"))
    assert (tmp_path / "db" / "data.mdb").read_bytes() == b"theirs"


class Dead(BaseException):
    """Stands for a process's end: nothing catches it."""


@pytest.mark.parametrize("moment", ["before the entries", "between entries and journal", "torn journal", "finishing"])
def test_wherever_it_dies_it_continues_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, capsys: pytest.CaptureFixture
) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=12)
    radar = s1(24)
    radar[0, :12] = np.nan
    geotiffs.write(next(source.rglob("*s1_4_p3.tif")), radar)
    ingest.ingest(Sen12ms(source, tmp_path / "whole"))
    monkeypatch.setattr(writer, "_CHUNK_BYTES", 50_000)  # about two sources a transaction
    put, write, calls = writer.Writer.put, journal.Journal._write, [0]

    def dying_put(self: writer.Writer, entries: object) -> None:
        calls[0] += 1
        if moment == "before the entries" and calls[0] == 4:
            raise Dead
        put(self, entries)  # type: ignore[arg-type]

    def dying_write(self: journal.Journal, records: list) -> None:
        if calls[0] == 4 and moment == "between entries and journal":
            raise Dead
        write(self, records)
        if calls[0] == 4 and moment == "torn journal":
            os.truncate(self.path, self.path.stat().st_size - 7)
            raise Dead

    with mock.patch.object(writer.Writer, "put", dying_put), mock.patch.object(journal.Journal, "_write", dying_write):
        if moment == "finishing":
            leave_unfinished(Sen12ms(source, tmp_path / "db"))
        else:
            with pytest.raises(Dead):
                ingest.ingest(Sen12ms(source, tmp_path / "db"))
    with pytest.raises(DataError, match="not finished"):
        Catalog.read(tmp_path / "db")
    with pytest.raises(DataError, match="was begun with max_invalid"):
        ingest.ingest(Sen12ms(source, tmp_path / "db", max_invalid=0.5))
    capsys.readouterr()
    ingest.ingest(Sen12ms(source, tmp_path / "db"))
    assert "continuing" in capsys.readouterr().out
    same(tmp_path / "db", tmp_path / "whole")
    assert not (tmp_path / "db" / "ingest.journal").exists()
    sizes = [(tmp_path / name / "data.mdb").stat().st_size for name in ("db", "whole")]
    assert sizes[0] <= sizes[1] + 8 * 4096  # entries written before the end were not written again


def leave_unfinished(layout: Layout) -> None:
    """Die before the catalog is written."""
    with mock.patch.object(Catalog, "write", side_effect=Dead), pytest.raises(Dead):
        ingest.ingest(layout)


def test_other_files_in_the_source_are_noticed_on_the_way_on(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=4)
    leave_unfinished(Sen12ms(source, tmp_path / "db"))
    next(source.rglob("*s2_1_p0.tif")).unlink()
    with pytest.raises(DataError, match="held other files"):
        ingest.ingest(Sen12ms(source, tmp_path / "db"))


# Slows a subprocess's writing so that a signal meets it in the middle.
_SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, as a CI's, is born ignoring it
from rsdnet import errors
from rsdnet.ingest import ingest, workers, writer
put = writer.Writer.put
writer.Writer.put = lambda self, entries: (put(self, entries), time.sleep(0.5))[0]
writer._CHUNK_BYTES = 50_000
workers._THREADS = {threads}
sys.argv[1:] = {words}
if __name__ == "__main__":
    errors.command(ingest.main)
"""


def slow(tmp_path: Path, threads: int) -> tuple[list[str], list[str]]:
    """The words of an ingest of 40 places into `tmp_path`/db, and a slow command that runs it; beside it, the whole."""
    source = geotiffs.sen12ms(tmp_path / "src", places=40)
    ingest.ingest(Sen12ms(source, tmp_path / "whole"))
    words = ["sen12ms", str(source), str(tmp_path / "db"), "--workers", "2"]
    script = tmp_path / "slow.py"
    script.write_text(_SLOW.format(words=words, threads=threads))
    return words, [sys.executable, str(script)]


@pytest.mark.parametrize(("death", "threads"), [(signal.SIGKILL, 4), (signal.SIGKILL, 0), (signal.SIGINT, 4)])
def test_killed_it_continues_to_the_same(tmp_path: Path, death: signal.Signals, threads: int) -> None:
    words, script = slow(tmp_path, threads)
    process = subprocess.Popen(script, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines, end = tmp_path / "db" / "ingest.journal", time.monotonic() + 60
    while not lines.exists() or lines.read_bytes().count(b"\n") < 8:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(death)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if death == signal.SIGKILL else INTERRUPTED), err
    if death == signal.SIGINT:
        assert "interrupted: " in out
        assert not err
    assert 0 < len(geotiffs.entries(tmp_path / "db")) < 120  # it opens, and is not whole
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    same(tmp_path / "db", tmp_path / "whole")


def test_a_full_disk_leaves_a_database_that_opens_and_continues(tmp_path: Path) -> None:
    words, script = slow(tmp_path, 4)
    most = 500_000  # bytes a file may have: the database needs about 1 MB

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(script, env=_environment(), capture_output=True, text=True, timeout=120, preexec_fn=limit)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: no space to write ")
    assert "are safe; free some and run the same command again" in done.stderr
    assert done.stderr.count("\n") == 1
    held = geotiffs.entries(tmp_path / "db")
    assert 0 < len(held) < 120
    assert command(*words).returncode == 0
    same(tmp_path / "db", tmp_path / "whole")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=2)
    layout = Sen12ms(source, tmp_path / "db")
    (tmp_path / "db").mkdir()
    lock = contextlib.closing(journal.Journal(tmp_path / "db", layout.identity() | {"listing": ""}))
    with lock, pytest.raises(DataError, match="another ingest is writing"):
        ingest.ingest(layout)
