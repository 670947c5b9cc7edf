"""Files of a scene to bands by name; regions against whole images; bad input, one line each."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from rsdnet.embed.scene import Scene, files_of
from rsdnet.errors import DataError
from rsdnet.ingest.source import Recipe
from tests.embed import scenes
from tests.support import encoders, geotiffs

REGIONS = ((0, 0, 12, 18), (18, 12, 36, 24), (48, 54, 12, 12))


def scene_of(paths: list[Path], *names: str, layers: tuple[str, ...] = (), **recipe: Any) -> Scene:
    return Scene.of(files_of(paths, layers), names, Recipe({}, **{"offset": 0, **recipe})).settled()[0]


def product(folder: Path, level: str = "L2A") -> Path:
    """A .SAFE folder with bands of 10, 20 and 60 m; some also at coarser resolutions, and a true-colour image."""
    root = folder / f"S2A_MSI{level}_20230101T101411_N0509_R022_T32TQM_20230101T140000.SAFE/GRANULE/L/IMG_DATA"
    sizes = {"B02": (10, 20), "B04": (10,), "B05": (20, 60), "B01": (60,), "TCI": (10,), "SCL": (20,)}
    for seed, (name, resolutions) in enumerate(sizes.items()):
        for metres in resolutions if level == "L2A" else resolutions[:1]:
            place = f"R{metres}m/T32TQM_20230101T101411_{name}_{metres}m" if level == "L2A" else f"T32TQM_x_{name}"
            pixels = scenes.values(1, 600 // metres, 720 // metres, seed) + 1000
            geotiffs.write(root / f"{place}.jp2", pixels.astype(np.uint16), **scenes.georeferenced(metres))
    return root.parents[2]


@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_a_product_gives_its_finest_bands_less_the_offset(tmp_path: Path, level: str) -> None:
    folder = product(tmp_path, level)
    files = files_of([folder])
    assert {file.bands[0]: file.shape[0] for file in files} == {"B02": 60, "B04": 60, "B05": 30, "B01": 10}
    scene, facts = Scene.of(files, ("B01", "B02", "B05"), Recipe({}, offset=None)).settled()
    assert facts.offsets[0][1:3] == (1000, "processing baseline 05.09 of the product's name")
    assert (scene.shape, scene.step, scene.metres) == ((60, 72), 6, 10)
    found = scene.read(6, 12, 24, 18)
    for name, factor in (("B02", 1), ("B05", 2), ("B01", 6)):
        (path,) = (Path(file.path) for file in files if file.bands == (name,))
        whole = geotiffs.read(path)[0].astype(int) - 1000
        own = whole[6 // factor : 30 // factor, 12 // factor : 30 // factor]
        np.testing.assert_array_equal(found[name], own)


@pytest.mark.parametrize("turned", [False, True])
def test_a_region_is_that_of_the_whole_image_turned_north_up(tmp_path: Path, turned: bool) -> None:
    """With nodata values, a scale, a mask, and beyond the edge pixels without data; stored south-up too."""
    pixels = scenes.values(2, 55, 61, 3)
    pixels[0, :9, 5:20] = 7
    transform = from_origin(*scenes.ORIGIN, 10, 10)
    if turned:
        transform = rasterio.Affine(10, 0, scenes.ORIGIN[0], 0, 10, scenes.ORIGIN[1] - 550)
    profile = {"crs": "EPSG:32632", "transform": transform, "nodata": 7}
    path = geotiffs.write(tmp_path / "a.tif", pixels[:, ::-1] if turned else pixels, ("B02", "B03"), **profile)
    scene = scene_of([path], "B03", "B02")
    assert scene.grid is not None
    np.testing.assert_allclose(scene.grid.matrix, [[10, 0, 500_000], [0, -10, 5_000_000]])
    expected = np.pad(np.where(pixels == 7, 0, pixels), ((0, 0), (0, 5), (0, 5)))
    for top, left, height, width in REGIONS:
        found = scene.read(top, left, height, width)
        for name, own in (("B02", expected[0]), ("B03", expected[1])):
            np.testing.assert_array_equal(found[name], own[top : top + height, left : left + width])


def test_layers_by_file_name_by_option_and_of_both_sensors(tmp_path: Path) -> None:
    ten = scenes.values(3, 40, 40, 0)
    sar = np.random.default_rng(0).normal(-12, 3, (1, 40, 40)).astype(np.float32)
    named = geotiffs.write(tmp_path / "place_B8A.tif", ten[:1], **scenes.georeferenced(10))
    bare = geotiffs.write(tmp_path / "bare.tif", ten, **scenes.georeferenced(10))
    radar = geotiffs.write(tmp_path / "x-vv.tif", sar, **scenes.georeferenced(10))
    with pytest.raises(DataError, match=r"bare.tif does not name its 3 layers.*give --layers"):
        files_of([named, bare])
    scene = scene_of([bare, radar], "B04", "VV", layers=("B02,-,B04", "VV"))
    found = scene.read(0, 0, 40, 40)
    np.testing.assert_array_equal(found["B04"], ten[2])
    np.testing.assert_array_equal(found["VV"], sar[0])
    assert files_of([named])[0].bands == ("B8A",)
    with pytest.raises(DataError, match="both have band B8A"):
        files_of([named, bare], ("B8A", "B8A,B02,B03"))
    with pytest.raises(DataError, match="--layers names the layers of 2 files, but there are 3"):
        files_of([named, bare, radar], ("B8A", "VV"))


def test_a_vrt_is_read_as_its_file(tmp_path: Path) -> None:
    path = geotiffs.write(tmp_path / "a.tif", scenes.values(1, 30, 30, 0), ("B02",), **scenes.georeferenced(10))
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="30"><GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>'
        '<VRTRasterBand dataType="UInt16" band="1"><Description>B02</Description><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    np.testing.assert_array_equal(scene_of([vrt], "B02").read(3, 4, 9, 9)["B02"], geotiffs.read(path)[0, 3:12, 4:13])


def test_real_bands_of_60_20_and_10_m(real_data: Path) -> None:
    (folder,) = (real_data / "bigearthnet-v2/BigEarthNet-S2").glob("*/*")
    paths = [path for path in sorted(folder.glob("*_B*.tif")) if path.stem[-3:] in ("B01", "B02", "B11")]
    scene, _ = Scene.of(files_of(paths), ("B01", "B02", "B11"), Recipe({}, offset=0)).settled()
    assert (scene.shape, scene.step, scene.metres, scene.tens) == ((120, 120), 6, 10, 1)
    found = scene.read(60, 0, 60, 120)
    assert {name: band.shape for name, band in found.items()} == {"B01": (10, 20), "B02": (60, 120), "B11": (30, 60)}
    np.testing.assert_array_equal(found["B11"], geotiffs.read(paths[2])[0, 30:])


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoders and scenes, good and bad."""
    folder = tmp_path_factory.mktemp("bad")
    scenes.scene(folder)
    encoders.written(folder / "encoder")
    encoders.written(folder / "newer", version=99)
    encoders.written(folder / "bytes", unit="byte")
    ten = scenes.values(2, 53, 62, 0)
    geotiffs.write(folder / "reflectance.tif", (ten / 1e4).astype(np.float32), scenes.TEN, **scenes.georeferenced(10))
    geotiffs.write(folder / "elsewhere.tif", scenes.values(1, 53, 62, 1), ("B03",), **scenes.georeferenced(12))
    geotiffs.write(folder / "other.tif", scenes.values(1, 53, 50, 1), ("B03",), **scenes.georeferenced(10))
    geotiffs.write(folder / "bright.tif", (ten + 1500).astype(np.uint16), scenes.TEN, **scenes.georeferenced(10))
    geotiffs.write(folder / "power.tif", np.full((1, 53, 62), 0.1, np.float32) + ten[:1] / 1e6, ("VV",))
    geotiffs.write(folder / "empty.tif", np.zeros((1, 53, 62), np.uint16), ("B04",), **scenes.georeferenced(10))
    (folder / "text.tif").write_text("text")
    (folder / "exists.tif").write_text("text")
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("encoder ten.tif out.tif", "the scene has no band B02, B03, B05.*it has B04, B08; name the rows.*by --bands"),
        ("encoder ten.tif out.tif --bands B01", "the encoder knows no band B01: it knows B02 B03"),
        ("encoder ten.tif out.tif --bands B99", "unknown band 'B99'"),
        ("encoder reflectance.tif out.tif --bands B04", "likely reflectance, so give --s2-unit reflectance"),
        ("encoder power.tif out.tif --bands VV", "likely power, so give --s1-unit power"),
        ("encoder ten.tif out.tif --bands B04 --window 64", "62 x 53 px, smaller than a window of 64"),
        ("encoder ten.tif out.tif --bands B04 --window 24 --stride 36", "--stride 36 is larger than --window 24"),
        ("encoder ten.tif twenty.tif out.tif --bands B04 B05 --stride 3", "--stride 3: .*a multiple of 2 is needed"),
        ("encoder ten.tif elsewhere.tif out.tif --bands B04 B03", "the pixels of .*ten.tif are 10 x 10.*resample one"),
        ("encoder ten.tif other.tif out.tif --bands B04 B03", "ten.tif is 62x53 px, but .*other.tif is 50x53 px"),
        ("encoder bright.tif out.tif --bands B04 --offset auto", "the offset of S2 is open: .*bright.tif"),
        ("encoder empty.tif out.tif --bands B04 --pca 3", "no valid pixel in all bands"),
        ("encoder ten.tif out.tif --bands B04 --pca 99 --features layer1", "--pca 99: .* no more than 4 components"),
        ("newer ten.tif out.tif --bands B04", "is of a newer version \\(99, this rsdnet reads"),
        ("bytes ten.tif out.tif --bands B04", "trained on byte, but --s2-unit is dn"),
        ("encoder ten.tif out.tif --bands B04 --s2-unit byte", "trained on dn, but --s2-unit is byte"),
        ("nowhere ten.tif out.tif", "nowhere is not there"),
        ("encoder text.tif out.tif", "text.tif cannot be read"),
        ("encoder newer out.tif", "a folder without a Sentinel-2 product"),
        ("encoder ten.tif nowhere/out.tif", "there is no folder"),
        ("encoder ten.tif out.png", "the output is a GeoTIFF: name it out.tif"),
        ("encoder ten.tif exists.tif", "exists: name another output, or write over it by --force"),
        ("encoder ten.tif ten.tif --force", "is a file of the scene"),
        ("encoder out.tif", "alone is named"),
        ("encoder ten.tif out.parquet --db db", "--db names the input, but ten.tif is one too"),
        ("encoder ten.tif out.tif --bands B04 --features layer9", "--features layer9"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, folder: Path, words: str, said: str, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    offset = [] if "--offset" in words else ["--offset=0"]
    with pytest.raises(DataError, match=said) as caught:
        scenes.run(monkeypatch, *words.split(), *offset)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before
    assert (folder / "exists.tif").read_text() == "text"


def test_too_little_disk_is_told_before_it_begins(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(DataError, match=r"takes up to 788\.6 KB, and its blocks as much.*1\.0 MB are free: use --pca"):
        scenes.run(monkeypatch, folder / "encoder", folder / "ten.tif", folder / "out.tif", "--offset=0",
                   "--bands", "B04", "B08")  # fmt: skip
    assert not list(folder.glob("out.tif*"))


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({}, "no georeference, nor will the output"),
        (scenes.georeferenced(30), r"a pixel of 30 m is seen as one of 27\.7 m, but training saw 5 to 15 m"),
        ({"crs": "EPSG:4326", "transform": from_origin(7, 60, 0.001, 0.001)}, r"55\.7 m \(a guess: .* in degrees\)"),
        (scenes.georeferenced(10), None),
    ],
)
def test_pixels_of_another_size_and_no_georeference_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture, profile: dict,
    said: str | None,
) -> None:  # fmt: skip
    path = geotiffs.write(tmp_path / "a.tif", scenes.values(1, 30, 30, 0), ("B04",), **profile)
    words = (folder / "encoder", path, tmp_path / "out.tif", "--offset=0", "--features=last", "--cell=2")
    assert scenes.run(monkeypatch, *words, "--bands=B04") == 0
    text = capsys.readouterr().out
    if said is None:
        assert "not sure of: a pixel" not in text
    else:
        assert re.search(said, text), text
    with rasterio.open(tmp_path / "out.tif") as file:
        assert bool(file.crs) == bool(profile)
