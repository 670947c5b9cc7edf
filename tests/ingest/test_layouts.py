"""Layouts: one from outside the package, and the pairing of files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from rsdnet.data.catalog import Catalog
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.base import Layout, find_geotiffs
from rsdnet.ingest.layouts.ssl4eo import Ssl4eo
from rsdnet.ingest.source import Image, Recipe, Source
from tests.ingest.test_ingest import s2
from tests.ingest.test_ingest_bad import command
from tests.support import geotiffs

OWN = "tests.ingest.test_layouts:Greenland"


@dataclass(frozen=True)
class Greenland(Layout):
    """Two bands a file, red first; the class in the name: 3_ice.tif."""

    scale: int = 1
    """Number of the first sample."""
    NAME: ClassVar[str] = "greenland"

    def sources(self) -> list[Source]:
        return [
            Source(path.stem, path.stem, {"ms": Image.of_file(path, ("B04", "B03"))}, label=at)
            for at, path in enumerate(find_geotiffs(self.source), self.scale)
        ]

    def recipe(self) -> Recipe:
        return Recipe({"ms": ("B03", "B04")}, class_names=("rock", "ice", "snow"))


def test_a_layout_from_outside_ingests_like_ours(tmp_path: Path) -> None:
    images = {name: s2(12, seed) for seed, name in enumerate(("1_ice", "2_ice"))}
    for name, layers in images.items():
        geotiffs.write(tmp_path / "src" / f"{name}.tif", layers)
    done = command(OWN, tmp_path / "src", tmp_path / "db", "--patch", "6", "--scale", "0", "--workers", "1")
    assert done.returncode == 0, done.stderr
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert (made.meta["layout"], made.classes) == ("greenland", ("rock", "ice", "snow"))
    assert made.meta["ingest"]["scale"] == 0
    assert made.label.tolist() == [0] * 4 + [1] * 4
    np.testing.assert_array_equal(got["2_ice_y6_x0"]["B04"], images["2_ice"][0, 6:, :6])
    assert "--scale" in command(OWN, "--help").stdout


@dataclass(frozen=True)
class Twice(Greenland):
    """Each file in two samples, as one S2 patch may have several S1 patches."""

    def sources(self) -> list[Source]:
        return [
            source._replace(name=f"{source.name}_{number}")
            for source in super().sources()
            for number in range(self.scale)
        ]


def test_a_file_may_belong_to_several_samples(tmp_path: Path) -> None:
    geotiffs.write(tmp_path / "src" / "1_ice.tif", s2(12))
    assert ingest(Twice(tmp_path / "src", tmp_path / "db", scale=2)) == 0
    made = Catalog.read(tmp_path / "db")
    assert (made.samples.tolist(), made.ms.tolist()) == (["1_ice_0", "1_ice_1"], ["1_ice", "1_ice"])


def test_a_layout_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    for name in ("nowhere.at_all:Layout", "tests.ingest.test_layouts:Iceland"):
        done = command(name, tmp_path, tmp_path / "db")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith(f"error: layout {name!r} cannot be imported")


def test_ssl4eo_orders_products_by_time_not_by_satellite(tmp_path: Path) -> None:
    times = ("20200203T010203", "20200501T010203", "20200801T010203", "20201101T010203")
    for sensor, time in zip(("S1B", "S1A", "S1B", "S1A"), times, strict=True):
        (tmp_path / "s1" / "0000001" / f"{sensor}_IW_GRDH_1SDV_{time}_X").mkdir(parents=True)
    for time in times:
        (tmp_path / "s2a" / "0000001" / f"{time}_{time}_T43RCP").mkdir(parents=True)
    for source, time in zip(Ssl4eo(tmp_path, tmp_path / "db").sources(), times, strict=True):
        assert time in source.images["ms"].key
        assert time in source.images["sar"].key
