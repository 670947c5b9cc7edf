"""An adopted database in use: every command takes it as one that ingest made."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rsdnet.catalog.adopt import adopt
from rsdnet.catalog.layouts import BigEarthNet, EuroSat
from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.evaluate import linear
from rsdnet.info.info import info
from rsdnet.ingest.layouts import eurosat
from rsdnet.pictures import pictures
from rsdnet.probe import Options, probe
from tests.support import forked, geotiffs, rico

FAST = "--size=12 --encoder=resnet18 --width=8 --hidden=32 --dim=16 --batch=8 --device=cpu --precision=fp32 --threads=1"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = rico.bigearthnet(tmp_path_factory.mktemp("ben"), 24)
    adopt(BigEarthNet(rico.encode(root, root / "db"), metadata=(root / rico.TABLES[0],), workers=1))
    return root / "db"


@pytest.fixture(scope="module")
def run(db: Path) -> Path:
    """Two steps of training on it."""
    forked.train(db.parent / "said", "--data", db, "--run", db.parent / "run", "--steps=2", *FAST.split())
    return db.parent / "run"


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EuroSAT with the usual split, adopted."""
    root = geotiffs.eurosat(tmp_path_factory.mktemp("eurosat"), each=3)
    adopt(EuroSat(rico.encode(root, root / "db"), metadata=tuple(root / name for name in eurosat.LISTS), workers=1))
    return root / "db"


@pytest.mark.parametrize(
    ("task", "band", "options"),
    [
        ("classes", "B8A", {}), ("multilabel", "VV", {}),
        ("segmentation", "B04", {"pixels": 200, "features": "layer1"}),
    ],
)  # fmt: skip
def test_a_run_on_it_is_probed(
    run: Path, db: Path, classes: Path, monkeypatch: pytest.MonkeyPatch, task: Any, band: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(linear, "L2", (1e-3,))
    console, data = Console(file=io.StringIO(), width=1000), classes if task == "classes" else db
    found = probe(Options(run, data=(data,), task=task, bands=(band,), device="cpu", **options), console)
    assert next(iter(found.result["results"]["all"].values()))["bands"].keys() == {band}


def test_it_is_shown(db: Path, capsys: pytest.CaptureFixture) -> None:
    assert info(db, verify=True) == 0
    assert "layout bigearthnet, level L2A, MS in DN, SAR in dB" in capsys.readouterr().out
    cfg = Config(data=DataConfig(data=(db,)), views=ViewConfig(size=12))
    assert len(pictures(db, cfg, samples=2, pairs=1, split=None)) == 2
