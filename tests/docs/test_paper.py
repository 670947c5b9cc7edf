"""docs/paper.md: its commands, one after another, take small trees in the published layouts to its tables."""

import importlib
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from rsdnet import probe
from tests.docs.test_commands import TEXTS, make_sources, own_commands
from tests.support import forked

BANDS = {"B04", "VV"}  # that are probed here
MAINS = {"rsdnet.ingest": "rsdnet.ingest.ingest"}


def test_the_commands_of_the_paper_lead_to_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sources(tmp_path)
    every = probe.bands_of
    monkeypatch.setattr(probe, "bands_of", lambda *which: [band for band in every(*which) if band in BANDS])
    monkeypatch.chdir(tmp_path)
    tables = []
    for _, module, *words in own_commands(TEXTS["docs/paper.md"]):
        if module == "rsdnet.train":
            forked.train(tmp_path / "said", *words, prepare=partial(os.chdir, tmp_path))
            continue
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [module, *words])
        importlib.import_module(MAINS.get(module, module)).main()
        if module == "rsdnet.table":
            tables.append(capsys.readouterr().out)
    single_and_three, segmentation, ablation = tables
    for table in tables:
        assert "published, protocol unknown" in table
        assert "B04" in table
    assert "macro F1" in single_and_three
    assert "macro F1" in ablation
    assert "mIoU" in segmentation
