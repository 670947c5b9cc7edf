"""Recipes: each file is a configuration, and EuroSAT RGB's takes a small EuroSAT from JPEGs to scores."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from rsdnet import config
from rsdnet.augment import band_table, hidden
from rsdnet.bands import band_id
from rsdnet.data.catalog import Catalog
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.eurosat import EuroSatRgb
from rsdnet.probe import Options, probe
from tests.conftest import REPO
from tests.support import eurosat, forked

RECIPES = sorted((REPO / "recipes").glob("*.toml"))
EUROSAT_RGB = REPO / "recipes" / "eurosat-rgb.toml"


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_a_recipe_is_a_configuration_without_places(path: Path) -> None:
    cfg = config.read(path)
    assert cfg.data.data == ()  # the command line names the data and the run
    assert cfg.run == config.RunConfig()


def test_eurosat_rgb_goes_from_jpegs_to_scores(tmp_path: Path) -> None:
    eurosat.make(tmp_path / "src", each=12)
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    forked.train(
        tmp_path / "said", "--config", EUROSAT_RGB, "--data", tmp_path / "db", "--run", tmp_path / "run", "--steps=2",
        "--batch=6", "--width=8", "--hidden=32", "--dim=16", "--device=cpu", "--threads=1", "--log-every=1",
    )  # fmt: skip
    assert len(forked.losses(tmp_path / "run")) == 2
    result = probe(Options(tmp_path / "run", device="cpu"), Console(quiet=True))
    assert result["bands"].keys() == {"B04", "B03", "B02", "B04+B03+B02"}


def test_eurosat_rgbs_offset_is_in_proportion_to_8_bits(tmp_path: Path) -> None:
    """A share of 255 levels: 9 of them, as a run in DN would have had at 9 / 10,000."""
    eurosat.make(tmp_path / "src")
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    dataclasses.replace(made, meta=made.meta | {"units": {"ms": "byte"}}).write(tmp_path / "db")
    cfg = config.parse(["--data", str(tmp_path / "db")], config.read(EUROSAT_RGB), "prog", "text")
    table = band_table(cfg)
    assert hidden(table) == ""
    for name in cfg.views.ms_bands:
        assert table[band_id(name), 4:6].tolist() == pytest.approx((-9, 9), rel=1e-6)
