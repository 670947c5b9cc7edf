"""Images of one grid: coordinate system, pixel size, place and direction; what is turned, left out, or only paired."""

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.warp import transform

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.pairs import Pairs
from tests.ingest.test_ingest import s1, s2
from tests.support import geotiffs

UTM = "EPSG:32633"
HERE = Affine(10, 0, 390_000, 0, -10, 5_348_400)
SIDE = 24


def write(root: Path, name: str, folder: str, layers: np.ndarray, grid: Affine | None, crs: str | None = UTM) -> None:
    place = {} if grid is None else {"transform": grid, "crs": crs}
    geotiffs.write(root / folder / f"{name}.tif", layers, **place)


def layout(root: Path, **options: object) -> Pairs:
    settled = {"s2": Path("s2"), "s1": Path("s1"), "s2_bands": "B02,B03", "s1_bands": "VV,VH", "offset": "0"}
    return Pairs(root, **{"db": root / "db"} | settled | options)  # type: ignore[arg-type]


def reasons(db: Path) -> dict[str, str]:
    path = db / "left_out.tsv"
    return dict(line.split("\t") for line in path.read_text().splitlines()[1:]) if path.exists() else {}


@pytest.mark.parametrize(
    ("grid", "crs", "said"),
    [
        (HERE, UTM, ""),
        (None, None, ""),
        (HERE @ Affine.translation(3, -3), UTM, ""),  # SSL4EO-S12's S1
        (HERE @ Affine.translation(4, 0), UTM, "S1 lies 4.0 px away from S2"),
        (HERE @ Affine.translation(SIDE / 2, 0), UTM, "S1 lies 12.0 px away from S2"),
        (HERE @ Affine.translation(60_000, 0), UTM, "S1 lies 60,000.0 px away from S2"),
        (HERE, "EPSG:32632", "S2 is in EPSG:32633, but S1 in EPSG:32632"),
        (HERE @ Affine.scale(2), UTM, "the pixels of S2 are 10 x 10, but those of S1 20 x 20"),
        (HERE @ Affine.rotation(30, (SIDE / 2, SIDE / 2)), UTM, "turned by -30 degrees"),
        (HERE @ Affine.rotation(90, (SIDE / 2, SIDE / 2)), UTM, "turned by"),
        (HERE @ Affine.scale(1.007), UTM, ""),  # SSL4EO-S12's S1
        (HERE @ Affine.scale(1.05), UTM, "the pixels of S2 are 10 x 10, but those of S1 10.5 x 10.5"),
    ],
)
def test_s1_of_another_grid_is_left_out(tmp_path: Path, grid: Affine | None, crs: str | None, said: str) -> None:
    write(tmp_path, "good", "s2", s2(SIDE), HERE)
    write(tmp_path, "good", "s1", s1(SIDE), HERE)
    write(tmp_path, "odd", "s2", s2(SIDE), HERE)
    write(tmp_path, "odd", "s1", s1(SIDE), grid, crs)
    ingest(layout(tmp_path))
    found = reasons(tmp_path / "db")
    assert found.keys() == ({"odd"} if said else set())
    assert said in found.get("odd", "")


@pytest.mark.parametrize("grid", [HERE @ Affine.scale(1.015), HERE @ Affine.rotation(1, (400, 400))])
def test_grids_that_drift_apart_towards_the_corners_are_left_out(tmp_path: Path, grid: Affine) -> None:
    """A hundredth is nothing in a patch, and a hundred pixels in a scene."""
    side = 800
    for name, its in (("good", HERE), ("odd", grid)):
        write(tmp_path, name, "s2", np.full((2, side, side), 700, np.uint16), HERE)
        write(tmp_path, name, "s1", np.full((2, side, side), -12, np.float32), its)
    ingest(layout(tmp_path))
    assert list(reasons(tmp_path / "db")) == ["odd"]
    assert "px away from S2" in reasons(tmp_path / "db")["odd"]


def test_a_label_map_of_another_place_is_left_out(tmp_path: Path) -> None:
    for name, grid in (("good", HERE), ("odd", HERE @ Affine.translation(0, 12))):
        write(tmp_path, name, "s2", s2(SIDE), HERE)
        write(tmp_path, name, "lab", np.ones((1, SIDE, SIDE), np.uint8), grid)
    ingest(layout(tmp_path, s1=None, s1_bands="", label=Path("lab")))
    assert reasons(tmp_path / "db") == {"odd": "label map lies 12.0 px away from S2: they must be of one place"}


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("patch", [None, 12])
def test_images_stored_south_up_or_mirrored_are_turned(
    tmp_path: Path, axes: tuple[int, ...], patch: int | None, capsys: pytest.CaptureFixture
) -> None:
    optical, radar, label = s2(SIDE), s1(SIDE), np.arange(SIDE * SIDE, dtype=np.uint16).reshape(1, SIDE, SIDE)
    rows, columns = (-1 if axis in axes else 1 for axis in (1, 2))
    turned = HERE @ Affine.translation(SIDE * (columns < 0), SIDE * (rows < 0)) @ Affine.scale(columns, rows)
    write(tmp_path, "a", "s2", optical, HERE)
    write(tmp_path, "a", "s1", np.flip(radar, axes), turned)
    write(tmp_path, "a", "lab", np.flip(label, axes), turned)
    ingest(layout(tmp_path, patch=patch, label=Path("lab")))
    got = geotiffs.tensors(tmp_path / "db")
    for top, left in [(0, 0)] if patch is None else [(0, 0), (12, 12)]:
        suffix, side = ("", SIDE) if patch is None else (f"_y{top}_x{left}", 12)
        window = (slice(top, top + side), slice(left, left + side))
        np.testing.assert_array_equal(got[f"a_s1{suffix}"]["VH"], radar[1][window])
        np.testing.assert_array_equal(got[f"a_map{suffix}"]["Data"], label[0][window])
        np.testing.assert_array_equal(got[f"a_s2{suffix}"]["B02"], optical[0][window])
    assert "S1: stored south-up or mirrored, turned north up (1 source)" in capsys.readouterr().out


def test_a_coordinate_system_of_no_place_on_earth_is_compared_and_tells_none(tmp_path: Path) -> None:
    for name, shift in (("good", 0), ("odd", 12)):
        write(tmp_path, name, "s2", s2(SIDE), HERE, 'LOCAL_CS["site",UNIT["m",1]]')
        write(tmp_path, name, "s1", s1(SIDE), HERE @ Affine.translation(shift, 0), 'LOCAL_CS["site",UNIT["m",1]]')
    ingest(layout(tmp_path))
    assert list(reasons(tmp_path / "db")) == ["odd"]
    assert np.isnan(Catalog.read(tmp_path / "db").lon).all()


def test_a_grid_turned_by_a_rounding_error_is_straight(tmp_path: Path) -> None:
    noise = Affine(10, 1e-9, 390_000, -3e-10, 10, 5_348_400 - 10 * SIDE)
    write(tmp_path, "a", "s2", s2(SIDE), HERE)
    write(tmp_path, "a", "s1", s1(SIDE)[:, ::-1], noise)
    ingest(layout(tmp_path))
    np.testing.assert_array_equal(geotiffs.tensors(tmp_path / "db")["a_s1"]["VV"], s1(SIDE)[0])


@pytest.mark.parametrize(
    ("grid", "crs"),
    [(Affine(1, 0, 0, 0, -1, SIDE), None), (Affine(1, 0, 0, 0, 1, SIDE), None), (HERE @ Affine.scale(1, 0), UTM)],
)
def test_plain_rows_and_columns_and_pixels_without_an_area_are_no_georeference(
    tmp_path: Path, grid: Affine, crs: str | None
) -> None:
    write(tmp_path, "a", "s2", s2(SIDE), HERE)
    write(tmp_path, "a", "s1", s1(SIDE), grid, crs)
    ingest(layout(tmp_path))
    np.testing.assert_array_equal(geotiffs.tensors(tmp_path / "db")["a_s1"]["VV"], s1(SIDE)[0])


def test_the_catalog_tells_each_tiles_place(tmp_path: Path) -> None:
    write(tmp_path, "a", "s2", s2(SIDE), HERE)
    write(tmp_path, "a", "s1", s1(SIDE), HERE)
    write(tmp_path, "b", "s2", s2(SIDE), None)
    write(tmp_path, "b", "s1", s1(SIDE), None)
    ingest(layout(tmp_path, patch=12))
    made = Catalog.read(tmp_path / "db")
    for row, name in enumerate(made.samples):
        if name.startswith("b"):
            assert np.isnan(made.lon[row])
            assert np.isnan(made.lat[row])
            continue
        top, left = (int(part[1:]) for part in name.split("_")[1:])
        (lon,), (lat,) = transform(UTM, "EPSG:4326", *zip(HERE @ (left + 6, top + 6), strict=True))
        assert (made.lon[row], made.lat[row]) == pytest.approx((lon, lat), abs=1e-9)


def test_pairs_without_a_place_are_said_to_be_unsure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, "a", "s2", s2(SIDE), HERE)
    write(tmp_path, "a", "s1", s1(SIDE), None)
    ingest(layout(tmp_path))
    out = capsys.readouterr().out.split("not sure of:")[1]
    assert "S1 without a georeference: paired pixel by pixel (1 source)" in out


def test_s1_and_labels_are_compared_where_s2_has_no_place(tmp_path: Path) -> None:
    for name, grid in (("good", HERE), ("odd", HERE @ Affine.translation(0, 12))):
        write(tmp_path, name, "s2", s2(SIDE), None)
        write(tmp_path, name, "s1", s1(SIDE), HERE)
        write(tmp_path, name, "lab", np.ones((1, SIDE, SIDE), np.uint8), grid)
    ingest(layout(tmp_path, label=Path("lab")))
    assert reasons(tmp_path / "db") == {"odd": "label map lies 12.0 px away from S1: they must be of one place"}


def test_pixels_that_no_tile_takes_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in "ab":
        write(tmp_path, name, "s2", s2(224), HERE)
        write(tmp_path, name, "s1", s1(224), HERE)
    ingest(layout(tmp_path, patch=128))
    assert capsys.readouterr().out.count("tiles take 33 % of the pixels") == 1
    ingest(layout(tmp_path, patch=112, db=tmp_path / "whole"))
    assert "tiles take" not in capsys.readouterr().out


def test_real_pairs_are_of_one_grid(real_data: Path, tmp_path: Path) -> None:
    """terramesh's are exactly, SSL4EO-S12's within its 3 px: test_ingest_real.py ingests them; here one is moved."""
    source = real_data / "terramesh"
    for path in sorted((source / "S2L2A").glob("*.tif"))[:2]:
        for folder in ("S2L2A", "S1RTC"):
            (tmp_path / folder).mkdir(exist_ok=True)
            other = sorted((source / folder).glob("*.tif"))[2] if folder == "S1RTC" else path
            (tmp_path / folder / path.name).symlink_to(other)
    folders = {"s2": Path("S2L2A"), "s1": Path("S1RTC")}
    with pytest.raises(DataError, match=r"reproject one|lies .* px away"):
        ingest(Pairs(tmp_path, tmp_path / "db", **folders, s2_bands="L2A", s1_bands="VV,VH", offset="0"))


@pytest.mark.parametrize(
    ("west", "north", "expected"),
    [
        (359.0, 10.0, (-0.999, 9.999)),  # degrees from 0 to 360
        (179.9995, 10.0, (-179.9995, 9.999)),  # across 180
        (-180.0015, 10.0, (179.9995, 9.999)),
        (180.0 - 0.001, 10.0, (180.0, 9.999)),
        (12.0, 5000.0, None),  # no degrees
    ],
)
def test_longitudes_lie_between_180_west_and_east(
    tmp_path: Path, west: float, north: float, expected: tuple[float, float] | None
) -> None:
    geotiffs.write(tmp_path / "s2" / "a.tif", s2(20), transform=Affine(1e-4, 0, west, 0, -1e-4, north), crs="EPSG:4326")
    ingest(layout(tmp_path, s1=None))
    made = Catalog.read(tmp_path / "db")
    if expected is None:
        assert np.isnan([*made.lon, *made.lat]).all()
    else:
        np.testing.assert_allclose([*made.lon, *made.lat], expected, rtol=0, atol=1e-9)
