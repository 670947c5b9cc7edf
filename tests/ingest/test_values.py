"""From a file's values to the database's: units, scale tags, masks, fill, and layers by name."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.data.catalog import Catalog
from rsdnet.data.normalisation import statistics_of
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.raster import band_name
from tests.ingest.test_grids import layout, reasons
from tests.ingest.test_ingest import s1, s2
from tests.support import geotiffs

SIDE = 24


def write(root: Path, name: str, optical: np.ndarray | None = None, radar: np.ndarray | None = None) -> None:
    geotiffs.pair(root, name, s2(SIDE) if optical is None else optical, s1(SIDE) if radar is None else radar)


def stored(db: Path, key: str) -> np.ndarray:
    name, band = key.split("/")
    return geotiffs.tensors(db)[name][band]


# ---- units -----------------------------------------------------------------------------------------------------------


def power(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 0.05, (2, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize(
    ("radar", "said"),
    [
        (power(), "likely power, so give --s1-unit power"),
        ((1000 * np.sqrt(power())).astype(np.uint16), "likely amplitude, so give --s1-unit amplitude"),
        ((100 * s1(SIDE)).astype(np.int16), "likely dB times a factor"),
        (np.where(power() < 0.01, -0.001, power()).astype(np.float32), "likely power, so give --s1-unit power"),
        (power() - 0.1, "likely power, so give --s1-unit power"),  # of nearly nothing but noise
        (np.where(power() > 0.4, 150, power()).astype(np.float32), "likely power, so give --s1-unit power"),
        (1e6 * power(), "likely power without calibration: calibrate it"),
        (1e8 * power(), "likely power without calibration: calibrate it"),
    ],
)
def test_s1_in_another_unit_ends_with_the_likely_one(tmp_path: Path, radar: np.ndarray, said: str) -> None:
    for name in "abc":
        write(tmp_path, name, radar=radar)
    with pytest.raises(DataError, match=said):
        ingest(layout(tmp_path))
    assert not (tmp_path / "db").exists()
    ingest(layout(tmp_path, implausible="keep"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s1/VV"), radar[0].astype(np.float32))


def test_the_unit_told_is_the_one_that_decides(tmp_path: Path) -> None:
    write(tmp_path, "a", radar=power())
    ingest(layout(tmp_path, s1_unit="power"))
    ingest(layout(tmp_path, s1_unit="amplitude", db=tmp_path / "amplitude", implausible="keep"))
    wide = power().astype(np.float64)
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s1/VH"), (10 * np.log10(wide[1])).astype(np.float32))
    np.testing.assert_array_equal(
        stored(tmp_path / "amplitude", "a_s1/VH"), (20 * np.log10(wide[1])).astype(np.float32)
    )
    write(tmp_path, "a")
    with pytest.raises(DataError, match="are under -1, which power is not: likely dB, so give --s1-unit db"):
        ingest(layout(tmp_path, s1_unit="power", db=tmp_path / "other"))


@pytest.mark.parametrize(
    ("unit", "said"),
    [("power", "likely amplitude, so give --s1-unit amplitude"), ("amplitude", "likely power without calibration")],
)
def test_another_unit_told_is_not_advised_again(tmp_path: Path, unit: str, said: str) -> None:
    digits = 1000 * np.sqrt(power())
    write(tmp_path, "a", radar=digits if unit == "power" else digits**2)
    with pytest.raises(DataError, match=said):
        ingest(layout(tmp_path, s1_unit=unit))


def test_negative_power_is_noise_and_nodata(tmp_path: Path) -> None:
    radar = power()
    radar[1, :3] = np.linspace(-0.004, 0, 3 * SIDE).reshape(3, SIDE)
    write(tmp_path, "a", radar=radar)
    ingest(layout(tmp_path, s1_unit="power", max_invalid=0.2))
    got = stored(tmp_path / "db", "a_s1/VH")
    assert np.isnan(got[:3]).all()
    np.testing.assert_allclose(got[3:], 10 * np.log10(radar[1, 3:]), rtol=1e-5)


def test_s1_in_the_place_of_s2_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", s1(SIDE), s1(SIDE))
    with pytest.raises(DataError, match="nearly all negative: likely S1 in dB"):
        ingest(layout(tmp_path))


def test_power_next_to_nothing_is_none(tmp_path: Path) -> None:
    radar = power()
    radar[0, 0, :2] = 1e-12, 1e-9
    write(tmp_path, "a", radar=radar)
    ingest(layout(tmp_path, s1_unit="power"))
    got = stored(tmp_path / "db", "a_s1/VV")
    assert np.isnan(got[0, 0])
    assert got[0, 1] == pytest.approx(-90)


def test_scale_tags_turn_s1_into_db(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hundredths = (100 * s1(SIDE)).round().astype(np.int16)
    write(tmp_path, "a", radar=hundredths)
    with rasterio.open(tmp_path / "s1" / "a.tif", "r+") as file:
        file.scales, file.offsets = (0.01, 0.01), (0, 1)
    ingest(layout(tmp_path))
    np.testing.assert_allclose(stored(tmp_path / "db", "a_s1/VV"), hundredths[0] / 100, rtol=1e-6)
    np.testing.assert_allclose(stored(tmp_path / "db", "a_s1/VH"), hundredths[1] / 100 + 1, rtol=1e-5)
    assert "S1: scale 0.01 and offset 0 of the tags applied" in capsys.readouterr().out


@pytest.mark.parametrize("sensor", ["s1", "s2"])
@pytest.mark.parametrize(("scale", "offset"), [(0, 0), (np.inf, 0), (1, np.nan), (1, -1e30)])
def test_scale_tags_that_leave_no_value_are_refused(tmp_path: Path, sensor: str, scale: float, offset: float) -> None:
    write(tmp_path, "a")
    with rasterio.open(tmp_path / sensor / "a.tif", "r+") as file:
        file.scales, file.offsets = (scale,) * 2, (offset,) * 2
    with pytest.raises(
        DataError, match=re.escape(f"a.tif tells a scale of {scale:g} and an offset of {offset:g}: correct its")
    ):
        ingest(layout(tmp_path))


def test_decibels_of_no_power_are_nodata(tmp_path: Path) -> None:
    radar = s1(SIDE)
    radar[0, 0, :2] = -np.inf, np.inf
    write(tmp_path, "a", radar=radar)
    ingest(layout(tmp_path))
    want = radar[0].copy()
    want[0, :2] = np.nan
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s1/VV"), want)


def test_a_palette_announced_without_colours_is_none(tmp_path: Path) -> None:
    write(tmp_path, "a")
    with rasterio.open(tmp_path / "s1" / "a.tif", "r+") as file:
        file.colorinterp = (ColorInterp.palette, ColorInterp.gray)
    ingest(layout(tmp_path))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s1/VV"), s1(SIDE)[0])


def test_reflectance_beyond_2_in_a_few_pixels_is_reflectance(tmp_path: Path) -> None:
    reflectance = (s2(SIDE) / 10_000).astype(np.float32)
    reflectance[:, 0, :3] = 2.4
    write(tmp_path, "a", reflectance)
    with pytest.raises(DataError, match="likely reflectance, so give --s2-unit reflectance"):
        ingest(layout(tmp_path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reflectance_is_asked_for_and_stored_as_dn(tmp_path: Path, dtype: type) -> None:
    reflectance = (s2(SIDE) / 10_000).astype(dtype)
    write(tmp_path, "a", reflectance)
    with pytest.raises(DataError, match="likely reflectance, so give --s2-unit reflectance"):
        ingest(layout(tmp_path))
    ingest(layout(tmp_path, s2_unit="reflectance"))
    got = stored(tmp_path / "db", "a_s2/B02")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, 10_000 * reflectance[0].astype(np.float64), rtol=1e-6)
    assert Catalog.read(tmp_path / "db").meta["units"] == {"ms": "dn", "sar": "db"}
    write(tmp_path, "a")
    with pytest.raises(DataError, match="likely DN, so give --s2-unit dn"):
        ingest(layout(tmp_path, s2_unit="reflectance", db=tmp_path / "other"))


def test_a_scale_tag_of_reflectance_leaves_dn(tmp_path: Path) -> None:
    write(tmp_path, "a")
    with rasterio.open(tmp_path / "s2" / "a.tif", "r+") as file:
        file.scales = (0.0001, 0.0001)
    ingest(layout(tmp_path))
    got = stored(tmp_path / "db", "a_s2/B02")
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, s2(SIDE)[0])


def test_8_bits_are_asked_for_and_stored_as_they_are(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(1, 256, (2, SIDE, SIDE)).astype(np.uint8)
    write(tmp_path, "a", levels)
    with pytest.raises(DataError, match="holds 8 bits, so no DN: give --s2-unit byte"):
        ingest(layout(tmp_path))
    ingest(layout(tmp_path, s2_unit="byte"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B03"), levels[1])
    assert Catalog.read(tmp_path / "db").meta["units"]["ms"] == "byte"
    write(tmp_path, "a")
    with pytest.raises(DataError, match="holds uint16, but --s2-unit byte means uint8"):
        ingest(layout(tmp_path, s2_unit="byte", db=tmp_path / "other"))


def test_raw_amplitude_is_positive_in_db_and_trains_all_the_same(tmp_path: Path) -> None:
    digits = np.random.default_rng(0).integers(50, 900, (2, SIDE, SIDE)).astype(np.uint16)
    write(tmp_path, "a", radar=digits)
    ingest(layout(tmp_path, s1_unit="amplitude", val=0, test=0))
    views = ViewConfig(ms_bands=("B02", "B03"))
    mean, _ = statistics_of(Config(DataConfig(data=(tmp_path / "db",)), views))["VV"]
    assert mean == pytest.approx(20 * np.log10(digits[0].astype(np.float64)).mean(), rel=1e-6)


# ---- pixels without data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sensor", "fill", "dtype"),
    [
        ("s1", 0.0, np.float32),
        ("s1", -9999, np.float32),
        ("s1", 65535, np.float32),
        ("s1", 3.4e38, np.float32),
        ("s1", -3.4028234663852886e38, np.float32),
        ("s2", 65535, np.uint16),
        ("s2", -9999, np.int16),
        ("s2", 0.0, np.float32),
        ("s2", -9999, np.float32),
        ("s2", 3.4e38, np.float32),
        ("s1", -99, np.float32),
        ("s1", -999, np.float32),
        ("s2", -1, np.int16),
        ("s2", -999, np.int16),
        ("s2", 5000, np.uint16),  # amid the others
        ("s2", 20_000, np.uint16),
    ],
)
def test_untold_fill_is_named_and_told_fill_is_nodata(tmp_path: Path, sensor: str, fill: float, dtype: type) -> None:
    layers = (s1(SIDE) if sensor == "s1" else s2(SIDE)).astype(dtype)
    want = layers.copy()
    layers[:, :3] = fill  # an eighth of the image
    write(tmp_path, "a", **{"optical" if sensor == "s2" else "radar": layers})
    with pytest.raises(DataError, match=f"likely fill: give --{sensor}-nodata ") as caught:
        ingest(layout(tmp_path, max_invalid=0.2))
    told = float(str(caught.value).split("-nodata ")[1].split(" ")[0])
    ingest(layout(tmp_path, max_invalid=0.2, **{f"{sensor}_nodata": told}))
    band = "VV" if sensor == "s1" else "B02"
    got = stored(tmp_path / "db", f"a_{sensor}/{band}")
    np.testing.assert_array_equal(got[3:], want[0, 3:].astype(got.dtype))
    assert (np.isnan(got[:3]) if got.dtype.kind == "f" else got[:3] == 0).all()
    assert read_stats(tmp_path / "db")["bands"][band]["invalid"] == 3 * SIDE


def test_fill_in_power_is_no_sign_of_db(tmp_path: Path) -> None:
    radar = power()
    radar[:, :3] = -9999
    write(tmp_path, "a", radar=radar)
    with pytest.raises(DataError, match=r"12\.5% of VV is exactly -9999, likely fill: give --s1-nodata -9999"):
        ingest(layout(tmp_path, s1_unit="power"))


@pytest.mark.parametrize(("rows", "said"), [(1, r"4\.7% of VV is exactly 0, likely fill"), (0, "")])
def test_a_border_of_zeros_is_no_backscatter(tmp_path: Path, rows: int, said: str) -> None:
    radar = s1(SIDE)
    radar[:, :rows] = 0
    radar[0, -1, :3] = 0
    write(tmp_path, "a", radar=radar)
    if said:
        with pytest.raises(DataError, match=said):
            ingest(layout(tmp_path))
    else:
        ingest(layout(tmp_path))


def test_one_image_with_fill_among_many_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in "abcdef":
        write(tmp_path, name)
    radar = s1(SIDE)
    radar[1, 0, 0] = -9999
    write(tmp_path, "bad", radar=radar)
    ingest(layout(tmp_path))
    assert list(reasons(tmp_path / "db")) == ["bad"]
    assert "left out as another unit or as fill, which --implausible keep takes: 1 source\n" in capsys.readouterr().out
    assert "0.2% of VH is exactly -9999" in reasons(tmp_path / "db")["bad"]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_values_that_lie_close_together_are_no_fill(tmp_path: Path, dtype: type) -> None:
    """L1C's B10 has a handful of DN; EuroSAT's mean is 12 and its deviation 5."""
    cirrus = np.random.default_rng(0).normal(12, 1, (1, 64, 64)).round().astype(dtype)
    cirrus[0, 32:] = 12
    geotiffs.write(tmp_path / "s2" / "a.tif", np.concatenate([s2(64, count=1).astype(dtype), cirrus]))
    ingest(layout(tmp_path, s1=None, s1_bands="", s2_bands="B04,B10"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B10"), cirrus[0])


def test_a_band_of_one_value_but_for_a_pixel_is_no_fill(tmp_path: Path) -> None:
    cirrus = np.full((2, SIDE, SIDE), 1010, np.uint16)
    cirrus[:, 5, 5] = 1011
    geotiffs.write(tmp_path / "s2" / "a.tif", cirrus)
    ingest(layout(tmp_path, s1=None, s1_bands="", s2_bands="B09,B10"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B10"), cirrus[1])


def test_pixels_of_60_m_as_several_of_10_m_are_no_fill(tmp_path: Path) -> None:
    """A patch of 16 px holds 9 of them, the largest a seventh of it."""
    coarse = s2(3, count=2).repeat(6, 1).repeat(6, 2)[:, 1:17, 1:17]
    geotiffs.write(tmp_path / "s2" / "a.tif", coarse)
    ingest(layout(tmp_path, s1=None, s1_bands="", s2_bands="B01,B09"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B09"), coarse[1])


@pytest.mark.parametrize("end", [1, 10_000])
def test_values_clipped_at_an_end_are_no_fill(tmp_path: Path, end: int) -> None:
    """As of dark water, or of clouds."""
    optical = np.random.default_rng(0).integers(-1500, 11_500, (2, SIDE, SIDE)).clip(1, 10_000)
    optical = np.where(optical == 10_001 - end, 5000 + np.arange(SIDE), optical).astype(np.uint16)  # the other end
    assert (optical == end).mean() > 0.1
    geotiffs.write(tmp_path / "s2" / "a.tif", optical)
    ingest(layout(tmp_path, s1=None, s1_bands=""))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B02"), optical[0])


@pytest.mark.parametrize("kind", ["internal", "msk", "alpha"])
@pytest.mark.parametrize("folder", ["s2", "s1", "lab"])
def test_masks_are_nodata(tmp_path: Path, kind: str, folder: str) -> None:
    blank = np.zeros((SIDE, SIDE), bool)
    blank[:1, :7] = True
    layers = {"s2": s2(SIDE), "s1": s1(SIDE), "lab": np.full((1, SIDE, SIDE), 3, np.uint8)}
    for name, own in layers.items():
        path = tmp_path / name / "a.tif"
        if name != folder:
            geotiffs.write(path, own)
        elif kind == "alpha":
            alpha = np.where(blank, 0, 255).astype(own.dtype)
            geotiffs.write(path, np.concatenate([own, alpha[None]]))
            with rasterio.open(path, "r+") as file:
                file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]
        else:
            geotiffs.write(path, own)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "internal"), rasterio.open(path, "r+") as file:
                file.write_mask(~blank)
            assert (tmp_path / name / "a.tif.msk").exists() == (kind == "msk")
    ingest(layout(tmp_path, label=Path("lab")))
    got = geotiffs.tensors(tmp_path / "db")
    values = {"s2": got["a_s2"]["B03"], "s1": got["a_s1"]["VH"], "lab": got["a_map"]["Data"]}
    for name, value in values.items():
        want = {"s2": 0, "s1": np.nan, "lab": 65535}[name]
        expected = np.where(blank & (name == folder), want, layers[name][-1].astype(np.float32))
        np.testing.assert_array_equal(value, expected)


def test_a_described_layer_is_no_alpha(tmp_path: Path) -> None:
    """Of four 8-bit layers GDAL takes the last for alpha, whatever it is."""
    levels = np.random.default_rng(0).integers(1, 255, (4, SIDE, SIDE)).astype(np.uint8)
    levels[3] = 0
    geotiffs.write(tmp_path / "s2" / "a.tif", levels, ("B04", "B03", "B02", "SCL"))
    ingest(layout(tmp_path, s1=None, s1_bands="", s2_bands="", s2_unit="byte"))
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B04"), levels[0])


# ---- layers by name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "named", "said"),
    [
        (("B03", "B02"), "B02,B03", "describes layer 1 as B03, but it is named B02"),
        (("B02", "B03"), "B02,B03", ""),
        (("b2", "green"), "B02,B03", ""),
        (("Blue", "band 3"), "B02,B03", ""),
        (("Green", "Blue"), "B02,B03", "describes layer 1 as Green, but it is named B02"),
        (("B02", "QA60"), "B02,B03", "describes layer 2 as QA60, but it is named B03"),
        (("haze", "B02"), "B02,-", "describes layer 2 as B02, but layer 1 is named so"),
        (("b1", "b1"), "B02,B03", ""),
        (("", ""), "B02,B03", ""),
    ],
)
def test_names_that_contradict_the_descriptions_are_refused(
    tmp_path: Path, described: tuple[str, ...], named: str, said: str
) -> None:
    geotiffs.write(tmp_path / "s2" / "a.tif", s2(SIDE), described)
    made = layout(tmp_path, s1=None, s1_bands="", s2_bands=named)
    if said:
        with pytest.raises(DataError, match=said):
            ingest(made)
        return
    ingest(made)
    np.testing.assert_array_equal(stored(tmp_path / "db", "a_s2/B02"), s2(SIDE)[0])


@pytest.mark.parametrize(
    ("name", "described"),
    [("a", ("HH", "HV")), ("S1A_IW_GRDH_1SDH_20200607T010800_20200607T010825_032904_03CFBA_D457", ())],
)
def test_hh_and_hv_cannot_be_called_vv_and_vh(tmp_path: Path, name: str, described: tuple[str, ...]) -> None:
    geotiffs.write(tmp_path / "s1" / f"{name}.tif", s1(SIDE), described)
    with pytest.raises(DataError, match=r"HH, but it is named VV|a product that sent H"):
        ingest(layout(tmp_path, s2=None, s2_bands=""))
    with pytest.raises(DataError, match=r"does not name its 2 layers|as HH|VV"):
        ingest(layout(tmp_path, s2=None, s2_bands="", s1_bands=""))


def test_known_layers_are_picked_by_their_descriptions(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    radar = np.concatenate([np.full((1, SIDE, SIDE), 39.5, np.float32), s1(SIDE)])
    geotiffs.write(tmp_path / "s1" / "a.tif", radar, ("angle", "Sigma0_VH_db", "Sigma0_VV_db"))
    optical = np.concatenate([s2(SIDE), np.full((1, SIDE, SIDE), 1024, np.uint16)])
    geotiffs.write(tmp_path / "s2" / "a.tif", optical, ("B4 (665 nm)", "B8A", "QA60"))
    ingest(layout(tmp_path, s2_bands="", s1_bands=""))
    got = geotiffs.tensors(tmp_path / "db")
    assert got["a_s2"].keys() == {"B04", "B8A"}
    assert got["a_s1"].keys() == {"VV", "VH"}
    np.testing.assert_array_equal([got["a_s1"]["VH"], got["a_s1"]["VV"]], radar[1:])
    np.testing.assert_array_equal([got["a_s2"]["B04"], got["a_s2"]["B8A"]], optical[:2])
    out = capsys.readouterr().out
    assert "S1: layers not taken: angle (1 source)" in out
    assert "S2: layers not taken: QA60 (1 source)" in out


def test_a_dash_skips_a_layer(tmp_path: Path) -> None:
    optical = s2(SIDE, count=3)
    geotiffs.write(tmp_path / "s2" / "a.tif", optical)
    own = {"s1": None, "s1_bands": ""}
    with pytest.raises(DataError, match="has 3 layers, but 2 bands are named: B02, B03; - skips a layer"):
        ingest(layout(tmp_path, **own))
    ingest(layout(tmp_path, **own, s2_bands="B02,-,B03"))
    got = geotiffs.tensors(tmp_path / "db")["a_s2"]
    assert got.keys() == {"B02", "B03"}
    np.testing.assert_array_equal([got["B02"], got["B03"]], optical[[0, 2]])
    for spelled, said in (("-,-", "names no band"), ("B02,B02,-", "names a band twice")):
        with pytest.raises(DataError, match=said):
            ingest(layout(tmp_path, **own, s2_bands=spelled, db=tmp_path / "other"))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("B04", "B04"), ("b8a", "B8A"), ("B4 - red (665 nm)", "B04"), ("Sigma0_VV_db", "VV"), ("HH", "HH"),
        ("angle", None), ("QA60", None), ("SCL", None), (None, None), ("", None), ("VV-VH", None), ("band 4", None),
    ],
)  # fmt: skip
def test_the_band_that_a_description_tells(text: str | None, want: str | None) -> None:
    assert band_name(text) == want


def test_files_of_one_stack_and_of_single_bands_are_alike(tmp_path: Path) -> None:
    """A JPEG 2000 holds what a GeoTIFF holds."""
    optical = s2(64)
    geotiffs.write(tmp_path / "tif" / "s2" / "a.tif", optical)
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    geotiffs.write(tmp_path / "jp2" / "s2" / "a.jp2", optical, **lossless)
    for kind in ("tif", "jp2"):
        ingest(Pairs(tmp_path / kind, tmp_path / kind / "db", s2=Path("s2"), s2_bands="B02,B03", offset="0"))
    assert geotiffs.entries(tmp_path / "tif" / "db") == geotiffs.entries(tmp_path / "jp2" / "db")
