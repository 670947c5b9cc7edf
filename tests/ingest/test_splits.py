"""Splits that ingest draws, and pairs by date or table: no scene, block or season is torn apart."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.bigearthnet import BigEarthNet
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from rsdnet.ingest.layouts.ssl4eo import Ssl4eo
from rsdnet.ingest.source import Source
from rsdnet.ingest.splits import assign_splits, block, parse_block
from tests.ingest.test_eurosat import reasons
from tests.ingest.test_ingest import pairs, s1, s2
from tests.ingest.test_ingest_bad import command, refused
from tests.support import geotiffs

RADIUS = 6371.0  # km


def splits(db: Path) -> dict[str, str]:
    """Split by sample."""
    made = Catalog.read(db)
    return dict(zip(made.samples, made.split, strict=True))


def scenes(root: Path, count: int = 6, each: int = 3) -> Path:
    for scene in range(count):
        for number in range(each):
            geotiffs.pair(root, f"scene{scene}/p{number}", s2(6), s1(6))
    return root


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_a_scene_folder_is_never_torn_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ingest(pairs(scenes(tmp_path / "src"), tmp_path / "db", offset="0"))
    made = splits(tmp_path / "db")
    by_scene = {scene: {made[f"scene{scene}/p{number}"] for number in range(3)} for scene in range(6)}
    assert all(len(found) == 1 for found in by_scene.values())
    assert sorted(next(iter(found)) for found in by_scene.values()) == [
        "test",
        "train",
        "train",
        "train",
        "train",
        "val",
    ]
    assert Catalog.read(tmp_path / "db").group.tolist() == [f"scene{scene}" for scene in range(6) for _ in range(3)]
    assert "drawn for 18 sources in 6 folders or files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "group"), [("p([0-9])$", "{number}"), ("p[0-9]", "p{number}"), ("^scene.", "scene{scene}")]
)
def test_group_finds_what_belongs_together(tmp_path: Path, pattern: str, group: str) -> None:
    ingest(pairs(scenes(tmp_path / "src"), tmp_path / "db", offset="0", group=pattern, val=0.3, test=0.3))
    made = Catalog.read(tmp_path / "db")
    want = [group.format(scene=scene, number=number) for scene in range(6) for number in range(3)]
    assert made.group.tolist() == want
    assert len(set(zip(want, made.split, strict=True))) == len(set(want))
    assert set(made.split) == {"train", "val", "test"}


def test_group_takes_the_path_below_source(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=6, scenes=3)
    ingest(Sen12ms(source, tmp_path / "db", group="/s2_[0-9]/.*_p(.)"))
    assert sorted(Catalog.read(tmp_path / "db").group) == list("012345")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "("}, "--group '(' is no regular expression"),
        ({"group": "orbit([0-9])"}, "--group 'orbit([0-9])' finds nothing in 'scene0/p0'"),
        ({"group": "scene(9)?"}, "finds nothing in 'scene0/p0'"),
        ({"group": "x*"}, "finds nothing in 'scene0/p0'"),  # an empty text is no group
        ({"group": "s", "split_by": "block:10"}, "both say which samples belong together"),
        *(({"split_by": text}, f"--split-by is {text!r}, but must be block:KM") for text in (
            "block", "block:0", "block:-3", "block:nan", "block:1e999", "block:10km", "tile:3", "block:30000",
        )),
        ({"split_by": "block:10"}, "s2/scene0/p0.tif bears no georeference, nor do 5 more: --split-by needs one"),
        ({"val": float("nan")}, "--val nan: input should be a finite number"),
        ({"workers": -3}, "--workers -3: input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_options_that_group_nothing(tmp_path: Path, options: dict, said: str) -> None:
    assert said in refused(pairs(scenes(tmp_path / "src", 2), tmp_path / "db", **options))
    assert not (tmp_path / "db").exists()


def test_folders_that_are_named_as_another_split_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for folder in ("train", "Validation", "test", "more"):
        for number in range(2):
            geotiffs.pair(tmp_path, f"{folder}/{folder}{number}", s2(), s1())
    ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    drawn = {name.split("/")[0]: split for name, split in splits(tmp_path / "db").items()}
    other = [name for name in ("Validation", "test", "train") if drawn[name] != {"Validation": "val"}.get(name, name)]
    assert len(other) > 1
    said = f"folders named {', '.join(other)} are in splits that were drawn, not in those of their names"
    assert said in capsys.readouterr().out
    for name in (path.stem for path in (tmp_path / "s2" / "train").iterdir()):
        for kind in ("s2", "s1"):
            (tmp_path / kind / "train" / f"{name}.tif").rename(tmp_path / kind / "more" / f"{name}.tif")
    ingest(pairs(tmp_path, tmp_path / "none", offset="0", s2=Path("s2/more"), s1=Path("s1/more")))
    assert "in splits that were drawn" not in capsys.readouterr().out


def test_a_split_that_gets_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ingest(pairs(scenes(tmp_path / "one", 1), tmp_path / "db", offset="0"))
    out = capsys.readouterr().out
    for name, share in (("val", "0.1"), ("test", "0.2")):
        assert f"no sample is in {name}, though --{name} is {share}: too few folders or files to share out (1)" in out
    ingest(pairs(scenes(tmp_path / "two", 2), tmp_path / "other", offset="0", val=0))
    assert "no sample is in" not in capsys.readouterr().out
    for name in "abc":
        geotiffs.pair(tmp_path / "flat", name, s2(), s1())
    ingest(pairs(tmp_path / "flat", tmp_path / "third", offset="0"))
    assert "splits are drawn by file" in capsys.readouterr().out


def test_sources_that_are_left_out_take_no_split_from_others() -> None:
    for bad in range(30):
        sources = [Source(name, name, {}) for name in "abc"] + [Source(f"x{bad}", f"x{bad}", {}, problem="bad")]
        assert {s.split for s in assign_splits(sources, 0.1, 0.2)[:3]} == {"train", "val", "test"}
    published = [Source("a1", "a", {}, "test"), Source("b1", "b", {}, "val"), Source("b2", "b", {}, "train")]
    torn = [Source("c1", "c", {}, "test"), Source("c2", "c", {}, "val"), Source("c3", "c", {})]
    drawn = assign_splits([*published, Source("a2", "a", {}), *torn], 0, 0)
    assert [source.split for source in drawn] == ["test", "val", "train", "test", "test", "val", "train"]


# ---- blocks ----------------------------------------------------------------------------------------------------------


def distance(one: tuple[float, float], two: tuple[float, float]) -> float:
    """Great circle in km, by the haversine formula."""
    (a, b), (c, d) = np.radians([one, two])
    inner = np.sin((d - b) / 2) ** 2 + np.cos(b) * np.cos(d) * np.sin((c - a) / 2) ** 2
    return float(2 * RADIUS * np.arcsin(np.sqrt(min(inner, 1))))


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(0.1, 20_000))
def test_places_of_a_block_lie_within_its_diagonal(lon: float, lat: float, lon2: float, lat2: float, km: float) -> None:
    name = block(lon, lat, km)
    for other in ((lon2, lat2), (lon + lon2 / 1e4, max(-90, min(90, lat + lat2 / 1e4)))):
        if block(*other, km) == name:
            assert distance((lon, lat), other) <= 1.05 * km * np.sqrt(2) + 1e-6


def test_blocks_are_about_as_large_as_they_say() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 30_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 30_000)))  # uniform on a sphere
    found = {block(*place, 600) for place in zip(lon, lat, strict=True)}
    assert len(found) == pytest.approx(4 * np.pi * RADIUS**2 / 600**2, rel=0.1)
    assert block(179.9999, 10, 100) != block(-179.9999, 10, 100)
    assert block(180, 10, 100) == block(-180, 10, 100)
    assert block(0, 90, 100) == block(5, 90, 100)[:-1] + block(0, 90, 100)[-1]
    assert parse_block("block:2.5") == 2.5


def test_blocks_come_from_the_georeference(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """12 places in steps of 5 km across the border of two UTM zones, one in degrees, and a file that is torn."""
    for number in range(12):
        crs = "EPSG:32632" if number < 6 else "EPSG:32633"
        east = 692_000 + 5000 * number if number < 6 else 279_000 + 5000 * (number - 6)
        transform = Affine(10, 0, east, 0, -10, 5_400_000)
        geotiffs.pair(tmp_path / "src", f"p{number:02}", s2(6), None, crs=crs, transform=transform)
    geotiffs.write(
        tmp_path / "src" / "s2" / "q.tif", s2(6), crs="EPSG:4326", transform=Affine(1e-4, 0, -61, 0, -1e-4, -3)
    )
    (tmp_path / "src" / "s2" / "torn.tif").write_bytes(b"II*\0")
    layout = pairs(tmp_path / "src", tmp_path / "db", s1=None, offset="0", split_by="block:20", val=0.3, test=0.3)
    ingest(layout)
    made = Catalog.read(tmp_path / "db")
    assert len(made) == 13
    assert reasons(tmp_path / "db").keys() == {"torn"}
    assert made.group.tolist() == [block(lon, lat, 20) for lon, lat in zip(made.lon, made.lat, strict=True)]
    groups = list(dict.fromkeys(made.group[:12]))
    assert 3 <= len(groups) <= 6  # 60 km in blocks of 20 km
    assert list(made.group[:12]) == sorted(made.group[:12], key=groups.index)  # runs along the line
    assert len(set(zip(made.group, made.split, strict=True))) == len(set(made.group))
    assert set(made.split) == {"train", "val", "test"}
    assert f"drawn for 14 sources in {len(set(made.group)) + 1} blocks of 20 km" in capsys.readouterr().out


# ---- SSL4EO ----------------------------------------------------------------------------------------------------------


def products(root: Path, s2_days: list[int], s1_days: list[int], location: str = "0000001") -> Ssl4eo:
    """Empty products of a location, taken so many days after 1 January 2020."""
    for folder, days, name in (("s2a", s2_days, "{0}_{0}_T43RCP"), ("s1", s1_days, "S1B_IW_GRDH_1SDV_{0}_X")):
        for day in days:
            time = datetime(2020, 1, 1, 5) + timedelta(days=day)
            (root / folder / location / name.format(time.strftime("%Y%m%dT%H%M%S"))).mkdir(parents=True)
    return Ssl4eo(root, root / "db")


def seasons(layout: Ssl4eo) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """(Dates of S2 and S1 by sample, reasons of those left out)."""
    sources = layout.sources()
    date = {
        source.name: {kind: (image.key.split("202") * 2)[1][1:5] for kind, image in source.images.items()}
        for source in sources
    }
    kept = {
        source.name: (date[source.name]["ms"], date[source.name]["sar"]) for source in sources if not source.problem
    }
    return kept, {source.name: source.problem for source in sources if source.problem}


def test_a_season_without_s1_is_left_out_and_the_others_keep_theirs(tmp_path: Path) -> None:
    kept, left = seasons(products(tmp_path, [10, 100, 190, 280], [95, 195, 281]))
    assert kept == {
        "0000001_1": ("0410", "0405"), "0000001_2": ("0709", "0714"), "0000001_3": ("1007", "1008"),
    }  # fmt: skip
    assert list(left) == ["0000001_0"]
    assert left["0000001_0"].startswith("it has no S1 product of its own within 45 days: ")


def test_seasons_are_paired_nearest_first_and_once(tmp_path: Path) -> None:
    kept, left = seasons(products(tmp_path, [100, 130], [128, 400]))
    assert kept == {"0000001_1": ("0510", "0508")}
    assert list(left) == ["0000001_0", "0000001_S1B_IW_GRDH_1SDV_20210204T050000_X"]
    kept, _ = seasons(products(tmp_path / "edge", [100, 200], [145, 246]))  # 45 days, and 46
    assert kept == {"0000001_0": ("0410", "0525")}


def test_copies_of_products_and_locations_are_left_out(tmp_path: Path) -> None:
    layout = products(tmp_path, [10, 100], [12, 103])
    before, _ = seasons(layout)
    for folder in ("s2a", "s1"):
        first = min((tmp_path / folder / "0000001").iterdir())
        shutil.copytree(first, f"{first} (1)")
        shutil.copytree(tmp_path / folder / "0000001", tmp_path / folder / "0000001-Copy1")
    kept, left = seasons(layout)
    assert kept == before == {"0000001_0": ("0111", "0113"), "0000001_1": ("0410", "0413")}
    original = {name: reason.removeprefix("it is named as a copy: of ") for name, reason in left.items()}
    assert original["0000001_S1B_IW_GRDH_1SDV_20200113T050000_X (1)"].endswith(
        "s1/0000001/S1B_IW_GRDH_1SDV_20200113T050000_X"
    )
    assert len(left) == 2 + 6
    assert len({*original.values()}) == 6  # of both sensors two products of the first location, and a copy of one


def test_products_without_a_date_and_one_sensor_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    layout = products(tmp_path, [10, 100], [10, 100])
    for name in ("composite", "20201345T990000_20201345T990000_T43RCP"):
        (tmp_path / "s2a" / "0000001" / name).mkdir()
    kept, left = seasons(layout)
    assert len(kept) == 2
    assert all(reason.startswith("its name tells no date: ") for reason in left.values())
    products(tmp_path, [10], [], "0000002")
    assert "0000002_0" in seasons(layout)[1]  # SOURCE has S1, this location has none
    alone = Ssl4eo(tmp_path, tmp_path / "db", s2_level="L1C").sources()
    assert [source.name for source in alone] == ["0000001_0", "0000001_1"]
    assert [{*source.images} for source in alone] == [{"sar"}, {"sar"}]
    assert not any(source.problem for source in alone)


# ---- BigEarthNet -----------------------------------------------------------------------------------------------------


S2, S1 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{}_43", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{}_48"


def ben(root: Path, rows: list[dict], *, unclear: list[dict] | None = None, count: int = 4) -> BigEarthNet:
    """`count` patches of each sensor, and the tables."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for collection, patch, names, dtype in (
            ("BigEarthNet-S2/tile", S2, BigEarthNet(root, root).recipe().expected["ms"], np.uint16),
            ("BigEarthNet-S1/scene", S1, ("VH", "VV"), np.float32),
        ):
            name = patch.format(number)
            for band in names:
                layer = rng.normal(-12, 3, (1, 6, 6)) if dtype == np.float32 else rng.integers(300, 3000, (1, 6, 6))
                geotiffs.write(root / collection / name / f"{name}_{band}.tif", layer.astype(dtype))
    schema = pa.schema([("patch_id", pa.string()), ("s1_name", pa.string()), ("split", pa.string())])
    for name, table in (
        ("metadata.parquet", rows),
        ("metadata_for_patches_with_snow_cloud_or_shadow.parquet", unclear),
    ):
        if table is not None:
            pq.write_table(pa.Table.from_pylist(table, schema), root / name)
    return BigEarthNet(root, root / "db")


def row(number: int, split: str | None = "train", s1: int | None = -1) -> dict:
    partner = number if s1 == -1 else s1
    return {
        "patch_id": S2.format(number),
        "s1_name": partner if partner is None else S1.format(partner),
        "split": split,
    }


def test_what_the_table_does_not_list_is_left_out_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    layout = ben(tmp_path, [row(0), row(1, "validation"), row(9, "test")], unclear=[row(2, "test")])
    ingest(layout)
    assert splits(tmp_path / "db") == {S2.format(0): "train", S2.format(1): "val"}
    assert Catalog.read(tmp_path / "db").sar.tolist() == [S1.format(0), S1.format(1)]
    left = reasons(tmp_path / "db")
    assert left.keys() == {name.format(number) for name in (S2, S1) for number in (2, 3)}
    assert "but metadata_for_patches_with_snow_cloud_or_shadow.parquet does" in left[S2.format(2)]
    assert left[S2.format(3)] == "metadata.parquet does not list it: --unlisted keep takes it"
    out = capsys.readouterr().out
    assert (
        "S2 patches of metadata.parquet without a folder (their partners are samples without S2): 1; the first: " in out
    )
    ingest(BigEarthNet(tmp_path, tmp_path / "kept", unlisted="keep"))
    made = Catalog.read(tmp_path / "kept")
    pairs = dict(zip(made.ms.tolist(), made.sar.tolist(), strict=True))
    assert pairs[S2.format(2)] == S1.format(2)  # by the second table
    assert pairs[S2.format(3)] is None
    assert splits(tmp_path / "kept")[S2.format(2)] == "test"


def test_rows_that_contradict_each_other_are_left_out(tmp_path: Path) -> None:
    rows = [row(0), row(0, "test"), row(1), row(2, "train", 1), row(3, None), {**row(4), "patch_id": None}]
    with pytest.raises(DataError, match="lists it more than once"):
        ingest(ben(tmp_path, rows))
    left = {source.name: source.problem for source in ben(tmp_path, rows).sources()}
    assert left[S2.format(0)] == "metadata.parquet lists it more than once: with other values"
    for number in (1, 2):
        assert left[S2.format(number)].startswith("its S1 patch is listed for another S2 patch, too: ")
    assert left[S2.format(3)] == "metadata.parquet gives it no split that is known: None"
    ingest(ben(tmp_path / "twice", [row(0), row(0), row(1), row(2), row(3)]))  # the same row
    assert len(Catalog.read(tmp_path / "twice" / "db")) == 4


def test_an_s1_patch_alone_has_the_split_of_its_row(tmp_path: Path) -> None:
    layout = ben(tmp_path, [row(0, "train"), row(1, "test"), row(2, "train"), row(3, "train")])
    for path in (tmp_path / "BigEarthNet-S2" / "tile" / S2.format(1)).iterdir():
        path.unlink()
    (tmp_path / "BigEarthNet-S2" / "tile" / S2.format(1)).rmdir()
    ingest(layout)
    assert splits(tmp_path / "db")[S1.format(1)] == "test"


def test_without_the_table_pairs_and_splits_are_called_a_guess(tmp_path: Path) -> None:
    layout = ben(tmp_path, [row(0)])
    (tmp_path / "metadata.parquet").unlink()
    lonely = tmp_path / "Reference_Maps" / "tile" / S2.format(7) / f"{S2.format(7)}_reference_map.tif"
    geotiffs.write(lonely, np.full((1, 6, 6), 211, np.uint16))
    done = command("bigearthnet", tmp_path, tmp_path / "db")
    assert f"no metadata.parquet in {tmp_path}: S1 and S2 are not paired, splits are drawn" in done.stdout
    made = Catalog.read(layout.db)
    again = command("bigearthnet", tmp_path, tmp_path / "db").stdout
    assert again == f"{layout.db} is finished: 8 samples; delete it to ingest anew\n"
    assert set(made.group) == {"tile", "scene"}  # names, not paths: the same wherever SOURCE lies
    pq.write_table(pa.table({"patch_id": ["a"]}), tmp_path / "metadata.parquet")
    assert "metadata.parquet has no column s1_name, split" in refused(BigEarthNet(tmp_path, tmp_path / "other"))
