"""EuroSAT's RGB release: values within JPEG's error, classes by folder, splits by lists, and what is refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.data.statistics import read_stats
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.eurosat import CLASSES, EuroSatRgb
from tests.ingest.test_ingest_bad import refused
from tests.support import eurosat, geotiffs

BANDS = ("B04", "B03", "B02")


def reasons(db: Path) -> dict[str, str]:
    """Reason by sample that was left out."""
    return dict(line.split("\t") for line in (db / "left_out.tsv").read_text().splitlines()[1:])


def test_values_stay_within_jpegs_error_and_in_8_bits(tmp_path: Path) -> None:
    pixels = eurosat.make(tmp_path / "src")
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    got = geotiffs.tensors(tmp_path / "db")
    assert got.keys() == pixels.keys()
    for sample, layers in pixels.items():
        assert got[sample].keys() == set(BANDS)
        for name, layer in zip(BANDS, layers, strict=True):
            assert got[sample][name].dtype == np.uint8
            np.testing.assert_allclose(got[sample][name].astype(int), layer, atol=4)
    stats, stored = read_stats(tmp_path / "db")["bands"], Catalog.read(tmp_path / "db")
    for name in BANDS:
        values = np.stack([got[key][name] for key in stored.ms[stored.split == "train"]]).astype(np.float64)
        assert (stats[name]["mean"], stats[name]["std"]) == pytest.approx((values.mean(), values.std()))


def test_classes_are_folders_and_splits_are_the_lists(tmp_path: Path) -> None:
    pixels = eurosat.make(tmp_path / "src", classes=("SeaLake", "Forest"))
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    assert (made.meta["layout"], made.meta["level"], made.classes) == ("eurosat-rgb", "", CLASSES)
    assert [made.classes[label] for label in made.label] == [sample.split("_")[0] for sample in made.samples]
    split = dict(zip(made.samples, made.split, strict=True))
    assert split == dict(zip(pixels, ("train", "val", "test") * 2, strict=True))


def test_a_sample_in_no_list_is_left_out_and_without_lists_splits_are_drawn(tmp_path: Path) -> None:
    eurosat.make(tmp_path / "src")
    (tmp_path / "src" / "eurosat-val.txt").unlink()
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    left = {f"{name}_2": "no list of the split names it" for name in CLASSES[:3]}
    assert reasons(tmp_path / "db") == left
    eurosat.make(tmp_path / "bare", lists=False)
    ingest(EuroSatRgb(tmp_path / "bare", tmp_path / "drawn"))
    assert set(Catalog.read(tmp_path / "drawn").split) == {"train", "val", "test"}


def test_a_grey_or_damaged_jpeg_is_left_out_with_its_reason(tmp_path: Path) -> None:
    eurosat.make(tmp_path / "src", lists=False)
    grey, half, corrupt = (tmp_path / "src" / "Forest" / f"Forest_{number}.jpg" for number in (1, 2, 3))
    eurosat.write(grey, np.full((1, 64, 64), 90, np.uint8))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    whole = corrupt.read_bytes()
    at = len(whole) * 9 // 10
    corrupt.write_bytes(whole[:at] + b"\xff\0" * 12 + whole[at + 24 :])
    ingest(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    left = reasons(tmp_path / "db")
    assert left.keys() == {"Forest_1", "Forest_2", "Forest_3"}
    assert left["Forest_1"] == f"{grey} has 1 layers, but 3 bands are named: B04, B03, B02"
    assert left["Forest_2"].startswith(f"{half} cannot be read (")
    assert left["Forest_3"].startswith(f"{corrupt} cannot be read (")


def test_grey_jpegs_alone_and_wrong_folders_are_refused(tmp_path: Path) -> None:
    eurosat.write(tmp_path / "grey" / "Forest" / "Forest_1.jpg", np.full((1, 64, 64), 90, np.uint8))
    assert "has 1 layers, but 3 bands are named" in refused(EuroSatRgb(tmp_path / "grey", tmp_path / "db"))
    eurosat.make(tmp_path / "above" / "EuroSAT_RGB")
    nothing = f"{tmp_path / 'above'} holds no JPEG in a folder of its class: name the folder EuroSAT_RGB"
    assert refused(EuroSatRgb(tmp_path / "above", tmp_path / "db")) == nothing
    geotiffs.write(tmp_path / "ms" / "Forest" / "Forest_1.tif", np.ones((13, 8, 8), np.uint16))
    assert "holds no JPEG" in refused(EuroSatRgb(tmp_path / "ms", tmp_path / "db"))


def test_real_patches_are_the_multispectral_ones_stretched(real_data: Path, tmp_path: Path) -> None:
    """0 to 2,750 DN became 1 to 255, then JPEG: 1.5 levels of error in the mean of a band."""
    archive, ms = real_data / "eurosat-rgb" / "EuroSAT_RGB.zip", real_data / "eurosat-ms"
    if not archive.is_file() or not ms.is_dir():
        pytest.skip(f"no EuroSAT RGB: {archive} or {ms} is not there")
    patches = {path.stem: path for path in sorted(ms.glob("*/*.tif"))}
    with zipfile.ZipFile(archive) as file:
        for sample, path in patches.items():
            file.extract(f"EuroSAT_RGB/{path.parent.name}/{sample}.jpg", tmp_path)
    lists = [real_data / "eurosat-rgb" / f"eurosat-{split}.txt" for split in ("train", "val", "test")]
    for path in lists:
        (tmp_path / "EuroSAT_RGB" / path.name).symlink_to(path)
    ingest(EuroSatRgb(tmp_path / "EuroSAT_RGB", tmp_path / "db"))
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert set(made.samples) == patches.keys()
    for row, sample in enumerate(made.samples):
        assert made.classes[made.label[row]] == patches[sample].parent.name
        assert f"{sample}.jpg" in (tmp_path / "EuroSAT_RGB" / f"eurosat-{made.split[row]}.txt").read_text().split()
        dn = geotiffs.read(patches[sample]).astype(np.float64)
        for name, layer in zip(BANDS, dn[[3, 2, 1]], strict=True):
            stretched = (1 + layer * 254 / 2750).clip(1, 255)
            assert got[made.ms[row]][name].shape == (64, 64)
            assert np.abs(got[made.ms[row]][name] - stretched).mean() < 2
