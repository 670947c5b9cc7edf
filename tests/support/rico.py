"""Small trees of BigEarthNet v2 and SSL4EO-S12, and the databases that rico-hdl makes of trees: its keys and tensors,
made by rasterio, py-lmdb and safetensors alone (kai-tub/rico-hdl, README.md)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rasterio.crs import CRS
from rasterio.transform import from_origin

from rsdnet import bands
from rsdnet.ingest.layouts.bigearthnet_tables import CLASSES
from tests.support import databases, geotiffs

SIDE = 12  # px of 10 m
EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B08A")
TILE, SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UU{}", "S1A_IW_GRDH_1SDV_20170613T16504{}"
CODES = (211, 312, 523)
TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")


def ben_names(number: int) -> tuple[str, str]:
    """The names of the S2 and the S1 patch of a place."""
    tile = "ABCDEFGHJ"[number // 4 % 9]
    return f"{TILE.format(tile)}_{number}_43", f"{SCENE.format(number // 4)}_33UU{tile}_{number}_48"


def bigearthnet(root: Path, count: int = 16) -> Path:
    """`count` pairs with maps and labels, four a tile; the last two are of the second table. The first has no S2 data,
    the second no S1 partner in the table, the third none in the folders."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        (s2, s1), shown = ben_names(number), number % 3
        place = {"crs": CRS.from_epsg(32633), "transform": from_origin(5e5 + 120 * number, 5e6, 10, 10)}
        for band in bands.S2L2A:
            side = SIDE * 10 // bands.BANDS[band].resolution
            layer = rng.normal(700 + 400 * (shown == 0), 60, (1, side, side)).astype(np.uint16) * (number > 0)
            pixel = 10 * SIDE / side
            grid = place | {"transform": from_origin(place["transform"].c, 5e6, pixel, pixel)}
            geotiffs.write(root / "BigEarthNet-S2" / s2.rsplit("_", 2)[0] / s2 / f"{s2}_{band}.tif", layer, **grid)
        for band in ("VV", "VH") if number != 2 else ():
            layer = rng.normal(-8 - 5 * shown, 2, (1, SIDE, SIDE)).astype(np.float32)
            geotiffs.write(root / "BigEarthNet-S1" / s1.rsplit("_", 3)[0] / s1 / f"{s1}_{band}.tif", layer, **place)
        codes = np.full((1, SIDE, SIDE), CODES[shown], np.uint16)
        codes[0, 0] = 999  # no class
        file = root / "Reference_Maps" / s2.rsplit("_", 2)[0] / s2 / f"{s2}_reference_map.tif"
        geotiffs.write(file, codes, **place)
        rows.append({
            "patch_id": s2, "s1_name": s1 if number != 1 else None, "country": "Austria",
            "labels": [[*CLASSES][(2, 9, 18)[shown]], "Pastures"],
            "split": ("train", "validation", "train", "test")[number // 2 % 4],
            "contains_seasonal_snow": number == count - 2, "contains_cloud_or_shadow": number == count - 1,
        })  # fmt: skip
    for name, some in zip(TABLES, (rows[:-2], rows[-2:]), strict=True):
        pq.write_table(pa.Table.from_pylist(some), root / name)
    return root


def ssl4eo(root: Path, places: int = 4, year: int = 2020) -> Path:
    """`places` locations of four seasons; the last season of the first location has no S1."""
    rng = np.random.default_rng(1)
    for place in range(places):
        for month in (2, 5, 8, 11):
            s2 = f"{year}{month:02}04T054639_{year}{month:02}04T054831_T43RCP"
            for name in bands.S2L2A:
                side = SIDE * 10 // bands.BANDS[name].resolution
                layer = rng.integers(300, 4000, (1, side, side)).astype(np.uint16)
                geotiffs.write(root / f"s2a/{place:07}/{s2}/{name.replace('B0', 'B')}.tif", layer)
            s1 = f"S1{'AB'[month % 2]}_IW_GRDH_1SDV_{year}{month:02}07T010800_032904_03CFBA_D457"
            for name in ("VV", "VH") if place or month < 11 else ():
                layer = rng.normal(-12, 4, (1, SIDE, SIDE)).astype(np.float32)
                geotiffs.write(root / f"s1/{place:07}/{s1}/{name}.tif", layer)
    return root


def encode(root: Path, folder: Path) -> Path:
    """The database of a tree of any of the three data sets."""
    values: dict[str, dict[str, np.ndarray]] = {}
    for key, name, layer in _layers(root):
        values.setdefault(key, {})[name] = layer
    databases.write_database(folder, values)
    (folder / "lock.mdb").unlink()
    return folder


def _layers(root: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """(key, tensor, (H, W) values) of every layer."""
    for path in sorted(root.rglob("*.tif")):
        layers, parts = geotiffs.read(path), path.relative_to(root).parts
        if parts[0] in ("s1", "s2a", "s2c"):
            yield "_".join(parts[:-1]), path.stem, layers[0]
        elif parts[0] == "Reference_Maps":
            yield path.stem, "Data", layers[0]
        elif parts[0].startswith("BigEarthNet"):
            yield *path.stem.rsplit("_", 1), layers[0]  # type: ignore[misc]
        else:
            yield from ((path.stem, name, layer) for name, layer in zip(EUROSAT, layers, strict=True))
