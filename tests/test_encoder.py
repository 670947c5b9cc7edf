"""An encoder in use, from its file alone: features as the probe has them, of any type, unit, order and resolution."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import lmdb
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load
from safetensors.torch import load_file, save_file

import rsdnet
from rsdnet import bands, encoderfile
from rsdnet.distributed import ALONE
from rsdnet.encoder import Encoder
from rsdnet.errors import DataError
from rsdnet.evaluate.contenders import contenders, load_encoder
from rsdnet.evaluate.features import Labelled
from rsdnet.training import checkpoint
from rsdnet.training.run import Run
from tests.support import tiny
from tests.support.forked import train

FAST = ("--size=16", "--encoder=resnet18", "--width=4", "--hidden=16", "--dim=8", "--batch=8", "--steps=2",
        "--device=cpu", "--precision=fp32", "--threads=1")  # fmt: skip
MODES: dict[str, tuple[str, ...]] = {
    "single": ("--licence=CC-BY-4.0",),
    "three": ("--channels=3",),
    "fixed": ("--ms-view", "B04,B03,B02", "--sar-view", "VV,VH,VV-VH"),
    "published": ("--statistics", "SEN12MS L1C"),
}
ROWS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "single": [("ms", ("B05",)), ("ms", ("B08", "B02")), ("sar", ("VV",))],
    "three": [("ms", ("B04", "B03", "B02")), ("ms", ("B02", "B03", "B04", "B08", "B11")), ("sar", ("VV", "VH"))],
    "fixed": [("ms", ("B04", "B03", "B02")), ("sar", ("VV", "VH", "VV-VH"))],
    "published": [("ms", ("B12",)), ("sar", ("VH",))],
}
Arrays = dict[str, np.ndarray]


def patches(db: Path, count: int) -> Arrays:
    """The bands (count, H, W) of a tiny database's first patches, read without rsdnet."""
    found: dict[str, list[np.ndarray]] = {}
    with lmdb.open(str(db), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for sensor in ("s2", "s1"):
            for index in range(count):
                for name, values in load(transaction.get(f"{sensor}_{index}".encode())).items():
                    found.setdefault(name, []).append(values)
    return {name: np.stack(values) for name, values in found.items()}


@dataclasses.dataclass
class Made:
    """An encoder's file, apart from its run and its database, which are deleted; patches, and features by row and
    depth as the probe has them."""

    file: Path
    data: Arrays
    features: dict[tuple[str, ...], dict[str, torch.Tensor]]
    statistics: dict[str, Any]
    source: Path

    @property
    def encoder(self) -> Encoder:
        return rsdnet.load(self.file)


def make(folder: Path, mode: str) -> Made:
    db = tiny.make(folder / "db", 40)
    train(folder / "said", "--data", db, "--run", folder / "run", *MODES[mode], *FAST)
    trained = load_encoder(folder / "run")
    own = contenders(trained.encoder, trained.cfg, torch.device("cpu"), ("stages", "last", "layer2"))["pre-trained"]
    found = {}
    for sensor, row in ROWS[mode]:
        pool = tuple(name for name in bands.MS + bands.SAR if bands.BANDS[name].modality == sensor)
        labelled = Labelled(trained.cfg, (db,), sensor, ALONE, pool=pool, trained=trained.inputs)
        found[row] = own.of_bands(labelled, row, {})
    statistics = json.loads((db / "stats.json").read_text())["bands"]
    made = Made(folder / "apart.safetensors", patches(db, 40), found, statistics, folder / "source.safetensors")
    shutil.copy(folder / "run" / "encoder.safetensors", made.file)
    shutil.rmtree(db)
    shutil.rmtree(folder / "run")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """By mode, each made once."""
    known: dict[str, Made] = {}

    def of(mode: str) -> Made:
        if mode not in known:
            known[mode] = make(tmp_path_factory.mktemp(mode), mode)
        return known[mode]

    return of


@pytest.mark.parametrize("mode", MODES)
def test_features_are_the_probes_without_database_and_run(made: Callable[[str], Made], mode: str) -> None:
    given = made(mode)
    encoder = given.encoder
    for row, expected in given.features.items():
        for depth in ("stages", "last", "layer2"):
            found = encoder.features(given.data, bands=row, depth=depth)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected[depth], rtol=0, atol=1e-6)


def test_a_patch_at_its_own_size_is_standardised_alone(made: Callable[[str], Made]) -> None:
    """Against the network on (x - mean) / std, in numpy, with 0 for pixels without data."""
    given, names = made("three"), ("B04", "B03", "B02")
    data = {name: given.data[name].copy() for name in names}
    data["B03"][0, :5] = 0
    mean, std = (np.array([given.statistics[name][key] for name in names])[:, None, None] for key in ("mean", "std"))
    raw = np.stack([data[name] for name in names], 1).astype(np.float64)
    views = np.where(raw == 0, 0, (raw - mean) / std).astype(np.float32)
    with torch.inference_mode():
        expected = given.encoder.network(torch.from_numpy(views))
    rendered = given.encoder.views(data, bands=names, size=tiny.SIDE)
    torch.testing.assert_close(rendered, torch.from_numpy(views), rtol=1e-4, atol=1e-5)
    found = given.encoder.features(data, bands=names, size=tiny.SIDE, depth="last")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [np.uint16, ">u2", np.int16, np.uint32, np.int64, np.uint64, np.float32, np.float64])
def test_any_type_order_and_form_gives_the_same(made: Callable[[str], Made], kind: type | str) -> None:
    given = made("three")
    encoder, row = given.encoder, ("B04", "B03", "B02")
    expected = given.features[row]["stages"]
    data = {name: given.data[name].astype(kind) for name in ("B02", "B8A", "B03", "B04")}
    stacked = np.stack([data[name] for name in ("B02", "B03", "B04")], 1)
    native = np.dtype(kind).newbyteorder("=")
    tensor = torch.from_numpy(stacked.astype(native))
    for found in (
        encoder.features(data, bands=row),
        encoder.features(
            {name.lower(): torch.from_numpy(values.astype(native)) for name, values in data.items()}, bands=row
        ),
        encoder.features({"B2": data["B02"], "B3": data["B03"], "b04": data["B04"]}, bands=("B4", "B3", "B2")),
        encoder.features(tensor[:, [2, 1, 0]], bands=row),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    single = encoder.features(stacked[7, ::-1], bands=row)
    torch.testing.assert_close(single, expected[7:8], rtol=0, atol=1e-5)
    other = encoder.features(stacked, bands=("B02", "B03", "B04"))
    assert not torch.allclose(other, expected, atol=1e-3)  # channels have an order


def test_many_patches_go_in_by_batches(made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    given, row = made("fixed"), ("VV", "VH", "VV-VH")
    monkeypatch.setattr("rsdnet.encoder.BATCH", 7)
    torch.testing.assert_close(
        given.encoder.features(given.data, bands=row), given.features[row]["stages"], rtol=0, atol=1e-6
    )


def test_bands_of_a_dictionary_stand_in_the_products_order(made: Callable[[str], Made]) -> None:
    given = made("single")
    one = given.encoder.features({name: given.data[name] for name in ("VV", "B08", "B05")})
    alone = [given.encoder.features({name: given.data[name]}, size=0) for name in ("B08", "VV")]
    assert torch.equal(one[:, : alone[0].shape[1]], given.encoder.features(given.data, bands=("B05",)))
    assert torch.equal(one[:, alone[0].shape[1] :], torch.cat(alone, 1))


def test_units_are_converted(made: Callable[[str], Made]) -> None:
    given = made("single")
    encoder = given.encoder
    dn, db = given.data["B08"], given.data["VV"]
    expected = encoder.features({"B08": dn}), encoder.features({"VV": db})
    found = encoder.features({"B08": dn / 10_000}, unit="reflectance")
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)
    for unit, divisor in (("power", 10), ("amplitude", 20)):
        found = encoder.features({"VV": 10 ** (db.astype(np.float64) / divisor)}, unit=unit)
        torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-4)
    mixed = encoder.features({"B08": dn / 10_000, "VV": db}, unit="reflectance")
    torch.testing.assert_close(mixed, torch.cat(expected, 1), rtol=1e-4, atol=1e-5)


def test_maps_average_to_the_features_of_their_stage(made: Callable[[str], Made]) -> None:
    given, row = made("fixed"), ("VV", "VH", "VV-VH")
    maps = given.encoder.maps(given.data, bands=row)
    assert [each.shape[1] for each in maps] == [4, 8, 16, 32]
    joined = torch.cat([each.mean((2, 3)) for each in maps], 1)
    torch.testing.assert_close(joined, given.features[row]["stages"], rtol=0, atol=1e-5)
    single = made("single")
    side = single.encoder.maps(single.data, bands=("B08", "B02"))
    assert [each.shape[1] for each in side] == [8, 16, 32, 64]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input_gets_one_line(made: Callable[[str], Made]) -> None:
    given, one = made("single"), made("single").encoder
    data, ms = given.data, given.data["B08"]
    assert "did you mean" in refused(lambda: one.features({"B88": ms}))
    assert "no band B04" in refused(lambda: one.features({"B08": ms}, bands=["B04"]))
    assert "has no statistics of B09" in refused(lambda: one.features({"B09": ms}))
    assert "was not trained on VV-VH" in refused(lambda: one.features(data, bands=["VV-VH"]))
    assert 'give unit="reflectance"' in refused(lambda: one.features({"B08": ms / 10_000}))
    assert 'give unit="power"' in refused(lambda: one.features({"VV": 10 ** (data["VV"] / 10)}))
    assert "one of dn, reflectance" in refused(lambda: one.features({"B08": ms}, unit="metres"))
    assert "in byte, but the encoder was trained on dn" in refused(lambda: one.features({"B08": ms}, unit="byte"))
    assert "8 bits" in refused(lambda: one.features({"B08": (ms // 40).astype(np.uint8)}))
    assert "as wide as high" in refused(lambda: one.features({"B08": ms[:, :9]}))
    assert "shape (24,)" in refused(lambda: one.features({"B08": ms[0, 0]}))
    assert "39 patches, B08 40" in refused(lambda: one.features({"B08": ms, "VV": data["VV"][1:]}, bands=["B08", "VV"]))
    assert "does not name its bands" in refused(lambda: one.features(ms[:, None]))
    assert "give (B, 2, H, W)" in refused(lambda: one.features(ms[:, None], bands=["B08", "B04"]))
    assert "B08 B08" in refused(lambda: one.features(np.stack([ms, ms], 1), bands=["B08", "B08"]))
    assert "real values" in refused(lambda: one.features({"B08": ms + 1j}))
    assert "real values" in refused(lambda: one.features({"B08": np.full(ms.shape, "x")}))
    assert "B08 24 x 24, VV 22 x 24" in refused(lambda: one.features({"B08": ms, "VV": data["VV"][:, :, :22]}))
    assert "depth" in refused(lambda: one.features({"B08": ms}, depth="first"))
    assert "at least one" in refused(lambda: one.features({}))
    taken = one.features({"B08": ms / 10_000}, check=False)
    assert taken.isfinite().all()


def test_the_file_tells_how_its_input_was_standardised(made: Callable[[str], Made]) -> None:
    given = made("single")
    with safe_open(given.file, "pt") as file:
        facts = json.loads(file.metadata()["meta"])["encoder"]
    for name in bands.MS + bands.SAR:
        own, stats = facts["bands"][name], given.statistics[name]
        assert (own["mean"], own["std"]) == (pytest.approx(stats["mean"]), pytest.approx(stats["std"]))
        assert own["unit"] == ("dn" if name in bands.MS else "db")
        assert own["nodata"] == (0 if name in bands.MS else None)
        assert own["side"] == tiny.SIDE * 10 // bands.BANDS[name].resolution
    assert facts["pools"] == {"ms": list(bands.MS), "sar": list(bands.SAR)}
    assert facts["metres"] == pytest.approx([10 * 24 * 0.2**0.5 / 16, 10 * 24 / 16])
    assert facts["data"] == [{"name": "db", "layout": "", "level": "", "samples": 40}]
    assert (facts["licence"], facts["seed"], facts["method"], facts["step"]) == ("CC-BY-4.0", 0, "byol", 2)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["commit"]
    clipped = made("published").encoder.file.bands["VV"]
    assert (clipped.mean, clipped.clip) == (bands.STATISTICS["SEN12MS", "L1C"]["VV"][0], (-25.0, 0.0))


def lose(db: Path) -> None:
    """The database is gone once the first step is scheduled."""
    schedule = Run.schedule

    def scheduled(self: Run) -> dict[str, float]:
        if self.step == 0:
            shutil.rmtree(db)
        return schedule(self)

    mock.patch.object(Run, "schedule", scheduled).start()


def test_the_facts_outlive_a_database_that_goes_while_the_run_trains(tmp_path: Path) -> None:
    db = tiny.make(tmp_path / "db", 40)
    train(tmp_path / "said", "--data", db, "--run", tmp_path / "run", *FAST, prepare=functools.partial(lose, db))
    assert not db.exists()
    file = rsdnet.load(tmp_path / "run").file
    assert (file.step, [each.samples for each in file.data]) == (2, [40])
    assert file.bands.keys() == {*bands.MS, *bands.SAR}


def test_rows_are_the_views_of_training(made: Callable[[str], Made]) -> None:
    assert made("single").encoder.rows == tuple((name,) for name in bands.MS + bands.SAR)
    three = made("three").encoder.rows
    assert three == (
        ("B02", "B03", "B04"), ("B05", "B06", "B07"), ("B08", "B8A", "B11"), ("B8A", "B11", "B12"), ("VV", "VH", "VV"),
    )  # fmt: skip
    assert made("fixed").encoder.rows == (("B04", "B03", "B02"), ("VV", "VH", "VV-VH"))


def test_a_file_of_another_version_says_so(made: Callable[[str], Made], tmp_path: Path) -> None:
    tensors, meta = checkpoint.load(made("single").file)
    old = {name: meta[name] for name in ("step", "config")}
    checkpoint.save(tmp_path / "old.safetensors", tensors, old)
    told = refused(lambda: rsdnet.load(tmp_path / "old.safetensors"))
    assert "earlier version and does not hold statistics, unit, side, clip" in told
    newer = meta | {"encoder": meta["encoder"] | {"version": encoderfile.VERSION + 1}}
    checkpoint.save(tmp_path / "new.safetensors", tensors, newer)
    assert "update rsdnet" in refused(lambda: rsdnet.load(tmp_path / "new.safetensors"))
    save_file(load_file(made("single").file), tmp_path / "format.safetensors", {"format": "rsdnet-4", "meta": "{}"})
    assert "update rsdnet" in refused(lambda: rsdnet.load(tmp_path / "format.safetensors"))
    lacking = meta | {"encoder": {key: value for key, value in meta["encoder"].items() if key != "pools"}}
    checkpoint.save(tmp_path / "lacking.safetensors", tensors, lacking)
    assert "encoder.pools" in refused(lambda: rsdnet.load(tmp_path / "lacking.safetensors"))
    assert "nothing to load" in refused(lambda: rsdnet.load(tmp_path))


def test_load_needs_neither_rasterio_nor_lmdb_and_import_is_instant(made: Callable[[str], Made]) -> None:
    code = (
        "import sys, rsdnet; assert 'torch' not in sys.modules; sys.modules['rasterio'] = sys.modules['lmdb'] = None; "
        f"print(rsdnet.load({str(made('single').file)!r}).channels)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same(made: Callable[[str], Made]) -> None:
    given, row = made("fixed"), ("B04", "B03", "B02")
    found = given.encoder.to("cuda").features(given.data, bands=row)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), given.features[row]["stages"], rtol=1e-2, atol=1e-2)
