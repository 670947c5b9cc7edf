"""`python -m rsdnet.info`: what it tells of sound, damaged and foreign databases."""

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest

from rsdnet.catalog import Catalog, objects
from rsdnet.errors import DataError
from rsdnet.info import info
from rsdnet.ingest import ingest
from rsdnet.layouts.sen12ms import Sen12ms
from tests import geotiffs

pytest.importorskip("rsdnet._reader", reason="the C++ reader is not built")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    source = geotiffs.sen12ms(tmp_path / "src", places=5)
    ingest(Sen12ms(source, tmp_path / "db"))
    return tmp_path / "db"


def put(db: Path, key: str, value: bytes) -> None:
    with lmdb.open(str(db), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        transaction.put(key.encode(), value)


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
    pixels = np.concatenate([geotiffs.tensors(db)[key]["B02"].ravel() for key in made.select(split="train").ms])
    told = rows(out, "B02")[-1]
    assert float(told[6].replace(",", "")) == pytest.approx(pixels.mean(), abs=0.01)
    assert int(told[-2].replace(",", "")) == pixels.size
    majority = np.bincount(made.label[made.split == "train"], minlength=10)
    assert [int(rows(out, str(label))[0][2]) for label in range(10)] == majority.tolist()


def test_damaged_entries_are_named(db: Path, capsys: pytest.CaptureFixture) -> None:
    key = Catalog.read(db).ms[0]
    put(db, key, b"\xff" * 40)
    for verify in (False, True):
        assert info(db, verify) == 1
        out = capsys.readouterr().out
        assert "1 damaged entries" in out
        assert key in out


def test_keys_that_the_database_has_not_are_named(db: Path, capsys: pytest.CaptureFixture) -> None:
    made = Catalog.read(db)
    ms = objects([*made.ms[:-1], "nowhere"])
    Catalog(made.samples, ms, made.sar, made.map, made.label, made.split, made.classes, made.meta).write(db)
    assert info(db) == 1
    assert "the catalog names 1 keys that are absent: nowhere" in capsys.readouterr().out


def test_verify_reads_all(db: Path, capsys: pytest.CaptureFixture) -> None:
    assert info(db, verify=True) == 0
    assert "all 15 entries were read whole" in capsys.readouterr().out


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


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    repo = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(repo)}
    words = [sys.executable, "-m", "rsdnet.info", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
