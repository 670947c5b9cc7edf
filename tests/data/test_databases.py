"""Several databases as one: their catalogs, read in little memory."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsdnet.console import size
from rsdnet.data import databases
from rsdnet.data.catalog import COLUMNS, Catalog, objects
from rsdnet.data.databases import Databases
from rsdnet.data.dataset import Patches
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from rsdnet.evaluate.features import labelled_modalities
from tests.support import mixed


def catalog(names: list[str], classes: tuple[str, ...] = ("x", "y")) -> Catalog:
    count = len(names)
    return Catalog(
        samples=objects(names),
        ms=objects([f"{name}_s2" if at % 3 else None for at, name in enumerate(names)]),
        sar=objects([f"{name}_s1" for name in names]),
        map=objects([f"{name}_map" for name in names]),
        label=np.arange(count, dtype=np.int32) % 3 - 1,
        split=objects([("train", "val", "test")[at % 3] for at in range(count)]),
        classes=classes,
        meta={"version": 1, "layout": "z"},
        group=objects([f"scene{at // 5}" for at in range(count)]),
        lon=np.where(np.arange(count) % 4, np.arange(count) % 180, np.nan),
    )


def write(folder: Path, made: Catalog) -> Path:
    folder.mkdir()
    made.write(folder)
    return folder


def assert_same(a: Catalog, b: Catalog) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.classes, a.meta) == (b.classes, b.meta)


@pytest.mark.parametrize("other", [("x", "y"), ("x", "z")])
def test_the_pieces_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, ...]) -> None:
    made = [catalog([f"a{i}" for i in range(25)]), catalog([f"b{i}" for i in range(7)], other)]
    folders = [write(tmp_path / str(at), one) for at, one in enumerate(made)]
    monkeypatch.setattr(Catalog.scan.__func__, "__defaults__", (4,))
    found = Databases(folders)
    pieces = list(found)
    assert max(len(piece.catalog) for piece in pieces) == 4
    assert [piece.first for piece in pieces] == np.cumsum([0, *(len(piece.catalog) for piece in pieces)])[:-1].tolist()
    same = other == ("x", "y")  # else a label means different things
    assert (found.counts, len(found), found.classes) == ([25, 7], 32, other if same else ())
    for rows in (np.array([0, 3, 4, 11, 24, 25, 31]), np.arange(32)):
        got = found.take(rows)
        for name in COLUMNS:
            values = np.concatenate([getattr(one, name) for one in made])[rows]
            unlabelled = {"label": [-1] * len(rows), "map": [None] * len(rows)} if not same else {}
            np.testing.assert_array_equal(getattr(got, name), unlabelled.get(name, values))
        assert (got.classes, got.meta["version"]) == (found.classes, 1)
    assert_same(Databases(folders[0]).take(np.arange(25)), Catalog.read(folders[0]))


def test_a_name_that_stands_twice_is_found_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write(tmp_path / str(at), catalog([f"{at}_{i}" for i in range(9)])) for at in range(2)]
    folders.append(write(tmp_path / "again", catalog(["n", "1_4"])))
    Databases(folders[:2])
    with pytest.raises(DataError, match="sample '1_4' stands in the catalog more than once"):
        Databases(folders)
    monkeypatch.setattr(Catalog.scan.__func__, "__defaults__", (4,))
    twice = [f"c{i}" for i in range(9)]
    monkeypatch.setattr(Catalog, "_check", lambda self, where: None)
    folder = write(tmp_path / "twice", catalog([*twice, "c0"]))
    with pytest.raises(DataError, match="twice: sample 'c0' stands"):
        Databases([folder])


def test_hashes_that_are_equal_by_chance_are_no_doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "hash", lambda name: len(name), raising=False)
    assert len(Databases([write(tmp_path / "db", catalog(["a", "b", "cc"]))])) == 3


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no database was named"):
        Databases([])
    with pytest.raises(DataError, match=r"catalog\.parquet is missing"):
        Databases([tmp_path])
    folder = write(tmp_path / "db", catalog(["a", "b", "c"]))
    made = Databases([folder])
    catalog(["a"]).write(folder)
    with pytest.raises(DataError, match="has lost samples"):
        made.take(np.arange(3))


def test_selections_of_samples_are_those_of_the_whole_catalog(tiny_db: Path, tmp_path: Path) -> None:
    whole = Catalog.read(tiny_db)
    pools = {"ms": ("B02",), "sar": ("VV",)}
    for select in ({"split": "train"}, {"labelled": True}, {"split": "test", "labelled": True}, {}):
        found = Samples([tiny_db], "ms+sar", pools, **select)  # type: ignore[arg-type]
        assert np.array_equal(found.rows, np.flatnonzero(whole.mask(modality="ms+sar", **select)))  # type: ignore[arg-type]
        assert_same(found.catalog, whole.take(found.rows))
    whole.take(whole.mask(split="train")).write(write(tmp_path / "db", whole))
    (tmp_path / "db" / "data.mdb").symlink_to(tiny_db / "data.mdb")
    with pytest.raises(DataError, match=r"no val samples with ms\+sar entries \(there are: ms 0, sar 0\)"):
        Samples(tmp_path / "db", "ms+sar", pools, split="val")


def test_many_samples_that_cannot_be_read_are_counted_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsdnet.data.samples.REASONS", 3)
    db = mixed.make(tmp_path / "db", 20)
    mixed.replace(db, {f"s1_{at}": b"" for at in range(10)})
    samples = mixed.samples_of(db)
    assert len(samples.left_out) == 4
    assert sum(samples.left_out.values()) == 10
    assert "left out 10 of 20 samples that cannot be read; the first: " in (samples.report() or "")


def labelled(name: str, classes: tuple[str, ...], *, labels: bool = True) -> Catalog:
    made = catalog([f"{name}{at}" for at in range(6)], classes)
    made.label[:] = np.arange(6) % 2 if labels else -1
    made.map[:] = None
    return made


DIFFER = [
    (("x", "y"), ("x", "z"), "a has 2 classes (x, y), b has 2 classes (x, z); label 1 is 'y' in the one and 'z' in"),
    (("x", "y"), ("x", "y", "z"), "label 2 is no such class in the one and 'z' in the other"),
    (("x", "y"), (), "b has labels without class names, "),
    ((), ("d", "e", "f", "g"), "a has labels without class names, "),
]


@pytest.mark.parametrize(("one", "two", "said"), DIFFER)
def test_labels_that_mean_different_things_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: tuple[str, ...], two: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [mixed.make(Path(name), 6) for name in "ab"]
    for folder, classes in zip(folders, (one, two), strict=True):
        made = Catalog.read(folder)
        replace(made, classes=classes, label=made.label % 2).write(folder)
    for ask in (
        lambda: Databases(folders).require_one_list(),
        lambda: labelled_modalities(folders, "ms+sar"),
        lambda: Samples(folders, labelled=True),
        lambda: Samples(folders, labelled=False),
    ):
        with pytest.raises(DataError, match=re.escape(said)) as caught:
            ask()
        assert str(caught.value).startswith("class lists differ: ")
    with pytest.warns(UserWarning, match="class lists differ: .*; here no patch has a label"):
        patches = Patches(folders)
    assert set(patches.labels.tolist()) == {-1}


def test_a_copy_with_other_class_names_is_another_list(tmp_path: Path) -> None:
    """Its ingest is the same, as that of shards."""
    for name, classes in (("a", ("x", "y")), ("b", ("y", "x"))):
        write(tmp_path / name, replace(labelled(name, classes), meta={"ingest": {"source": "s", "listing": "l"}}))
    told = Databases([tmp_path / "a", tmp_path / "b"]).other_lists()
    assert told is not None
    assert "label 0 is 'x' in the one and 'y' in the other" in told


def test_a_class_list_counts_where_there_are_labels(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", labelled("a", ("x", "y"))), write(tmp_path / "b", labelled("b", (), labels=False))]
    for order in (folders, folders[::-1]):
        found = Databases(order)
        found.require_one_list()
        assert found.classes == ("x", "y")
        assert sorted(label for piece in found for label in piece.catalog.label) == [-1] * 6 + [0] * 3 + [1] * 3
        assert found.doubt is None


@pytest.mark.parametrize("classes", [(), ("0", "1")])
def test_labels_without_names_are_taken_alike_and_said_to_be(tmp_path: Path, classes: tuple[str, ...]) -> None:
    folders = [write(tmp_path / name, labelled(name, classes)) for name in "ab"]
    found = Databases(folders)
    found.require_one_list()
    assert "the same label is taken for the same class" in (found.doubt or "")
    assert Databases(folders[:1]).doubt is None


def test_no_samples_are_told_with_where_there_are_some(tiny_db: Path, tmp_path: Path) -> None:
    whole = Catalog.read(tiny_db)
    folder = write(tmp_path / "db", whole)
    whole.take(whole.mask(split="train")).write(folder)
    (folder / "data.mdb").symlink_to(tiny_db / "data.mdb")
    with pytest.raises(DataError, match=r"no val samples .*; other splits hold such samples: train 36$"):
        Samples(folder, split="val")


MEMORY = """
import resource, sys
from pathlib import Path
from rsdnet.data.databases import Databases
from rsdnet.data.dataset import Patches
import pyarrow.parquet
Databases([Path(sys.argv[1])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(Databases([Path(sys.argv[2])])) == 400000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_a_large_catalog_takes_little_memory(tmp_path: Path) -> None:
    names = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{at:06d}" for at in range(400_000)]
    small, large = write(tmp_path / "small", catalog(names[:1000])), write(tmp_path / "large", catalog(names))
    done = subprocess.run([sys.executable, "-c", MEMORY, small, large], capture_output=True, text=True, check=True)
    whole = 400_000 * 6 * 60  # at least, as Python's strings
    assert int(done.stdout) < whole / 2, size(int(done.stdout))
