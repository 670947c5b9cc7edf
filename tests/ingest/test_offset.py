"""The +1000 DN of S2: tags, product names and dates decide, dark pixels contradict, and the rest is asked for."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.base import parse_offset
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.s2_offset import told
from tests.support import geotiffs

NAMES = ("B02", "B03", "B04", "B08")
# Real L1C bands without those of 60 m, which alone have dark pixels in most scenes.
RED_TO_SWIR = {"B02": 1, "B03": 2, "B04": 3, "B08": 7, "B11": 11, "B12": 12}
WITH_OFFSET = {"S2L1C": {"282D", "433D", "609U"}, "S2L2A": {"433D"}}


def scene(low: int, high: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (4, 32, 32)).astype(np.uint16)


def layout(root: Path, **options: object) -> Pairs:
    settled = {"db": root / "db", "s2": Path("s2"), "s2_bands": ",".join(NAMES), "val": 0, "test": 0}
    return Pairs(root, **settled | options)  # type: ignore[arg-type]


def write(root: Path, name: str, layers: np.ndarray, tags: dict[str, str] | None = None) -> None:
    path = geotiffs.write(root / "s2" / f"{name}.tif", layers)
    with rasterio.open(path, "r+") as file:
        file.update_tags(**(tags or {}))


def stored(root: Path, name: str) -> np.ndarray:
    return geotiffs.tensors(root / "db")[f"{name}_s2"]["B02"]


@pytest.mark.parametrize(
    ("path", "tags", "want"),
    [
        ("a.tif", {"PROCESSING_BASELINE": "05.09"}, (1000, True)),
        ("a.tif", {"PROCESSING_BASELINE": "02.14"}, (0, True)),
        ("a.tif", {"processing_baseline": "N0400"}, (1000, True)),
        ("a.tif", {"s2:processing_baseline": "3.1"}, (0, True)),
        ("a.tif", {"PROCESSING_BASELINE": "99.99"}, (None, False)),  # of no official baseline
        ("scene_N4512_x.tif", {"PROCESSING_BASELINE": "02.14"}, (0, True)),
        ("scene_N4512_x.tif", {}, (None, False)),
        ("scene_N0512_x.tif", {}, (None, False)),  # no product's name
        ("a.tif", {"BOA_ADD_OFFSET": "-1000", "PROCESSING_BASELINE": "02.14"}, (1000, True)),
        ("a.tif", {"RADIO_ADD_OFFSET_LIST": "-1000, -1000"}, (1000, True)),
        ("S2A_MSIL1C_20230101T101411_N0400_R022_T33UUP_20230101T120000.tif", {}, (1000, True)),
        ("S2B_MSIL2A_20190101T101411_N0211_R022_T33UUP.SAFE/IMG/B02.jp2", {}, (0, True)),
        ("S2A_MSIL1C_20230101T101411_N0209_R022_T33UUP.tif", {"PROCESSING_BASELINE": "05.00"}, (1000, True)),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP.tif", {}, (0, False)),  # its date
        ("20200604T054639_20200604T054831_T43RCP/B2.tif", {}, (0, False)),
        ("20220125T054639_20220125T054831_T43RCP/B2.tif", {}, (1000, False)),
        ("20220124T054639_20220124T054831_T43RCP/B2.tif", {}, (0, False)),
        ("a.tif", {"SENSING_TIME": "2023-05-01T10:20:31Z"}, (1000, False)),
        ("a.tif", {"TIFFTAG_DATETIME": "2023:05:01 10:20:31"}, (None, False)),  # of the file
        ("a.tif", {"PROCESSING_BASELINE": "unknown"}, (None, False)),
        ("a.tif", {"PROCESSING_BASELINE": "45.12"}, (None, False)),
        ("a.tif", {"PROCESSING_BASELINE": "214"}, (0, True)),
        ("a.tif", {"PROCESSING_BASELINE": "509"}, (1000, True)),
        ("a.tif", {"PROCESSING_BASELINE": "5"}, (1000, True)),
        ("a.tif", {"BOA_ADD_OFFSET": "-0.1"}, (1000, True)),  # of reflectance
        ("a.tif", {"BOA_ADD_OFFSET": "-1e3"}, (1000, True)),
        ("a.tif", {"BOA_ADD_OFFSET": "{'B01': -1000, 'B02': -1000}"}, (1000, True)),
        ("a.tif", {"BOA_ADD_OFFSET": "0"}, (0, True)),
    ],
)
def test_tags_go_before_product_names_and_those_before_dates(path: str, tags: dict, want: tuple) -> None:
    offset, _, known = told(path, tags)
    assert (offset, known) == want


@pytest.mark.parametrize(
    "tags",
    [{"BOA_ADD_OFFSET": "1000"}, {"BOA_ADD_OFFSET": "-1e400"}, {"BOA_ADD_OFFSET_0": "0", "BOA_ADD_OFFSET_1": "-1000"}],
)
def test_offset_tags_that_are_no_single_offset_are_refused(tags: dict) -> None:
    with pytest.raises(
        DataError, match=r"a\.tif: the tag BOA_ADD_OFFSET.* no single offset to subtract: give --offset"
    ):
        told("a.tif", tags)


@pytest.mark.parametrize(
    "tags", [{"BOA_ADD_OFFSET": "-1000"}, {"PROCESSING_BASELINE": "05.09"}, {"s2:processing_baseline": "05.09"}]
)
@pytest.mark.parametrize("layers", [(), (1, 2, 3, 4)])
def test_tags_of_files_and_of_their_layers_are_read(tmp_path: Path, tags: dict, layers: tuple[int, ...]) -> None:
    write(tmp_path, "a", scene(1001, 9000))
    with rasterio.open(tmp_path / "s2" / "a.tif", "r+") as file:
        for layer in layers or (0,):
            file.update_tags(layer, **tags)
    ingest(layout(tmp_path))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(1001, 9000)[0] - 1000)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_the_baseline_of_a_files_tag_is_subtracted_whatever_the_type(tmp_path: Path, dtype: type) -> None:
    plain = scene(1, 9000)
    write(tmp_path, "new", (plain + 1000).astype(dtype), {"PROCESSING_BASELINE": "05.09"})
    write(tmp_path, "old", plain.astype(dtype), {"PROCESSING_BASELINE": "02.14"})
    ingest(layout(tmp_path))
    for name in ("new", "old"):
        np.testing.assert_array_equal(stored(tmp_path, name), plain[0])
    rows = [line.split("\t")[1:] for line in (tmp_path / "db" / "offsets.tsv").read_text().splitlines()]
    assert rows == [["subtracted", "why"], ["1000", "processing baseline 05.09"], ["0", "processing baseline 02.14"]]


@pytest.mark.parametrize(("low", "dtype"), [(1050, np.uint16), (3000, np.uint16), (1050, np.float32)])
def test_bright_files_that_tell_nothing_are_asked_for(tmp_path: Path, low: int, dtype: type) -> None:
    write(tmp_path, "a", scene(low, 9000).astype(dtype))
    write(tmp_path, "dark", scene(1, 9000).astype(dtype))
    with pytest.raises(DataError, match=r"the offset of S2 is open: .*a\.tif .* give --offset 0, --offset 1000"):
        ingest(layout(tmp_path))
    assert not (tmp_path / "db").exists()
    ingest(layout(tmp_path, offset="1000"))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(low, 9000)[0] - 1000)


def test_a_folder_that_would_split_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "told", scene(1001, 9000), {"PROCESSING_BASELINE": "05.09"})
    write(tmp_path, "dark", scene(1, 9000))
    with pytest.raises(DataError, match=r"dark\.tif tells no baseline .* told\.tif beside it has the offset by"):
        ingest(layout(tmp_path))


def test_dark_files_that_tell_nothing_have_none_and_that_is_said_to_be_a_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed in range(3):
        write(tmp_path, f"p{seed}", scene(1, 9000, seed))
    ingest(layout(tmp_path))
    np.testing.assert_array_equal(stored(tmp_path, "p0"), scene(1, 9000)[0])
    out = capsys.readouterr().out
    assert "0 DN from 3 files (a guess)" in out
    assert "dark pixels speak for offset 0: --offset overrules (3 sources)" in out.split("not sure of:")[1]


@pytest.mark.parametrize("tags", [{"PROCESSING_BASELINE": "05.09"}, {"SENSING_TIME": "2023-05-01T10:20:31Z"}])
def test_dark_pixels_contradict_an_offset(tmp_path: Path, tags: dict) -> None:
    write(tmp_path, "a", scene(1, 2000), tags)
    with pytest.raises(DataError, match=r"tells an offset, but .* of the pixels lie under DN 800"):
        ingest(layout(tmp_path))
    ingest(layout(tmp_path, offset="0"))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(1, 2000)[0])


def test_dates_before_the_offset_whose_pixels_show_it_are_asked_for(tmp_path: Path) -> None:
    for seed in range(3):  # reprocessed: Collection 1
        write(tmp_path, f"20200604T05463{seed}_a", scene(1030, 5000, seed))
    with pytest.raises(DataError, match="acquisition date 2020-06-04 tells no offset, but its darkest pixels"):
        ingest(layout(tmp_path))


def test_gdals_scale_and_offset_are_applied_once(tmp_path: Path) -> None:
    plain = scene(1, 9000)
    write(tmp_path, "a", plain + 1000, {"PROCESSING_BASELINE": "05.09"})
    with rasterio.open(tmp_path / "s2" / "a.tif", "r+") as file:
        file.scales, file.offsets = (0.0001,) * 4, (-0.1,) * 4
    ingest(layout(tmp_path))
    got = stored(tmp_path, "a")
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, plain[0])
    assert "its offset tag" in (tmp_path / "db" / "offsets.tsv").read_text()


def tagged(root: Path, layers: np.ndarray, scales: tuple, offsets: tuple) -> None:
    write(root, "a", layers)
    with rasterio.open(root / "s2" / "a.tif", "r+") as file:
        file.scales, file.offsets = scales, offsets


def test_gdals_offset_is_applied_to_reflectance(tmp_path: Path) -> None:
    plain = scene(1, 9000)
    tagged(tmp_path, plain + 1000, (0.0001,) * 4, (-0.1,) * 4)
    ingest(layout(tmp_path, s2_unit="reflectance"))
    np.testing.assert_array_equal(stored(tmp_path, "a"), plain[0])


def test_0_stays_nodata_under_any_scale(tmp_path: Path) -> None:
    plain = scene(1, 9000)
    plain[:, 0, :9] = 0
    tagged(tmp_path, plain, (0.00005,) * 4, (-0.05,) * 4)
    ingest(layout(tmp_path, offset="500"))
    want = np.where(plain[0] == 0, np.nan, plain[0] * 0.5 - 500)
    np.testing.assert_allclose(stored(tmp_path, "a"), want, rtol=1e-6)


@pytest.mark.parametrize("table", [False, True])
def test_the_user_overrules_gdals_offset(tmp_path: Path, table: bool, capsys: pytest.CaptureFixture) -> None:
    tagged(tmp_path, scene(1, 9000), (0.0001,) * 4, (-0.1,) * 4)
    (tmp_path / "table.tsv").write_text("s2/a.tif\t0\n")
    with pytest.raises(DataError, match=r"its offset tag tells an offset, but .* lie under DN 800.* give --offset 0"):
        ingest(layout(tmp_path))
    ingest(layout(tmp_path, offset=str(tmp_path / "table.tsv") if table else "0"))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(1, 9000)[0])
    assert "offset -0.1 of the tags read, and another offset subtracted as --offset tells" in capsys.readouterr().out


@pytest.mark.parametrize(("offsets", "said"), [((0, 0, 0, 0), "tells no baseline"), ((-0.1, 0, 0, 0), "give --offset")])
def test_tags_of_some_layers_settle_nothing(tmp_path: Path, offsets: tuple, said: str) -> None:
    tagged(tmp_path, scene(1001, 9000), (0.0001, 1, 1, 1), offsets)
    with pytest.raises(DataError, match=said):
        ingest(layout(tmp_path))
    ingest(layout(tmp_path, offset="1000"))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(1001, 9000)[0] - 1000)


def test_an_offset_within_reflectance_is_asked_for(tmp_path: Path) -> None:
    plain = scene(1, 9000)
    write(tmp_path, "a", ((plain + 1000) / 10_000).astype(np.float32), {"PROCESSING_BASELINE": "05.09"})
    with pytest.raises(DataError, match=r"darkest reflectance lies just above 0\.1, as with it: give --offset 1000"):
        ingest(layout(tmp_path, s2_unit="reflectance"))
    ingest(layout(tmp_path, s2_unit="reflectance", offset="1000"))
    np.testing.assert_allclose(stored(tmp_path, "a"), plain[0], atol=0.01)


def test_bytes_have_no_offset(tmp_path: Path) -> None:
    write(tmp_path, "a", scene(1, 255).astype(np.uint8))
    with pytest.raises(DataError, match="--offset is in DN, but --s2-unit byte has none"):
        ingest(layout(tmp_path, s2_unit="byte", offset="1000"))


def test_a_table_tells_each_files_offset(tmp_path: Path) -> None:
    write(tmp_path, "a", scene(1001, 9000))
    write(tmp_path, "b", scene(1, 9000))
    write(tmp_path, "c", scene(1, 9000))
    table = tmp_path / "table.tsv"
    table.write_text(f"{tmp_path}/s2/a.tif\t1000\twhy\n\ns2/b.tif\t0\n")
    ingest(layout(tmp_path, offset=str(table)))
    np.testing.assert_array_equal(stored(tmp_path, "a"), scene(1001, 9000)[0] - 1000)
    np.testing.assert_array_equal(stored(tmp_path, "b"), scene(1, 9000)[0])
    assert ingest(layout(tmp_path, offset=str(table))) == 0  # finished
    assert "c.tif is not in the table" in (tmp_path / "db" / "left_out.tsv").read_text()
    with mock.patch.object(Catalog, "write", side_effect=KeyError), pytest.raises(KeyError):
        ingest(layout(tmp_path, offset=str(table), db=tmp_path / "cut"))
    table.write_text("s2/a.tif\t1000\ns2/b.tif\t1\n")
    with pytest.raises(DataError, match="was begun with offset '2:"):
        ingest(layout(tmp_path, offset=str(table), db=tmp_path / "cut"))
    table.write_text("s2/a.tif\t-3\n")
    with pytest.raises(DataError, match=r"table\.tsv, line 1: wants a file, a tab and its DN"):
        ingest(layout(tmp_path, offset=str(table)))
    table.write_text("\ufefffile\tsubtracted\r\n./s2/a.tif\t1000\r\ns2/a.tif\t1000\r\n")  # as Windows' editors save it
    assert parse_offset(str(table), tmp_path)[f"{tmp_path}/s2/a.tif"] == 1000  # type: ignore[index]
    table.write_text(f"s2/a.tif\t1000\n{tmp_path}/s2/a.tif\t0\n")
    with pytest.raises(DataError, match=r"table\.tsv, line 2: .*a\.tif has another offset than above"):
        parse_offset(str(table), tmp_path)


@pytest.mark.parametrize("level", ["S2L1C", "S2L2A"])
@pytest.mark.parametrize("size", [224, 64, 32])
@pytest.mark.parametrize("names", [("B02", "B03", "B04"), ("B08", "B11", "B12"), tuple(RED_TO_SWIR)])
def test_real_scenes_are_never_decided_wrongly(
    real_data: Path, tmp_path: Path, level: str, size: int, names: tuple[str, ...]
) -> None:
    """Files of one scene, of `size` pixels and some of its bands: decided alike and rightly, or asked for."""
    shift = int(level == "S2L2A")  # no B10
    for path in sorted((real_data / "terramesh" / level).glob("*.tif")):
        place, layers = path.name.split("_")[0], geotiffs.read(path)
        chosen = layers[[RED_TO_SWIR[name] - (shift if RED_TO_SWIR[name] > 10 else 0) for name in names]]
        root = tmp_path / place
        tiles = [(y, x) for y in range(0, 224 - size + 1, size) for x in range(0, 224 - size + 1, size)]
        for y, x in tiles:
            geotiffs.write(root / "s2" / f"{y}_{x}.tif", chosen[:, y : y + size, x : x + size])
        said = ""
        try:
            ingest(Pairs(root, root / "db", s2=Path("s2"), s2_bands=",".join(names), implausible="keep"))
        except DataError as error:
            said = str(error)
        if said:
            assert "the offset of S2 is open" in said
            continue
        assert place not in WITH_OFFSET[level]
        got = geotiffs.tensors(root / "db")
        for y, x in tiles:
            np.testing.assert_array_equal(got[f"{y}_{x}_s2"][names[0]], chosen[0, y : y + size, x : x + size])
