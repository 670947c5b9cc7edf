"""Stages of a GPU machine: limits, what is cut and taken up again, and a clone that is not installed.

The rehearsal runs under the Python of such a machine, which RSDNET_GPU_PYTHON names: 3.12, with torch 2.11, triton 3.6,
pytest and their like, and without what `make gpu-wheels` brings.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benches.bench_ops import OPS
from benches.gpu import ahead, machine, report, runner, wheels
from benches.gpu.runner import CUT, Folder, run_stages, words_of
from benches.gpu.stages import CHECK, STAGES, TESTS, Stage
from benches.training.contenders import CONTENDERS
from tests.benches.conftest import REPO, Kept
from tests.support.environments import compiling

LIMIT = 600  # seconds of a command on such a machine


def python(*words: str, folder: Path = REPO, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in compiling().items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=known | environment, capture_output=True, text=True, check=False
    )


# ---- stages ---------------------------------------------------------------------------------------------------------


def test_the_list_needs_nothing_but_python_and_correctness_comes_first() -> None:
    done = python("-S", "-m", "benches.gpu", "--list")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if line[0] != " "] == [s.name for s in STAGES]
    assert STAGES[0].name == CHECK
    assert all(stage.seconds < LIMIT - 20 for stage in STAGES)
    assert python("-S", "-m", "benches.gpu", "nothing").returncode == 2


def test_its_commands_are_there() -> None:
    values = {"rows": "r", "scratch": "s", "left": 1, "shapes": "tiny", "backend": "eager", "tests": ""}
    for stage in STAGES:
        for command in stage.commands:
            words = words_of(command.format_map(values))
            assert words[:2] == [sys.executable, "-m"]
            paths = [word.partition("::")[0] for word in words if word.startswith(("tests/", "benches/"))]
            assert paths or words[2].startswith("benches."), command
            assert all((REPO / path).exists() for path in paths), command


# Of the packages that the project's own environment has, those that such a machine has not, and no wheel brings.
ABSENT = ("rasterio", "torchdata", "affine", "cligj", "mypy", "importlinter", "grimp")
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def test_nothing_is_imported_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(tmp_path), str(REPO), os.environ.get("PYTHONPATH", "")])
    code = "import benches.bench_ops, benches.bench_step, benches.end_to_end, benches.resources, rsdnet.train"
    done = python("-c", code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    done = python("-m", "pytest", "--collect-only", "--quiet", "--numprocesses=0", *TESTS.split(), PYTHONPATH=path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


# ---- commands and their limits --------------------------------------------------------------------------------------


class Machine:
    """Stages of small commands, and what is said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *stages: Stage) -> None:
        self.folder, self.said = Folder(folder, "abc1234"), []  # type: tuple[Folder, list[str]]
        monkeypatch.setattr(runner, "STAGES", stages)
        monkeypatch.setattr(runner, "GRACE", 2)
        monkeypatch.setattr(runner, "LEAST", 0)

    def run(self, *wanted: str, budget: float = 60) -> int:
        self.said.clear()
        end = time.monotonic() + budget
        return run_stages(wanted, self.folder, {"rows": self.folder.rows}, dict(os.environ), end, self.said.append)

    def log(self) -> str:
        return (self.folder.rows / runner.LOG).read_text()


def prints(text: str, status: int = 0) -> str:
    return f"""python -c 'print("{text}"); raise SystemExit({status})'"""


def test_a_check_that_fails_ends_it_unless_stages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Machine(
        tmp_path, monkeypatch, Stage(CHECK, 20, "", (prints("checked", 1),)), Stage("ops", 20, "", (prints("timed"),))
    )
    assert made.run() == 1
    assert made.log() == "checked\n"
    assert made.run("ops") == 0
    assert made.log() == "checked\ntimed\n"
    assert made.run() == 1  # it is checked again; what is measured is not
    assert made.log() == "checked\ntimed\nchecked\n"


def test_what_is_done_is_not_done_again_in_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stage(CHECK, 20, "", (prints("checked"),)), Stage("ops", 20, "", (prints("a", 1), prints("b")))
    made = Machine(tmp_path, monkeypatch, *stages)
    assert made.run() == 1  # a contender was wrong, which no repetition mends
    assert made.log() == "checked\na\nb\n"
    assert made.run() == 0
    assert made.said == ["every stage is done in abc1234"]
    made.folder = made.folder._replace(commit="def5678")
    made.run()
    assert made.log() == "checked\na\nb\n" * 2


def test_a_command_that_outlasts_its_limit_is_cut_with_all_it_started_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import subprocess, sys; print('row'); subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    made = Machine(tmp_path, monkeypatch, Stage("ops", 5, "", (prints("a"), f'python -u -c "{slow}"')))
    began = time.monotonic()
    assert made.run() == 1
    assert time.monotonic() - began < 30
    assert made.log().startswith("a\nrow\n")
    assert made.said[-2].startswith("ops: cut after")
    assert made.said[-1] == "left for the next call: ops"
    assert [json.loads(line)["status"] for line in (tmp_path / runner.STATE).read_text().splitlines()] == [0, CUT]
    monkeypatch.setattr(runner, "STAGES", (Stage("ops", 20, "", (prints("a"), prints("b"))),))
    assert made.run() == 0
    assert made.log().endswith("b\n")
    assert made.log().count("a\n") == 1


def test_a_stage_that_is_cut_at_its_limit_does_not_hold_up_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Stage("slow", 4, "", ("python -c 'import time; time.sleep(60)'", prints("never")))
    made = Machine(tmp_path, monkeypatch, slow, Stage("ops", 20, "", (prints("timed"),)))
    assert made.run() == 1
    assert made.log().endswith("timed\n")
    assert "never" not in made.log()


def test_a_stage_that_does_not_fit_the_time_is_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stage("one", 500, "", (prints("one"),)), Stage("two", 500, "", (prints("two"),))
    made = Machine(tmp_path, monkeypatch, *stages)
    assert made.run(budget=100) == 0
    assert made.log() == "one\n"
    assert made.said[-2].startswith("two needs up to 500 s")
    assert made.said[-1] == "left for the next call: two"
    assert made.run(budget=100) == 0
    assert made.log() == "one\ntwo\n"


# ---- what the step waits for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [None, "rsdnet"])
def test_networks_compile_side_by_side_and_one_that_fails_fails_the_stage(
    failing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a process of its own, all of them started before the first is waited for."""
    told: list[str] = []

    def start(words: list[str]) -> SimpleNamespace:
        told.append(" ".join(words[3:]))
        return SimpleNamespace(wait=lambda: told.append("wait") or int(words[-2] == failing))  # type: ignore[func-returns-value]

    monkeypatch.setattr(ahead, "subprocess", SimpleNamespace(Popen=start))
    monkeypatch.setattr(sys, "argv", ["ahead", "--shapes=tiny", "--backend=eager", "--folder=kept"])
    assert ahead.main() == (failing is not None)
    options = "--shapes=tiny --backend=eager --folder=kept"
    names = ["database 0", "rsdnet 0", "reference, compiled 0", "rsdnet 1"]
    assert told == [f"{options} {name}" for name in names] + 4 * ["wait"]
    assert {name for name, _ in ahead.COMPILED} <= CONTENDERS.keys()


def test_a_contender_is_made_ready_and_tells_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ahead", "reference", "0", "--shapes=tiny"])
    assert ahead.main() == 0
    assert capsys.readouterr().out.startswith("reference, ResNet-18 of width 8, 1 channel, 32 px: ready in ")


# ---- predictions beside measurements --------------------------------------------------------------------------------

NAMES = "from benches.ops.cases import CASES; [print(c.kernel.__name__, c.name, sep='/') for cs in CASES for c in cs()]"


def test_every_kernel_that_is_compared_is_predicted() -> None:
    """By the names of `benches.resources`, and of `bench_ops`."""
    done = python("-c", NAMES)
    assert done.returncode == 0, done.stderr
    named = {tuple(line.split("/")) for line in done.stdout.splitlines()}
    assert {kernel for kernels in report.LAUNCHED.values() for kernel in kernels} <= named
    ops = {op.name: op for op in OPS}
    for what, kind, contender in report.LAUNCHED:
        name, mode = what.split(" ", 1)
        assert contender in ops[name].names()
        assert {kind, mode} & {*ops[name].kinds}


def test_shares_of_launches_one_after_the_other(kept: Kept) -> None:
    """By hand: 2 + 4 us of bytes; 2 + 1 and 4 + 6 where nothing overlaps, 2 and 6 where all does."""
    for machine_, gpu_share in (("NVIDIA H200", 0.5), ("NVIDIA A100", 0.1)):
        kept.provenance["machine"] = machine_
        setting = {"shape": "B=4096 D=256", "type": "bf16"}
        for contender in ("reference", "ours", "ours, graph"):
            kept.tell(setting, "byol_loss forward+backward", contender, 2.0, also={"of the copy": gpu_share})
    floors = {"cosine_kernel": "issue=1; lines=0; bytes=2", "cosine_backward_kernel": "issue=6; tensor=0; bytes=4"}
    told = [
        {"target": "cuda:90", "kernel": kernel, "case": "D=256 bf16", "H100": "bytes=1", "H200": floor}
        for kernel, floor in floors.items()
    ]
    title = "byol_loss forward+backward (shape=B=4096 D=256; type=bf16)"
    assert list(report.beside(kept.rows[:3], told)) == [
        (title, contender, "46% to 75%", "50%") for contender in ("ours", "ours, graph")
    ]
    assert list(report.beside(kept.rows[3:], told)) == []
    assert list(report.beside(kept.rows, told[:1])) == []


def test_a_prediction_is_that_of_the_triton_that_measured(kept: Kept) -> None:
    """By hand: of 2 us of bytes alone, all of the copy; of 2 us of instructions as well, half of it to all."""
    kept.provenance |= {"machine": "NVIDIA H200", "versions": "torch 2.11.0, triton 3.6.0"}
    setting = {"shape": "164 tensors", "type": "fp32"}
    kept.tell(setting, "update_target_ step", "ours", 2.0, also={"of the copy": 0.9})
    told = [
        {"target": "cuda:90", "triton": triton, "kernel": "update_target_kernel", "case": "fp32", "H200": floor}
        for triton, floor in (("3.6.0", "issue=0; bytes=2"), ("3.7.1", "issue=2; bytes=2"))
    ]
    title = "update_target_ step (shape=164 tensors; type=fp32)"
    assert list(report.beside(kept.rows, told)) == [(title, "ours", "100% to 100%", "90%")]
    assert list(report.beside(kept.rows, told[1:])) == [(title, "ours", "50% to 100%", "90%")]  # there is no other


# ---- a clone that is not installed ----------------------------------------------------------------------------------


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel of a few files."""
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with kernels/ beside rsdnet/, and a folder of wheels."""
    for folder in ("clone/rsdnet", "clone/kernels", "wheels"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "clone/rsdnet/__init__.py").write_text("which = 'clone'")
    (tmp_path / "clone/kernels/__init__.py").write_text("which = 'clone'")
    own = {"rsdnet/__init__.py": "which = 'wheel'", "rsdnet/_reader.abi3.so": "built", "rsdnet/kernels/__init__.py": ""}
    wheel(tmp_path / "wheels", "rsdnet", own)
    wheel(tmp_path / "wheels", "tyro", {"tyro.py": "here = True"})
    monkeypatch.setattr(machine, "ROOT", tmp_path / "clone")
    return tmp_path


def test_a_clone_gets_the_reader_and_the_packages_and_stays_the_first(clone: Path) -> None:
    machine.unpacked(clone / "wheels", clone / "site")
    held = os.stat(clone / "clone/rsdnet/_reader.abi3.so").st_ino
    machine.unpacked(clone / "wheels", clone / "site")
    assert os.stat(clone / "clone/rsdnet/_reader.abi3.so").st_ino != held  # not written over: it may be in use
    code = "import rsdnet, rsdnet.kernels, tyro; print(rsdnet.which, rsdnet.kernels.which, tyro.here)"
    inside = machine.environment(clone / "wheels", clone / "site")
    done = python("-S", "-c", code, folder=clone, PYTHONPATH=inside["PYTHONPATH"])
    assert done.stdout.split() == ["clone", "clone", "True"], done.stderr
    assert (clone / "clone/rsdnet/_reader.abi3.so").read_text() == "built"


def test_wheels_of_other_sources_and_an_empty_folder_are_refused(clone: Path) -> None:
    (clone / "wheels" / wheels.SOURCES).write_text("others")
    with pytest.raises(SystemExit, match="other C\\+\\+ sources"):
        machine.unpacked(clone / "wheels", clone / "site")
    with pytest.raises(SystemExit, match="make gpu-wheels"):
        machine.unpacked(clone, clone / "site")


def test_the_commit_is_that_of_the_wheels_where_nothing_else_tells(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "wheels" / wheels.COMMIT).write_text("abc1234\n")
    monkeypatch.setattr(machine, "commit", lambda: "unknown")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    inside = machine.environment(clone / "wheels", clone / "site")
    assert inside["RSDNET_COMMIT"] == "abc1234"
    assert "TRITON_INTERPRET" not in inside


def test_the_pins_of_the_wheels_are_there() -> None:
    assert [line.partition("==")[0].lower().replace("_", "-") for line in wheels.pinned(wheels.PACKAGES)] == [
        name.lower().replace("_", "-") for name in wheels.PACKAGES
    ]


VERSIONS = "import sys, torch, triton; print(sys.version_info[:2], torch.__version__[:5], triton.__version__[:4])"


def test_a_rehearsal_on_the_machine_s_own_versions(tmp_path: Path) -> None:
    """From a copy without git, with the wheels and no package beside them."""
    interpreter = os.environ.get("RSDNET_GPU_PYTHON", "")
    if not interpreter:
        pytest.skip("RSDNET_GPU_PYTHON names no Python 3.12 with torch 2.11 and triton 3.6")
    built = wheels.FOLDER / wheels.SOURCES
    if not built.is_file() or built.read_text().strip() != wheels.fingerprint():
        pytest.skip(f"{wheels.FOLDER} holds no wheels of these sources: make gpu-wheels")
    known = {name: value for name, value in compiling().items() if not name.startswith(("PYTEST_", "PYTHONPATH"))}

    def said(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([interpreter, *map(str, words)], cwd=copy, env=known, capture_output=True, text=True)

    copy = tmp_path / "copy"
    shutil.copytree(
        REPO, copy, ignore=shutil.ignore_patterns(".git", "build", "*.so", "__pycache__", ".venv", ".*_cache")
    )
    assert said("-c", VERSIONS).stdout.strip() == "(3, 12) 2.11. 3.6."
    assert "tyro" in said("-c", "import tyro").stderr  # absent but for the wheels
    stages = ("check", "end", "--budget=1200")
    done = said("-m", "benches.gpu", *stages, "--rehearse", "--wheels", wheels.FOLDER, "--rows", tmp_path / "rows")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    rows = (tmp_path / "rows" / "training.csv").read_text()
    assert "end to end" in rows
    assert (wheels.FOLDER / wheels.COMMIT).read_text().strip() in rows
