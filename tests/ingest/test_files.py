"""The files of a data set: which are found, which are passed over, and names that cannot stand beside each other."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.errors import DataError
from rsdnet.ingest import ingest
from rsdnet.ingest.files import copies, find_geotiffs, subfolders
from rsdnet.ingest.layouts.bigearthnet import BigEarthNet
from rsdnet.ingest.layouts.eurosat import CLASSES, EuroSat, EuroSatRgb
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from tests.ingest.test_eurosat import reasons
from tests.ingest.test_ingest import pairs, s1, s2
from tests.ingest.test_ingest_bad import command, leave_unfinished, refused
from tests.support import eurosat, geotiffs


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path, notices: list[str] | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_geotiffs(folder, notices)]


# ---- finding ---------------------------------------------------------------------------------------------------------


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    root, away = tmp_path / "src", tmp_path / "away"
    touch(root / "z" / "1.tif", away / "far.tif", away / "deep" / "2.TIFF")
    (root / "a").symlink_to(root / "z")  # the real folder is read, whichever comes first
    (root / "m").symlink_to(away)
    (root / "n").symlink_to(away)
    (root / "z" / "up").symlink_to(root)
    (away / "itself").symlink_to(away / "itself")
    (root / "z" / "3.tif").symlink_to(away / "far.tif")
    (root / "z" / "lost.tif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "pipe.tif")
    told: list[str] = []
    assert names(root, told) == ["m/deep/2.TIFF", "m/far.tif", "z/1.tif", "z/3.tif", "z/lost.tif"]
    assert told == [f"folders that are links to another, not read again: 3; the first: {root / 'a'}"]
    assert subfolders(root) == ["a", "m", "n", "z"]


def test_clutter_and_databases_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "x.tif", tmp_path / "s" / "y.jpg", tmp_path / "._x.tif", tmp_path / ".tif")
    for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "#recycle", "lost+found", ".Trash-0"):
        touch(tmp_path / folder / "x.tif")
    for file in ("data.mdb", "ingest.journal"):
        touch(tmp_path / file.replace(".", "") / file, tmp_path / file.replace(".", "") / "map.tif")
    told: list[str] = []
    assert names(tmp_path, told) == ["x.tif"]
    assert sorted(told) == [
        f"images in the folder of a database, not read: 2; the first: {tmp_path / 'datamdb' / 'map.tif'}",
        f"images that are no .tif or .tiff, not read: 1; the first: {tmp_path / 's' / 'y.jpg'}",
    ]
    assert subfolders(tmp_path) == ["datamdb", "ingestjournal", "s"]
    assert subfolders(tmp_path / "datamdb") == subfolders(tmp_path / "nowhere") == []
    touch(tmp_path / "data.mdb")  # an earlier version wrote a database into SOURCE itself, too
    assert names(tmp_path) == ["x.tif"]


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "open" / "x.tif", tmp_path / "shut" / "y.tif")
    scan = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(DataError, match=r"shut cannot be read \(Permission denied\)"):
        find_geotiffs(tmp_path / "shut")
    told: list[str] = []
    assert names(tmp_path, told) == ["open/x.tif"]
    assert told == [f"folders that cannot be read (Permission denied): 1; the first: {tmp_path / 'shut'}"]


@pytest.mark.parametrize(("name", "shown"), [(b"caf\xe9.tif", "caf\\xe9.tif"), (b"a\nb.tif", "a\\x0ab.tif")])
def test_names_that_are_no_text_get_one_line(tmp_path: Path, name: bytes, shown: str) -> None:
    geotiffs.pair(tmp_path / "src", "a", s2(), s1())
    whole = (tmp_path / "src" / "s2" / "a.tif").read_bytes()
    Path(os.fsdecode(os.fsencode(tmp_path / "src" / "s2") + b"/" + name)).write_bytes(whole)
    done = command("pairs", tmp_path / "src", tmp_path / "db", "--s2", "s2", "--s2-bands", "B02,B03")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{shown} has a name " in done.stderr
    assert not (tmp_path / "db").exists()
    with pytest.raises(DataError, match=r"caf\\xe9 has a name that is not UTF-8"):
        ingest.ingest(pairs(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), tmp_path / "db"))


def test_copies_are_told_by_what_programs_add_to_a_name() -> None:
    added = ("-checkpoint", " (1)", "(2)", " - Copy", " - Copy (2)", " copy", " copy 2", "-Copy1", " (copy)", "_copy")
    shared = (
        " (3rd copy)",
        " (Copy 2)",
        " (Ann's conflicted copy 2024-05-01)",
        ".sync-conflict-20240501-101411-A7BC2DE",
    )
    made = {f"s/p{end}" for end in (*added, *shared)} | {"s/Copy of p", "s - Copy/p"}
    assert copies({"s/p", "s/q (1)", "s/photocopy", "t/p copy", *made}) == dict.fromkeys(made, "s/p")


# ---- names and keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("twin", ["a.tiff", "a.TIF", "a.jp2"])
def test_files_of_one_name_are_refused_before_anything_is_written(tmp_path: Path, twin: str) -> None:
    geotiffs.pair(tmp_path / "src", "a", s2(), s1())
    (tmp_path / "src" / "s2" / twin).write_bytes((tmp_path / "src" / "s2" / "a.tif").read_bytes())
    said = refused(pairs(tmp_path / "src", tmp_path / "db"))
    assert all(str(tmp_path / "src" / "s2" / name) in said for name in ("a.tif", twin))
    assert "have one name: keep one" in said
    assert not (tmp_path / "db").exists()
    (tmp_path / "src" / "s2" / twin).unlink()
    (tmp_path / "src" / "s2" / twin).symlink_to("a.tif")  # the same file
    ingest.ingest(pairs(tmp_path / "src", tmp_path / "db", offset="0"))
    assert Catalog.read(tmp_path / "db").samples.tolist() == ["a"]


def test_a_backup_never_stands_in_for_the_original(tmp_path: Path) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=3)
    geotiffs.sen12ms(tmp_path / "src" / "backup", places=1, seed=1)
    said = refused(Sen12ms(source, tmp_path / "db"))
    first = "ROIs1158_spring/lc_1/ROIs1158_spring_lc_1_p0.tif"
    assert str(source / first) in said
    assert str(source / "backup" / first) in said


def test_sen12ms_behind_links_is_found_and_other_geotiffs_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = geotiffs.sen12ms(tmp_path / "disk", places=4)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "ROIs1158_spring").symlink_to(source / "ROIs1158_spring")
    touch(source / "ROIs1158_spring" / "s2_1" / "p0-Copy1.tif", source / "ROIs1158_spring" / "s2_1" / "._p.tif")
    ingest.ingest(Sen12ms(tmp_path / "src", tmp_path / "db"))
    assert len(Catalog.read(tmp_path / "db")) == 4
    assert "GeoTIFFs that bear no SEN12MS name, not read: 1; the first: " in capsys.readouterr().out


def test_a_patch_in_two_scenes_is_refused(tmp_path: Path) -> None:
    for scene in "ab":
        touch(tmp_path / "BigEarthNet-S2" / scene / "p" / "p_B02.tif")
    said = refused(BigEarthNet(tmp_path, tmp_path / "db"))
    assert all(str(tmp_path / "BigEarthNet-S2" / scene / "p") in said for scene in "ab")


def test_a_tile_may_not_take_the_name_of_a_sample(tmp_path: Path) -> None:
    for name, size in (("a", 24), ("a_y0_x0", 12)):
        geotiffs.pair(tmp_path, name, s2(size), s1(size))
    assert "have one name of a tile, a_y0_x0" in refused(pairs(tmp_path, tmp_path / "db", patch=12, offset="0"))
    ingest.ingest(pairs(tmp_path, tmp_path / "whole", offset="0"))
    assert len(Catalog.read(tmp_path / "whole")) == 2


def test_both_spellings_of_an_accent_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
    assert composed != decomposed
    geotiffs.write(tmp_path / "s2" / f"{composed}.tif", s2())
    geotiffs.write(tmp_path / "s1" / f"{decomposed}.tif", s1())
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    made = Catalog.read(tmp_path / "db")
    assert (made.samples.tolist(), made.ms.tolist(), made.sar.tolist()) == (
        [composed], [f"{composed}_s2"], [f"{composed}_s1"],
    )  # fmt: skip
    geotiffs.write(tmp_path / "s2" / f"{decomposed}.tif", s2())
    assert "have one name" in refused(pairs(tmp_path, tmp_path / "other"))


def test_a_copy_beside_its_original_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "a-Copy1", "c (1)"):
        geotiffs.pair(tmp_path, name, s2(), s1())
    touch(tmp_path / "s2" / ".ipynb_checkpoints" / "b-checkpoint.tif", tmp_path / "s1" / "._a.tif")
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    assert Catalog.read(tmp_path / "db").samples.tolist() == ["a", "b", "c (1)"]
    assert reasons(tmp_path / "db") == {"a-Copy1": "it is named as a copy: of a"}


def test_one_file_under_two_names_is_one_sample(tmp_path: Path) -> None:
    for name in ("b", "c", "d"):
        geotiffs.pair(tmp_path, name, s2(), s1())
    (tmp_path / "s2" / "a.tif").symlink_to("b.tif")
    (tmp_path / "s1" / "a.tif").symlink_to("d.tif")
    os.link(tmp_path / "s2" / "c.tif", tmp_path / "s2" / "e.tif")
    (tmp_path / "s1" / "e.tif").symlink_to("c.tif")
    os.link(tmp_path / "s2" / "d.tif", tmp_path / "s2" / "aa.tif")  # left out anyway
    geotiffs.write(tmp_path / "s2" / "f.tif", s2(seed=1))
    (tmp_path / "s1" / "f.tif").symlink_to("c.tif")  # an S1 image may belong to two S2 images
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    assert Catalog.read(tmp_path / "db").samples.tolist() == ["b", "c", "d", "f"]
    assert reasons(tmp_path / "db") == {
        name: f"it is the same file as another: as that of {other}" for name, other in (("a", "b"), ("e", "c"))
    } | {"aa": "it has no s1 file"}


def test_source_may_be_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eurosat.make(tmp_path, classes=("Forest", "River"), lists=False)
    geotiffs.pair(tmp_path, "scene/a", s2(), s1())
    monkeypatch.chdir(tmp_path)
    ingest.ingest(EuroSatRgb(Path(), Path("db"), group="(Forest|River)/"))
    assert sorted(set(Catalog.read("db").group)) == ["Forest", "River"]
    ingest.ingest(pairs(Path("../") / tmp_path.name, Path("pairs"), offset="0"))
    assert Catalog.read("pairs").samples.tolist() == ["scene/a"]
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")  # --s2 lies below SOURCE wherever the command runs
    assert ingest.ingest(pairs(tmp_path, tmp_path / "pairs", offset="0")) == 0
    assert ingest.ingest(EuroSatRgb(tmp_path, tmp_path / "db", group="(Forest|River)/")) == 0


def test_jpeg_2000_is_read_as_geotiff_is(tmp_path: Path) -> None:
    layers, radar = s2(64), s1(64)
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    geotiffs.write(tmp_path / "s2" / "a.jp2", layers, **lossless)
    geotiffs.write(tmp_path / "s1" / "a.tif", radar)
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    got = geotiffs.tensors(tmp_path / "db")
    assert got["a_s2"]["B02"].dtype == np.uint16
    np.testing.assert_array_equal([got["a_s2"]["B02"], got["a_s2"]["B03"]], layers)
    layers = s2(64, count=13)
    geotiffs.write(tmp_path / "es" / "Forest" / "Forest_1.JP2", layers, **lossless)
    ingest.ingest(EuroSat(tmp_path / "es", tmp_path / "forest"))
    np.testing.assert_array_equal(geotiffs.tensors(tmp_path / "forest")["Forest_1"]["B8A"], layers[12])


# ---- classes ---------------------------------------------------------------------------------------------------------


def test_a_class_is_a_visible_folder_that_holds_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "src"
    eurosat.make(source, classes=("ice", "rock"), lists=False)
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        eurosat.write(source / folder / "ice_1.jpg", eurosat.image(np.random.default_rng(1)))
    touch(source / "aerial" / "readme.txt", source / "loose.jpg", source / "deep" / "er" / "x.jpg")
    for made in (
        EuroSatRgb(source, source / "db"),
        EuroSatRgb(source, source / "again"),
    ):  # with a database beside the classes
        ingest.ingest(made)
        assert Catalog.read(made.db).classes == ("ice", "rock")
        assert Catalog.read(made.db).label.tolist() == [0, 0, 0, 1, 1, 1]
    assert ingest.ingest(EuroSatRgb(source, source / "db")) == 0
    told = capsys.readouterr().out
    assert f"folders below {source} that hold no images and are no class: 2; the first: {source / 'aerial'}" in told
    assert f"images in no folder of a class right below {source}, not read: 2;" in told


def test_classes_that_change_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "src"
    eurosat.make(source, classes=("ice", "rock"), lists=False)
    done = EuroSatRgb(source, tmp_path / "done")
    for layout in (done, EuroSatRgb(source, tmp_path / "parts", shard="0/2")):
        ingest.ingest(layout)
    leave_unfinished(EuroSatRgb(source, tmp_path / "half"))
    eurosat.write(source / "fern" / "fern_1.jpg", eurosat.image(np.random.default_rng(1)))
    others = [EuroSatRgb(source, tmp_path / name, shard=shard) for name, shard in (("parts", "1/2"), ("half", ""))]
    for layout in (done, *others):
        with pytest.raises(DataError, match=r"was begun with classes \[\], now it is \['fern'\]"):
            ingest.ingest(layout)
    assert not (tmp_path / "parts" / "shard-0001-of-0002").exists()


def test_equal_names_in_two_classes_are_refused_at_once(tmp_path: Path) -> None:
    eurosat.make(tmp_path / "src", lists=False)
    twin = tmp_path / "src" / "Forest" / "AnnualCrop_1.jpg"
    eurosat.write(twin, eurosat.image(np.random.default_rng(1)))
    said = refused(EuroSatRgb(tmp_path / "src", tmp_path / "db"))
    assert str(twin) in said
    assert str(tmp_path / "src" / "AnnualCrop" / "AnnualCrop_1.jpg") in said


def test_lists_may_bear_folders_blanks_and_windows_line_ends(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels, source = eurosat.make(tmp_path / "src"), tmp_path / "src"
    for split, lead in (("train", ""), ("val", "{}/"), ("test", "EuroSAT\\{}\\")):
        path = source / f"eurosat-{split}.txt"
        listed = [line.rsplit(".", 1)[0] for line in path.read_text().splitlines()]
        lines = [f"{lead.format(name.split('_')[0])}{name}.jpg  " for name in listed]
        path.write_bytes("\r\n".join(["\ufeff" + lines[0], "", *lines[1:], ""]).encode())
    with open(source / "eurosat-test.txt", "a") as file:
        file.write("Forest/Forest_77.jpg\n")
    ingest.ingest(EuroSatRgb(source, tmp_path / "db"))
    made = Catalog.read(tmp_path / "db")
    assert dict(zip(made.samples, made.split, strict=True)) == dict(
        zip(pixels, ("train", "val", "test") * 3, strict=True)
    )
    assert made.classes == CLASSES
    assert "samples of the lists without a file: 1; the first: Forest_77" in capsys.readouterr().out
    with open(source / "eurosat-val.txt", "a") as file:
        file.write("Forest_1.tif\n")
    assert "eurosat-train.txt and eurosat-val.txt both name Forest_1" in refused(EuroSatRgb(source, tmp_path / "other"))
    (source / "eurosat-val.txt").write_bytes(b"caf\xe9\n")
    assert "eurosat-val.txt cannot be read" in refused(EuroSatRgb(source, tmp_path / "other"))


# ---- a finished database ---------------------------------------------------------------------------------------------


def test_a_finished_database_tells_of_files_that_came_and_went(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = geotiffs.sen12ms(tmp_path / "src", places=4)
    layouts = [
        Sen12ms(source, tmp_path / "db"),
        Sen12ms(source, tmp_path / "tiles", patch=12),
        *(Sen12ms(source, tmp_path / "parts", shard=f"{number}/2") for number in range(2)),
    ]
    for layout in layouts:
        ingest.ingest(layout)

    def said(layout: Sen12ms) -> str:
        capsys.readouterr()
        assert ingest.ingest(layout) == 0
        return capsys.readouterr().out

    half = Sen12ms(source, tmp_path / "half", shard="0/2")  # the rest may be in the other shard
    ingest.ingest(half)
    for layout in (*layouts, half):
        assert said(layout).count("\n") == 1
    geotiffs.sen12ms(source, places=6, seed=2)  # the first four anew, of the same names
    assert "has changed since: files of other shards, or of samples left out: delete" in said(half)
    next(source.rglob("*_s2_3_p2.tif")).rename(source / "ROIs1158_spring_s2_3_p9.tif")
    next(source.rglob("*_lc_2_p1.tif")).unlink()
    for layout in layouts:
        out = said(layout)
        assert "samples new: 3 (the first: ROIs1158_spring_1_p4)" in out
        assert "samples of other files or another split: 1 (the first: ROIs1158_spring_3_p2)" in out
        assert f"delete {layout.db} and ingest anew" in out
    for kind in ("s1", "s2", "lc"):
        for path in source.rglob(f"*_{kind}_1_p0.tif"):
            path.unlink()
    assert "samples gone or renamed: 1 (the first: ROIs1158_spring_1_p0)" in said(layouts[0])


def test_a_sample_that_was_left_out_and_is_whole_now_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = "c\u2028\x85d"  # line breaks for Python, none in a table
    for each in ("a", "b", name):
        geotiffs.pair(tmp_path, each, s2(), s1())
    (tmp_path / "s1" / f"{name}.tif").unlink()
    ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0"))
    capsys.readouterr()
    assert ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0")) == 0
    assert "has changed since" not in capsys.readouterr().out
    geotiffs.pair(tmp_path, name, s2(), s1())
    assert ingest.ingest(pairs(tmp_path, tmp_path / "db", offset="0")) == 0
    assert "has changed since: the files of samples that were left out: delete" in capsys.readouterr().out
