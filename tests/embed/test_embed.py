"""Maps of a whole scene against a plain blend of every window, in float64; types, nodata, grid, projection."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.nn.functional import interpolate

import rsdnet
from rsdnet.embed import geotiff, job
from rsdnet.embed.layers import Layers, Stage
from rsdnet.embed.projection import Fit, at_places, fitted
from rsdnet.embed.windows import Tiling, spread_out
from rsdnet.errors import DataError
from tests.embed import scenes
from tests.support import encoders, geotiffs

ROWS = (("B08",), ("B04", "B11"))
FAST = ("--offset=0", "--position=keep", "--bands", "B08", "B04+B11")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.written(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return scenes.scene(tmp_path_factory.mktemp("scene"))


def blended(encoder: Path, files: list[Path], window: int, stride: int, cell: int = 1) -> np.ndarray:
    """(layers, height, width) float64, NaN outside: every window of the scene encoded alone and added up."""
    ten, twenty = (geotiffs.read(path) for path in files)
    step = max(2, cell)  # a window may reach over the edge by less
    height, width = (-(-side // step) * step for side in ten.shape[1:])
    ten, twenty = (
        np.pad(each, [(0, 0), (0, height // factor - each.shape[1]), (0, width // factor - each.shape[2])])
        for each, factor in ((ten, 1), (twenty, 2))
    )
    loaded, total, weights = rsdnet.load(encoder), 0.0, np.zeros((height // cell, width // cell))
    line = np.sin(np.pi * (np.arange(window // cell) + 0.5) / (window // cell)) ** 2
    for top in sorted({*range(0, height - window, stride), height - window}):
        for left in sorted({*range(0, width - window, stride), width - window}):
            cut = {"B08": ten[1, top : top + window, left : left + window]}
            cut["B04"] = ten[0, top : top + window, left : left + window]
            cut["B11"] = twenty[1, top // 2 : (top + window) // 2, left // 2 : (left + window) // 2]
            if not ((cut["B08"] > 0) & (cut["B04"] > 0)).any():
                continue
            maps = [each for row in ROWS for each in loaded.maps(cut, bands=row, check=False)]
            side = window // cell
            up = [interpolate(each, (side, side), mode="bilinear", antialias=each.shape[-1] > side) for each in maps]
            place = np.s_[..., top // cell : top // cell + side, left // cell : left // cell + side]
            if isinstance(total, float):
                total = np.zeros((sum(each.shape[1] for each in up), *weights.shape))
            total[place] += np.outer(line, line) * torch.cat(up, 1)[0].double().numpy()
            weights[place] += np.outer(line, line)
    with np.errstate(invalid="ignore"):
        return total / weights


def half_valid(mask: np.ndarray, cell: int) -> np.ndarray:
    """Cells of which half of the pixels are valid, pixel by pixel."""
    height, width = (-(-side // cell) for side in mask.shape)
    found = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        own = mask[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        found[row, column] = own.sum() >= cell * cell / 2
    return found


@pytest.mark.parametrize(("stride", "cell"), [(12, 1), (24, 1), (12, 4)])
def test_the_output_is_the_blend_of_all_windows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, files: list[Path], stride: int, cell: int
) -> None:
    """Of several blocks, in float16, at several overlaps and cells."""
    monkeypatch.setattr(job, "TILE", 32)
    options = (f"--stride={stride}", f"--cell={cell}", "--memory=0.01")
    assert scenes.run(monkeypatch, encoder, *files, tmp_path / "out.tif", *FAST, *options) == 0
    found, valid = scenes.read(tmp_path / "out.tif"), half_valid(geotiffs.read(files[0])[1] > 0, cell)
    expected = blended(encoder, files, encoders.SIDE, stride, cell)[:, : valid.shape[0], : valid.shape[1]]
    assert found.shape[1:] == valid.shape
    assert np.isnan(found[:, ~valid]).all()
    np.testing.assert_allclose(found[:, valid], expected[:, valid], rtol=2e-3, atol=2e-3)
    assert not (tmp_path / "out.tif.parts").exists()


def test_grid_types_descriptions_and_tags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, files: list[Path], capsys: pytest.CaptureFixture
) -> None:
    scenes.run(monkeypatch, encoder, *files, tmp_path / "out.tif", *FAST, "--cell=2", "--features=layer2")
    with rasterio.open(tmp_path / "out.tif") as file, rasterio.open(files[0]) as source:
        assert file.crs == source.crs
        assert file.transform == rasterio.Affine(20, 0, 500_000, 0, -20, 5_000_000)
        assert file.descriptions[:2] == ("B08 layer2 0", "B08 layer2 1")
        assert file.descriptions[-1] == "B04+B11 layer2 15"
        assert file.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "16"
        assert file.profile["tiled"]
        tags = file.tags()
    assert (tags["RSDNET_ROWS"], tags["RSDNET_STRIDE"], tags["RSDNET_FEATURES"]) == ("B08 B04+B11", "12", "layer2")
    assert len(tags["RSDNET_ENCODER"]) == 64
    said = capsys.readouterr().out
    assert "memory: " in said
    assert "31 x 27 px, 24 layers" in said


def test_a_block_that_does_not_fit_into_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, files: list[Path]
) -> None:
    monkeypatch.setattr(job, "free_bytes", lambda device: 10**6)
    with pytest.raises(DataError, match=r"of memory, and 1\.0 MB are free: use"):
        scenes.run(monkeypatch, encoder, *files, tmp_path / "out.tif", *FAST)
    assert not list(tmp_path.iterdir())


def test_int8_is_the_float_within_half_a_level(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, files: list[Path]
) -> None:
    monkeypatch.setattr(job, "TILE", 64)
    options = (*FAST, "--features=last")
    scenes.run(monkeypatch, encoder, *files, tmp_path / "half.tif", *options)
    scenes.run(monkeypatch, encoder, *files, tmp_path / "eight.tif", *options, "--type=int8")
    half = scenes.read(tmp_path / "half.tif")
    with rasterio.open(tmp_path / "eight.tif") as file:
        levels, scales, offsets = file.read(), np.array(file.scales), np.array(file.offsets)
        assert file.dtypes[0] == "int8"
        assert file.nodata == -128
    assert ((levels == -128) == np.isnan(half)).all()
    low, high = ((level * scales + offsets)[:, None, None] for level in (-127, 127))
    apart = np.abs(levels * scales[:, None, None] + offsets[:, None, None] - half.clip(low, high))
    assert (apart < 0.5 * scales[:, None, None] + 2e-3)[levels != -128].all()
    assert ((half < low - 2e-3) | (half > high + 2e-3))[levels != -128].mean() < 0.01


def test_a_picture_is_the_projection_stretched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Path, files: list[Path]
) -> None:
    """A linear one, which keeps as much of the float output's variance as scikit-learn's own components of it."""
    for name, options in (("out", ()), ("picture", ("--pca=3",)), ("five", ("--pca=5",))):
        scenes.run(monkeypatch, encoder, *files, tmp_path / f"{name}.tif", *FAST, "--features=layer1", *options)
    maps, five = scenes.read(tmp_path / "out.tif"), scenes.read(tmp_path / "five.tif")
    with rasterio.open(tmp_path / "picture.tif") as file:
        picture = file.read()
        assert [each.name for each in file.colorinterp] == ["red", "green", "blue"]
        assert (file.nodata, file.dtypes[0]) == (0, "uint8")
        assert len(file.tags()["RSDNET_EXPLAINED_VARIANCE"].split()) == 3
    valid = ~np.isnan(maps[0])
    assert ((picture[0] > 0) == valid).all()
    pixels, parts = maps[:, valid].T, five[:, valid].T
    scaled = (pixels - pixels.mean(0)) / pixels.std(0)
    linear = LinearRegression().fit(pixels, parts)
    assert linear.score(pixels, parts) > 0.9999  # of the maps' channels alone
    assert (np.abs(parts.mean(0)) < 0.6 * parts.std(0)).all()
    best = PCA(5).fit(scaled).explained_variance_ratio_.sum()
    kept = 1 - np.var(scaled - LinearRegression().fit(parts, scaled).predict(parts)) / np.var(scaled)
    assert best - 0.03 < kept <= best + 1e-3
    inside = (picture[0] > 1) & (picture[0] < 255)
    assert abs(np.corrcoef(picture[0][inside], five[0][inside])[0, 1]) > 0.999
    assert 0.9 < inside[valid].mean() < 1


def test_a_projection_before_resampling_is_one_after_it() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 5, 5), torch.randn(2, 4, 2, 2)]
    layers = Layers(None, (("B02",),), 20, (Stage(0, 0, 0, 3), Stage(0, 1, 3, 4)), (5, 2))  # type: ignore[arg-type]
    fit = fitted(np.random.default_rng(0).normal(size=(50, 7)), 2, False, 0)
    early = sum(spread_out(each, 8) for _, each in fit.apply(layers, maps))
    late = torch.einsum(
        "kc,bchw->bkhw", torch.from_numpy(fit.components), torch.cat([spread_out(m, 8) for m in maps], 1)
    )
    torch.testing.assert_close(early, late, rtol=1e-4, atol=1e-5)


def test_a_sample_at_pixels_is_the_resampled_map() -> None:
    torch.manual_seed(0)
    maps, chosen = torch.randn(1, 3, 5, 5), np.array([[0, 0], [3, 7], [7, 1]])
    grid = torch.from_numpy((2 * chosen[:, ::-1] + 1) / 8 - 1).float()
    expected = spread_out(maps, 8)[0][:, chosen[:, 0], chosen[:, 1]].T
    torch.testing.assert_close(at_places([maps], grid), expected)


def test_a_fit_is_read_as_it_was_written(tmp_path: Path) -> None:
    sample = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    for components in (0, 2):
        fit = fitted(sample, components, False, 0)
        fit.save(tmp_path / "fit.npz")
        for one, two in zip(fit, Fit.load(tmp_path / "fit.npz"), strict=True):
            np.testing.assert_equal(one, two)


@pytest.mark.parametrize(("window", "stride", "step"), [(24, 12, 1), (24, 24, 6), (24, 6, 6), (12, 8, 2), (70, 2, 2)])
def test_windows_cover_every_pixel_at_whole_coarse_pixels(window: int, stride: int, step: int) -> None:
    tiling = Tiling((70, 95), window, stride, step, 1, 32)
    for axis, side in enumerate(tiling.shape):
        starts = tiling.starts(axis)
        covered = np.zeros(side + step, int)
        for start in starts:
            assert start % step == 0
            covered[start : start + window] += 1
        assert covered[:side].all()
        assert starts[-1] + window - side < step
    for block in tiling.blocks():
        rows, columns = tiling.windows(block)
        for found, axis, first, count in ((rows, 0, block.top, block.height), (columns, 1, block.left, block.width)):
            meet = [s for s in tiling.starts(axis) if s < first + count and s + window > first]
            assert found == meet
    assert sum(block.pixels for block in tiling.blocks()) == 70 * 95


def test_levels_of_a_picture_and_of_int8() -> None:
    low, high = np.array([0, -2], np.float32), np.array([1, 2], np.float32)
    values = torch.tensor([[[0.0, 1.0, 5.0, 0.5]], [[-2.0, 2.0, 0.0, float("nan")]]])
    valid = torch.tensor([[True, True, True, False]])
    byte = list(geotiff.Coding("byte", low, high).encoded(values, valid))
    assert [each[0].tolist() for each in byte] == [[1, 255, 255, 0], [1, 255, 128, 0]]
    eight = list(geotiff.Coding("int8", low, high).encoded(values, valid))
    assert [each[0].tolist() for each in eight] == [[-127, 127, 127, -128], [-127, 127, 0, -128]]
