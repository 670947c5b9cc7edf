"""The normalisation of a run: statistics of its databases, pooled, or a published table; units and their jitter."""

from pathlib import Path

import numpy as np
import pytest

from rsdnet import bands
from rsdnet.augment import band_table, hidden
from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.normalisation import statistics_of, units_of
from rsdnet.data.statistics import read_stats, write_stats
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
    damaged = [
        '{"mean": 1, "std": NaN, "count": 3}',
        '{"mean": null, "std": 1, "count": 3}',
        '{"mean": 1, "std": 1}',
        "3",
        '{"mean": 1e39, "std": 1, "count": 3}',
        '{"mean": 1' + 400 * "0" + ', "std": 1, "count": 3}',
        '{"mean": 1, "std": 1, "count": 3, "min": "0"}',
        '{"mean": 1, "std": 1, "count": 3, "percentiles": [1]}',
    ]
    for text in ("[1]", "[" * 100_000, *('{"version": 1, "bands": {"B02": ' + band + "}}" for band in damaged)):
        (tmp_path / "stats.json").write_text(text)
        with pytest.raises(DataError, match="damaged"):
            read_stats(tmp_path)


def with_catalog(folder: Path, meta: dict[str, object]) -> Path:
    """The folder, with a catalog of one sample."""
    key, none = objects(["a"]), objects([None])
    Catalog(key, key, none, none, np.array([-1], np.int32), objects(["train"]), meta=meta).write(folder)
    return folder


def with_units(folder: Path, units: dict[str, str] | None, **pixels: list[float]) -> Path:
    """The same, with a catalog whose metadata names the units."""
    database(folder, **pixels)
    return with_catalog(folder, {} if units is None else {"units": units})


def offsets(*databases: Path, **views: object) -> dict[str, tuple[float, float]]:
    """The range of each MS band's offset, in the unit of the raw values."""
    cfg = Config(DataConfig(data=databases), ViewConfig(modality="ms", ms_bands=("B02", "B03"), **views))  # type: ignore[arg-type]
    table = band_table(cfg)
    return {name: tuple(table[bands.band_id(name), 4:6].tolist()) for name in ("B02", "B03")}


DN = {"B02": [1000.0, 2000.0], "B03": [900.0, 3000.0]}
LEVELS = {"B02": [60.0, 120.0], "B03": [50.0, 130.0]}


def test_the_jitter_is_a_share_of_full_scale(tmp_path: Path) -> None:
    old = with_units(tmp_path / "old", None, **DN)
    dn = with_units(tmp_path / "dn", {"ms": "dn", "sar": "db"}, **DN)
    byte = with_units(tmp_path / "byte", {"ms": "byte"}, **LEVELS)
    radar = with_units(tmp_path / "radar", {"sar": "db"}, VV=[-10.0])
    assert offsets(old) == offsets(dn, old) == offsets(dn, radar) == {"B02": (-200, 200), "B03": (-200, 200)}
    assert offsets(byte)["B02"] == pytest.approx((-5.1, 5.1), rel=1e-6)
    assert offsets(byte, ms_offset=(0.0, 1.0))["B03"] == (0, 255)
    assert [units_of(path).get("ms") for path in (old, dn, byte, radar)] == ["DN", "DN", "levels of 8 bits", None]


def test_one_run_takes_one_unit(tmp_path: Path) -> None:
    dn, byte = with_units(tmp_path / "dn", None, **DN), with_units(tmp_path / "byte", {"ms": "byte"}, **LEVELS)
    odd = with_units(tmp_path / "odd", {"ms": "radiance"}, **DN)
    with pytest.raises(DataError, match=r"byte has MS in byte, .*dn in dn: one run takes one unit"):
        offsets(dn, byte)
    with pytest.raises(DataError, match="'radiance', a unit that this version does not know"):
        offsets(odd)
    cfg = Config(DataConfig(data=(byte,), statistics="SEN12MS L1C"), ViewConfig(modality="ms"))
    with pytest.raises(DataError, match=r"--statistics 'SEN12MS L1C' is of DN, but .* holds 8-bit levels"):
        band_table(cfg)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ({"B02": [0.05, 0.2], "B03": [0.01, 0.3], "VV": [-9, -20]}, r"B02 has mean 0\.125 .*--s2-unit reflectance"),
        ({**DN, "VV": [0.01, 0.4]}, "VV has mean .*none negative: these are no dB; .*--s1-unit power"),
        ({**DN, "VV": [150, 700]}, "VV has mean 425 .* these are no dB; .*--s1-unit amplitude"),
        ({**DN, "VV": [-900, -2000]}, "VV has mean -1450 .*these are no dB"),
    ],
)
def test_values_that_cannot_be_in_their_unit_are_refused(
    tmp_path: Path, pixels: dict[str, list[float]], said: str
) -> None:
    table = {
        name: {"mean": np.mean(v), "std": np.std(v), "count": len(v), "min": min(v), "max": max(v)}
        for name, v in pixels.items()
    }
    write_stats(tmp_path, table)
    views = ViewConfig(ms_bands=("B02", "B03"), sar_bands=("VV",))
    with pytest.raises(DataError, match=said):
        statistics_of(Config(DataConfig(data=(tmp_path,)), views))


@pytest.mark.parametrize("pixels", [{**DN, "VV": [-3.0, 4.0]}, {"B02": [1.0], "B03": [100.0, 300.0], "VV": [-9, -9]}])
def test_sound_values_are_not_refused(tmp_path: Path, pixels: dict[str, list[float]]) -> None:
    views = ViewConfig(ms_bands=("B02", "B03"), sar_bands=("VV",))
    assert statistics_of(Config(DataConfig(data=(database(tmp_path / "db", **pixels),)), views))


@pytest.mark.parametrize(("dataset", "level"), bands.STATISTICS)
def test_the_default_jitter_hides_no_published_band_but_cirrus(tmp_path: Path, dataset: str, level: str) -> None:
    published = bands.STATISTICS[dataset, level]
    write_stats(tmp_path, {n: {"mean": mean, "std": std, "count": 1} for n, (mean, std) in published.items()})
    pools = {m: tuple(n for n in published if bands.BANDS[n].modality == m) for m in ("ms", "sar")}
    views = ViewConfig(modality="ms+sar" if pools["sar"] else "ms", ms_bands=pools["ms"], sar_bands=pools["sar"])  # type: ignore[arg-type]
    cfg = Config(DataConfig(data=(with_catalog(tmp_path, {}),)), views)
    said = hidden(band_table(cfg))
    assert ("B10" in said) == ("B10" in published)
    assert "B01" not in said
    assert "--sar-offset" not in said


def test_a_jitter_that_hides_the_texture_is_told(tmp_path: Path) -> None:
    levels = with_units(tmp_path / "levels", None, B02=[60.0, 120.0], B03=[2000.0, 4000.0])
    cfg = Config(DataConfig(data=(levels,)), ViewConfig(modality="ms", ms_bands=("B02", "B03")))
    assert hidden(band_table(cfg)) == (
        "the jitter hides the texture: --ms-offset moves B02 by 6.7 standard deviations; lower it"
    )
    calm = ViewConfig(modality="ms", ms_bands=("B02", "B03"), ms_offset=(-0.005, 0.005))
    assert hidden(band_table(Config(cfg.data, calm))) == ""
