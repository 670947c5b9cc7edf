"""The folder of a database between two ingests: damaged, another's, or of the source's own files."""

import os
from pathlib import Path
from unittest import mock

import lmdb
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.ingest import ingest, workers
from rsdnet.ingest.geotiffs import Result
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from rsdnet.ingest.source import Recipe, Source
from tests.ingest.test_ingest import pairs, s1, s2
from tests.ingest.test_ingest_bad import leave_unfinished, same
from tests.support import geotiffs


def refused(layout: Layout) -> str:
    with pytest.raises(DataError) as caught:
        ingest.ingest(layout)
    return " ".join(str(caught.value).split())


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


def delete(db: Path, key: str) -> None:
    with lmdb.open(str(db), map_size=1 << 26, lock=False) as environment, environment.begin(write=True) as transaction:
        assert transaction.delete(key.encode())


DAMAGE = {
    "holds no data.mdb": lambda db: (db / "data.mdb").unlink(),
    "is truncated: it has 9000 bytes": lambda db: cut(db / "data.mdb", 9000),
    "is not an LMDB database": lambda db: cut(db / "data.mdb", 100),
    "it lacks the entry a_s1": lambda db: delete(db, "a_s1"),
    "it lacks the entry b_s2": lambda db: delete(db, "b_s2"),
}


@pytest.mark.parametrize("said", DAMAGE)
@pytest.mark.parametrize("whole", [True, False])
def test_entries_that_are_gone_since_are_noticed(tmp_path: Path, said: str, whole: bool) -> None:
    for name in "abc":  # one of each split
        geotiffs.pair(tmp_path, name, s2(), s1())
    layout = pairs(tmp_path, tmp_path / "db", offset="0")
    if whole:
        ingest.ingest(layout)
        assert sorted(Catalog.read(layout.db).split) == ["test", "train", "val"]
    else:
        leave_unfinished(layout)
    DAMAGE[said](layout.db)
    line = refused(layout)
    assert said in line
    assert line.endswith(": delete it and ingest anew")


@pytest.mark.parametrize(
    ("name", "size"), [("stats.json", None), ("stats.json", 100), ("catalog.parquet", 0), ("catalog.parquet", 500)]
)
def test_a_finished_database_without_a_part_is_not_called_finished(tmp_path: Path, name: str, size: int | None) -> None:
    layout = Sen12ms(geotiffs.sen12ms(tmp_path / "src", places=3), tmp_path / "db")
    ingest.ingest(layout)
    if size is None:
        (layout.db / name).unlink()
    else:
        cut(layout.db / name, size)
    line = refused(layout)
    assert name in line
    assert line.endswith(": delete it and ingest anew")


@pytest.mark.parametrize("line", [0, 2])
@pytest.mark.parametrize("text", [b"\0\0\0\0", b"[1]", b"{", b"\xff"])
def test_a_damaged_journal_gets_one_line(tmp_path: Path, line: int, text: bytes) -> None:
    layout = Sen12ms(geotiffs.sen12ms(tmp_path / "src", places=3), tmp_path / "db")
    leave_unfinished(layout)
    journal = layout.db / "ingest.journal"
    lines = journal.read_bytes().split(b"\n")
    lines[line] = text
    journal.write_bytes(b"\n".join(lines))
    assert refused(layout) == f"{journal} is damaged: delete {layout.db} and ingest anew"


def test_a_folder_that_may_not_be_written_to_is_not_called_full(tmp_path: Path) -> None:
    layout = Sen12ms(geotiffs.sen12ms(tmp_path / "src", places=2), tmp_path / "db")
    (layout.db / "ingest.journal").mkdir(parents=True)
    line = refused(layout)
    assert f"{layout.db} cannot be written to ([Errno 21] Is a directory" in line
    assert "space" not in line


def test_lists_of_an_earlier_database_do_not_stay(tmp_path: Path) -> None:
    for name in "abc":
        geotiffs.pair(tmp_path, name, s2(), s1())
    (tmp_path / "s1" / "c.tif").unlink()
    layout = pairs(tmp_path, tmp_path / "db", offset="0")
    ingest.ingest(layout)
    assert sorted(path.name for path in layout.db.iterdir()) == [
        "catalog.parquet", "data.mdb", "left_out.tsv", "stats.json",
    ]  # fmt: skip
    for name in ("data.mdb", "catalog.parquet"):
        (layout.db / name).unlink()
    geotiffs.pair(tmp_path, "c", s2(), s1())
    ingest.ingest(layout)
    assert not (layout.db / "left_out.tsv").exists()


@pytest.mark.parametrize("db", ["src", ".", "src/ROIs1158_spring", "src/ROIs1158_spring/s2_1", "link"])
def test_a_database_is_not_written_among_the_images_of_its_source(tmp_path: Path, db: str) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=2)
    os.symlink(source, tmp_path / "link")
    line = refused(Sen12ms(source, tmp_path / db))
    assert line.startswith(f"{tmp_path / db} holds images of the source ({source}")
    assert not list(tmp_path.rglob("data.mdb"))


def test_a_database_may_lie_beside_other_files_and_inside_the_source(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=3)
    for db in (source / "db", tmp_path / "logs"):
        db.mkdir()
        (db / "job.log").write_text("begun")
        assert ingest.ingest(Sen12ms(source, db)) == 0
        assert len(Catalog.read(db)) == 3


def test_a_database_that_another_ingest_finished_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=3)
    survey, others = ingest.survey, iter([0.5])

    def other(*arguments: object) -> None:
        survey(*arguments)  # type: ignore[arg-type]
        for share in others:  # the other one begins later and ends sooner
            ingest.ingest(Sen12ms(source, tmp_path / "db", max_invalid=share))

    monkeypatch.setattr(ingest, "survey", other)
    assert "was begun with max_invalid 0.5, now it is 0.05" in refused(Sen12ms(source, tmp_path / "db"))
    ingest.ingest(Sen12ms(source, tmp_path / "whole", max_invalid=0.5))
    same(tmp_path / "db", tmp_path / "whole")
    assert not (tmp_path / "db" / "ingest.journal").exists()


@pytest.mark.parametrize("mount", [True, False])
def test_a_source_that_goes_ends_the_ingest_and_its_return_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: bool
) -> None:
    source, away, read = geotiffs.sen12ms(tmp_path / "src", places=6), tmp_path / "away", workers.ingest_source
    layout = Sen12ms(source, tmp_path / "db", workers=1)
    ingest.ingest(Sen12ms(source, tmp_path / "whole"))

    def going(one: Source, recipe: Recipe) -> Result:
        if one.name.endswith("p1") and (tmp_path / "db" / "ingest.journal").exists() and not away.exists():
            source.rename(away)
            if mount:  # an empty folder stays
                source.mkdir()
        return read(one, recipe)

    monkeypatch.setattr(workers, "ingest_source", going)
    assert refused(layout).startswith(f"{source} is gone: ")
    if mount:
        source.rmdir()
    away.rename(source)
    away.mkdir()
    assert ingest.ingest(layout) == 0
    same(layout.db, tmp_path / "whole")


def test_an_interruption_at_the_end_gets_one_line_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    layout = Sen12ms(geotiffs.sen12ms(tmp_path / "src", places=3), tmp_path / "db")
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "write", mock.Mock(side_effect=KeyboardInterrupt))
        assert ingest.ingest(layout) == INTERRUPTED
    assert capsys.readouterr().out == "interrupted: 3 of 3 sources are in; the same command continues\n"
    assert ingest.ingest(layout) == 0
    assert len(Catalog.read(layout.db)) == 3


def test_a_split_of_which_nothing_could_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in "abc":
        geotiffs.pair(tmp_path, name, s2(), s1())
    layout = pairs(tmp_path, tmp_path / "whole", offset="0")
    ingest.ingest(layout)
    (lost,) = (sample for sample, split in zip(*split_of(layout.db), strict=True) if split == "val")
    cut(tmp_path / "s1" / f"{lost}.tif", 200)
    capsys.readouterr()
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    assert "  - no sample is in val: all of its sources were left out\n" in capsys.readouterr().out
    assert sorted(split_of(tmp_path / "db")[1]) == ["test", "train"]


def split_of(db: Path) -> tuple[list[str], list[str]]:
    made = Catalog.read(db)
    return made.samples.tolist(), made.split.tolist()
