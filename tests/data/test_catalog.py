"""The catalog: written, read, selected, joined, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet.data.catalog import Catalog, concat, objects, read_stats, write_stats
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


def test_select() -> None:
    made = catalog()
    assert made.select(split="train").samples.tolist() == ["a", "d"]
    assert made.select(modality="ms+sar").samples.tolist() == ["a", "d"]
    assert made.select(modality="sar").samples.tolist() == ["a", "c", "d"]
    assert made.select(modality="ms", labelled=False).samples.tolist() == ["b"]
    assert len(made.select(split="val", labelled=True)) == 0
    with pytest.raises(DataError, match="unknown split 'dev'"):
        made.select(split="dev")
    with pytest.raises(DataError, match="unknown modality"):
        made.select(modality="optical")


def test_concat_keeps_order_and_drops_labels_that_mean_different_things() -> None:
    other = catalog([("e", "e_s2", None, "e_map", 1, "train")])
    joined = concat([catalog(), other])
    assert joined.samples.tolist() == ["a", "b", "c", "d", "e"]
    assert joined.label.tolist() == [0, -1, 1, 1, 1]
    foreign = catalog([("e", "e_s2", None, "e_map", 1, "train")], classes=("forest", "town"))
    joined = concat([catalog(), foreign])
    assert joined.label.tolist() == [-1] * 5
    assert set(joined.map) == {None}
    with pytest.raises(DataError, match="'a' stands in it more than once"):
        concat([catalog(), catalog()])


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


def test_stats_round_trip_and_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_stats(tmp_path)
    write_stats(tmp_path, {"B02": {"mean": 1.5}})
    assert read_stats(tmp_path) == {"version": 1, "split": "train", "bands": {"B02": {"mean": 1.5}}}
    (tmp_path / "stats.json").write_text("[1]")
    with pytest.raises(DataError, match="damaged"):
        read_stats(tmp_path)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_label_ids_are_the_values_or_what_the_metadata_say(values: list[int]) -> None:
    data = np.array(values, np.uint16)
    assert catalog().label_ids(data).tolist() == [value if value < 2 else -1 for value in values]
    made = catalog()
    made.meta["values"] = {"211": 0, "523": 1}
    assert made.label_ids(data).tolist() == [{211: 0, 523: 1}.get(value, -1) for value in values]
