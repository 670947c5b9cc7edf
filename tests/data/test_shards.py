"""Ingest in shards: whatever their number, read as one they are the database that one ingest would have written."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet import bands
from rsdnet.config import Config, DataConfig
from rsdnet.data import shards
from rsdnet.data.catalog import COLUMNS, Catalog
from rsdnet.data.databases import Databases, divide
from rsdnet.data.dataset import Patches
from rsdnet.data.loader import Batch, Loader
from rsdnet.data.normalisation import statistics_of
from rsdnet.data.samples import Samples
from rsdnet.data.shards import Shard
from rsdnet.data.statistics import HISTOGRAMS, read_stats
from rsdnet.errors import DataError
from rsdnet.info.info import info
from rsdnet.ingest import ingest
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from rsdnet.pictures import pictures
from tests.info.test_info import rows
from tests.ingest.test_ingest import pairs, s1, s2
from tests.ingest.test_ingest_bad import _environment, _words, leave_unfinished, same
from tests.support import geotiffs

PLACES = 13


def sharded(source: Path, db: Path, of: int, **options: object) -> Path:
    for number in reversed(range(of)):  # in whatever order the jobs run
        assert ingest.ingest(Sen12ms(source, db, shard=f"{number}/{of}", **options)) == 0  # type: ignore[arg-type]
    return db


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen places in four scenes, of which one is broken and one has too many invalid pixels."""
    root = geotiffs.sen12ms(tmp_path_factory.mktemp("source"), PLACES)
    broken = next(root.rglob("*_s2_*_p5.tif"))
    broken.write_bytes(broken.read_bytes()[:99])
    radar = s1(24)
    radar[0, :12] = np.nan
    geotiffs.write(next(root.rglob("*_s1_*_p6.tif")), radar)
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("whole") / "db"
    assert ingest.ingest(Sen12ms(source, db)) == 0
    return db


@pytest.fixture(scope="module", params=[1, 4, 20])
def parted(source: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same in shards; of twenty, seven have no source."""
    return sharded(source, tmp_path_factory.mktemp("parted") / "db", request.param)


@given(st.integers(0, 300), st.integers(1, 40))
def test_stretches_joined_are_the_whole(count: int, of: int) -> None:
    things = list(range(count))
    own = [things[Shard(number, of).stretch(count)] for number in range(of)]
    assert [thing for part in own for thing in part] == things
    assert max(map(len, own)) - min(map(len, own)) <= 1


@given(st.integers(0, 1000), st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_a_total_is_divided_in_proportion(total: int, counts: list[int]) -> None:
    given = divide(total, counts)
    assert sum(given) == total
    if sum(counts):
        assert all(abs(one - total * count / sum(counts)) < 1 for one, count in zip(given, counts, strict=True))
        assert all(one == 0 for one, count in zip(given, counts, strict=True) if count == 0)


def test_the_catalog_is_that_of_one_ingest(whole: Path, parted: Path) -> None:
    want = Catalog.read(whole)
    found = Databases([parted])
    got = found.take(np.arange(len(found)))
    assert len(want) == PLACES - 2
    assert set(want.split) == {"train", "val", "test"}
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(got, column), getattr(want, column))
    assert (got.classes, got.meta) == (want.classes, want.meta)


def test_entries_and_lists_are_those_of_one_ingest(whole: Path, parted: Path) -> None:
    got: dict[str, bytes] = {}
    left_out = []
    for folder in sorted(parted.iterdir()):
        own = geotiffs.entries(folder)
        assert not got.keys() & own.keys()
        got |= own
        if (folder / "left_out.tsv").exists():
            left_out += (folder / "left_out.tsv").read_text().splitlines()[1:]
    assert got == geotiffs.entries(whole)
    assert left_out == (whole / "left_out.tsv").read_text().splitlines()[1:]


def test_statistics_are_those_of_one_ingest(whole: Path, parted: Path) -> None:
    want, got = read_stats(whole), read_stats(parted)
    assert {**got, "bands": {}} == {**want, "bands": {}}
    assert list(got["bands"]) == list(want["bands"])
    for name, band in want["bands"].items():
        told = got["bands"][name]
        if bands.BANDS[name].modality == "sar":  # floats' sums depend on the order
            assert told.pop("mean") == pytest.approx(band.pop("mean"), rel=1e-13)
            assert told.pop("std") == pytest.approx(band.pop("std"), rel=1e-13)
        assert told == band


def test_training_sees_the_same_samples_views_and_statistics(whole: Path, parted: Path) -> None:
    seen = []
    for db in (whole, parted):
        loader = Loader(db, batch=3, seed=5, split="train", drop_last=False)
        seen.append([(batch.samples.tolist(), contents(batch)) for batch in loader])
    assert seen[0] == seen[1]
    assert sum(len(samples) for samples, _ in seen[0]) == (Catalog.read(whole).split == "train").sum() > 3
    one, two = (statistics_of(Config(data=DataConfig((db,)))) for db in (whole, parted))
    assert {name: pytest.approx(value, rel=1e-13) for name, value in one.items()} == two


def contents(batch: Batch) -> list[tuple[bytes, list[int]]]:
    """The bytes of each band of a batch, with its type, height, width and band."""
    sizes = {0: 1, 1: 2, 2: 2, 3: 2, 4: 4}
    flat = batch.records.reshape(-1, 5).tolist()
    data = batch.data.numpy()
    return [(data[o : o + h * w * sizes[code]].tobytes(), [code, h, w, band]) for o, code, h, w, band in flat]


def test_every_way_to_read_takes_the_folder_of_shards(whole: Path, parted: Path, capsys: pytest.CaptureFixture) -> None:
    one, two = Patches(whole, ["B02", "VV"]), Patches(str(parted), ["B02", "VV"])
    assert len(one) == len(two) == PLACES - 2
    for left, right in ((one[index], two[index]) for index in range(len(one))):
        assert (left.name, left.label) == (right.name, right.label)
        assert all(bool((left.bands[name] == right.bands[name]).all()) for name in left.bands)
    capsys.readouterr()
    tables = []
    for db in (whole, parted):
        assert info(db, verify=True) == 0
        out = capsys.readouterr().out
        tables.append([rows(out, name) for name in ("train", "test", "all", "9", "B8A", "VH")])
        assert f"all {3 * (PLACES - 2)} entries were read whole" in out
    assert tables[0] == tables[1]
    grids = [pictures(db, Config(), samples=2, pairs=1) for db in (whole, parted)]
    for (title, image), (other, again) in zip(grids[0][1], grids[1][1], strict=True):
        assert title == other
        np.testing.assert_allclose(image, again, rtol=0, atol=1e-6)


def test_weights_give_a_folder_of_shards_what_they_give_a_database(whole: Path, source: Path, tmp_path: Path) -> None:
    parted = sharded(source, tmp_path / "db", 4)
    other = tmp_path / "other"
    for place in range(5):
        geotiffs.pair(tmp_path / "more", f"q{place}", s2(24, count=13), s1(24))
    ingest.ingest(pairs(tmp_path / "more", other, s2_bands="L1C"))
    pools = {"ms": ("B02",), "sar": ("VV",)}
    one, two = (Samples([db, other], "ms+sar", pools) for db in (whole, parted))
    assert two.databases.named == (parted, other)
    assert len(two.databases.folders) == 5
    for weights in ((1, 1), (1, 3), (0.1, 0.2), (0, 1)):
        want, got = one.quotas(weights), two.quotas(weights)
        assert want is not None
        assert got is not None
        assert [sum(got[:4]), *got[4:]] == want
        loaders = [Loader(samples, batch=2, weights=weights, drop_last=False) for samples in (one, two)]
        seen = [[at for batch in loader for at in batch.positions.tolist()] for loader in loaders]
        first = [sum(at < PLACES - 2 for at in own) for own in seen]  # of the database that is in shards
        assert first == [want[0], want[0]]
    assert two.quotas(()) is None
    with pytest.raises(DataError, match="3 weights for 2 databases"):
        two.quotas((1, 1, 1))


def test_labels_without_class_names_mean_the_same_in_every_shard(tmp_path: Path) -> None:
    """Each shard names its classes by the highest label that it has seen itself."""
    for place, value in enumerate((1, 7, 3, 0)):
        geotiffs.pair(tmp_path, f"q{place}", s2(), s1())
        geotiffs.write(tmp_path / "map" / f"q{place}.tif", np.full((1, 12, 12), value, np.uint8))
    options = {"label": Path("map"), "val": 0, "test": 0}
    ingest.ingest(pairs(tmp_path, tmp_path / "whole", **options))
    for number in range(6):
        ingest.ingest(pairs(tmp_path, tmp_path / "db", shard=f"{number}/6", **options))
    want, found = Catalog.read(tmp_path / "whole"), Databases([tmp_path / "db"])
    got = found.take(np.arange(4))
    assert got.label.tolist() == want.label.tolist() == [1, 7, 3, 0]
    assert got.classes == want.classes == tuple("01234567")
    assert all(piece.catalog.classes == want.classes for piece in found)


def test_a_shard_may_have_nothing_but_bad_sources(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bad = [one.name for one in Sen12ms(source, tmp_path).sources()].index("ROIs1158_spring_2_p5")
    assert ingest.ingest(Sen12ms(source, tmp_path / "db", shard=f"{bad}/{PLACES}")) == 0
    assert "0 samples" in capsys.readouterr().out
    folder = tmp_path / "db" / Shard(bad, PLACES).name
    assert len(Catalog.read(folder)) == 0
    assert (folder / "left_out.tsv").read_text().count("\n") == 2
    for number in set(range(PLACES)) - {bad}:
        (tmp_path / "db" / Shard(number, PLACES).name).mkdir()
        Catalog.read(folder).write(tmp_path / "db" / Shard(number, PLACES).name)
    with pytest.raises(DataError, match=f"none of its {PLACES} shards holds a sample"):
        Databases([tmp_path / "db"])


@pytest.mark.parametrize(("looked", "failed"), [(128, "nothing of .*"), (4, "none of 4 sources of .*")])
def test_options_that_no_source_fits_are_blamed_in_every_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked: int, failed: str
) -> None:
    monkeypatch.setattr("rsdnet.ingest.survey._LOOKED", looked)
    for place in range(6):
        geotiffs.pair(tmp_path, f"{place:02}", s2(4, count=3), s1(4))
    for number in range(2):
        with pytest.raises(DataError, match=f"{failed} could be ingested: .*has 3 layers, but 2 bands are named"):
            ingest.ingest(pairs(tmp_path, tmp_path / "db", shard=f"{number}/2"))
    assert not list(tmp_path.rglob("data.mdb"))


def test_jobs_at_once_that_do_not_know_of_each_other(whole: Path, source: Path, tmp_path: Path) -> None:
    jobs = [
        subprocess.Popen(
            _words("sen12ms", source, tmp_path / "db", "--shard", f"{number}/3"), env=_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for job in jobs:
        out, error = job.communicate(timeout=120)
        assert job.returncode == 0, error
        assert "-of-0003: " in out
    assert len(Databases([tmp_path / "db"])) == len(Catalog.read(whole))


def test_an_interrupted_shard_goes_on_and_a_finished_one_is_left_alone(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sharded(source, tmp_path / "want", 2)
    leave_unfinished(Sen12ms(source, tmp_path / "db", shard="1/2"))
    with pytest.raises(DataError, match=r"db: shards are missing: 0/2; not finished: 1/2: run "):
        Databases([tmp_path / "db"])
    sharded(source, tmp_path / "db", 2)
    assert "continuing" in capsys.readouterr().out
    sharded(source, tmp_path / "db", 2)
    assert capsys.readouterr().out.count("is finished: ") == 2
    for number in range(2):
        same(*(tmp_path / db / Shard(number, 2).name for db in ("db", "want")))


@pytest.mark.parametrize("text", ["3/2", "2/2", "-1/4", "a/b", "0/0", "1", "/", "1/2/3", "1.0/2", " 0/1", "0/1\n"])
def test_what_names_no_shard(source: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"^--shard is '.*', but must be I/N with I from 0 to N - 1"):
        ingest.ingest(Sen12ms(source, tmp_path / "db", shard=text))
    assert not (tmp_path / "db").exists()


def test_shards_that_do_not_belong_together(source: Path, whole: Path, tmp_path: Path) -> None:
    def said() -> str:
        with pytest.raises(DataError) as caught:
            Samples(tmp_path, "ms", {"ms": ("B02",), "sar": ()})
        return str(caught.value)

    ingest.ingest(Sen12ms(source, tmp_path, shard="2/4"))
    assert said().startswith(f"{tmp_path}: shards are missing: 0/4, 1/4, 3/4: run ")
    for shard in ("0/4", "1/4"):
        ingest.ingest(Sen12ms(source, tmp_path, shard=shard))
    (tmp_path / "shard-0003-of-0004").mkdir()
    assert said().startswith(f"{tmp_path}: shards are not finished: 3/4: run ")
    other = Sen12ms(source, tmp_path / "other", shard="3/4", max_invalid=0.5)
    with pytest.raises(DataError, match=r"shard-0000-of-0004 was begun with max_invalid 0\.05, now it is 0\.5"):
        ingest.ingest(replace(other, db=tmp_path))
    ingest.ingest(other)
    other.folder.rename(tmp_path / "shard-0003-of-0004")
    assert f"{tmp_path}: shard 3/4 was made with max_invalid 0.5, not 0.05, than shard 0/4: delete one" in said()
    with pytest.raises(DataError, match="holds shard-0000-of-0004: go on with --shard I/4, name another folder"):
        ingest.ingest(Sen12ms(source, tmp_path, shard="1/3"))
    with pytest.raises(DataError, match="holds shard-0000-of-0004"):
        ingest.ingest(Sen12ms(source, tmp_path))
    (tmp_path / "shard-0001-of-0003").mkdir()
    assert f"{tmp_path} holds shards of 3 and of 4: delete those of all but one ingest" in said()
    (tmp_path / "data.mdb").write_bytes(b"")
    assert f"{tmp_path} holds data.mdb and shard-" in said()
    with pytest.raises(DataError, match="holds a database that is no shard"):
        ingest.ingest(Sen12ms(source, whole, shard="0/3"))


def test_shards_of_a_source_that_changed_in_between(source: Path, tmp_path: Path) -> None:
    geotiffs.sen12ms(tmp_path / "src", 4)
    ingest.ingest(Sen12ms(tmp_path / "src", tmp_path / "db", shard="0/2"))
    next((tmp_path / "src").rglob("*_s2_*_p3.tif")).unlink()
    other = Sen12ms(tmp_path / "src", tmp_path / "other", shard="1/2")
    with pytest.raises(DataError, match=r"shard-0000-of-0002 was begun when .*src held other files: put them back"):
        ingest.ingest(replace(other, db=tmp_path / "db"))
    ingest.ingest(other)
    other.folder.rename(tmp_path / "db" / other.folder.name)
    with pytest.raises(DataError, match=r"shard 1/2 was made of other files in .*src than shard 0/2"):
        Databases([tmp_path / "db"])


def test_a_lost_histogram_is_named(source: Path, tmp_path: Path) -> None:
    sharded(source, tmp_path, 2)
    path = tmp_path / "shard-0001-of-0002" / HISTOGRAMS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=f"{path} is missing or damaged"):
        read_stats(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing or damaged"):
        read_stats(tmp_path)


def test_a_shard_alone_is_a_database(source: Path, tmp_path: Path) -> None:
    sharded(source, tmp_path, 2)
    one = tmp_path / "shard-0001-of-0002"
    assert shards.parts(one) == (one,)
    assert len(Databases([one])) == len(Catalog.read(one)) > 0
    both = Databases([one, tmp_path / "shard-0000-of-0002"])  # named one by one, in any order
    assert len(both) == PLACES - 2
