"""Ingest of real patches: the same values as rico-hdl's database and as the GeoTIFFs."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from rsdnet.data.catalog import Catalog
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.bigearthnet import BigEarthNet
from rsdnet.ingest.layouts.eurosat import EuroSat
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.layouts.ssl4eo import Ssl4eo
from tests.support import geotiffs

LULC = "1=water,2=trees,3=flooded vegetation,4=crops,5=built,6=bare,7=snow/ice,9=rangeland"
WITH_OFFSET = {"S2L1C": {"282D", "433D", "609U"}, "S2L2A": {"433D"}}


def test_bigearthnet_comes_out_byte_for_byte_as_rico_hdl_wrote_it(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "bigearthnet-v2"
    ingest(BigEarthNet(source, tmp_path / "db"))
    ours, theirs = geotiffs.entries(tmp_path / "db"), geotiffs.entries(source / "rico-hdl-lmdb")
    assert theirs
    maps = {path.stem: path for path in (source / "Reference_Maps").rglob("*.tif")}
    assert ours.keys() == theirs.keys() | maps.keys()
    assert all(ours[key] == value for key, value in theirs.items())
    for key, path in maps.items():
        np.testing.assert_array_equal(geotiffs.tensors(tmp_path / "db")[key]["Data"], geotiffs.read(path)[0])
    made = Catalog.read(tmp_path / "db")  # without metadata.parquet: S1 and S2 apart
    alone = {(ms is None, sar is None) for ms, sar in zip(made.ms, made.sar, strict=True)}
    assert alone == {(True, False), (False, True)}


def test_bigearthnet_is_paired_and_split_by_its_metadata(real_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "src"
    for folder in ("BigEarthNet-S1", "BigEarthNet-S2"):
        shutil.copytree(real_data / "bigearthnet-v2" / folder, source / folder)
    place = rasterio.open(next((source / "BigEarthNet-S2").rglob("*_B02.tif"))).transform
    s1 = next((source / "BigEarthNet-S1").glob("*/*")).name
    s2 = next((source / "BigEarthNet-S2").glob("*/*")).name
    row = {"patch_id": s2, "s1_name": s1, "split": "validation", "labels": ["Pastures"]}
    pq.write_table(pa.Table.from_pylist([row]), source / "metadata.parquet")
    with pytest.raises(DataError, match=r"S1 lies 600\.0 px away from S2"):  # the files are of two places
        ingest(BigEarthNet(source, tmp_path / "db"))
    for path in (source / "BigEarthNet-S1").rglob("*.tif"):
        with rasterio.open(path, "r+") as file:
            file.transform = place
    ingest(BigEarthNet(source, tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    assert (made.samples.tolist(), made.ms.tolist(), made.sar.tolist()) == ([s2], [s2], [s1])
    assert made.split.tolist() == ["val"]


@pytest.mark.parametrize("level", ["S2L1C", "S2L2A"])
def test_terramesh_loses_its_offset_where_it_has_one(real_data: Path, tmp_path: Path, level: str) -> None:
    source = real_data / "terramesh"
    folders = {"s2": Path(level), "s1": Path("S1RTC"), "label": Path("LULC")}
    made = Pairs(source, tmp_path / "db", **folders, s2_bands=level[2:], s1_bands="VV,VH", classes=LULC)
    with pytest.raises(DataError, match=r"the offset of S2 is open: .* give --offset 0"):
        ingest(made)
    assert not made.db.exists()
    table = tmp_path / "offsets.tsv"
    files = sorted((source / level).glob("*.tif"))
    lines = [f"{level}/{path.name}\t{1000 * (path.name.split('_')[0] in WITH_OFFSET[level])}\n" for path in files]
    table.write_text("file\tsubtracted\n" + "".join(lines))
    ingest(replace(made, offset=str(table)))
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert len(made) == 5
    assert made.meta["level"] == level[2:]
    assert made.classes[-1] == "rangeland"
    for row in range(5):
        name = made.samples[row]
        dn = geotiffs.read(source / level / f"{name}.tif").astype(np.int64)
        offset = 1000 if name.split("_")[0] in WITH_OFFSET[level] else 0
        want = np.maximum(dn - offset, 1) if offset else dn
        assert got[made.ms[row]]["B04"].dtype == np.int16
        np.testing.assert_array_equal(got[made.ms[row]]["B04"], want[3])
        np.testing.assert_array_equal(got[made.ms[row]]["B12"], want[-1])
        radar = geotiffs.read(source / "S1RTC" / f"{name}.tif")
        np.testing.assert_array_equal(got[made.sar[row]]["VH"], radar[1].astype(np.float32))
        values, counts = np.unique(geotiffs.read(source / "LULC" / f"{name}.tif"), return_counts=True)
        legend = dict(part.split("=") for part in LULC.split(","))
        assert made.classes[made.label[row]] == legend[str(values[counts.argmax()])]
    assert set(read_stats(tmp_path / "db")["bands"]) >= {"B02", "B8A", "VV", "VH"}


def test_ssl4eo_pairs_seasons_in_order_of_time(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "ssl4eo-s12"
    ingest(Ssl4eo(source, tmp_path / "db"))
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert made.samples.tolist() == ["0000200_0", "0000200_1"]
    assert [key[:24] for key in made.ms] == ["s2a_0000200_20200604T054", "s2a_0000200_20200813T054"]
    assert ["20200607T" in made.sar[0], "20200903T" in made.sar[1]] == [True, True]
    assert set(made.split) == {"train"}  # one location
    ingest(Ssl4eo(source, tmp_path / "tiles", patch=132))
    assert len(Catalog.read(tmp_path / "tiles")) == 8
    cut = geotiffs.tensors(tmp_path / "tiles")[f"{made.ms[0]}_y132_x0"]
    product = source / "s2a" / "0000200" / made.ms[0].removeprefix("s2a_0000200_")
    for name, file, scale in (("B02", "B2", 1), ("B05", "B5", 2), ("B11", "B11", 2), ("B09", "B9", 6)):
        whole = geotiffs.read(product / f"{file}.tif")[0]
        assert whole.shape[0] == 264 // scale
        np.testing.assert_array_equal(got[made.ms[0]][name], whole)
        np.testing.assert_array_equal(cut[name], whole[132 // scale :, : 132 // scale])


def test_eurosat_has_b8a_last_and_its_folder_as_label(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "eurosat-ms"
    ingest(EuroSat(source, tmp_path / "db"))
    made, got = Catalog.read(tmp_path / "db"), geotiffs.tensors(tmp_path / "db")
    assert len(made) == 8
    for row in range(8):
        folder = made.samples[row].split("_")[0]
        assert made.classes[made.label[row]] == folder
        layers = geotiffs.read(source / folder / f"{made.samples[row]}.tif")
        np.testing.assert_array_equal(got[made.ms[row]]["B8A"], layers[12])
        np.testing.assert_array_equal(got[made.ms[row]]["B09"], layers[8])
