"""Label maps: which values are classes, what is dropped, and what is no label map."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.labels import parse
from rsdnet.ingest.layouts.pairs import Pairs
from tests.ingest.test_grids import layout, reasons
from tests.ingest.test_ingest import s2
from tests.support import geotiffs

SIDE = 12


def write(root: Path, name: str, values: np.ndarray, **profile: object) -> None:
    geotiffs.write(root / "s2" / f"{name}.tif", s2(SIDE))
    geotiffs.write(root / "lab" / f"{name}.tif", values.reshape(-1, SIDE, SIDE), **profile)


def labelled(root: Path, **options: object) -> Pairs:
    return layout(root, **{"s1": None, "s1_bands": "", "label": Path("lab")} | options)


def filled(*pairs: tuple[float, int], dtype: type = np.int32) -> np.ndarray:
    """A map with so many pixels of each value, and the rest of the first."""
    values = np.full(SIDE * SIDE, pairs[0][0], np.float64)
    at = 0
    for value, count in pairs[1:]:
        values[at : at + count] = value
        at += count
    return values.astype(dtype)


def stored(db: Path, name: str = "a") -> np.ndarray:
    return geotiffs.tensors(db)[f"{name}_map"]["Data"].ravel()


@pytest.mark.parametrize("classes", ["", "1=water,2=trees"])
def test_values_out_of_range_are_no_class_and_are_counted(
    tmp_path: Path, classes: str, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, "a", filled((2, 0), (-1, 9), (-9999, 8), (70000, 7), (1, 5)))
    ingest(labelled(tmp_path, classes=classes))
    none, (one, two) = (255, (0, 1)) if classes else (65535, (1, 2))
    assert stored(tmp_path / "db").tolist() == [none] * 24 + [one] * 5 + [two] * (SIDE * SIDE - 29)
    made = Catalog.read(tmp_path / "db")
    assert made.classes[made.label[0]] == ("trees" if classes else "2")
    out = capsys.readouterr().out
    assert "values that are no class: -1 (9 px), -9999 (8 px), 70000 (7 px)" in out


def test_classes_may_have_any_whole_number(tmp_path: Path) -> None:
    write(tmp_path, "a", filled((70000, 0), (-1, 9), (3, 4)))
    ingest(labelled(tmp_path, classes="70000=reef,-1=cloud"))
    assert stored(tmp_path / "db").tolist() == [1] * 9 + [255] * 4 + [0] * (SIDE * SIDE - 13)
    assert Catalog.read(tmp_path / "db").classes == ("reef", "cloud")


def test_of_a_mask_of_0_and_255_both_are_classes(tmp_path: Path) -> None:
    write(tmp_path, "a", filled((255, 0), (0, 20), dtype=np.uint8))
    write(tmp_path, "b", filled((0, 0), (255, 20), dtype=np.uint8))
    write(tmp_path, "c", filled((0, 0), (255, 20), dtype=np.uint8), nodata=255)
    ingest(labelled(tmp_path))
    made = Catalog.read(tmp_path / "db")
    assert dict(zip(made.samples, made.label.tolist(), strict=True)) == {"a": 255, "b": 0, "c": 0}
    assert np.unique(stored(tmp_path / "db", "a")).tolist() == [0, 255]
    assert np.unique(stored(tmp_path / "db", "c")).tolist() == [0, 65535]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_whole_numbers_of_any_type_are_classes(tmp_path: Path, dtype: type) -> None:
    values = filled((2, 0), (1, 30), dtype=dtype)
    if np.issubdtype(dtype, np.floating):
        values[:4] = np.nan
    write(tmp_path, "a", values)
    ingest(labelled(tmp_path, classes="1=water,2=trees"))
    lost = 4 * np.issubdtype(dtype, np.floating)
    assert stored(tmp_path / "db").tolist() == [255] * lost + [0] * (30 - lost) + [1] * (SIDE * SIDE - 30)


def test_fractions_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "a", filled((2.5, 0), dtype=np.float32))
    write(tmp_path, "b", filled((2, 0), dtype=np.float32))
    ingest(labelled(tmp_path))
    assert "a.tif holds 2.5, but a label map holds whole numbers" in reasons(tmp_path / "db")["a"]


def test_a_colour_map_needs_its_colours(tmp_path: Path) -> None:
    colours = np.zeros((3, SIDE, SIDE), np.uint8)
    colours[2] = 255
    colours[:, 0] = np.array([[255], [128], [0]])
    colours[:, 1] = 9
    write(tmp_path, "a", colours)
    with pytest.raises(DataError, match="has 3 layers: a label map has one"):
        ingest(labelled(tmp_path))
    ingest(labelled(tmp_path, classes="#0000FF=water,#ff8000=urban"))
    want = np.zeros((SIDE, SIDE), np.uint8)
    want[0], want[1] = 1, 255
    np.testing.assert_array_equal(stored(tmp_path / "db"), want.ravel())


def test_a_nodata_value_blanks_a_colour_where_all_three_layers_have_it(tmp_path: Path) -> None:
    """Blue has no red: a nodata value of 0 does not blank it."""
    colours = np.zeros((3, SIDE, SIDE), np.uint8)
    colours[2, 1:] = 255
    write(tmp_path, "a", colours, nodata=0)
    ingest(labelled(tmp_path, classes="#0000ff=water,#ff0000=urban"))
    assert stored(tmp_path / "db").tolist() == [255] * SIDE + [0] * (SIDE * SIDE - SIDE)


def test_a_class_that_the_file_calls_nodata_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, "a", filled((1, 0), (0, 20), dtype=np.uint8), nodata=0)
    write(tmp_path, "b", filled((1, 0), (9, 20), dtype=np.uint8), nodata=9)
    ingest(labelled(tmp_path, classes="0=land,1=water"))
    assert stored(tmp_path / "db").tolist() == [255] * 20 + [1] * (SIDE * SIDE - 20)
    said = "label maps: pixels without data, by nodata value or mask, are a class: 0 (1 source)"
    assert said in capsys.readouterr().out.split("not sure of:")[1]


def test_a_colour_table_serves_as_well(tmp_path: Path) -> None:
    write(tmp_path, "a", filled((4, 0), (7, 10), dtype=np.uint8))
    made = labelled(tmp_path, classes="#0000ff=water,#00ff00=trees")
    with pytest.raises(DataError, match="has no colours, but --classes names some"):
        ingest(made)
    with rasterio.open(tmp_path / "lab" / "a.tif", "r+") as file:
        file.write_colormap(1, {4: (0, 255, 0, 255), 7: (0, 0, 255, 255)})
    ingest(made)
    assert stored(tmp_path / "db").tolist() == [0] * 10 + [1] * (SIDE * SIDE - 10)


def test_no_label_at_all_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, "a", filled((4, 0)))
    ingest(labelled(tmp_path, classes="1=water"))
    assert "no sample got a label: no pixel of the label maps is a class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("²=water", "has '²=water'"),
        ("1=", "has '1='"),
        ("=water", "has '=water'"),
        ("1=a,1=b", "names the value 1 twice"),
        ("1=a,#000001=b", "colours beside numbers"),
        ("#12=a", "has '#12=a'"),
        ("99999999999999999999=a", "which no pixel can have"),
        (",".join(f"{value}=c{value}" for value in range(256)), "at most 255"),
        ("1=a,2=a", "names the class 'a' twice"),
    ],
)
def test_classes_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse(text)


def test_classes_keep_their_order() -> None:
    assert parse("9=range land, 1=water") == {9: "range land", 1: "water"}
