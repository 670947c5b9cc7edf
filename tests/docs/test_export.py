"""docs/export.md: an encoder is trained, goes to every library that is installed, and gives the same features there."""

import importlib
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rsdnet
from rsdnet.encoder import Encoder
from tests.docs.test_commands import TEXTS, blocks, own_commands
from tests.support import forked, tiny
from tests.support.libraries import library

PAGE = "docs/export.md"
MAINS = {"rsdnet.export": "rsdnet.export.export"}
NEEDS = {"torchvision": ["torchvision"], "timm": ["timm"], "torchgeo": ["torchgeo.trainers"],
         "onnx": ["onnxscript", "onnxruntime"]}  # fmt: skip
# In the page's code, by target.
LOADS = {"torchvision": "torchvision.models", "timm": "timm.create_model", "torchgeo": "torchgeo.trainers",
         "onnx": "onnxruntime.", "torchscript": "torch.jit.load"}  # fmt: skip
# Of the page's run, by that of the tests, which is narrow elsewhere but not here: torchvision has one width.
INSTEAD = {"--encoder=resnet50": "--encoder=resnet18", "--width=8": "--width=64"}
IN_PYTHON = {"resnet50": "resnet18", "128": "24"}

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's first commands, of training and probing, have run."""
    folder = tmp_path_factory.mktemp("export")
    tiny.make(folder / "db" / "sen12ms", 30)
    (_, _, *training), probing, *_ = own_commands(TEXTS[PAGE])
    words = [INSTEAD.get(word, word) for word in training]
    forked.train(folder / "said", *words, "--batch=16", "--precision=fp32", prepare=partial(os.chdir, folder))
    run(folder, probing)
    return folder


def run(folder: Path, words: list[str]) -> None:
    """A command of the page, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", words[1:])
        importlib.import_module(MAINS.get(words[1], words[1])).main()


def exported(folder: Path, to: str) -> str:
    """Run the page's export to `to`; the name of the card."""
    for name in NEEDS.get(to, ()):
        library(name)
    (words,) = [words for words in own_commands(TEXTS[PAGE]) if to in words]
    run(folder, words)
    out = folder / words[words.index(to) + 1]
    return str(out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md"))


def loaded(folder: Path, code: str, **given: Any) -> dict[str, Any]:
    """The names that `code` leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, given)
    return given


def raw(bands: list[str], encoder: Encoder) -> np.ndarray:
    """(3, K, S, S) float32 values about those of training, without invalid pixels."""
    size = 32  # as the encoder sees a patch of 24 pixels
    rng = np.random.default_rng(0)
    known = [encoder.file.bands[name] for name in bands]
    return np.stack([rng.normal(band.mean, band.std, (3, size, size)) for band in known], 1).astype(np.float32)


@pytest.mark.parametrize("to", ["torchvision", "timm", "torchgeo", "onnx", "torchscript"])
def test_the_page_and_the_card_load_the_same_features(folder: Path, to: str) -> None:
    card = Path(exported(folder, to)).read_text()
    (page,) = [code for code in blocks(TEXTS[PAGE], "python") if LOADS[to] in code]
    for word, other in IN_PYTHON.items():
        page = page.replace(word, other)
    assert len(loaded(folder, page)["features"]) == 2
    encoder = rsdnet.load(folder / "runs" / "single")
    bands, depth = ["B02"], "last"
    if to == "onnx":
        bands, depth = [name for row in encoder.rows for name in row], "stages"
    if to == "torchscript":
        bands = ["B04", "B03", "B02"]
    values = raw(bands, encoder)
    (code,) = blocks(card, "python")
    with torch.inference_mode():
        found = loaded(folder, code, patches=values if to == "onnx" else torch.from_numpy(values))["features"]
    expected = encoder.features(values, bands=bands, depth=depth, size=values.shape[-1], check=False)
    torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)


def test_the_card_holds_the_runs_scores_and_no_path(folder: Path) -> None:
    words = ["-m", "rsdnet.export", "runs/single", "--to=timm", "scored"]
    run(folder, words)
    text = (folder / "scored" / "README.md").read_text()
    assert str(folder) not in text
    file = folder / "runs" / "single" / "probe.json"
    before = file.read_text()
    probed = json.loads(before)
    scores = {name: row["pre-trained"]["score"] for name, row in probed["results"]["all"]["stages"]["bands"].items()}
    (index,) = json.loads(dict(re.findall(r"^(\S+): (.+)$", text, re.MULTILINE))["model-index"])
    (result,) = index["results"]
    assert (index["name"], result["dataset"]["name"]) == ("scored", "sen12ms")
    found = {each["name"]: each["value"] for each in result["metrics"]}
    for name, score in scores.items():
        assert found[f"macro F1, {name}, stages, all labels"] == pytest.approx(score, abs=1e-4)
        assert re.search(rf"^\| {name} \| .*{score:.3f}", text, re.MULTILINE)
    probed["encoder"] = "other weights"
    file.write_text(json.dumps(probed))
    run(folder, [*words, "--force"])
    file.write_text(before)
    text = (folder / "scored" / "README.md").read_text()
    assert "There is no evaluation of these weights" in text
    assert "model-index" not in text


def test_the_hub_reads_the_card(folder: Path) -> None:
    hub = library("huggingface_hub")
    run(folder, ["-m", "rsdnet.export", "runs/single", "--to=timm", "hub", "--licence=CC-BY-4.0"])
    data = hub.ModelCard.load(folder / "hub" / "README.md").data
    assert (data.license, data.library_name, data.datasets) == ("cc-by-4.0", "timm", ["sen12ms"])
    assert {each.metric_type for each in data.eval_results} == {"f1"}
    assert {each.dataset_name for each in data.eval_results} == {"sen12ms"}
