"""Synthetic scenes: the layout on disk, the same pixels whoever writes them, and physics that a sensor would show."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdnet.bands import BANDS, S2L1C
from rsdnet.errors import DataError
from rsdnet.synthetic.fields import blur
from rsdnet.synthetic.geotiffs import World, address, write_scenes
from rsdnet.synthetic.materials import NAMES
from rsdnet.synthetic.patterns import PATTERNS, Canvas
from rsdnet.synthetic.sensors import radar
from rsdnet.synthetic.world import SEASONS, Place, synthesise

SMALL = World(seed=3, size=48)
DFC = np.array([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10])  # IGBP to DFC2020, SEN12MS's simplified scheme


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.tif")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    assert write_scenes(out, 5, SMALL, workers=1) == 5
    return out


@pytest.fixture(scope="module")
def places() -> list[Place]:
    return [synthesise(1, i, 128, SEASONS[i % 4]) for i in range(48)]


def test_files_are_sen12ms_s(folder: Path) -> None:
    seasons = {"ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter"}
    assert {p.name for p in folder.iterdir() if p.is_dir()} == seasons
    for path in folder.rglob("*_s2_*.tif"):
        paths = [Path(str(path).replace("_s2", f"_{kind}").replace("/s2", f"/{kind}")) for kind in ("s2", "s1", "lc")]
        with rasterio.open(paths[0]) as s2, rasterio.open(paths[1]) as s1, rasterio.open(paths[2]) as lc:
            assert (s2.count, set(s2.dtypes), s2.descriptions) == (13, {"uint16"}, S2L1C)
            assert (s1.count, set(s1.dtypes), s1.descriptions) == (2, {"float32"}, ("VV", "VH"))
            assert (lc.count, set(lc.dtypes), lc.descriptions[0]) == (4, {"uint8"}, "IGBP")
            assert s2.crs == s1.crs == lc.crs
            assert s2.crs.is_projected
            assert s2.transform == s1.transform == lc.transform
            assert s2.res == (10.0, 10.0)
            assert 1 <= lc.read(1).min() <= lc.read(1).max() <= 17
            assert not lc.read([2, 3, 4]).any()


def test_no_two_places_share_a_file_or_the_ground(folder: Path) -> None:
    assert len({address(i) for i in range(500)}) == 500
    grounds = set()
    for path in folder.rglob("*_lc_*.tif"):
        with rasterio.open(path) as file:
            grounds.add((file.crs.to_epsg(), *file.bounds))
    assert len(grounds) == 5


def test_workers_and_number_of_places_change_no_byte(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, 3, SMALL, workers=2)
    mine, theirs = digests(tmp_path), digests(folder)
    assert len(mine) == 9
    assert all(theirs[name] == digest for name, digest in mine.items())


def test_another_seed_is_another_world() -> None:
    a, b = synthesise(0, 7, 64, "summer"), synthesise(1, 7, 64, "summer")
    assert not np.array_equal(a.ms, b.ms)
    assert not np.array_equal(a.sar, b.sar)


def test_a_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    write_scenes(tmp_path, 2, SMALL, workers=1)
    before = digests(tmp_path)
    assert write_scenes(tmp_path, 2, SMALL, workers=1) == 0
    lost = next(tmp_path.rglob("*_s1_*.tif"))
    lost.unlink()
    lost.with_name(f".{lost.name}.part").write_bytes(b"cut off")  # what a killed run leaves
    assert write_scenes(tmp_path, 2, SMALL, workers=1) == 1
    assert digests(tmp_path) == before


def test_real_scenes_are_neither_replaced_nor_mixed_with_synthetic_ones(tmp_path: Path) -> None:
    real = tmp_path / "ROIs1158_spring" / "s2_1" / "ROIs1158_spring_s2_1_p1.tif"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(DataError, match="holds a ROIs1158_spring that is not of this command: name another folder"):
        write_scenes(tmp_path, 2, SMALL, workers=1)
    assert real.read_bytes() == b"real"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [real]


def test_folder_of_another_world_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="other scenes"):
        write_scenes(folder, 1, World(seed=4, size=48), workers=1)


@pytest.mark.parametrize(("places", "world"), [(0, SMALL), (1, World(size=8)), (1, World(seed=-1))])
def test_values_out_of_range_are_refused(tmp_path: Path, places: int, world: World) -> None:
    with pytest.raises(DataError, match="places >= 1"):
        write_scenes(tmp_path, places, world)


def test_command_reports_a_folder_it_cannot_make(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    call = [sys.executable, "-m", "rsdnet.scenes", str(tmp_path / "file" / "out"), "--places", "1"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(32, 75), st.sampled_from(SEASONS))
def test_pixels_are_valid_for_any_place(seed: int, place: int, size: int, season: str) -> None:
    image = synthesise(seed, place, size, season)
    assert (image.ms.shape, image.ms.dtype) == ((13, size, size), np.uint16)
    assert (image.sar.shape, image.sar.dtype) == ((2, size, size), np.float32)
    assert image.ms.min() >= 1  # 0 would read as nodata
    assert np.isfinite(image.sar).all()
    assert image.sar.min() > -45
    assert image.sar.max() < 30
    assert set(np.unique(image.cover)) <= set(PATTERNS)


def test_coarse_bands_are_coarse(places: list[Place]) -> None:
    image = places[0].ms[:, :126, :126]  # a multiple of 6
    for b, name in enumerate(S2L1C):
        factor = BANDS[name].resolution // 10
        blocks = image[b].reshape(126 // factor, factor, 126 // factor, factor)
        assert (np.ptp(blocks, axis=(1, 3)) == 0).all(), name
        if factor == 1:
            assert (np.diff(image[b].astype(int)) != 0).mean() > 0.8


def test_values_lie_where_the_sensors_find_them(places: list[Place]) -> None:
    ms = np.stack([p.ms for p in places]).astype(float).mean((0, 2, 3))
    level = dict(zip(S2L1C, ms, strict=True))
    assert level["B10"] < 150  # water vapour: the ground is not seen
    assert level["B01"] > level["B03"]  # path radiance grows towards the blue
    assert level["B08"] > 1.3 * level["B04"]  # vegetation's red edge
    assert 500 < level["B02"] < 3500
    vv, vh = np.stack([p.sar for p in places]).mean((0, 2, 3))
    assert -18 < vv < -7
    assert 4 < vv - vh < 11


def test_speckle_has_the_looks_of_a_grd_product() -> None:
    size = 256
    share = np.zeros((len(NAMES), size, size), np.float32)
    share[NAMES.index("grass")] = 1
    one = np.ones((size, size), np.float32)
    rng = np.random.default_rng(0)
    power = 10 ** (radar(rng, Canvas(share, one, one), np.zeros_like(one)).astype(float) / 10)
    looks = power.mean((1, 2)) ** 2 / power.var((1, 2))
    assert ((looks > 3.5) & (looks < 6)).all()  # Sentinel-1 IW GRD high resolution: equivalent number of looks 4.4
    lag = [np.corrcoef(p[:, 1:].ravel(), p[:, :-1].ravel())[0, 1] for p in power]
    assert all(0.1 < r < 0.6 for r in lag)  # neighbours share a little


def test_both_sensors_see_the_same_borders(places: list[Place]) -> None:
    """Smoothed images change more across borders of the land cover than elsewhere, in both sensors; values differ."""
    ratio: dict[str, list[float]] = {"B08": [], "VV": []}
    agreement = []
    for p in places:
        border = np.abs(np.diff(p.cover.astype(int), axis=1)) > 0
        if border.sum() < 60:
            continue
        images = {"B08": p.ms[7].astype(np.float32), "VV": p.sar[0]}
        for name, image in images.items():
            soft = blur(image, 2.0)[:, 3:] - blur(image, 2.0)[:, :-3]
            jump, edge = np.abs(soft), border[:, 1:-1]
            ratio[name].append(jump[edge].mean() / jump[~edge].mean())
        agreement.append(np.corrcoef(images["B08"].ravel(), images["VV"].ravel())[0, 1])
    assert len(agreement) > 15
    assert np.median(ratio["B08"]) > 1.2
    assert np.median(ratio["VV"]) > 1.2
    assert np.max(np.abs(agreement)) < 0.95
    assert np.min(agreement) < 0.1 < np.max(agreement)


def test_classes_are_many_and_no_band_gives_them_away_by_its_mean() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import StandardScaler

    rows, labels = [], []
    for place in range(280):
        image = synthesise(2, place, 64, SEASONS[place % 4])
        counts = np.bincount(DFC[image.cover].ravel(), minlength=11)
        x = np.concatenate([image.ms[[1, 2, 3, 7, 11]], image.sar]).astype(np.float64)
        rows.append(np.stack([x.mean((1, 2)), x.std((1, 2))], 1))
        labels.append(counts.argmax())
    x, y = np.array(rows), np.array(labels)
    assert (np.bincount(y, minlength=11) >= 8).sum() >= 8
    for band in range(x.shape[1]):
        train, test = (StandardScaler().fit(x[:190, band]).transform(part) for part in (x[:190, band], x[190:, band]))
        guess = LogisticRegression(max_iter=500).fit(train, y[:190]).predict(test)
        assert f1_score(y[190:], guess, average="macro") < 0.5
