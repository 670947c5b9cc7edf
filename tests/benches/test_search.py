"""Grids: their settings, shares and folders; runs side by side, stopped and gone on with; the ranking against scipy."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import save_file
from scipy import stats

from benches import learning, report
from benches.core import rows
from benches.search import grid, runs, work
from benches.search.options import Options
from rsdnet import config, probe, runfolder
from rsdnet.errors import DataError
from rsdnet.options import parse
from rsdnet.probefile import PROTOCOL
from rsdnet.train import configure
from tests.conftest import REPO

SETTINGS = """[settings]
"as it is" = {}
"slow" = {optim.optimizer = "adamw", optim.lr = 0.001}
"short" = {optim.steps = 9, model.width = 4}
"""
VARY = '[vary]\n"optim.tau" = [0.9, 0.98]\n"views.flip" = [true, false]\n'
LABELS = ("pre-trained", "random", "raw statistics")


class Ended:
    """A process that has ended."""

    def __init__(self, status: int) -> None:
        self.poll = self.wait = lambda: status


def score(variant: str, seed: int, label: str, what: str, split: str) -> float:
    """Some score, the same each time."""
    told = f"{variant}/{seed if label != LABELS[2] else 0}/{label}/{what}/{split}"
    return float(np.random.default_rng(list(told.encode())).uniform(0.2, 0.8))


def evaluate(run: Path, words: list[str]) -> None:
    """probe.json, as rsdnet.probe writes it."""
    variant, seed = run.parent.name, int(run.name[-1])
    means = {
        f"mean_{what}": {
            label: {"score": score(variant, seed, label, what, "test"), "val": score(variant, seed, label, what, "val")}
            for label in LABELS
        }
        for what in ("ms", "sar", "all")
    }
    result: dict[str, Any] = {"protocol": PROTOCOL, "metric": "macro F1", "samples": {}, "labels": ["all"]}
    result |= {"features": "stages", "seed": 0, "size": 0, "statistics": "database"}
    bands = words[words.index("--bands") + 1 :] if "--bands" in words else []
    result |= {"rows": bands, "data": [words[words.index("--data") + 1]]}
    result |= {"results": {"all": {"stages": {"bands": {}, **means}}}}
    (run / "probe.json").write_text(json.dumps(result))
    save_file({"none": np.zeros(1)}, run / "probe.safetensors")


class Machine:
    """Stands for rsdnet.train and rsdnet.probe. fail: words of a command line that fails."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []
        self.fail = ""

    def start(self, words: list[str], log: IO[bytes], environment: dict[str, str]) -> Ended:
        self.started.append(words)
        if self.fail and self.fail in " ".join(words):
            log.write(b"error: no room\n")
            return Ended(2)
        if words[2] == "rsdnet.train":
            given = {name: words[words.index(name) + 1] for name in ("--run", "--seed", "--split")}
            files = words[words.index("--config") + 1 : words.index("--data")]
            tables = config.to_tables(config.read(*map(Path, files)))
            tables["run"]["seed"], tables["data"]["split"] = int(given["--seed"]), given["--split"]
            run = Path(given["--run"])
            (run / runfolder.CONFIG).write_text(tomli_w.dumps(tables))
            (run / runfolder.ENCODER).touch()
            metrics = [{"step": 0, "effective_rank": 99.0}, {"step": 8, "effective_rank": 4.0 + int(given["--seed"])}]
            (run / runfolder.METRICS).write_text("\n".join(map(json.dumps, metrics)))
        else:
            evaluate(Path(words[3]), words)
        return Ended(0)

    def trained(self) -> list[str]:
        """Folders of the runs whose training was started."""
        return [words[words.index("--run") + 1] for words in self.started if words[2] == "rsdnet.train"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(work, "start", found.start)
    monkeypatch.setattr(work, "LOOK", 0)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(SETTINGS)
    return tmp_path


def search(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    argv = ["learning", "--grid", "grid.toml", "--data", "world/db", "--runs", "runs", "--rows", "rows", *words]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    return learning.main()


def read_rows(folder: str = "rows") -> list[rows.Row]:
    return rows.read(Path(folder, "grids.csv"))


def refused(monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    with pytest.raises(DataError) as caught:
        search(monkeypatch, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_settings_and_combinations_over_the_base(folder: Path) -> None:
    base = folder / "small.toml"
    base.write_text("[model]\nwidth = 8\n[optim]\noptimizer = 'sgd'\nlr = 0.5\ntau = 0.9\n")
    Path("grid.toml").write_text('base = ["rsdnet/demo.toml", "small.toml"]\n' + SETTINGS)
    found = {variant.name: variant for variant in grid.read(Path("grid.toml")).variants(Path("runs"))}
    assert [(name, v.config.model.width, v.config.optim.lr, v.config.optim.steps) for name, v in found.items()] == [
        ("as it is", 8, 0.5, 1200), ("slow", 8, 0.001, 1200), ("short", 4, 0.5, 9)
    ]  # fmt: skip
    for variant in found.values():  # its files make the same
        assert config.read(*variant.files) == variant.config
    assert Path("runs/as-it-is/settings.toml").read_text() == ""

    Path("grid.toml").write_text(VARY)
    settings = grid.read(Path("grid.toml")).settings
    expected = {
        f"tau {tau}, flip {str(flip).lower()}": {"optim": {"tau": tau}, "views": {"flip": flip}}
        for tau, flip in itertools.product((0.9, 0.98), (True, False))
    }
    assert list(settings.items()) == list(expected.items())


def test_the_grid_of_the_docs_is_one(folder: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (REPO / "docs" / "evaluation.md").read_text(), re.DOTALL)
    Path("grid.toml").write_text(text)
    variants = grid.read(Path("grid.toml")).variants(Path("runs"))
    assert [(variant.name, variant.config.optim.optimizer) for variant in variants] == [
        ("as it is", "auto"), ("tau 0.99", "auto"), ("lars 3", "lars")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings = 3", "either a table"),
        (SETTINGS + VARY, "either a table"),
        ("", "either a table"),
        ("seeds = 3\n" + SETTINGS, "unknown key seeds; a grid has"),
        ("[settings\n", "grid.toml is not TOML"),
        ('base = ["nothing.toml"]\n' + SETTINGS, "base nothing.toml lies neither"),
        ("base = 3\n" + SETTINGS, "name files in a list"),
        ("[settings]\na = {lr = 3}", "settings stand in tables"),
        ("[settings]\na = {optim.learning = 3}", "grid.toml, a: unknown key optim.learning"),
        ("[settings]\na = {}\nb = {optim.tau = 2}", "grid.toml, b: optim.tau = 2"),
        ('[settings]\na = {optim.optimizer = "adams"}', "grid.toml, a: .*adams"),
        ("[settings]\na = {run.seed = 3}", "grid.toml, a: run.seed is set by the command"),
        ('[settings]\n"a/b" = {}', 'the name "a/b" is made of other signs'),
        ('[settings]\n"a b" = {}\na-b = {}', "two names differ by spaces"),
        ("[vary]\noptim.lr = [1, 2]", 'write "table.key" ='),
        ('[vary]\n"optim.lr" = 1', 'write "table.key" ='),
        ('[vary]\n"optim.lr" = [1, 1]', "names lr 1 twice"),
        (f'[vary]\n"optim.lr" = {list(range(1001))}', "1,001 combinations are more than"),
    ],
)  # fmt: skip
def test_mistakes_in_a_grid_start_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, text: str, said: str
) -> None:
    Path("grid.toml").write_text(text)
    with pytest.raises(DataError, match=said):
        search(monkeypatch)
    assert machine.started == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--share", "3/2"), "--share 3/2: the first number is 1 to 2"),
        (("--share", "0/2"), "--share 0/2"),
        (("--steps", 9), "do not go with --grid"),
        (("--recipe", "single"), "do not go with --grid"),
        (("--grid", "nothing.toml"), "nothing.toml: No such file"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, words: tuple[object, ...], said: str
) -> None:
    assert said in refused(monkeypatch, *words)
    assert not Path("runs").exists()


# ---- the runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 7])
def test_the_commands_of_a_run_are_of_the_configuration_that_it_is_known_by(folder: Path, steps: int) -> None:
    options = Options(data=Path("a/world"), seeds=(4,), split="all", threads=3, steps=steps, bands=("B03", "VV"))
    variant = grid.read(Path("grid.toml")).variants(Path("runs"))[1]
    (run,) = runs.planned(options, [variant])
    training, probing = runs.commands(options, run)
    found, saved = configure(training[3:])
    assert (found.run.threads, found.run.run, found.run.resume, found.optim.lr) == (3, run.folder, True, 0.001)
    assert found.optim.steps == steps or not steps
    assert saved == run.folder / runfolder.CONFIG
    assert config.differences(found, run.config) == []
    assert parse(probe.Options, probing[3:], prog="probe") == probe.Options(
        run.folder, data=(Path("a/world"),), bands=("B03", "VV")
    )


def test_shares_are_parts_of_all_runs_and_a_later_call_ranks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = []
    for share in ("1/4", "2/4", "3/4", "4/4"):
        assert search(monkeypatch, "--share", share) == 0
        parts.append(machine.trained()[sum(map(len, parts)) :])
    every = [f"runs/{name}/world-seed{seed}" for seed in (0, 1, 2) for name in ("as-it-is", "slow", "short")]
    assert sorted(itertools.chain(*parts)) == sorted(every)
    assert sorted(map(len, parts)) == [2, 2, 2, 3]
    assert (capsys.readouterr().out, Path("rows").exists()) == ("", False)

    before = len(machine.started)
    assert search(monkeypatch) == 0
    assert len(machine.started) == before  # all were finished
    assert "as it is" in capsys.readouterr().out

    assert search(monkeypatch, "--seeds", 0, 1, 2, 3) == 0
    assert machine.trained()[9:] == [f"runs/{name}/world-seed3" for name in ("as-it-is", "slow", "short")]


def test_a_run_is_finished_with_the_options_it_was_made_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    def started(*words: object) -> int:
        before = len(machine.started)
        search(monkeypatch, "--seeds", 0, *words)
        return len(machine.started) - before

    assert (started("--bands", "B03"), started("--bands", "B03")) == (6, 0)
    assert started("--bands", "B03", "VV") == 6  # its commands say what is to do
    assert started("--bands", "B03", "VV", "--probe", "other/db") == 6
    assert started("--bands", "B03", "VV", "--probe", "other/db", "--split", "all") == 6
    Path("runs/slow/world-seed0/probe.safetensors").unlink()
    assert started("--bands", "B03", "VV", "--probe", "other/db", "--split", "all") == 2
    os.utime("runs/short/world-seed0/probe.json", (0, 0))  # older than the encoder
    assert started("--bands", "B03", "VV", "--probe", "other/db", "--split", "all") == 2


def test_other_settings_of_one_name_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    search(monkeypatch, "--seeds", 0)
    before = len(machine.started)
    Path("grid.toml").write_text(SETTINGS.replace("0.001", "0.002"))
    assert "runs/slow/settings.toml holds other settings of the name slow" in refused(monkeypatch)
    assert len(machine.started) == before
    Path("grid.toml").write_text(SETTINGS.replace("0.001", "1e-3"))  # the same, written otherwise
    assert search(monkeypatch, "--seeds", 0) == 0


def test_one_that_fails_is_told_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fail = "rsdnet.train --run runs/slow/world-seed1"
    assert search(monkeypatch, "--jobs", 2, "--threads", 1) == 2
    assert len(machine.trained()) == 9
    told, log = capsys.readouterr(), Path("runs/slow/world-seed1/search.log")
    assert f"runs/slow/world-seed1 failed: error: no room; see {log}\n" in told.err
    assert "failed: 1 of 9 runs" in told.err
    first = log.read_text().splitlines()[0]
    assert first.startswith("$ ")
    assert "--seed 1 --threads 1 --log-every 100 --config" in first
    found = read_rows()
    assert [row["note"] for row in found if row["contender"] == "slow" and row["note"]] == ["failed"]
    table = report.searches(found)
    assert table.splitlines()[-3].startswith("| slow | 1 of 3 runs: failed |")  # the last of the table

    machine.fail = ""
    assert search(monkeypatch) == 0
    assert machine.trained()[9:] == ["runs/slow/world-seed1"]
    assert "failed" not in report.searches(read_rows())


def test_a_run_in_progress_elsewhere_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "runs" / "slow" / "world-seed0"
    run.mkdir(parents=True)
    for name in (work.LOG, runfolder.LOCK):  # another call's, and a training's
        with open(run / name, "ab") as file:
            work.lock(file, "")
            assert search(monkeypatch, "--seeds", 0) == 0
        assert "runs/slow/world-seed0" not in machine.trained()
        assert "in progress elsewhere: 1 of 3 runs" in capsys.readouterr().err
        assert not Path("rows").exists()
    assert search(monkeypatch, "--seeds", 0) == 0
    assert machine.trained()[-1] == "runs/slow/world-seed0"


def test_a_signal_stops_the_runs_and_their_locks_last_as_long_as_they(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A command that ends on SIGTERM, after a while, as a training does; the first one stops this process.
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(.2), open('ended', 'a').write('x'), sys.exit(143)))\n"
        f"os.path.exists('ready') and os.kill({os.getpid()}, signal.SIGINT)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(work, "commands", lambda options, run: [[sys.executable, "-S", "-c", script]])
    begin, processes = work.start, []

    def start(words: list[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        assert environment["OMP_NUM_THREADS"] == "1"
        processes.append(begin(words, log, environment))
        while not Path("ready").exists():
            assert processes[0].poll() is None
        return processes[-1]

    monkeypatch.setattr(work, "start", start)
    before = signal.getsignal(signal.SIGTERM)
    assert search(monkeypatch, "--seeds", 0, "--jobs", 2, "--threads", 1) == 130
    assert [process.returncode for process in processes] == [143, 143]
    assert Path("ended").read_text() == "xx"
    assert signal.getsignal(signal.SIGTERM) == before
    assert "the same command goes on in runs" in capsys.readouterr().err


# ---- the ranking ----------------------------------------------------------------------------------------------------


def scores(name: str, what: str, split: str, label: str = LABELS[0], seeds: int = 3) -> np.ndarray:
    """Of each seed. what: ms, sar, or both: their mean."""
    kinds = ("ms", "sar") if what == "both" else (what,)
    found = [[score(name.replace(" ", "-"), seed, label, kind, split) for kind in kinds] for seed in range(seeds)]
    return np.mean(found, 1)


def cells(table: str) -> dict[str, list[str]]:
    """Cells of a table's lines, by their first one."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in lines[2:]}


def test_rows_of_each_run_and_sensor(folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    search(monkeypatch, "--jobs", 3)
    found = {(row["contender"], rows.split(row["setting"])["seed"], row["what"]): row for row in read_rows()}
    names = ("as it is", "slow", "short")
    assert found.keys() == set(itertools.product(names, "012", ("ms", "sar")))
    for (name, seed, what), row in found.items():
        also = rows.split(row["also"])
        assert row["unit"] == "macro F1"
        assert float(row["p50"]) == pytest.approx(scores(name, what, "test")[int(seed)], abs=1e-4)
        for number, label in (("random", "random"), ("raw", "raw statistics")):
            told = float(also[number]), float(also[f"{number}_val"])
            expected = [scores(name, what, split, label)[int(seed)] for split in ("test", "val")]
            assert told == pytest.approx(expected, abs=1e-4)
        assert float(also["val"]) == pytest.approx(scores(name, what, "val")[int(seed)], abs=1e-4)
        assert (also["rank"], also["steps"]) == (f"{4 + int(seed):.1f}", "9")  # at the end
        assert rows.split(row["setting"]) == {
            "grid": "grid.toml", "data": "world", "base": "demo.toml", "steps": "1200", "database": "world",
            "seed": seed,
        }  # fmt: skip


def test_settings_are_ranked_by_val_with_students_intervals(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    search(monkeypatch)
    names = ("as it is", "slow", "short")
    table = cells(report.searches(read_rows()))
    order = sorted(names, key=lambda name: -scores(name, "both", "val").mean())
    assert list(table) == order
    for name, (val, gain, test, ms, sar, *ends) in table.items():
        expected = {val: scores(name, "both", "val"), test: scores(name, "both", "test")}
        if name == names[0]:
            assert gain == ""
        else:
            expected[gain] = expected[val] - scores(names[0], "both", "val")
            assert all(number[0] in "+-" for number in re.findall(r"[^ (]*\.\d+", gain))
        for cell, own in expected.items():
            told = [float(number) for number in re.findall(r"[+-]?0\.\d{3}", cell)]
            assert told == pytest.approx([own.mean(), *stats.ttest_1samp(own, 0).confidence_interval(0.95)], abs=1e-3)
        for what, cell in (("ms", ms), ("sar", sar)):
            told = [float(number) for number in re.findall(r"0\.\d{3}", cell)]
            assert told == pytest.approx([scores(name, what, "test", label).mean() for label in LABELS], abs=1e-3)
        assert ends == ["5.0", "9"]
    screen = capsys.readouterr().out
    assert sorted(order, key=screen.index) == order


def test_seeds_run_one_after_the_other_stand_in_one_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    search(monkeypatch, "--seeds", 0)
    one = report.searches(read_rows())
    assert " to 0." not in one  # no interval of one run
    search(monkeypatch, "--seeds", 1, 2)
    after = report.searches(read_rows())
    assert after.count("| settings |") == 1
    search(monkeypatch, "--seeds", 0, 1, 2, "--rows", "again")
    assert report.searches(read_rows("again")) == after
    assert after.endswith("seeds 0 1 2.")
    search(monkeypatch, "--seeds", 0)  # the same run once more
    assert report.searches(read_rows()) == after


def test_settings_that_lack_a_seed_name_theirs(folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    search(monkeypatch, "--seeds", 0)
    Path("grid.toml").write_text(SETTINGS + '"late" = {optim.tau = 0.9}\n')
    search(monkeypatch, "--seeds", 1)
    table = cells(report.searches(read_rows()))
    assert table.keys() == {"as it is", "slow", "short", "late (seeds 1)"}
    gain = score("late", 1, LABELS[0], "ms", "val") - score("as-it-is", 1, LABELS[0], "ms", "val")
    gain += score("late", 1, LABELS[0], "sar", "val") - score("as-it-is", 1, LABELS[0], "sar", "val")
    assert float(table["late (seeds 1)"][1]) == pytest.approx(gain / 2, abs=1e-3)


def row(database: str, name: str, val: float, what: str = "ms", **others: str) -> rows.Row:
    setting = f"grid=grid.toml; data=here there; base=demo.toml; steps=9; database={database}; seed=0"
    also = f"val={val}; random=0.1; raw=0.1; rank=5; steps=9"
    return {"setting": setting, "contender": name, "what": what, "p50": "0.5", "unit": "F1", "also": also} | others


def test_runs_of_several_databases_count_each_by_itself() -> None:
    told = [("here", "a", 0.1), ("here", "b", 0.2), ("there", "a", 0.5), ("there", "b", 0.7)]
    table = cells(report.searches([row(*each) for each in told]))
    assert [own[0][:5] for own in table.values()] == ["0.450", "0.300"]
    assert table["b"][1].startswith("+0.150 (")


def test_the_newest_row_of_a_run_counts_be_it_of_a_failure() -> None:
    told = [row("here", "a", 0.1), row("here", "a", 0.3)]
    assert cells(report.searches(told))["a"][0] == "0.300"
    told.append(row("here", "a", 0, "run", p50="", also="", note="failed"))
    assert cells(report.searches(told))["a"][0] == "1 of 1 runs: failed"


def test_runs_at_a_time_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cores = len(os.sched_getaffinity(0))
    asked = (Options(jobs=3, threads=1), Options(), Options(threads=1), Options(threads=1024))
    assert [work.at_a_time(options) for options in asked] == [3, 1, cores, 1]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [work.at_a_time(options) for options in asked] == [3, 1, 1, 1]
