"""What a run reads is known again: under any path, in any process, and however it was replaced."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from rsdnet import bands
from rsdnet.data import identity
from rsdnet.data.catalog import COLUMNS, Catalog
from rsdnet.data.identity import differences, shared
from rsdnet.data.samples import Samples
from rsdnet.distributed import ALONE
from rsdnet.errors import DataError, Echo
from tests.support import databases, mixed

NAMES = (*bands.MS, *bands.SAR, "B01")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty samples, with a band beside those of the pools."""
    return mixed.make(tmp_path_factory.mktemp("identity") / "db", 40, side=12, names=NAMES)


def copy(db: Path, folder: Path) -> Path:
    """With the same names of samples."""
    shutil.copytree(db, folder)
    return folder


def differ(one: Samples, two: Samples) -> list[str]:
    """The kinds of what differs."""
    return [line.split(" ")[0] for line in differences(one.identity, two.identity)]


def test_the_digests_are_those_of_plain_python(tmp_path: Path) -> None:
    """Of three samples in two databases, of little-endian numbers; other digests need another version."""
    entries = {"s2": {"B04": np.arange(6, dtype=np.uint16).reshape(2, 3)}, "s1": {"VV": np.ones((2, 2), np.float32)}}
    folders = [tmp_path / "two", tmp_path / "one"]
    for folder, count in zip(folders, (2, 1), strict=True):
        values = {f"{key}_{at}": save(entries[key]) for key in entries for at in range(count)}
        databases.write_values(folder, values)  # type: ignore[arg-type]
        mixed.catalog(folder, count).write(folder)
    names = [
        f"{tmp_path.name}/{sample}\0s2_{key}\0s1_{key}" for sample, key in (("two_0", 0), ("two_1", 1), ("one_0", 0))
    ]
    each = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
    numbers = [int.from_bytes(digest, "little") for digest in each]
    found = Samples(folders, "ms+sar", {"ms": ("B04",), "sar": ("VV",)}).identity
    ids = bands.NAMES.index("B04"), bands.NAMES.index("VV")
    kinds = np.array([[2, 2, 3, ids[0]], [4, 2, 2, ids[1]]], "<i8").tobytes()  # code of the type, height, width, band
    pixels = entries["s2"]["B04"].tobytes() + entries["s1"]["VV"].tobytes()
    rows = np.array([2, 1, 0, 1, 2], "<i8").tobytes()  # samples in either, then rows
    assert found == {
        "version": 1,
        "count": 3,
        "samples": hashlib.sha256(b"".join(n.to_bytes(8, "little") for n in sorted(numbers))).hexdigest(),
        "order": hashlib.sha256(rows + b"".join(each)).hexdigest(),
        "data": hashlib.sha256(kinds * 3 + pixels * 3).hexdigest(),
        "bands": {"ms": ["B04"], "sar": ["VV"]},
    }


CHILD = """
import json, sys
from rsdnet.data.samples import Samples
print(json.dumps(Samples(sys.argv[1], threads=int(sys.argv[2])).identity))
"""


@pytest.mark.parametrize("whole", [identity.WHOLE, 0])
def test_paths_processes_and_threads_do_not_count(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr(identity, "WHOLE", whole)
    expected = mixed.samples_of(db).identity
    (tmp_path / "link").symlink_to(db)
    monkeypatch.chdir(db.parent)
    for path, threads in ((copy(db, tmp_path / "moved"), 1), (tmp_path / "link", 3), (Path(db.name), 2)):
        assert mixed.samples_of(path, threads=threads).identity == expected
    if whole:
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        argv = [sys.executable, "-c", CHILD, str(tmp_path / "moved"), "2"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
        assert json.loads(done.stdout) == expected


def rewritten(change: Callable[[Catalog], Catalog]) -> Callable[[Path], None]:
    def write(db: Path) -> None:
        change(Catalog.read(db)).write(db)

    return write


def renamed(catalog: Catalog) -> Catalog:
    catalog.samples[7] = "another"
    return catalog


def swapped_keys(catalog: Catalog) -> Catalog:
    """The same patches, paired otherwise."""
    catalog.ms[[3, 4]] = catalog.ms[[4, 3]]
    return catalog


def relabelled(catalog: Catalog) -> Catalog:
    catalog.label[:] = 0
    return catalog


def changed_entry(key: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(db: Path) -> None:
        entry = mixed.entries(db)[key]
        mixed.replace(db, {key: save({**entry, name: np.ascontiguousarray(change(entry[name]))})})

    return write


def one_pixel(band: np.ndarray) -> np.ndarray:
    band = band.copy()
    band[-1, -1] += 1
    return band


CASES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "reversed": (rewritten(lambda catalog: catalog.take(np.arange(40)[::-1])), ["order"]),
    "one less": (rewritten(lambda catalog: catalog.take(np.arange(39))), ["samples"]),
    "renamed": (rewritten(renamed), ["samples"]),
    "paired otherwise": (rewritten(swapped_keys), ["samples"]),
    "labels": (rewritten(relabelled), []),
    "one pixel": (changed_entry("s2_31", "B12", one_pixel), ["data"]),
    "one pixel of SAR": (changed_entry("s1_2", "VH", one_pixel), ["data"]),
    "another type": (changed_entry("s1_9", "VV", lambda band: band.astype(np.int16)), ["data"]),
    "another shape": (changed_entry("s2_9", "B04", lambda band: band[:6].repeat(2, 0)[:, ::-1]), ["data"]),
    "a band that is not read": (changed_entry("s2_3", "B01", one_pixel), []),
}


@pytest.mark.parametrize(("change", "expected"), CASES.values(), ids=CASES)
def test_what_differs_is_named(db: Path, tmp_path: Path, change: Callable[[Path], None], expected: list[str]) -> None:
    other = copy(db, tmp_path / "db")
    change(other)
    assert differ(mixed.samples_of(db), mixed.samples_of(other)) == expected


def test_of_a_large_database_types_and_sizes_are_known_and_pixels_sampled(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "WHOLE", 20_000)  # bytes; the database has more
    monkeypatch.setattr(identity, "SAMPLED", 8)
    read: list[int] = []
    plain = identity._read

    def counted(*about: Any) -> Any:
        for pixels in plain(*about):
            read.append(len(pixels))
            yield pixels

    monkeypatch.setattr(identity, "_read", counted)
    before = mixed.samples_of(db)
    assert before.identity
    assert len(read) == 2 * 8
    assert len(set(read)) > 2  # bands of 10 m and of 20 m, and of another type
    shape = copy(db, tmp_path / "shape")  # of one entry in forty
    changed_entry("s1_9", "VV", lambda band: band.astype(np.float16))(shape)
    assert differ(before, mixed.samples_of(shape)) == ["data"]
    noticed = copy(db, tmp_path / "noticed")
    for key in mixed.entries(db):
        if key.startswith("s1"):
            changed_entry(key, "VH", lambda band: band + 1)(noticed)
    assert differ(before, mixed.samples_of(noticed)) == ["data"]
    other = mixed.make(tmp_path / "other", 40, side=12, names=NAMES, seed=9)
    Catalog.read(db).write(other)
    assert differ(before, mixed.samples_of(other)) == ["data"]


def test_databases_in_another_order_are_another_order(db: Path, tmp_path: Path) -> None:
    other = mixed.make(tmp_path / "other", 5, side=12)
    assert differ(mixed.samples_of(db, other), mixed.samples_of(other, db)) == ["order"]
    assert differ(mixed.samples_of(db, other), mixed.samples_of(db)) == ["samples"]


def test_a_cache_does_not_change_it(db: Path) -> None:
    kept = mixed.samples_of(db)
    kept.fill_cache("device")
    assert kept.identity == mixed.samples_of(db).identity


def test_a_sample_that_cannot_be_read_any_more_is_another_set_of_samples(db: Path, tmp_path: Path) -> None:
    other = copy(db, tmp_path / "db")
    mixed.replace(other, {"s1_5": b"", "s2_30": None})
    before, after = mixed.samples_of(db), mixed.samples_of(other)
    assert differences(before.identity, after.identity) == ["samples (40 then, 38 now)"]
    left = [at for at in range(40) if at not in (5, 30)]
    catalog = Catalog.read(db)
    keys = zip(*(getattr(catalog, name)[left] for name in COLUMNS[:3]), strict=True)
    assert after._hashes.tolist() == identity.sample_hashes(*zip(*keys, strict=True)).tolist()


def test_statistics_are_compared_by_band() -> None:
    one = {"version": 1, "samples": "a", "order": "b", "data": "c", "bands": {}, "count": 1}
    same = {"B04": [1000.0, 200.0], "VV": [-12.0, 3.0]}
    assert not differences({**one, "statistics": same}, {**one, "statistics": {"B04": [1000 * (1 + 1e-12), 200.0]}})
    other = {**same, "B04": [1000.001, 200.0]}
    (line,) = differences({**one, "statistics": same}, {**one, "statistics": other})
    assert line == "statistics (B04: mean 1000, deviation 200 then, mean 1000.001, deviation 200 now)"


def test_units_are_compared(db: Path) -> None:
    own = mixed.samples_of(db).identity
    assert differences({**own, "unit": "dn"}, {**own, "unit": "byte"}) == ["unit (dn then, byte now)"]
    assert differences({**own, "unit": "dn"}, own) == differences(own, {**own, "unit": "dn"}) == []


def test_what_is_not_known_does_not_differ(db: Path) -> None:
    own = mixed.samples_of(db).identity
    assert differences({}, own) == differences({**own, "version": 0, "samples": ""}, own) == []


@pytest.mark.parametrize(("rank", "kind"), [(0, DataError), (1, Echo)])
def test_ranks_that_read_other_data_are_told(db: Path, rank: int, kind: type[DataError]) -> None:
    own = mixed.samples_of(db).identity
    assert shared(own, ALONE) == own
    ranks = [own, {**own, "data": "another"}]

    class Ranks:
        main = rank == 0

        def collect(self, thing: Any) -> list[Any]:
            assert thing == ranks[rank]
            return ranks

    with pytest.raises(DataError, match="rank 1 reads other data than rank 0: data") as caught:
        shared(ranks[rank], Ranks())  # type: ignore[arg-type]
    assert type(caught.value) is kind
