"""Adoption in place: the catalog and the statistics that ingest makes of the same files, and not a byte of data.mdb."""

import errno
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsdnet.catalog import adopt as module
from rsdnet.catalog import folders
from rsdnet.catalog.adopt import adopt
from rsdnet.catalog.base import Adoption
from rsdnet.catalog.folders import ADOPTION, STATE
from rsdnet.catalog.layouts import BigEarthNet, EuroSat, Ssl4eo
from rsdnet.data.catalog import COLUMNS, Catalog, read_meta
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.files import lock
from rsdnet.info.info import info
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts import bigearthnet, eurosat, ssl4eo
from tests.support import databases, geotiffs, rico

WRITTEN = {"catalog.parquet", "stats.json", "left_out.tsv"}


def ben_of(root: Path, db: Path, **options: Any) -> BigEarthNet:
    return BigEarthNet(db, metadata=tuple(root / name for name in rico.TABLES), workers=1, **options)


@pytest.fixture(scope="module")
def ben(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BigEarthNet v2's layout, and the database of it, `db`."""
    root = rico.bigearthnet(tmp_path_factory.mktemp("ben"))
    rico.encode(root, root / "db")
    return root


@pytest.fixture(scope="module")
def whole(ben: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adoption of it that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    adopt(ben_of(ben, ben / "db", out=folder))
    return folder


@pytest.fixture
def db(ben: Path, tmp_path: Path) -> Path:
    """A fresh copy of its database."""
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes((ben / "db" / "data.mdb").read_bytes())
    return tmp_path / "db"


def state(db: Path) -> tuple[str, int, int]:
    """Content, size and time of data.mdb."""
    status = os.stat(db / "data.mdb")
    return hashlib.sha256((db / "data.mdb").read_bytes()).hexdigest(), status.st_size, status.st_mtime_ns


def names_left(db: Path) -> list[str]:
    path = db / "left_out.tsv"
    return [line.split("\t")[0] for line in path.read_text().splitlines()[1:]] if path.exists() else []


def same(adopted: Path, ingested: Path) -> None:
    """The catalogs are equal but for places, which a database does not hold; the statistics bit by bit."""
    one, two = Catalog.read(adopted), Catalog.read(ingested)
    for name in set(COLUMNS) - {"lon", "lat"}:
        assert getattr(one, name).tolist() == getattr(two, name).tolist(), name
    assert np.isnan(one.lon).all()
    assert np.isnan(one.lat).all()
    assert one.classes == two.classes
    own = {"ingest", "adoption", "offset"}
    assert {key: one.meta[key] for key in one.meta.keys() - own} == {
        key: two.meta[key] for key in two.meta.keys() - own
    }
    assert (adopted / "stats.json").read_bytes() == (ingested / "stats.json").read_bytes()
    assert names_left(adopted) == names_left(ingested)


# ---- as ingest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unlisted", ["leave-out", "keep"])
def test_bigearthnet_as_ingest_makes_it_and_no_byte_of_the_data(
    ben: Path, db: Path, tmp_path: Path, unlisted: str
) -> None:
    before = state(db)
    adopt(ben_of(ben, db, unlisted=unlisted))
    assert state(db) == before
    assert {path.name for path in db.iterdir()} == WRITTEN | {"data.mdb"}
    ingest(bigearthnet.BigEarthNet(ben, tmp_path / "ingested", unlisted=unlisted, workers=1))
    same(db, tmp_path / "ingested")
    made = Catalog.read(db)
    assert np.isfinite(Catalog.read(tmp_path / "ingested").lon).all()
    assert len(made) == (16 if unlisted == "keep" else 13)  # with two of the second table, and an S1 patch alone
    assert names_left(db)[0] == rico.ben_names(0)[0]  # without a pixel of S2
    assert made.meta["values"]["523"] == 18
    assert made.contains_seasonal_snow.tolist().count(True) == (unlisted == "keep")


def test_ssl4eo_as_ingest_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = rico.ssl4eo(tmp_path / "src")
    adopt(Ssl4eo(rico.encode(root, tmp_path / "db"), workers=1))
    ingest(ssl4eo.Ssl4eo(root, tmp_path / "ingested", workers=1))
    same(tmp_path / "db", tmp_path / "ingested")
    made = Catalog.read(tmp_path / "db")
    assert (len(made), made.meta["level"], len(set(made.group))) == (15, "L2A", 4)
    assert "it has no S1 product of its own within 45 days" in (tmp_path / "db" / "left_out.tsv").read_text()
    adopt(Ssl4eo(tmp_path / "db", s2_level="L1C", force=True, workers=1))
    assert "s2c holds no product: s1 alone is taken; see --s2-level" in capsys.readouterr().out
    assert {*Catalog.read(tmp_path / "db").ms} == {None}


@pytest.mark.parametrize("listed", [True, False])
def test_eurosat_as_ingest_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture, listed: bool) -> None:
    root = geotiffs.eurosat(tmp_path / "src", each=3)
    lists = tuple(root / name for name in eurosat.LISTS)
    (root / "eurosat-val.txt").write_text("Forest_1.tif\nForest_999.tif\n")  # one is in the list of train, too
    (root / "eurosat-train.txt").write_text((root / "eurosat-train.txt").read_text().replace("Forest_1.tif\n", ""))
    if not listed:
        for path in lists:
            path.unlink()
    adopt(EuroSat(rico.encode(root, tmp_path / "db"), metadata=lists if listed else (), workers=1))
    said = capsys.readouterr().out
    assert ("samples of the lists without an entry: 1; the first: Forest_999" in said) == listed
    assert ("drawn for 30 sources in 30 patches" in said) != listed
    ingest(eurosat.EuroSat(root, tmp_path / "ingested", workers=1))
    same(tmp_path / "db", tmp_path / "ingested")


def test_the_real_database_of_rico_hdl(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = real_data / "bigearthnet-v2"
    adopt(BigEarthNet(source / "rico-hdl-lmdb", out=tmp_path / "made"))
    out = capsys.readouterr().out
    assert "no metadata.parquet by --metadata: S1 and S2 are not paired, splits are drawn" in out
    assert info(tmp_path / "made", verify=True) == 0
    ingest(bigearthnet.BigEarthNet(source, tmp_path / "ingested"))
    one, two = Catalog.read(tmp_path / "made"), Catalog.read(tmp_path / "ingested")
    assert (one.samples.tolist(), one.group.tolist()) == (two.samples.tolist(), two.group.tolist())


def test_real_ssl4eo_and_eurosat(real_data: Path, tmp_path: Path) -> None:
    for kind, made, name in ((Ssl4eo, ssl4eo.Ssl4eo, "ssl4eo-s12"), (EuroSat, eurosat.EuroSat, "eurosat-ms")):
        root = tmp_path / name
        adopt(kind(rico.encode(real_data / name, root / "db"), workers=1))
        ingest(made(real_data / name, root / "ingested", workers=1))
        same(root / "db", root / "ingested")


def test_a_folder_that_is_not_written_to(ben: Path, db: Path, tmp_path: Path) -> None:
    adopt(ben_of(ben, db, out=tmp_path / "out"))
    assert [path.name for path in db.iterdir()] == ["data.mdb"]
    assert (tmp_path / "out" / "data.mdb").samefile(db / "data.mdb")
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN | {"data.mdb"}
    assert info(tmp_path / "out") == 0
    adopt(ben_of(ben, db))
    same(tmp_path / "out", db)


# ---- interruptions ---------------------------------------------------------------------------------------------------


def crash(
    monkeypatch: pytest.MonkeyPatch, name: str, after: int, error: BaseException, module: ModuleType = module
) -> None:
    """Let the function `name` of the module raise `error` at its call after `after`."""
    function, calls = getattr(module, name), iter(range(after))

    def wrapped(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise error
        return function(*args, **options)

    monkeypatch.setattr(module, name, wrapped)


@pytest.mark.parametrize("after", [0, 9])
def test_an_adoption_continues_to_the_same_bytes(
    ben: Path, db: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, after: int
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)  # a state a sample
    with monkeypatch.context() as patch:  # journaled, but the state is one behind: as a process dies between the two
        crash(patch, "write_histograms", after, KeyboardInterrupt())
        assert adopt(ben_of(ben, db)) == INTERRUPTED
    assert (db / ADOPTION).exists()
    assert not (db / "catalog.parquet").exists()
    capsys.readouterr()
    assert adopt(ben_of(ben, db)) == 0
    assert (f"continuing {db} after {after} of " in capsys.readouterr().out) == (after > 0)
    same(db, whole)
    assert not {ADOPTION, STATE} & {path.name for path in db.iterdir()}


def test_ctrl_c_in_a_patch_and_at_the_catalog(
    ben: Path, db: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("write_stats", "write_list", "catalog_of"):
        with monkeypatch.context() as patch:
            crash(patch, name, 0, KeyboardInterrupt())
            assert adopt(ben_of(ben, db)) == INTERRUPTED
        assert "interrupted: 19 of 19 samples are counted; the same command continues" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"was begun with max_invalid 0\.05, now it is 0\.1: use the same, or --force"):
        adopt(ben_of(ben, db, max_invalid=0.1))
    with pytest.raises(DataError, match=r"was begun when data\.mdb or the metadata were others"):
        adopt(replace(ben_of(ben, db), metadata=()))
    assert adopt(ben_of(ben, db, force=True)) == 0  # goes on: the options are the same
    assert f"continuing {db} after 19 of 19" in capsys.readouterr().out
    same(db, whole)


def test_a_state_of_before_is_not_taken_up(ben: Path, db: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    for options in ({"max_invalid": 0.5}, {"force": True}):  # the second forgets the first
        with monkeypatch.context() as patch:
            crash(patch, "write_histograms", 0 if "force" in options else 5, KeyboardInterrupt())
            assert adopt(ben_of(ben, db, **options)) == INTERRUPTED
    assert not (db / STATE).exists()
    adopt(ben_of(ben, db))
    same(db, whole)


def test_a_disk_that_is_full_and_a_folder_that_is_read_only(
    ben: Path, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash(patch, "write_histograms", 0, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DataError, match=r"no space to write .*; free some and run the same command again$"):
            adopt(ben_of(ben, db))
    with monkeypatch.context() as patch:
        crash(patch, "Journal", 0, OSError(errno.EROFS, "Read-only file system"), folders)
        with pytest.raises(DataError, match=r"Read-only file system.*; make it writable, or give --out FOLDER$"):
            adopt(ben_of(ben, db))
    assert adopt(ben_of(ben, db)) == 0


def test_two_at_once_and_a_database_that_changes(ben: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash(patch, "write_stats", 0, KeyboardInterrupt())
        assert adopt(ben_of(ben, db)) == INTERRUPTED
    with open(db / ADOPTION, "rb") as file:
        lock(file, "")
        with pytest.raises(DataError, match="another adoption is writing to it"):
            adopt(ben_of(ben, db, force=True))
    os.utime(db / "data.mdb")
    with pytest.raises(DataError, match=r"was begun when data\.mdb or the metadata were others: .* --force"):
        adopt(ben_of(ben, db))
    with monkeypatch.context() as patch:
        original = module.write_histograms
        patch.setattr(
            module, "write_histograms", lambda *words, **more: (os.utime(db / "data.mdb"), original(*words, **more))
        )
        with pytest.raises(DataError, match="has changed while it was read: run the command again with --force"):
            adopt(ben_of(ben, db, force=True))


def test_memory_does_not_grow_with_the_values(tmp_path: Path) -> None:
    """Twice the entries need no more, though their values are 2.6 MB more, and their counts 8 MB."""
    patch, peaks = databases.ms_patch(np.random.default_rng(0), 120), list[int]()
    for count in (16, 32):
        keys = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{number}_1" for number in range(count)]
        db = databases.write_database(tmp_path / f"{count}", dict.fromkeys(keys, patch))
        tracemalloc.start()
        adopt(BigEarthNet(db, workers=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6


def test_memory_of_a_sample(tmp_path: Path) -> None:
    count = 5_000
    keys = [name for number in range(count) for name in rico.ben_names(number)]
    keys += [f"{key}_reference_map" for key in keys[::2]]
    asked = BigEarthNet(tmp_path)
    tracemalloc.start()
    sources = asked.sources(keys)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(sources) == 2 * count
    assert held / len(sources) < 2000


# ---- values ----------------------------------------------------------------------------------------------------------


def eurosat_like(folder: Path, change: Callable[[str, np.ndarray], np.ndarray] = lambda _, layer: layer) -> Path:
    """A database of 12 EuroSAT patches; `change` makes a band of it by its name and values."""
    rng, values = np.random.default_rng(0), {}
    for number in range(12):
        levels = {name: rng.integers(1, 4000, (8, 8)).astype(np.uint16) for name in rico.EUROSAT}
        values[f"Forest_{number}"] = {name: change(name, layer) for name, layer in levels.items()}
    return databases.write_database(folder, values)


def test_keys_that_tell_the_offset(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = rico.ssl4eo(tmp_path / "src", places=2)
    rico.ssl4eo(tmp_path / "src", places=1, year=2023)
    db = rico.encode(root, tmp_path / "db")
    refused = "4 S2 patches carry the offset of 1,000 DN of processing baseline 04.00 by the acquisition date 2023-"
    with pytest.raises(DataError, match=f"{refused}.*--offset keep or leave-out, or ingest the files"):
        adopt(Ssl4eo(db))
    assert {path.name for path in db.iterdir()} == {"data.mdb"}
    adopt(Ssl4eo(db, offset="leave-out", workers=1))
    assert Catalog.read(db).meta["offset"] == {"policy": "leave-out", "kept": 0, "of": 7}
    assert not any("2023" in key for key in Catalog.read(db).ms)
    adopt(Ssl4eo(db, offset="keep", workers=1, force=True))
    assert Catalog.read(db).meta["offset"] == {"policy": "keep", "kept": 3, "of": 10}
    assert "the key tells the offset of 1,000 DN, but pixels lie under DN 800" in capsys.readouterr().out


def test_pixels_that_speak_for_the_offset(tmp_path: Path) -> None:
    db = eurosat_like(tmp_path / "db", lambda _, layer: layer // 2 + np.uint16(1010))
    with pytest.raises(DataError, match="12 of 12 S2 patches looked at have their darkest pixels just above DN 1,000"):
        adopt(EuroSat(db))
    assert adopt(EuroSat(db, offset="keep")) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _, layer: (layer / 1e4).astype(np.float32), "likely reflectance; values are not changed in place"),
        (lambda _, layer: (layer >> 8).astype(np.uint8), "holds 8 bits, so no DN; values are not changed in place"),
        (lambda _, layer: layer.astype(np.int32), "B01 is int32 [8, 8], which training cannot read"),
        (lambda _, layer: layer[None], "is uint16 [1, 8, 8], which training cannot read"),
    ],
)
def test_values_that_training_cannot_take(tmp_path: Path, change: Callable, said: str) -> None:
    with pytest.raises(DataError) as caught:
        adopt(EuroSat(eurosat_like(tmp_path / "db", change), workers=1))
    assert said in str(caught.value)
    assert "--s2-unit" not in str(caught.value)
    assert {path.name for path in (tmp_path / "db").iterdir()} == {"data.mdb", "lock.mdb"}


def test_s1_in_whole_numbers_is_not_taken(tmp_path: Path) -> None:
    patch = {name: np.full((8, 8), -12, np.int16) for name in ("VV", "VH")}
    db = databases.write_database(tmp_path / "db", {rico.ben_names(0)[1]: patch})
    with pytest.raises(DataError, match=r"VH is int16 \[8, 8\], which training cannot read"):
        adopt(BigEarthNet(db))


def test_entries_that_are_left_out_and_those_that_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    db = eurosat_like(tmp_path / "db")
    whole = geotiffs.tensors(db)["Forest_0"]
    databases.write_database(db, {
        "Forest_90": {name: layer for name, layer in whole.items() if name != "B08A"},
        "Forest_91": whole | {"SCL": whole["B01"]},
        "Forest_92": whole | {"B8A": whole["B01"]},
        "Glacier_1": whole,
    })  # fmt: skip
    databases.write_values(db, {"Forest_93": b"no safetensors"})
    adopt(EuroSat(db, workers=1))
    left = dict(line.split("\t") for line in (db / "left_out.tsv").read_text().splitlines()[1:])
    assert left.keys() == {"Forest_90", "Forest_92", "Forest_93"}
    assert left["Forest_90"].startswith("Forest_90 has no band B8A: it has B01, ")
    assert left["Forest_92"] == "Forest_92 has B8A twice"
    assert "Forest_93: its value is no safetensors" in left["Forest_93"]
    said = capsys.readouterr().out
    assert "entries of no class of EuroSAT's, not taken: 1; the first: Glacier_1" in said
    assert "S2: layers not taken: SCL (1 source)" in said


# ---- one line --------------------------------------------------------------------------------------------------------


def wrong(kind: type[Adoption], db: Path, **options: Any) -> str:
    """The one line of a refusal, after which nothing has changed."""
    before = sorted(db.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        adopt(kind(db, **options))
    assert "\n" not in str(caught.value)
    assert sorted(db.parent.rglob("*")) == before
    return str(caught.value)


def test_folders_that_are_no_database(tmp_path: Path) -> None:
    assert "nowhere is no folder" in wrong(EuroSat, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no data.mdb" in wrong(EuroSat, tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_text("text" * 5000)
    assert "data.mdb" in wrong(EuroSat, tmp_path / "text")
    assert "but its folders text do: adopt each by itself" in wrong(EuroSat, tmp_path)
    db = eurosat_like(tmp_path / "db")
    assert "db holds no key of ssl4eo" in wrong(Ssl4eo, db)
    assert "), but 'Forest_0', " in wrong(BigEarthNet, db)
    (db / "ingest.journal").touch()
    assert "is being ingested" in wrong(EuroSat, db)
    (db / "ingest.journal").rename(db / "catalog.parquet")
    assert "catalog.parquet exists: --force replaces it" in wrong(EuroSat, db)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").touch()
    assert "holds another database" in wrong(EuroSat, db, out=tmp_path / "other")


def test_metadata_of_another_data_set(ben: Path, db: Path, tmp_path: Path) -> None:
    (tmp_path / "eurosat-train.txt").write_text("Forest_1.jpg\n")
    lists = (tmp_path / "eurosat-train.txt",)
    assert "bigearthnet takes metadata.parquet and metadata_for" in wrong(BigEarthNet, db, metadata=lists)
    assert "ssl4eo takes none by name" in wrong(Ssl4eo, db, metadata=lists)
    assert "metadata.parquet is no file" in wrong(BigEarthNet, db, metadata=(tmp_path / "metadata.parquet",))
    (tmp_path / "metadata.parquet").write_bytes(lists[0].read_bytes())
    assert "metadata.parquet cannot be read" in wrong(BigEarthNet, db, metadata=(tmp_path / "metadata.parquet",))
    table = pq.read_table(ben / "metadata.parquet")
    names = {name: pa.array([name] * len(table)) for name in ("patch_id", "s1_name")}
    other = pa.table(names | {"split": table["split"]})
    pq.write_table(other, tmp_path / "metadata.parquet")
    assert "--metadata lists no patch of" in wrong(BigEarthNet, db, metadata=(tmp_path / "metadata.parquet",))
    pq.write_table(table.drop_columns("s1_name"), tmp_path / "metadata.parquet")
    assert "has no column s1_name: is it BigEarthNet v2" in wrong(
        BigEarthNet, db, metadata=(tmp_path / "metadata.parquet",)
    )
    forest = eurosat_like(tmp_path / "forest")
    lists[0].write_text("River_1.jpg\n")
    assert "name no entry of" in wrong(EuroSat, forest, metadata=lists)
    assert "must be shares that leave some" in wrong(EuroSat, forest, val=0.5, test=0.5)


def test_meta_tells_the_adoption(ben: Path, db: Path) -> None:
    adopt(ben_of(ben, db))
    meta = read_meta(db)
    assert meta["units"] == {"ms": "dn", "sar": "db"}
    assert (meta["layout"], meta["level"], meta["patch"]) == ("bigearthnet", "L2A", None)
    assert meta["adoption"]["db"] == str(db.resolve())
    assert json.loads((db / "stats.json").read_text())["checked"] is True
    with pytest.raises(DataError, match="holds a database that ingest did not make"):
        ingest(bigearthnet.BigEarthNet(ben, db))
