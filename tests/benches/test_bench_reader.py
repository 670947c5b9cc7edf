"""The reader's benchmark runs on a few pairs, gives figures only to what is right, and keeps what misses its target."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benches import report
from benches.reader import pairs, record
from benches.reader.measure import Ratio, Wrong, check, duel, quantiles
from benches.reader.peers import ByHand
from benches.reader.workload import Plan
from rsdnet.errors import DataError

pytest.importorskip("pytest_benchmark")
lmdb = pytest.importorskip("lmdb")

REPO = Path(__file__).resolve().parents[2]
COUNT = 24  # pairs


def bench(*words: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the benchmark on a few pairs in a process of its own, with `path` first among the modules."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    folders = [str(REPO), *([str(path)] if path else []), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    command = [sys.executable, "-m", "pytest", "benches/bench_reader.py", f"--pairs={COUNT}", *map(str, words)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> pairs.Pairs:
    return pairs.make(tmp_path_factory.mktemp("pairs"), pairs.SMALL, COUNT)


def test_every_comparison_has_a_row(tmp_path: Path) -> None:
    done = bench(f"--rows={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "reader.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == record.COLUMNS
    told = {(row["what"].split(",")[0], row["contender"].split(",")[0].rstrip(" .0123456789")) for row in rows}
    for wanted in (
        ("one MS and one SAR band", "memcpy"),
        ("all bands", "memcpy"),
        ("one MS and one SAR band", "py-lmdb and slices of its memory views"),
        ("one MS and one SAR band", "py-lmdb and np.frombuffer"),
        ("one MS and one SAR band", "one thread"),
        ("one MS and one SAR band", "torch DataLoader"),
        ("one MS and one SAR band", "FFCV"),
        (f"one MS and one SAR band of {COUNT} pairs", "rasterio"),
        ("one MS and one SAR band", "look-ahead off"),
        (f"resident memory streaming {10 * COUNT} samples", f"{COUNT} samples"),
        ("cost of a sample of small values", f"{COUNT} entries"),
        ("calls of malloc a batch", "none"),
    ):
        assert any(what == wanted[0] and other.startswith(wanted[1].rstrip("0123456789")) for what, other in told), (
            wanted,
            told,
        )
    assert any(other.startswith("ConfigILM") for _, other in told)
    for row in rows:
        assert row["p50"] or row["note"].startswith("absent: "), row
        if row["p50"]:
            assert float(row["p20"]) <= float(row["p50"]) <= float(row["p80"])
        assert bool(row["met"]) == bool(row["target"] and row["p50"])
    assert any(row["target"] for row in rows)
    assert report.reader(rows).count("\n| ") >= len({(row["what"], row["contender"]) for row in rows})


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


def test_a_wrong_reader_gets_no_figure(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    done = bench("-p", "wrong", "-k", "memcpy or cold_cache", f"--rows={tmp_path}", path=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"  rsdnet +WRONG: 1 of 6 samples of step 0 are not what the entries hold", done.stdout)
    assert re.search(r"  look-ahead on +WRONG", done.stdout)
    assert not (tmp_path / "reader.csv").exists()


def test_databases_are_as_rico_hdl_writes_them(tmp_path: Path) -> None:
    made = pairs.make(tmp_path, pairs.BIGEARTHNET, 3)
    assert made.ms[0].startswith("S2A_MSIL2A_")
    with lmdb.open(str(made.folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.stat()["entries"] == 6
        ms, sar = (bytes(transaction.get(key.encode())) for key in (made.ms[2], made.sar[2]))
    assert (len(ms), int.from_bytes(ms[:8], "little") + 8) == (160_832, 832)
    assert (len(sar), int.from_bytes(sar[:8], "little") + 8) == (115_344, 144)
    assert [(layer.shape, layer.dtype.name) for name, layer in sorted(pairs.decoded(ms).items())][:2] == [
        ((20, 20), "uint16"),
        ((120, 120), "uint16"),
    ]
    assert len({layer.tobytes() for layer in pairs.decoded(sar).values()}) == 2
    keys = [pairs.keys(pair) for pair in range(20_000)]
    assert len({key for both in keys for key in both}) == 40_000


def test_a_finished_database_is_taken_again_and_an_unfinished_one_made_anew(tmp_path: Path) -> None:
    first = pairs.make(tmp_path, pairs.SMALL, 5)
    file = first.folder / "data.mdb"
    before = file.stat().st_mtime_ns
    assert pairs.make(tmp_path, pairs.SMALL, 5) == first
    assert file.stat().st_mtime_ns == before
    (first.folder / pairs.MARK).unlink()
    told: list[tuple[str, int, int]] = []
    pairs.make(tmp_path, pairs.SMALL, 5, lambda *words: told.append(words))
    assert told[-1] == ("small-5", 5, 5)


def test_a_disk_without_room_is_one_line(tmp_path: Path) -> None:
    done = bench("--pairs=1000000000", f"--folder={tmp_path}", "-k", "rasterio")
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if "error:" in line]
    assert re.search(r"bigearthnet-1000000000: its pairs need \d+\.\d\d GB, the disk has \d+\.\d\d GB free: name", line)
    assert "error: --pairs 3: give at least 8" in bench("--pairs=3", "-k", "rasterio").stdout
    with pytest.raises(DataError, match="name another folder by --folder"):
        pairs.make(tmp_path, pairs.BIGEARTHNET, 10**9)


def test_room_is_no_less_than_what_is_written(tmp_path: Path) -> None:
    for shape, count in ((pairs.SMALL, 2000), (pairs.BIGEARTHNET, 20)):
        made = pairs.make(tmp_path, shape, count)
        assert (made.folder / "data.mdb").stat().st_size <= pairs.room(shape, count)


def test_a_check_names_what_is_wrong(small: pairs.Pairs) -> None:
    right = ByHand(Plan(small, 4), frombuffer=False)
    check(right, range(6))
    right.out[:] = 0
    given = right.take(0)
    given[1][0] = bytes(len(given[1][0]))
    right.take = lambda step: given  # type: ignore[method-assign]
    with pytest.raises(Wrong, match="1 of 4 samples of step 0"):
        check(right, [0])


class Timed:
    """Takes a fixed time a step, and notes what it was asked for."""

    name = "timed"

    def __init__(self, plan: Plan, taken: float, clock: list[float]) -> None:
        self.plan, self.taken, self.clock, self.asked = plan, taken, clock, [range(0)]

    def prepare(self, steps: range) -> None: ...

    def run(self, steps: range) -> None:
        self.asked.append(steps)
        self.clock[0] += self.taken * len(steps)

    def take(self, step: int) -> list[list[bytes]]:
        return self.plan.expected(step)


def test_a_duel_is_the_ratio_over_the_same_samples_at_other_times(
    small: pairs.Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("benches.reader.measure.time.perf_counter", lambda: clock[0])
    plan = Plan(small, 2)
    fast, slow = Timed(plan, 1.0, clock), Timed(plan, 4.0, clock)
    assert duel(fast, slow, steps=2, rounds=5) == Ratio(4.0, 4.0, 4.0)
    mine, theirs = fast.asked[2:], slow.asked[2:]
    assert sorted(part.start for part in mine) == sorted(part.start for part in theirs) == [0, 2, 4, 6, 8]
    assert all(a != b for a, b in zip(mine, theirs, strict=True))


def test_targets_and_quantiles() -> None:
    assert quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(tuple(np.quantile(range(1, 7), [0.2, 0.5, 0.8])))
    assert quantiles([2.0]) == (2.0, 2.0, 2.0)
    assert record.is_met(Ratio(1, 25, 30), ">= 25")
    assert not record.is_met(Ratio(26, 24.9, 30), ">= 25")
    assert record.is_met(Ratio(1, 1.3, 9), "<= 1.3")
    assert not record.is_met(Ratio(1, 1.31, 9), "<= 1.3")
