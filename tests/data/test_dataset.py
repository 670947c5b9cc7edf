"""Patches one by one: what safetensors says is there, whichever way they are loaded."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rsdnet import bands
from rsdnet.data.dataset import Patches
from rsdnet.errors import DataError
from tests.support import mixed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("dataset")
    return [
        mixed.make(root / "a", 13, side=12, seed=1),
        mixed.make(root / "b", 8, side=18, ms=np.float32, sar=np.int16, seed=2),
    ]


def test_every_sample_is_what_safetensors_says(folders: list[Path]) -> None:
    patches = Patches(folders)
    assert len(patches) == 21
    assert patches.classes == ("a", "b", "c")
    for index in range(21):
        folder, own = (folders[0], index) if index < 13 else (folders[1], index - 13)
        entries = mixed.entries(folder)
        patch = patches[index]
        assert patch.name == f"{folder.parent.name}/{folder.name}_{own}"
        assert patch.label == own % 3
        assert list(patch.bands) == [*bands.MS, *bands.SAR]
        for name, tensor in patch.bands.items():
            expected = entries[f"{'s1' if name in bands.SAR else 's2'}_{own}"][name]
            assert tensor.numpy().dtype == expected.dtype
            assert np.array_equal(tensor.numpy(), expected)


def test_some_bands_in_the_order_wanted_and_some_samples(folders: list[Path]) -> None:
    patches = Patches(folders[0], ["vv", "B8A", "b2"], split="val")
    assert [patch.name[-3:] for patch in patches] == ["a_2", "a_6", "_10"]
    assert list(patches[1].bands) == ["VV", "B8A", "B02"]
    assert torch.equal(patches[-1].bands["VV"], patches[2].bands["VV"])
    assert Patches(folders[0], ["VH"]).samples.modality == "sar"
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"{index} of 3"):
            patches[index]


def test_a_patch_does_not_hold_its_neighbours(folders: list[Path]) -> None:
    first, second = Patches(folders).__getitems__([0, 1])
    second.bands["B02"].zero_()
    assert first.bands["B02"].untyped_storage().nbytes() == first.bands["B02"].nbytes


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_the_default_collation_makes_batches(folders: list[Path], workers: int, context: str | None) -> None:
    patches = Patches(folders[0], ["B02", "B11", "VV"])
    loader = DataLoader(patches, batch_size=5, num_workers=workers, multiprocessing_context=context)
    batches = list(loader)
    assert [len(batch.label) for batch in batches] == [5, 5, 3]
    assert [name for batch in batches for name in batch.name] == [patch.name for patch in patches]
    for name in patches.bands:
        joined = torch.cat([batch.bands[name] for batch in batches])
        assert torch.equal(joined, torch.stack([patch.bands[name] for patch in patches]))


def test_it_can_be_pickled(folders: list[Path]) -> None:
    patches = Patches(folders)
    again = pickle.loads(pickle.dumps(patches))
    assert again[20].name == patches[20].name
    assert torch.equal(again[20].bands["VV"], patches[20].bands["VV"])


def test_mistakes_are_named(folders: list[Path], tmp_path: Path) -> None:
    for asked, said in (([], "at least one"), (["B02", "b2"], "twice"), (["B99"], "B99")):
        with pytest.raises(DataError, match=said):
            Patches(folders, asked)
    lacking = mixed.make(tmp_path / "lacking", 4, names=("B02", *bands.SAR))
    patches = Patches([*folders, lacking], ["B02", "B03"])
    assert len(patches) == 21
    assert sum(patches.samples.left_out.values()) == 4
    with pytest.raises(DataError, match="B03"):
        Patches([*folders, lacking], ["B02", "B03"], damaged="raise")
    assert len(Patches([*folders, lacking], ["B02", "VV"])) == 25
