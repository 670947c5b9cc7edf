"""Recipes: each is a configuration whose choices are marked, trains, and names commands that exist."""

import dataclasses
import re
import tomllib
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
from tests.docs.test_commands import check, lines
from tests.support import eurosat, forked, tiny

RECIPES = {path.stem: path for path in sorted((REPO / "recipes").glob("*.toml"))}
EUROSAT_RGB = RECIPES["eurosat-rgb"]
# Keys on which the paper has a word.
PAPERS = {"modality", "channels", "ms_bands", "sar_bands", "method", "variance", "covariance"}
SMALL = (
    "--size=16", "--batch=6", "--width=4", "--hidden=16", "--dim=8", "--device=cpu", "--threads=1", "--log-every=1",
)  # fmt: skip
RELEASED = {"B02": (103.95, 29.2), "B03": (96.94, 34.78), "B04": (87.8, 51.81)}  # levels of EuroSAT's RGB, train split
DEEPMINDS = {100: (0.45, 1e-6, 0.99), 300: (0.3, 1e-6, 0.99), 1000: (0.2, 1.5e-6, 0.996)}  # byol/configs/byol.py


def of(*names: str) -> config.Config:
    return config.read(*(RECIPES[name] for name in names))


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES)
def test_a_recipe_is_a_configuration_without_places(path: Path) -> None:
    cfg = config.read(path)
    assert cfg.data.data == ()  # the command line names the data and the run
    assert cfg.run == config.RunConfig()


@pytest.mark.parametrize("path", RECIPES.values(), ids=RECIPES)
def test_choices_without_the_papers_word_are_marked(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if re.match(r"\w+ *=", line)]
    assert len(found) == sum(len(table) for table in tomllib.loads(path.read_text()).values())
    assert [line for line in found if line.split()[0] not in PAPERS and "# our choice" not in line] == []


@pytest.mark.parametrize("name", RECIPES)
def test_commands_of_a_recipe_fit_their_programs_and_use_it(name: str) -> None:
    head = [line[1:].strip() for line in RECIPES[name].read_text().partition("\n\n")[0].splitlines()]
    script = "\n".join(head).replace("\\\n", " ")
    commands = [line for line in lines(script) if line.startswith("python -m ")]
    assert all(map(check, commands))
    assert any(f"recipes/{name}.toml" in line for line in commands)
    assert {path for line in commands for path in re.findall(r"recipes/(\S+)\.toml", line)} <= RECIPES.keys()


def test_recipes_are_what_their_names_say() -> None:
    assert (of("single").views.channels, of("three-random").views.channels) == (1, 3)
    assert of("single").views.modality == of("three-random").views.modality == "ms+sar"
    fixed = of("three-fixed").views
    assert (fixed.channels, fixed.ms_view, fixed.sar_view) == (3, ("B04", "B03", "B02"), ("VV", "VH", "VV-VH"))
    assert of("single", "ms").views == dataclasses.replace(of("single").views, modality="ms")
    assert of("single", "ms", "ms-sar") == of("single")
    for name in ("single", "three-random", "three-fixed"):  # the paper's loss, without further terms
        assert (of(name).model.method, of(name).model.variance, of(name).model.covariance) == ("byol", 0, 0)
    assert of("three-random", "resnet18").model.encoder == "resnet18"
    for epochs, (lr, weight_decay, tau) in DEEPMINDS.items():
        optim = config.OptimConfig(
            epochs=epochs, optimizer="lars", lr=lr, warmup_epochs=10.0, weight_decay=weight_decay, tau=tau
        )
        assert of(f"epochs-{epochs}") == config.Config(optim=optim)
    ours = of("single", "resnet50", "epochs-100", "simsiam")
    assert (ours.model.method, ours.model.dim, ours.optim.optimizer, ours.optim.lr) == ("simsiam", 2048, "sgd", 0.05)
    assert ours.optim.epochs == 100


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("tiny") / "db", 30)


@pytest.mark.parametrize(
    "names",
    [
        "single resnet18 epochs-100", "three-random resnet50 epochs-300", "three-fixed resnet18 epochs-1000",
        "single ms-sar ms resnet18 epochs-100", "three-fixed ms resnet18 epochs-100 simsiam",
    ],
)  # fmt: skip
def test_recipes_train_together(tmp_path: Path, database: Path, names: str) -> None:
    files = [RECIPES[name] for name in names.split()]
    words = ("--data", database, "--run", tmp_path / "run", "--steps=2", *SMALL)
    forked.train(tmp_path / "said", "--config", *files, *words)
    assert len(forked.losses(tmp_path / "run")) == 2
    made, asked = config.read(tmp_path / "run" / "config.toml"), config.read(*files)
    assert (made.views.modality, made.views.channels) == (asked.views.modality, asked.views.channels)
    assert (made.model.method, made.model.encoder) == (asked.model.method, asked.model.encoder)
    assert made.optim == dataclasses.replace(asked.optim, steps=2, batch=6)


def test_eurosat_rgb_goes_from_jpegs_to_scores(tmp_path: Path) -> None:
    eurosat.make(tmp_path / "src", each=12)
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    words = ("--data", tmp_path / "db", "--run", tmp_path / "run", "--steps=2", *SMALL)
    forked.train(tmp_path / "said", "--config", EUROSAT_RGB, *words)
    assert len(forked.losses(tmp_path / "run")) == 2
    result = probe(Options(tmp_path / "run", device="cpu"), Console(quiet=True)).result["results"]
    assert result["all"]["stages"]["bands"].keys() == {"B04", "B03", "B02", "B04+B03+B02"}


def test_eurosat_rgbs_offset_is_in_proportion_to_8_bits(tmp_path: Path) -> None:
    """A share of 255 levels: a tenth of them, whatever a tenth of reflectance 1 would be."""
    eurosat.make(tmp_path / "src")
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    dataclasses.replace(made, meta=made.meta | {"units": {"ms": "byte"}}).write(tmp_path / "db")
    cfg = config.parse(["--data", str(tmp_path / "db")], config.read(EUROSAT_RGB), "prog", "text")
    table = band_table(cfg, RELEASED)
    assert hidden(table) == ""
    for name in cfg.views.ms_bands:
        assert table[band_id(name), 4:6].tolist() == pytest.approx((-25.5, 25.5), rel=1e-6)
