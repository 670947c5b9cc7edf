"""Catalogs read in pieces: the same samples as when they are read whole, in little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsdnet.console import size
from rsdnet.data import databases
from rsdnet.data.catalog import Catalog, concat
from rsdnet.data.databases import Scan
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from tests.support import mixed, tiny


def catalog(names: list[str], classes: tuple[str, ...] = ("x", "y")) -> Catalog:
    count = len(names)
    return Catalog(
        samples=tiny.objects(names),
        ms=tiny.objects([f"{name}_s2" if at % 3 else None for at, name in enumerate(names)]),
        sar=tiny.objects([f"{name}_s1" for name in names]),
        map=tiny.objects([f"{name}_map" for name in names]),
        label=np.arange(count, dtype=np.int32) % 3 - 1,
        split=tiny.objects([("train", "val", "test")[at % 3] for at in range(count)]),
        classes=classes,
        meta={"version": 1, "layout": "z"},
    )


def write(folder: Path, made: Catalog) -> Path:
    folder.mkdir()
    made.write(folder)
    return folder


def assert_same(a: Catalog, b: Catalog) -> None:
    for name in ("samples", "ms", "sar", "map", "label", "split"):
        assert getattr(a, name).tolist() == getattr(b, name).tolist()
    assert (a.classes, a.meta) == (b.classes, b.meta)


@pytest.mark.parametrize("other", [("x", "y"), ("x", "z")])
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_pieces_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, ...], in_memory: bool
) -> None:
    made = [catalog([f"a{i}" for i in range(25)]), catalog([f"b{i}" for i in range(7)], other)]
    folders = [write(tmp_path / str(at), one) for at, one in enumerate(made)]
    monkeypatch.setattr(Catalog.scan.__func__, "__defaults__", (4,))
    monkeypatch.setattr(databases, "PIECE", 4)
    found = Scan(folders, made if in_memory else None)
    pieces = list(found)
    assert max(len(piece.catalog) for piece in pieces) == 4
    assert [piece.first for piece in pieces] == np.cumsum([0, *(len(piece.catalog) for piece in pieces)])[:-1].tolist()
    whole = concat([Catalog.read(folder) for folder in folders])
    assert (found.counts, len(found), found.classes) == ([25, 7], 32, whole.classes)
    rows = np.array([0, 3, 4, 11, 24, 25, 31])
    assert_same(found.take(rows), whole.take(rows))
    assert_same(found.take(np.arange(32)), whole)
    assert_same(Scan(folders[:1]).take(np.arange(25)), Catalog.read(folders[0]))


def test_a_name_that_stands_twice_is_found_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write(tmp_path / str(at), catalog([f"{at}_{i}" for i in range(9)])) for at in range(2)]
    folders.append(write(tmp_path / "again", catalog(["n", "1_4"])))
    Scan(folders[:2])
    with pytest.raises(DataError, match="the databases together: sample '1_4' stands in it more than once"):
        Scan(folders)
    monkeypatch.setattr(Catalog.scan.__func__, "__defaults__", (4,))
    twice = [f"c{i}" for i in range(9)]
    monkeypatch.setattr(Catalog, "_check", lambda self, where: None)
    folder = write(tmp_path / "twice", catalog([*twice, "c0"]))
    with pytest.raises(DataError, match=r"twice/catalog\.parquet: sample 'c0' stands"):
        Scan([folder])


def test_hashes_that_are_equal_by_chance_are_no_doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "hash", lambda name: len(name), raising=False)
    assert len(Scan([write(tmp_path / "db", catalog(["a", "b", "cc"]))])) == 3


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no database was named"):
        Scan([])
    with pytest.raises(DataError, match=r"catalog\.parquet is missing"):
        Scan([tmp_path])
    folder = write(tmp_path / "db", catalog(["a", "b", "c"]))
    made = Scan([folder])
    catalog(["a"]).write(folder)
    with pytest.raises(DataError, match="has lost samples"):
        made.take(np.arange(3))


def test_selections_of_samples_are_those_of_the_whole_catalog(tiny_db: Path) -> None:
    whole = Catalog.read(tiny_db)
    pools = {"ms": ("B02",), "sar": ("VV",)}
    for select in ({"split": "train"}, {"labelled": True}, {"split": "test", "labelled": True}, {}):
        found = Samples([tiny_db], "ms+sar", pools, **select)  # type: ignore[arg-type]
        assert np.array_equal(found.rows, np.flatnonzero(whole.mask(modality="ms+sar", **select)))  # type: ignore[arg-type]
        assert_same(found.catalog, whole.take(found.rows))
    train = whole.select(split="train")
    with pytest.raises(DataError, match=r"no val samples with ms\+sar entries \(there are: ms 0, sar 0\)"):
        Samples([tiny_db], "ms+sar", pools, split="val", catalog=train)


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


MEMORY = """
import resource, sys
from pathlib import Path
from rsdnet.scan import Scan
import pyarrow.parquet
Scan([Path(sys.argv[1])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(Scan([Path(sys.argv[2])])) == 400000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_a_large_catalog_takes_little_memory(tmp_path: Path) -> None:
    names = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{at:06d}" for at in range(400_000)]
    small, large = write(tmp_path / "small", catalog(names[:1000])), write(tmp_path / "large", catalog(names))
    done = subprocess.run([sys.executable, "-c", MEMORY, small, large], capture_output=True, text=True, check=True)
    whole = 400_000 * 6 * 60  # at least, as Python's strings
    assert int(done.stdout) < whole / 2, size(int(done.stdout))


def test_sizes_as_people_read_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 3_200_000_000, 5e13)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "3.2 GB",
        "50.0 TB",
    ]
