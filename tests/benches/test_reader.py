"""The reader's benchmark runs on a few pairs, and gives figures only to right bytes."""

import re
from pathlib import Path

import pytest

from benches.core import rows
from benches.core.turns import Ratio, Wrong
from benches.reader import pairs
from benches.reader.harness import check, duel
from benches.reader.peers import ByHand
from benches.reader.workload import Workload
from rsdnet.errors import DataError
from tests.benches.conftest import Run

pytest.importorskip("pytest_benchmark")
lmdb = pytest.importorskip("lmdb")

COUNT = 24  # pairs
READER = ("benches/bench_reader.py", f"--pairs={COUNT}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pairs.Pairs:
    return pairs.make(tmp_path_factory.mktemp("pairs"), pairs.SMALL, COUNT)


def test_every_comparison_has_a_row(tmp_path: Path, bench: Run) -> None:
    done = bench("pytest", *READER, "-k", "not whole", f"--rows={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows.read(tmp_path / "reader.csv")
    told = "\n".join(f"{row['what']} | {row['contender']}" for row in found)
    for wanted in (
        "one MS and one SAR band, one thread | memcpy",
        "one MS and one SAR band, one thread | ConfigILM",
        "one thread | py-lmdb and slices of its memory views",
        "one thread | py-lmdb and np.frombuffer",
        "2 threads | one thread",
        "torch DataLoader",
        "FFCV",
        f"of {COUNT} pairs, one thread | rasterio",
        "look-ahead on | look-ahead off",
        f"resident memory streaming {10 * COUNT} samples, without pages of files | {COUNT} samples",
        f"one thread | {COUNT} entries",
        "calls of malloc a batch, 1 thread | none",
    ):
        assert wanted in told
    for row in found:
        assert row["p50"] or row["note"].startswith("absent: "), row
        assert float(row["p20"] or 0) <= float(row["p50"] or 0) <= float(row["p80"] or "inf")
        assert bool(row["met"]) == bool(row["target"] and row["p50"])
    assert any(row["target"] for row in found)


WRONG = """
from rsdnet import _reader

Right = _reader.Stream

class Stream:
    "One bit of the last byte of each batch is another."
    def __init__(self, table, slots, **options):
        self.slots, self.stream = slots, Right(table, slots, **options)

    def next(self):
        batch = self.stream.next()
        if batch:
            data, records = self.slots[batch[0]][:2]
            begin, _, height, width, _ = records[batch[1] - 1, 0, 0]
            data[begin + height * width] ^= 1
        return batch

    def __getattr__(self, name):
        return getattr(self.stream, name)

_reader.Stream = Stream
"""


def test_a_wrong_reader_gets_no_row(tmp_path: Path, bench: Run) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    words = (*READER, "-p", "wrong", "-k", "memcpy or cold_cache", f"--rows={tmp_path}")
    done = bench("pytest", *words, path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"  rsdnet +WRONG: 1 of 6 samples of step 0 are not what the entries hold", done.stdout)
    assert re.search(r"  look-ahead on +WRONG", done.stdout)
    assert not (tmp_path / "reader.csv").exists()


def test_a_check_names_the_wrong_samples(small: pairs.Pairs) -> None:
    right = ByHand(Workload(small, 4), frombuffer=False)
    check(right, range(6))
    given = right.take(0)
    given[1][0] = bytes(len(given[1][0]))
    right.take = lambda step: given  # type: ignore[method-assign]
    with pytest.raises(Wrong, match="1 of 4 samples of step 0"):
        check(right, [0])


class Timed:
    """A contender that takes a fixed time a step, and notes the steps it was asked for."""

    name = "timed"

    def __init__(self, workload: Workload, taken: float, clock: list[float]) -> None:
        self.workload, self.taken, self.clock, self.asked = workload, taken, clock, [range(0)]

    def prepare(self, steps: range) -> None: ...

    def run(self, steps: range) -> None:
        self.asked.append(steps)
        self.clock[0] += self.taken * len(steps)

    def take(self, step: int) -> list[list[bytes]]:
        return self.workload.expected(step)


def test_a_duel_reads_the_same_samples_at_other_times(small: pairs.Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benches.reader.harness.time.perf_counter", lambda: clock[0])
    workload = Workload(small, 2)
    fast, slow = Timed(workload, 1.0, clock), Timed(workload, 4.0, clock)
    assert duel(fast, slow, steps=2, rounds=5) == Ratio(4.0, 4.0, 4.0)
    mine, theirs = fast.asked[2:], slow.asked[2:]
    assert sorted(part.start for part in mine) == sorted(part.start for part in theirs) == [0, 2, 4, 6, 8]
    assert all(a != b for a, b in zip(mine, theirs, strict=True))


# ---- its databases --------------------------------------------------------------------------------------------------


def test_databases_are_as_rico_hdl_writes_them(tmp_path: Path) -> None:
    made = pairs.make(tmp_path, pairs.BIGEARTHNET, 3)
    with lmdb.open(str(made.folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.stat()["entries"] == 6
        ms, sar = (bytes(transaction.get(key.encode())) for key in (made.ms[2], made.sar[2]))
    assert (len(ms), int.from_bytes(ms[:8], "little") + 8) == (160_832, 832)
    assert (len(sar), int.from_bytes(sar[:8], "little") + 8) == (115_344, 144)
    assert {name: (len(layer), layer.dtype.name) for name, layer in pairs.decoded(ms).items()}["B01"] == (20, "uint16")
    keys = [pairs.keys(pair) for pair in range(20_000)]
    assert len({key for both in keys for key in both}) == 40_000


def test_a_finished_database_is_taken_again_and_an_unfinished_one_made_anew(tmp_path: Path) -> None:
    told: list[int] = []
    first = pairs.make(tmp_path, pairs.SMALL, 5, told.append)
    assert pairs.make(tmp_path, pairs.SMALL, 5, told.append) == first
    assert told == [5]
    (first.folder / pairs.MARK).unlink()
    pairs.make(tmp_path, pairs.SMALL, 5, told.append)
    assert told == [5, 5]


def test_a_disk_without_room_is_one_line(tmp_path: Path, bench: Run) -> None:
    words = ("--pairs=1000000000", f"--folder={tmp_path}", "-k", "rasterio")
    done = bench("pytest", READER[0], *words)
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if "error:" in line]
    assert re.search(r"bigearthnet-1000000000: its pairs need \d+\.\d\d GB, the disk has \d+\.\d\d GB free: name", line)
    with pytest.raises(DataError, match="name another folder by --folder"):
        pairs.make(tmp_path, pairs.BIGEARTHNET, 10**9)
    for shape, count in ((pairs.SMALL, 2000), (pairs.BIGEARTHNET, 20)):
        made = pairs.make(tmp_path, shape, count)
        assert (made.folder / "data.mdb").stat().st_size <= pairs.room(shape, count)
