"""The statistics of a run: its databases' own, pooled, or a published table."""

from pathlib import Path

import numpy as np
import pytest

from rsdnet import bands
from rsdnet.augment import band_table
from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.data.statistics import read_stats, statistics_of, write_stats
from rsdnet.errors import DataError


def database(folder: Path, **pixels: list[float]) -> Path:
    """A database of these pixels a band, as far as its stats.json goes."""
    folder.mkdir()
    write_stats(
        folder, {n: {"mean": np.mean(v or [0]), "std": np.std(v or [0]), "count": len(v)} for n, v in pixels.items()}
    )
    return folder


def test_databases_are_pooled_by_their_pixels(tmp_path: Path) -> None:
    one = database(tmp_path / "one", B02=[1, 2, 7], B03=[4], VV=[-9, -8])
    two = database(tmp_path / "two", B02=[30, 40], B03=[4], B12=[])
    views = ViewConfig(ms_bands=("b2", "B03"), sar_bands=("VV",))
    found = statistics_of(Config(DataConfig(data=(one, two)), views))
    for name, pixels in {"B02": [1, 2, 7, 30, 40], "B03": [4, 4], "VV": [-9, -8]}.items():
        assert found[name] == pytest.approx((np.mean(pixels), np.std(pixels)))
    with pytest.raises(DataError, match=r"stats\.json has no statistics of B12: leave them out of --ms-bands"):
        statistics_of(Config(DataConfig(data=(one, two)), ViewConfig(modality="ms", ms_bands=("B02", "B12"))))


def test_a_published_table_needs_no_database() -> None:
    cfg = Config(DataConfig(statistics="SSL4EO-S12 v1.0 L1C"), ViewConfig(ms_bands=("B10",)))
    assert statistics_of(cfg) == {n: bands.STATISTICS["SSL4EO-S12 v1.0", "L1C"][n] for n in ("B10", "VV", "VH")}
    with pytest.raises(DataError, match="SEN12MS L1C has no statistics of B10"):
        statistics_of(Config(DataConfig(statistics="SEN12MS L1C"), cfg.views))


def test_sen12ms_statistics_are_of_clipped_backscatter() -> None:
    for source, low in (("SEN12MS L1C", -25.0), ("BigEarthNet v2 L2A", -np.inf)):
        table = band_table(Config(DataConfig(statistics=source)))
        mean, std, *_, row_low, _high, _nodata = table[bands.band_id("VV"), [0, 1, 2, 6, 7, 8]].tolist()
        assert (mean, std) == pytest.approx(bands.STATISTICS[tuple(source.rsplit(" ", 1))]["VV"])  # type: ignore[index]
        assert row_low == low


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (ViewConfig(ms_bands=("VV",)), "views.ms_bands: VV is not a band of modality ms"),
        (ViewConfig(sar_bands=()), "views.sar_bands is empty"),
        (ViewConfig(ms_bands=("B02", "b2")), "names a band twice"),
    ],
)
def test_bands_that_cannot_be_drawn_from(views: ViewConfig, said: str) -> None:
    with pytest.raises(DataError, match=said):
        statistics_of(Config(DataConfig(statistics="SEN12MS L1C"), views))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_stats(tmp_path)
    (tmp_path / "stats.json").write_text("[1]")
    with pytest.raises(DataError, match="damaged"):
        read_stats(tmp_path)
