"""`python -m rsdnet.info`: what it tells of sound, damaged and foreign databases."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lmdb
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from rsdnet import bands
from rsdnet.data.catalog import Catalog, objects
from rsdnet.errors import DataError
from rsdnet.info import __main__, disk
from rsdnet.info.info import info
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from tests.csrc.test_reader_faults import LIES, blob, tensor
from tests.support import geotiffs, tiny
from tests.support.databases import paired_patches, write_database, write_values

pytest.importorskip("rsdnet._reader", reason="the C++ reader is not built")

from rsdnet._reader import Reader, ReaderError, Survey


@pytest.fixture
def db(tmp_path: Path) -> Path:
    source = geotiffs.sen12ms(tmp_path / "src", places=5)
    ingest(Sen12ms(source, tmp_path / "db"))
    return tmp_path / "db"


def put(db: Path, key: str, value: bytes) -> None:
    with lmdb.open(str(db), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        transaction.put(key.encode(), value)


Schema = tuple[tuple[str, str, tuple[int, ...]], ...]


def by_hand(db: Path) -> tuple[list[str], Counter[Schema], int]:
    """Damaged keys, schemas and payload bytes of all entries: py-lmdb and safetensors alone, one entry at a time."""
    damaged, schemas, payload = list[str](), Counter[Schema](), 0
    names = {"U16": "uint16", "F32": "float32"}
    with lmdb.open(str(db), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for key, value in transaction.cursor():
            try:
                tensors = safetensors.deserialize(value)
            except safetensors.SafetensorError:
                damaged.append(key.decode())
                continue
            schemas[tuple(sorted((n, names[t["dtype"]], tuple(t["shape"])) for n, t in tensors))] += 1
            payload += sum(len(t["data"]) for _, t in tensors)
    return damaged, schemas, payload


def finish(survey: Survey, piece: int = 1 << 40) -> Survey:
    while survey.done < survey.total:
        survey.advance(piece)
    return survey


def damaged_database(folder: Path) -> Path:
    """Sound entries, small ones that lie in the tree's pages and larger ones, among one of each kind of damage."""
    patches = paired_patches(40, size=6) | {f"large_{key}": p for key, p in paired_patches(9, size=60).items()}
    values: dict[str | bytes, bytes] = {key: safetensors.numpy.save(patch) for key, patch in patches.items()}
    values |= {f"{key[:4]} {name}": lie for name, (lie, _) in LIES.items() for key in ("aaaa", "s2_1", "zzzz")}
    whole = safetensors.numpy.save(paired_patches(1, size=60)["s1_0"])
    values |= {
        "fewer bytes": whole[:-1],
        "more bytes": whole + b"\0",
        "no bytes": b"",
        "half": whole[: len(whole) // 2],
    }
    return write_values(folder, values)


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table rows whose first cell is `first`."""
    lines = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return [cells for cells in lines if cells[0] == first]


def test_counts_bands_and_statistics(db: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert info(db) == 0
    out = capsys.readouterr().out
    made = Catalog.read(db)
    assert "15 entries" in out
    assert rows(out, "all") == [["all", "5", "5", "0", "0", "5", "5"]]
    train = int((made.split == "train").sum())
    assert rows(out, "train")[0][1] == str(train)
    assert ["B8A", "uint16", "24 x 24", "5"] in rows(out, "B8A")
    assert ["VV", "float32", "24 x 24", "5"] in rows(out, "VV")
    pixels = np.concatenate([geotiffs.tensors(db)[key]["B02"].ravel() for key in made.ms[made.split == "train"]])
    told = rows(out, "B02")[-1]
    assert float(told[6].replace(",", "")) == pytest.approx(pixels.mean(), abs=0.01)
    assert int(told[-2].replace(",", "")) == pixels.size
    majority = np.bincount(made.label[made.split == "train"], minlength=10)
    assert [int(rows(out, str(label))[0][2]) for label in range(10)] == majority.tolist()


def test_labels_without_class_names_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    db = tiny.make(tmp_path / "db", 15)
    made = dataclasses.replace(Catalog.read(db), classes=())
    made.label[3] = 10**6
    made.write(db)
    assert info(db) == 0
    out = capsys.readouterr().out
    assert [rows(out, str(label)) for label in range(4)] == [
        [["0", "-", "2", "1", "1"]], [["1", "-", "3", "1", "1"]], [["2", "-", "3", "1", "1"]], [],
    ]  # fmt: skip


def test_names_in_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    db = tiny.make(tmp_path / "db")
    dataclasses.replace(Catalog.read(db), classes=("[smooth]", "a [/b]", "rough [red]")).write(db)
    assert info(db) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("[smooth]", "a [/b]", "rough [red]"))


def test_keys_that_the_database_has_not_are_named(db: Path, capsys: pytest.CaptureFixture) -> None:
    made = Catalog.read(db)
    ms = objects([*made.ms[:-1], "nowhere"])
    Catalog(made.samples, ms, made.sar, made.map, made.label, made.split, made.classes, made.meta).write(db)
    assert info(db) == 1
    assert "the catalog names 1 keys that are absent: nowhere" in capsys.readouterr().out


def test_rico_hdls_own_database_needs_no_catalog(real_data: Path, capsys: pytest.CaptureFixture) -> None:
    assert info(real_data / "bigearthnet-v2" / "rico-hdl-lmdb", verify=True) == 0
    out = capsys.readouterr().out
    assert "no catalog" in out
    assert rows(out, "B01") == [["B01", "uint16", "20 x 20", "1"]]


@pytest.mark.parametrize("fault", ["not lmdb", "no bytes", "no entries", "truncated", "no folder", "unfinished"])
def test_databases_that_cannot_be_read_get_one_line(db: Path, tmp_path: Path, fault: str) -> None:
    path = db / "data.mdb"
    if fault == "not lmdb":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif fault == "no bytes":
        path.write_bytes(b"")
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "no folder":
        db = tmp_path / "none"
    elif fault == "no entries":
        db = tmp_path / "empty"
        lmdb.open(str(db)).close()
    else:
        (db / "catalog.parquet").unlink()
        (db / "ingest.journal").touch()
    with pytest.raises(DataError) as caught:
        info(db)
    assert str(db) in str(caught.value)


@pytest.mark.parametrize("whole", [False, True])
def test_a_survey_finds_all_that_is_damaged_and_nothing_else(tmp_path: Path, whole: bool) -> None:
    db = damaged_database(tmp_path)
    damaged, schemas, payload = by_hand(db)
    assert len(damaged) == 3 * len(LIES) + 4
    for threads, piece in ((1, 1 << 40), (3, 1 << 40), (3, 7)):
        found = finish(Survey(Reader([db], bands.spellings(), threads), 0, whole), piece)
        assert [key for key, _ in found.damaged] == damaged
        assert {tuple(sorted(columns)): count for columns, count in found.schemas} == schemas
        assert found.payload == payload
        assert found.unlisted == 0
        reasons = dict(found.damaged)
        for name, (_, reason) in LIES.items():
            assert re.search(reason, reasons[f"aaaa {name}"])
        assert all("\n" not in reason and str(db) not in reason for reason in reasons.values())


def test_a_survey_goes_on_in_pieces(tmp_path: Path) -> None:
    write_database(tmp_path, paired_patches(50))
    reader = Reader([tmp_path], bands.spellings(), threads=2)
    survey = Survey(reader, whole=True)
    assert (survey.total, survey.done, survey.damaged, survey.schemas) == (100, 0, [], [])
    assert [survey.advance(n) for n in (1, 0, 30, 60, 60, 1)] == [1, 1, 31, 91, 100, 100]
    assert sum(count for _, count in survey.schemas) == survey.done == 100
    assert survey.bytes == sum(len(safetensors.numpy.save(p)) for p in paired_patches(50).values())
    with pytest.raises(ValueError, match="negative"):
        survey.advance(-1)
    with pytest.raises(IndexError, match="out of range"):
        Survey(reader, 1)


def test_several_databases_in_one_survey(tmp_path: Path) -> None:
    paths = [write_database(tmp_path / str(n), paired_patches(n + 1)) for n in range(2)]
    for n, path in enumerate(paths):
        put(path, f"bad_{n}", b"\xff" * 40)
    reader = Reader(paths, bands.spellings())
    assert [key for key, _ in finish(Survey(reader)).damaged] == ["bad_0", "bad_1"]
    one = finish(Survey(reader, 1))
    assert ([key for key, _ in one.damaged], one.total) == (["bad_1"], 5)


def test_entries_that_differ_in_their_metadata_alone_have_one_schema(tmp_path: Path) -> None:
    note = {f"{n:04d}": blob({"__metadata__": {"n": str(n)}, "B02": tensor()}) for n in range(1500)}
    shapes = {f"x{n}": blob({"B02": tensor(0, 2 * n, [1, n])}, b"\0" * 2 * n) for n in range(1, 5)}
    found = finish(Survey(Reader([write_values(tmp_path, note | shapes)], bands.spellings(), 2)))
    assert found.schemas[0] == ((("B02", "uint16", (2, 2)),), 1500)
    assert sorted(found.schemas[1:]) == [((("B02", "uint16", (1, n)),), 1) for n in range(1, 5)]


def test_a_database_that_changes_under_a_survey_ends_it(tmp_path: Path) -> None:
    write_database(tmp_path, paired_patches(50, size=60))
    reader = Reader([tmp_path], bands.spellings())
    survey, other = Survey(reader, whole=True), Survey(reader)
    survey.advance(10)
    put(tmp_path, "later", b"")
    with pytest.raises(ReaderError, match="was written to while it was open"):
        survey.advance(10)
    os.truncate(tmp_path / "data.mdb", 8192)
    with pytest.raises(ReaderError, match="was truncated while it was open"):
        other.advance(10)


def test_whole_brings_every_byte_from_disk(tmp_path: Path) -> None:
    db = write_database(tmp_path, {f"{n:02d}": p for n in range(40) for p in (paired_patches(1, size=120)["s1_0"],)})
    file, reader = db / "data.mdb", Reader([db], bands.spellings())
    if not disk.evict(file):
        pytest.skip("this file system keeps all pages in memory")
    assert finish(Survey(reader)).damaged == []
    assert disk.cached_share(file) <= 0.25  # of an entry, 1 of 29 pages
    assert finish(Survey(reader, whole=True)).damaged == []
    assert disk.cached_share(file) > 0.95


def test_ten_damaged_entries_are_named_and_a_file_holds_all(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    db = damaged_database(tmp_path / "db")
    damaged, _, _ = by_hand(db)
    assert info(db, True, tmp_path / "faults.json") == 1
    out = capsys.readouterr().out
    assert f"{len(damaged)} damaged entries:" in out
    assert f"and {len(damaged) - 10} more" in out
    assert all(repr(key) in out for key in damaged[:10])
    assert not any(repr(key) in out for key in damaged[10:])
    written = json.loads((tmp_path / "faults.json").read_text())
    assert [fault["key"] for fault in written["damaged"]] == damaged
    assert written["absent"] == []
    with pytest.raises(DataError, match="cannot be written"):
        info(db, True, tmp_path / "nowhere" / "faults.json")


def call(*words: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "rsdnet.info", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_exit_statuses(db: Path, tmp_path: Path) -> None:
    sound = call(db, "--verify")
    assert (sound.returncode, "all 15 entries were read whole" in sound.stdout) == (0, True)
    put(db, "bad", b"\xff" * 40)
    damaged = call(db)
    assert (damaged.returncode, damaged.stderr) == (1, "")
    assert "1 damaged entries:\n  'bad': its header claims" in damaged.stdout
    lost = call(tmp_path / "none")
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert lost.stderr.startswith("error: ")


def test_ctrl_c_ends_it_in_one_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "info", stop)
    monkeypatch.setattr(sys, "argv", ["info", "db"])
    assert __main__.main() == 130
    assert capsys.readouterr().err == "stopped\n"
