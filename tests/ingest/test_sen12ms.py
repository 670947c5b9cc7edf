"""SEN12MS's list of held-out scenes, and DFC2020's two forms, in trees of their published layouts."""

from pathlib import Path

import numpy as np
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from tests.ingest.test_eurosat import reasons
from tests.ingest.test_ingest_bad import refused
from tests.ingest.test_splits import splits
from tests.support import geotiffs

LIST = "SEN12MS_holdOutScenes.txt"
# The bundle by city; of its classes 3 (Savanna) and 8 (Snow/Ice) are absent.
CITIES = {
    "autumn": ("Mumbai", "BandarAnzali", "CapeTown"), "spring": ("BlackForest",), "summer": ("Chabarovsk",),
    "winter": ("KippaRing", "MexicoCity"),
}  # fmt: skip
NAMES = [city for cities in CITIES.values() for city in cities]


def dfc(
    root: Path, season: str, folder: str, scene: str, count: int, *, dfc_size: int = 8, maps: str = "lc dfc"
) -> None:
    """`count` quadruples in `root`/`season`/{s1,s2,lc,dfc}_`folder`: `dfc` says Water, `lc` says Forest (IGBP 1)."""
    rng = np.random.default_rng(0)
    for number in range(count):
        layers = {
            "s2": rng.integers(1, 10000, (13, 8, 8)).astype(np.uint16),
            "s1": rng.normal(-14, 5, (2, 8, 8)),  # float64, as published
            "lc": np.full((4, 8, 8), 1, np.uint8),
            "dfc": np.full((1, dfc_size, dfc_size), 10, np.uint8),
        }
        for kind in ("s2", "s1", *maps.split()):
            geotiffs.write(root / season / f"{kind}_{folder}" / f"{season}_{kind}_{scene}_p{number}.tif", layers[kind])


def by_city(root: Path, **options: object) -> Path:
    for season, cities in CITIES.items():
        for city in cities:
            dfc(root, f"ROIs0000_{season}", city, city, 2, **options)  # type: ignore[arg-type]
    return root


def contest(root: Path) -> Path:
    dfc(root, "ROIs0000_validation", "validation", "0", 2)
    dfc(root, "ROIs0000_test", "0", "0", 3)
    return root


def listed(source: Path, text: str, folder: str = "splits") -> Path:
    path = source / folder / LIST
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# ---- the list of held-out scenes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["splits", "."])
def test_the_listed_scenes_are_the_test_and_no_other(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture
) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=20, scenes=10, size=8)
    path = listed(source, "ROIs1158_spring/s1_3\nROIs1158_spring/s1_10\n\nROIs1868_summer/s1_3\n", folder)
    ingest(Sen12ms(source, tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    test = set(made.group[made.split == "test"])
    assert test == {"ROIs1158_spring_3", "ROIs1158_spring_10"}
    assert len(set(made.group[made.split == "val"])) == 1  # 10 % of the eight others
    assert sum(made.split == "train") == 14
    out = capsys.readouterr().out
    assert f"splits: 14 train, 2 val, 4 test; {LIST} to test, for 4 sources; drawn for 16 sources in 8 scenes" in out
    assert "held out of training: 6 of 20 samples, 30 %; rsdnet.train --split all takes all" in out
    assert f"scenes or patches of {path} that are not here: 1; the first: ROIs1868_summer_3" in out


def test_a_list_of_patches_and_one_elsewhere(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=8, scenes=4, size=8)
    path = tmp_path / "mine.txt"
    path.write_text("ROIs1158_spring_s2_2_p1.tif\r\nROIs1158_spring/s1_4/ROIs1158_spring_s1_4_p3.tif\r\n")
    ingest(Sen12ms(source, tmp_path / "db", test_list=path, val=0))
    test = {name for name, split in splits(tmp_path / "db").items() if split == "test"}
    assert test == {f"ROIs1158_spring_{scene}_p{place}" for scene, place in ((2, 1), (2, 5), (4, 3), (4, 7))}  # scenes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ROIs1158_spring/s1_9\nROIs1970_fall/s1_1\n", "names 2 scenes or patches, none of them in"),
        ("", "names 0 scenes or patches, none of them in"),
        ("ROIs1158_spring/s1_1\nscene 3\n", f"{LIST}, line 2: 'scene 3' names no scene, as ROIs1158_spring/s1_63"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, text: str, said: str) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=2, scenes=2, size=8)
    listed(source, text)
    assert said in refused(Sen12ms(source, tmp_path / "db"))
    assert "cannot be read" in refused(Sen12ms(source, tmp_path / "db", test_list=Path("none.txt")))
    assert not (tmp_path / "db").exists()


def test_a_list_that_came_later_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=4, scenes=4, size=8)
    ingest(Sen12ms(source, tmp_path / "db"))
    train = next(name for name, split in splits(tmp_path / "db").items() if split == "train")
    capsys.readouterr()
    ingest(Sen12ms(source, tmp_path / "db"))
    assert "has changed" not in capsys.readouterr().out
    listed(source, f"ROIs1158_spring/s1_{train.split('_')[2]}\n")
    ingest(Sen12ms(source, tmp_path / "db"))
    assert f"samples of other files or another split: 1 (the first: {train})" in capsys.readouterr().out


# ---- DFC2020 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split_by", ["", "published"])
def test_the_contest_s_parts_are_the_splits_and_dfc_is_the_label(tmp_path: Path, split_by: str) -> None:
    ingest(Sen12ms(contest(tmp_path / "src"), tmp_path / "db", split_by=split_by))
    assert splits(tmp_path / "db") == {f"ROIs0000_validation_0_p{n}": "train" for n in range(2)} | {
        f"ROIs0000_test_0_p{n}": "test" for n in range(3)
    }
    made = Catalog.read(tmp_path / "db")
    assert {made.classes[label] for label in made.label} == {"Water"}
    for key in made.map:
        assert (geotiffs.tensors(tmp_path / "db")[key]["Data"] == 9).all()


def test_whole_cities_are_held_out_by_a_seed_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, drawn = by_city(tmp_path / "src"), set()
    for seed in range(3):
        db = tmp_path / f"db{seed}"
        ingest(Sen12ms(source, db, split_by="city", split_seed=seed, val=0.15, test=0.3))
        made = Catalog.read(db)
        held = {split: sorted(set(made.group[made.split == split])) for split in ("train", "val", "test")}
        assert sorted(city for cities in held.values() for city in cities) == sorted(NAMES)  # each city in one split
        assert [len(held[split]) for split in ("train", "val", "test")] == [4, 1, 2]
        assert (
            f"drawn for 14 sources in 7 cities, val: {held['val'][0]}, test: {', '.join(held['test'])}\n"
            in capsys.readouterr().out
        )
        assert {made.classes[label] for label in made.label} == {"Water"}
        drawn.add(tuple(held["test"]))
    assert len(drawn) > 1
    again = tmp_path / "again"
    ingest(Sen12ms(source, again, split_by="city", split_seed=2, val=0.15, test=0.3))
    assert splits(again) == splits(tmp_path / "db2")


def test_splits_that_a_form_does_not_have_are_refused(tmp_path: Path) -> None:
    cities, parts = by_city(tmp_path / "cities"), contest(tmp_path / "parts")
    plain, db = geotiffs.sen12ms(tmp_path / "plain", places=2, size=8), tmp_path / "db"
    told = refused(Sen12ms(cities, db, split_by="published"))
    assert "ROIs0000_autumn_BandarAnzali_p0 has no published split: --split-by city draws one" in told
    assert f"has no published split: name {LIST} by --test-list" in refused(Sen12ms(plain, db, split_by="published"))
    for source in (parts, plain):
        told = refused(Sen12ms(source, db, split_by="city"))
        assert "names no city, as ROIs0000_autumn_s2_Mumbai_p1.tif does" in told
    with pytest.raises(DataError, match="must be published or city or block:KM with KM from"):
        Sen12ms(parts, db, split_by="cities").check()
    assert not db.exists()


def test_maps_of_another_size_and_maps_of_modis_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    dfc(tmp_path / "src", "ROIs0000_winter", "MexicoCity", "MexicoCity", 2)
    dfc(tmp_path / "src", "ROIs0000_summer", "Chabarovsk", "Chabarovsk", 1, dfc_size=16)
    dfc(tmp_path / "src", "ROIs0000_spring", "BlackForest", "BlackForest", 1, maps="lc")
    ingest(Sen12ms(tmp_path / "src", tmp_path / "db", split_by="city"))
    assert reasons(tmp_path / "db") == {
        "ROIs0000_summer_Chabarovsk_p0": "S2 is 8x8 px, but label map is 16x16 px: they must be of one grid"
    }
    modis = "DFC2020 samples without a dfc map, which have MODIS's: 1; the first: ROIs0000_spring_BlackForest_p0"
    assert modis in capsys.readouterr().out
    dfc(tmp_path / "all", "ROIs0000_summer", "Chabarovsk", "Chabarovsk", 2, dfc_size=16)
    assert "label map is 16x16 px" in refused(Sen12ms(tmp_path / "all", tmp_path / "none"))
