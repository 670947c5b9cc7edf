"""The catalog of one database: written, read, selected, and refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.databases import Databases
from rsdnet.errors import DataError

ROWS = [
    ("a", "a_s2", "a_s1", "a_map", 0, "train"),
    ("b", "b_s2", None, None, None, "val"),
    ("c", None, "c_s1", None, 1, "test"),
    ("d", "d_s2", "d_s1", None, 1, "train"),
]


def catalog(rows: list[tuple] = ROWS, classes: tuple[str, ...] = ("water", "land")) -> Catalog:
    sample, ms, sar, maps, label, split = zip(*rows, strict=True)
    ids = np.array([-1 if value is None else value for value in label], np.int32)
    return Catalog(
        objects(sample), objects(ms), objects(sar), objects(maps), ids, objects(split), classes, {"level": "x"}
    )


def test_round_trip_and_the_file_as_others_read_it(tmp_path: Path) -> None:
    catalog().write(tmp_path)
    table = pq.read_table(tmp_path / "catalog.parquet")
    assert table.column_names == ["sample", "ms", "sar", "map", "label", "split"]
    assert table.schema.field("label").type == pa.int32()
    assert [tuple(row.values()) for row in table.to_pylist()] == ROWS
    meta = json.loads(table.schema.metadata[b"rsdnet"])
    assert meta == {"version": 1, "level": "x", "classes": ["water", "land"]}
    again = Catalog.read(tmp_path)
    assert again.samples.tolist() == ["a", "b", "c", "d"]
    assert again.ms.tolist() == ["a_s2", "b_s2", None, "d_s2"]
    assert again.label.tolist() == [0, -1, 1, 1]
    assert again.classes == ("water", "land")
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.parquet"]


def test_masks_of_a_split_a_modality_and_labels() -> None:
    made = catalog()
    for selected, wanted in (
        ({"split": "train"}, "ad"),
        ({"modality": "ms+sar"}, "ad"),
        ({"modality": "sar"}, "acd"),
        ({"modality": "ms", "labelled": False}, "b"),
        ({"split": "val", "labelled": True}, ""),
    ):
        assert made.take(made.mask(**selected)).samples.tolist() == list(wanted)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown split 'dev'"):
        made.mask(split="dev")
    with pytest.raises(DataError, match="unknown modality"):
        made.mask(modality="optical")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("a", "x", None, None, None, "train"), "'a' stands in it more than once"),
        (("z", "x", None, None, None, "dev"), "unknown split 'dev'"),
        (("z", None, None, None, None, "train"), "neither an S2 nor an S1"),
        (("z", "x", None, None, 2, "train"), "label 2, but only 2 class names"),
    ],
)
def test_contradictions_are_refused_in_one_line(tmp_path: Path, row: tuple, said: str) -> None:
    with pytest.raises(DataError, match=said):
        catalog([*ROWS, row]).write(tmp_path)
    assert not any(tmp_path.iterdir())


def test_missing_damaged_and_unfinished_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is missing.*rsdnet\.ingest"):
        Catalog.read(tmp_path)
    (tmp_path / "ingest.journal").touch()
    with pytest.raises(DataError, match="not finished"):
        Catalog.read(tmp_path)
    catalog().write(tmp_path)
    path = tmp_path / "catalog.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        Catalog.read(tmp_path)
    pq.write_table(pa.table({"sample": ["a"]}), path)
    with pytest.raises(DataError, match="no column"):
        Catalog.read(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("sample", pa.array([1, 2, 3, 4]), "column sample must hold text, not int64"),
        ("ms", pa.array([b"a", b"b", None, b"d"]), "column ms must hold text, not binary"),
        ("split", pa.array([0, 1, 2, 0]), "column split must hold text"),
        ("label", pa.array([0, 0.5, 1, None]), "labels must be 32-bit integers"),
        ("label", pa.array([0, float("nan"), 1, None]), "labels must be 32-bit integers"),
        ("label", pa.array([0, 2**40, 1, None]), "labels must be 32-bit integers"),
        ("label", pa.array([True, False, True, None]), "labels must be 32-bit integers or null, not bool"),
        ("label", pa.array(["0", "1", None, "1"]), "labels must be 32-bit integers or null, not string"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path: Path, column: str, values: pa.Array, said: str) -> None:
    catalog().write(tmp_path)
    path = tmp_path / "catalog.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, values), path)
    with pytest.raises(DataError, match=said):
        Catalog.read(tmp_path)


def test_columns_as_other_writers_type_them(tmp_path: Path) -> None:
    """Floats of whole numbers, as pandas has where some are missing; dictionaries, as of its categories."""
    catalog().write(tmp_path)
    path = tmp_path / "catalog.parquet"
    table = pq.read_table(path)
    table = table.set_column(4, "label", pa.array([0.0, None, 1.0, 1.0]))
    table = table.set_column(5, "split", table["split"].dictionary_encode())
    pq.write_table(table.set_column(1, "ms", table["ms"].cast(pa.large_string())), path)
    again = Catalog.read(tmp_path)
    assert again.label.tolist() == [0, -1, 1, 1]
    assert again.split.tolist() == catalog().split.tolist()
    assert again.ms.tolist() == ["a_s2", "b_s2", None, "d_s2"]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("labels", pa.array([0, 1, None, 1]), "column labels must hold lists of label ids, not int64"),
        ("labels", pa.array([["land"], None, [], []]), "column labels must hold lists of label ids"),
        ("labels", pa.array([[0, 1], [2], None, []]), "labels .2. of sample 'b', but 2 class names"),
        (
            "contains_seasonal_snow",
            pa.array([0, 1, None, 1]),
            "contains_seasonal_snow must hold true or false, not int",
        ),
    ],
)
def test_columns_of_several_labels_and_of_snow_are_checked(
    tmp_path: Path, column: str, values: pa.Array, said: str
) -> None:
    catalog().write(tmp_path)
    path = tmp_path / "catalog.parquet"
    pq.write_table(pq.read_table(path).append_column(column, values), path)
    with pytest.raises(DataError, match=said):
        Catalog.read(tmp_path)


@pytest.mark.parametrize("classes", ["abc", {"0": "a"}, [0, 1], None])
def test_classes_that_are_no_list_of_names(tmp_path: Path, classes: object) -> None:
    catalog().write(tmp_path)
    path, meta = tmp_path / "catalog.parquet", json.dumps({"version": 1, "classes": classes})
    pq.write_table(pq.read_table(path).replace_schema_metadata({"rsdnet": meta}), path)
    with pytest.raises(DataError, match="classes must be a list of names"):
        Catalog.read(tmp_path)


def test_group_and_place_are_kept_where_they_are_known(tmp_path: Path) -> None:
    groups, lon, lat = (
        objects(["s1", None, "s1", "s2"]),
        np.array([11.5, np.nan, -180, 0]),
        np.array([48, np.nan, -90, 0]),
    )
    made = replace(catalog(), group=groups, lon=lon, lat=lat)
    made.write(tmp_path)
    table = pq.read_table(tmp_path / "catalog.parquet")
    assert table.column_names[6:] == ["group", "lon", "lat"]
    assert table.column("group").to_pylist() == ["s1", None, "s1", "s2"]
    assert table.column("lon").to_pylist() == [11.5, None, -180.0, 0.0]
    assert table.column("lat").to_pylist() == [48.0, None, -90.0, 0.0]
    pieces = list(Catalog.scan(tmp_path, 3))
    for again in (Catalog.read(tmp_path), Databases(tmp_path).take(np.arange(4))):
        assert again.group.tolist() == groups.tolist()
        np.testing.assert_array_equal(again.lon, lon)
        np.testing.assert_array_equal(again.take(np.array([2, 1])).lat, [-90, np.nan])
    np.testing.assert_array_equal(np.concatenate([piece.lat for piece in pieces]), lat)
    with pytest.raises(DataError, match=r"lat of sample .d. is 90\.5, beyond 90 degrees"):
        replace(made, lat=np.array([0, 0, 0, 90.5])).write(tmp_path)


def test_a_catalog_without_them_reads_as_unknown(tmp_path: Path) -> None:
    catalog().write(tmp_path)
    again = Catalog.read(tmp_path)
    assert again.group.tolist() == [None] * 4
    assert np.isnan([again.lon, again.lat]).all()
    assert Databases([tmp_path]).take(np.array([1, 3])).group.tolist() == [None, None]
    whole = replace(catalog(), group=objects(["a"] * 4))
    whole.write(tmp_path)
    assert np.isnan(Catalog.read(tmp_path).lat).all()
    table = pq.read_table(tmp_path / "catalog.parquet").append_column("lon", pa.array(["east"] * 4))
    pq.write_table(table, tmp_path / "catalog.parquet")
    with pytest.raises(DataError, match="lon and lat must be degrees"):
        Catalog.read(tmp_path)
