"""Ingest: values, splits, tiles, labels and statistics, against rasterio, safetensors and numpy alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet.data.catalog import Catalog
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.layouts.sen12ms import IGBP_TO_DFC, Sen12ms
from rsdnet.ingest.s2_offset import subtract
from rsdnet.ingest.source import Source
from rsdnet.ingest.splits import assign_splits
from rsdnet.ingest.tiles import check_cut
from tests.support import geotiffs

L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def pairs(root: Path, db: Path, **options: object) -> Pairs:
    settled = {"s2": Path("s2"), "s1": Path("s1"), "s2_bands": "B02,B03", "s1_bands": "VV,VH"} | options
    return Pairs(root, db, **settled)  # type: ignore[arg-type]


def s1(size: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-14, 5, (2, size, size)).astype(np.float32)


def s2(size: int = 12, seed: int = 0, count: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 9000, (count, size, size)).astype(np.uint16)


def test_sen12ms_comes_out_as_it_lies_on_disk(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=6)
    assert ingest(Sen12ms(source, tmp_path / "db")) == 0
    got = geotiffs.tensors(tmp_path / "db")
    made = Catalog.read(tmp_path / "db")
    assert len(made) == 6
    assert len(got) == 18
    for row in range(6):
        _, scene, number = made.samples[row].rsplit("_", 2)
        folder = source / "ROIs1158_spring"
        files = {kind: next((folder / f"{kind}_{scene}").glob(f"*_{number}.tif")) for kind in ("s1", "s2", "lc")}
        assert made.ms[row] == files["s2"].stem
        assert made.sar[row] == files["s1"].stem
        want = dict(zip(L1C, geotiffs.read(files["s2"]), strict=True))
        assert got[made.ms[row]].keys() == want.keys()
        for name, layer in want.items():
            assert got[made.ms[row]][name].dtype == np.uint16
            np.testing.assert_array_equal(got[made.ms[row]][name], layer)
        np.testing.assert_array_equal(got[made.sar[row]]["VV"], geotiffs.read(files["s1"])[0])
        igbp = geotiffs.read(files["lc"])[0]
        dfc = np.array(IGBP_TO_DFC)[igbp]
        np.testing.assert_array_equal(got[made.map[row]]["Data"], dfc - 1)
        assert made.label[row] == np.bincount(dfc.ravel(), minlength=11)[1:].argmax()
    assert made.classes[9] == "Water"
    assert len(made.classes) == 10
    assert made.meta["level"] == "L1C"


@pytest.mark.parametrize("names", [(), ("IGBP", "LCCS1", "LCCS2", "LCCS3")])
def test_the_fourth_layer_of_sen12ms_land_cover_is_no_mask(tmp_path: Path, names: tuple[str, ...]) -> None:
    """GDAL takes the fourth of four 8-bit layers for alpha; in SEN12MS's synthetic and real files it may be 0."""
    source = geotiffs.sen12ms(tmp_path / "src", places=3)
    for path in source.rglob("*_lc_*.tif"):
        layers = geotiffs.read(path)
        layers[3] = 0
        geotiffs.write(path, layers, names)
    ingest(Sen12ms(source, tmp_path / "db"))
    assert (Catalog.read(tmp_path / "db").label >= 0).all()


def test_statistics_equal_numpys_over_the_training_split(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=8)
    path = next(source.rglob("*s2_1_p0.tif"))
    layers = geotiffs.read(path)
    layers[3, :4, :4] = 0  # nodata, counted apart
    geotiffs.write(path, layers)
    ingest(Sen12ms(source, tmp_path / "db", test=0.2, val=0.2))
    got, made, stats = geotiffs.tensors(tmp_path / "db"), Catalog.read(tmp_path / "db"), read_stats(tmp_path / "db")
    train = made.take(made.split == "train")
    assert 0 < len(train) < 8
    for keys, names in ((train.ms, L1C), (train.sar, ("VV", "VH"))):
        for name in names:
            pixels = np.concatenate([got[key][name].ravel() for key in keys])
            good = (pixels[pixels != 0] if name[0] == "B" else pixels).astype(np.float64)
            told = stats["bands"][name]
            assert told["count"] == good.size
            assert told["invalid"] == pixels.size - good.size
            np.testing.assert_allclose((told["mean"], told["std"]), (good.mean(), good.std()), rtol=1e-12)
            assert (told["min"], told["max"]) == (good.min(), good.max())
            tolerance = 1e-9 if name[0] == "B" else 0.02  # dB: bins of 0.01 and no interpolation
            for q, value in told["percentiles"].items():
                around = np.percentile(good, float(q), method="lower"), np.percentile(good, float(q))
                assert min(abs(value - near) for near in around) <= tolerance


def test_tiles_are_the_windows_their_names_say(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=2, size=24)
    ingest(Sen12ms(source, tmp_path / "db", patch=12, stride=6))
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert len(made) == 2 * 9
    for row in range(len(made)):
        stem, top, left = made.ms[row].rsplit("_", 2)
        top, left = int(top[1:]), int(left[1:])
        whole = geotiffs.read(next(source.rglob(f"{stem}.tif")))
        np.testing.assert_array_equal(got[made.ms[row]]["B8A"], whole[8, top : top + 12, left : left + 12])
    assert len({(made.split[row], made.samples[row].split("_y")[0]) for row in range(18)}) == 2  # none torn apart


@pytest.mark.parametrize(("patch", "near"), [(10, "6 or 12"), (4, "6"), (100, "96 or 102")])
def test_a_patch_that_cuts_pixels_names_the_nearest_that_do_not(patch: int, near: str) -> None:
    with pytest.raises(DataError, match=f"--patch {patch} .*nearest that fit: {near}$"):
        check_cut(patch, None, {1, 2, 6})
    check_cut(120, 60, {1, 2, 6})


@given(
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=40, unique=True),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
)
def test_splits_keep_groups_whole_and_forget_the_order(names: list[str], val: float, test: float) -> None:
    sources = [Source(f"{name}{tile}", name, {}) for name in names for tile in range(2)]
    split = {source.name: source.split for source in assign_splits(sources, val, test)}
    assert all(split[f"{name}0"] == split[f"{name}1"] for name in names)
    assert "train" in split.values()
    assert split == {source.name: source.split for source in assign_splits(sources[::-1], val, test)}
    if len(names) >= 3:
        assert ("test" in split.values()) == (test > 0)


def test_silent_error_3_uint16_does_not_wrap(tmp_path: Path) -> None:
    layers = np.array([[[10040, 256], [65535, 255]], [[1, 2], [3, 40000]]], np.uint16)
    geotiffs.pair(tmp_path, "a", layers, s1(2))
    geotiffs.pair(tmp_path, "b", layers.astype(np.int32), s1(2))  # wide types too
    ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    got = geotiffs.tensors(tmp_path / "db")
    for name in "ab":
        assert got[f"{name}_s2"]["B02"].dtype == np.uint16
        np.testing.assert_array_equal(got[f"{name}_s2"]["B02"], layers[0])
        np.testing.assert_array_equal(got[f"{name}_s2"]["B03"], layers[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_silent_error_4_decibels_keep_their_fraction(tmp_path: Path, dtype: type) -> None:
    decibels: np.ndarray = np.random.default_rng(1).normal(-14, 5, (2, 12, 12)).astype(dtype)
    geotiffs.pair(tmp_path, "a", s2(), decibels)
    ingest(pairs(tmp_path, tmp_path / "db"))
    got = geotiffs.tensors(tmp_path / "db")["a_s1"]
    assert got["VV"].dtype == np.float32
    np.testing.assert_array_equal(got["VV"], decibels[0].astype(np.float32))
    stats = read_stats(tmp_path / "db")["bands"]["VH"]
    np.testing.assert_allclose(stats["mean"], decibels[1].astype(np.float32).astype(np.float64).mean(), rtol=1e-12)


def test_power_becomes_decibels_and_what_is_not_above_zero_invalid(tmp_path: Path) -> None:
    power = np.random.default_rng(1).gamma(2, 0.05, (2, 12, 12)).astype(np.float32)
    power[0, 0, :3] = (0, -0.01, np.nan)
    geotiffs.pair(tmp_path, "a", s2(), power)
    ingest(pairs(tmp_path, tmp_path / "db", s1_unit="power"))
    got = geotiffs.tensors(tmp_path / "db")["a_s1"]["VV"]
    assert np.isnan(got[0, :3]).all()
    want = (10 * np.log10(power[0, 1:].astype(np.float64))).astype(np.float32)
    np.testing.assert_array_equal(got[1:], want)
    assert read_stats(tmp_path / "db")["bands"]["VV"]["invalid"] == 3


def test_offset_subtraction_keeps_nodata_apart_from_dark_pixels() -> None:
    for dtype in (np.uint16, np.int16):
        dn = np.array([[0, 1, 999, 1000, 1001, 5000]], dtype)
        lower = subtract(dn, 1000)
        assert lower.dtype == dtype
        assert lower.tolist() == [[0, 1, 1, 1, 1, 4000]]
    floats = np.array([[1500, np.nan, 0, 1]], np.float32)
    np.testing.assert_array_equal(subtract(floats, 1000), [[500, np.nan, np.nan, -999]])
    assert subtract(np.array([[7]], np.uint16), 0).tolist() == [[7]]


def test_silent_error_6_bands_are_found_by_name_not_by_position(tmp_path: Path) -> None:
    optical, radar = s2(), s1()
    for name, step, names in (("a", 1, ("B03", "B8A")), ("b", -1, ("B8A", "b3"))):
        geotiffs.write(tmp_path / "s2" / f"{name}.tif", optical[::step], names)
        geotiffs.write(tmp_path / "s1" / f"{name}.tif", radar[::step], ("VV", "VH")[::step])
    ingest(pairs(tmp_path, tmp_path / "db", s2_bands="", s1_bands="", offset="0"))
    entries = geotiffs.entries(tmp_path / "db")
    assert (entries["a_s1"], entries["a_s2"]) == (entries["b_s1"], entries["b_s2"])
    got = geotiffs.tensors(tmp_path / "db")
    np.testing.assert_array_equal([got["a_s2"]["B03"], got["a_s2"]["B8A"]], optical)
    np.testing.assert_array_equal([got["a_s1"]["VV"], got["a_s1"]["VH"]], radar)


def test_faulty_samples_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, bad in (("good", 0), ("few", 7), ("many", 8)):  # of 144 pixels, 5 % is 7.2
        radar = s1()
        radar[1].ravel()[:bad] = np.nan
        geotiffs.pair(tmp_path, name, s2(), radar)
    geotiffs.pair(tmp_path, "alone", s2())
    geotiffs.pair(tmp_path, "wide", np.full((2, 12, 12), 70000, np.int32), s1())
    ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    assert sorted(Catalog.read(tmp_path / "db").samples) == ["few", "good"]
    assert (tmp_path / "db" / "left_out.tsv").read_text().splitlines() == [
        "sample\treason",
        "alone\tit has no s1 file",
        "many\t5.6% of VH is nodata or NaN",
        f"wide\t{tmp_path}/s2/wide.tif has values from 70000 to 70000, too far apart for 16 bits: are they DN?",
    ]
    assert "left out 3, named in" in capsys.readouterr().out


def test_nodata_of_the_file_becomes_that_of_the_database(tmp_path: Path) -> None:
    layers = s2().astype(np.int16)
    layers[0, 0, 0] = -9999
    geotiffs.pair(tmp_path, "a", layers, s1(), nodata=-9999)
    ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    got = geotiffs.tensors(tmp_path / "db")["a_s2"]["B02"]
    assert got.dtype == np.int16
    assert got[0, 0] == 0
    np.testing.assert_array_equal(got.ravel()[1:], layers[0].ravel()[1:])
    assert read_stats(tmp_path / "db")["bands"]["B02"]["invalid"] == 1


def test_label_maps_follow_the_classes_named(tmp_path: Path) -> None:
    for name, value in (("a", 9), ("b", 2), ("c", 5)):
        geotiffs.pair(tmp_path, name, s2(), s1())
        values = np.full((1, 12, 12), value, np.uint8)
        values[0, 0, :5] = 1
        geotiffs.write(tmp_path / "lab" / f"{name}.tif", values)
    options = {"label": Path("lab"), "offset": "0"}
    ingest(pairs(tmp_path, tmp_path / "db", classes="1=water,2=trees,9=rangeland", **options))
    made = Catalog.read(tmp_path / "db")
    assert made.classes == ("water", "trees", "rangeland")
    assert dict(zip(made.samples, made.label, strict=True)) == {"a": 2, "b": 1, "c": 0}
    got = geotiffs.tensors(tmp_path / "db")["c_map"]["Data"]
    assert got.dtype == np.uint8
    assert (got[0, :5] == 0).all()
    assert (got[1:] == 255).all()  # 5 is no class named
    ingest(pairs(tmp_path, tmp_path / "plain", **options))
    made = Catalog.read(tmp_path / "plain")
    assert made.classes == tuple("0123456789")
    assert dict(zip(made.samples, made.label, strict=True)) == {"a": 9, "b": 2, "c": 5}


def test_the_map_grows_by_itself_and_the_file_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsdnet.ingest.writer._SMALLEST_MAP", 1 << 16)
    source = geotiffs.sen12ms(tmp_path / "src", places=20)
    ingest(Sen12ms(source, tmp_path / "db"))
    sizes = [len(value) for value in geotiffs.entries(tmp_path / "db").values()]
    pages = sum(-(-(size + 16) // 4096) for size in sizes)
    assert (1 << 16) < sum(sizes) <= (tmp_path / "db" / "data.mdb").stat().st_size <= (pages + 8) * 4096
