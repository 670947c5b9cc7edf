"""Vectors of a database's patches in Parquet: the probe's features, all of the catalog, and readers of others."""

import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import rsdnet
from rsdnet import bands
from rsdnet.data.catalog import Catalog
from rsdnet.data.identity import Identity
from rsdnet.distributed import ALONE
from rsdnet.embed import patches
from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import contenders, load_encoder
from rsdnet.evaluate.features import Labelled
from tests.embed import scenes
from tests.support import encoders


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.written(tmp_path_factory.mktemp("encoder"), channels=1)


def test_vectors_are_the_probes_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, tiny_db: Path
) -> None:
    """In several row groups; of all patches, with the columns of the catalog."""
    monkeypatch.setattr(patches, "GROUP", 17 * 60 * 4)
    words = ("--db", tiny_db, "--bands", "B04", "B11", "VV", "--batch=7")
    assert scenes.run(monkeypatch, encoder, tmp_path / "out.parquet", *words) == 0
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups > 6
    catalog, rows = Catalog.read(tiny_db), table.to_pylist()
    assert [row["sample"] for row in rows] == [*catalog.samples, *catalog.samples]
    assert [row["sensor"] for row in rows] == ["ms"] * 60 + ["sar"] * 60
    assert [row["key"] for row in rows] == [*catalog.ms, *catalog.sar]
    assert [row["split"] for row in rows[:60]] == list(catalog.split)
    assert [row["label"] for row in rows[:60]] == list(catalog.label)
    assert [row["class"] for row in rows[:60]] == [catalog.classes[label] for label in catalog.label]
    assert {row["lon"] for row in rows} == {None}
    trained = load_encoder(encoder.parent)
    own = contenders(trained.encoder, trained.cfg, torch.device("cpu"), ("stages",))["pre-trained"]
    known = rsdnet.load(encoder).file
    inputs: Identity = {"side": known.side, "unit": "dn",
                        "statistics": {name: [band.mean, band.std] for name, band in known.bands.items()}}  # fmt: skip
    for sensor, names, own_rows in (("ms", ("B04", "B11"), rows[:60]), ("sar", ("VV",), rows[60:])):
        pool = bands.MS if sensor == "ms" else bands.SAR
        labelled = Labelled(trained.cfg, (tiny_db,), sensor, ALONE, pool=pool, trained=inputs, statistics="run")
        expected = torch.cat([own.of_bands(labelled, (name,), {})["stages"] for name in names], 1)
        vectors = torch.tensor([row["embedding"] for row in own_rows])
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-6)
    about = json.loads(table.schema.metadata[b"rsdnet"])
    assert about["rows"] == {"ms": ["B04", "B11"], "sar": ["VV"]}


def test_scikit_learn_and_duckdb_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, tiny_db: Path
) -> None:
    out = tmp_path / "out.parquet"
    scenes.run(monkeypatch, encoder, out, "--db", tiny_db, "--bands=VV", "--features=layer2")
    table = pyarrow.parquet.read_table(out, filters=[("split", "==", "train")])
    x = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    assert x.shape == (36, 8)
    assert LogisticRegression(max_iter=500).fit(x, table["class"].to_pylist()).classes_.tolist() == [
        "rough", "smooth", "striped"
    ]  # fmt: skip
    duckdb = pytest.importorskip("duckdb")
    first = duckdb.sql(f"select embedding from '{out}' where sample = 'db_3'").fetchone()[0]
    np.testing.assert_allclose(first, table["embedding"][3].as_py())


def test_a_database_without_labels_on_two_ranks_is_that_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, tiny_db: Path
) -> None:
    db = tmp_path / "db"
    db.mkdir()
    for name in ("data.mdb", "stats.json"):
        (db / name).symlink_to(tiny_db / name)
    catalog = Catalog.read(tiny_db)
    catalog.label[:] = -1
    catalog.write(db)
    words = ("--db", db, "--features=last", "--bands=B08")
    monkeypatch.setattr(patches, "GROUP", 7 * 32 * 4)
    scenes.run(monkeypatch, encoder, tmp_path / "one.parquet", *words)
    child = scenes.Child(tmp_path / "said", encoder, tmp_path / "two.parquet", *words, ranks=2)
    assert child.statuses == [0, 0], child.text("err")
    one, two = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.equals(two)
    assert one["label"].null_count == one["class"].null_count == 60


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--bands=B01",), "the encoder knows no band B01"), (("--bands=B99",), "unknown band 'B99'"),
     (("--features=layer9",), "--features layer9")],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, tiny_db: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        scenes.run(monkeypatch, encoder, tmp_path / "out.parquet", "--db", tiny_db, *words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def full_after_two() -> None:
    """The third row group finds no room."""
    write, done = pyarrow.parquet.write_table, 0

    def written(*words: object, **options: object) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*words, **options)

    mock.patch.object(pyarrow.parquet, "write_table", written).start()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_ends_all_ranks_with_one_line_and_it_continues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, tiny_db: Path, ranks: int
) -> None:
    monkeypatch.setattr(patches, "GROUP", 7 * 32 * 4)
    words = (encoder, tmp_path / "out.parquet", "--db", tiny_db, "--features=last", "--bands=B08")
    child = scenes.Child(tmp_path / "said", *words, ranks=ranks, prepare=full_after_two)
    assert child.statuses == [2] * ranks
    assert not (tmp_path / "out.parquet").exists()
    held = sorted((tmp_path / "out.parquet.parts").glob("*.group"))
    assert 2 <= len(held) < 9
    times = [path.stat().st_mtime_ns for path in held]
    monkeypatch.setattr(patches, "_join", lambda parts, about: None)  # and the parts stay
    monkeypatch.setattr(patches.Parts, "remove", lambda self: self._lock.close())
    assert scenes.run(monkeypatch, *words) == 0
    assert [path.stat().st_mtime_ns for path in held] == times  # not computed again
    monkeypatch.undo()
    monkeypatch.setattr(patches, "GROUP", 7 * 32 * 4)
    with pytest.raises(DataError, match="begun with other --bands"):
        scenes.run(monkeypatch, *words[:-1], "--bands=B04")
    assert scenes.run(monkeypatch, *words) == 0
    assert scenes.run(monkeypatch, encoder, tmp_path / "whole.parquet", *words[2:]) == 0
    one, two = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("out", "whole"))
    assert one.equals(two)
    assert not list(tmp_path.glob("*.parts"))


def test_interrupted_it_continues(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, encoder: Path, tiny_db: Path
) -> None:
    monkeypatch.setattr(patches, "GROUP", 7 * 60 * 4)
    table, done = patches._table, 0

    def stop(*words: Any) -> pyarrow.Table:
        nonlocal done
        done += 1
        if done == 4:
            raise KeyboardInterrupt
        return table(*words)

    words = (encoder, tmp_path / "out.parquet", "--db", tiny_db, "--bands=VV")
    monkeypatch.setattr(patches, "_table", stop)
    assert scenes.run(monkeypatch, *words) == 130
    assert not (tmp_path / "out.parquet").exists()
    assert scenes.run(monkeypatch, *words) == 0
    assert "after 3 row groups" in capsys.readouterr().out
    assert len(pyarrow.parquet.read_table(tmp_path / "out.parquet")) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
