"""README and docs: their commands run or fit their programs, their links, paths, names and figures exist."""

import contextlib
import functools
import importlib.util
import io
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.distributed.run import get_args_parser

from rsdnet import bands
from tests.conftest import REPO
from tests.support import geotiffs, rico, tiny
from tests.support.environments import compiling

README = REPO / "README.md"
PAGES = [README, REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
TEXTS = {path.relative_to(REPO).as_posix(): path.read_text() for path in PAGES}

# A page's words, and what runs in their place: small sources and databases, few samples.
INSTEAD = {
    "/data/SEN12MS": "data/SEN12MS", "/data/mine": "data/mine", "128": "32", "1024": "16",
    "/data/Encoded-BigEarthNet": "data/encoded", "/data/metadata.parquet": "data/ben/metadata.parquet",
    "/data/EuroSAT": "data/EuroSAT", "/data/DFC2020": "data/DFC2020", "imagenet:efficientnet-lite0": "runs/single",
    "SOURCE": "data/SEN12MS", "DB": "db/brought", "package.module:Layout": "rsdnet.ingest.layouts.sen12ms:Sen12ms",
}  # fmt: skip
# Options added to a command that has the word before the colon.
ALSO = {
    "--data:rsdnet.train": "--steps=4 --size=24 --encoder=resnet18 --width=8 --hidden=32 --dim=16 --threads=1",
    "--config:rsdnet.train": "--batch=16",
    "--speed:rsdnet.info": "--seconds=1",
    "rsdnet.preview:rsdnet.preview": "--samples=2",
}
IN_PYTHON = {"256": "4", '"cuda"': '"cpu"'}
# Lines of the pages' scripts that start no program of rsdnet: `bash -n` reads them.
SHELL = {"export", "set", "source", "for", "do", "done", "if", "fi", "wait", "exit", "head", "left", "run", "status"}
SLURM = {"scontrol"}
OPTIONS_OF_OTHERS = {"--signal", "--dependency", "--cpus-per-task"}  # Slurm's, in the text
PROGRAM = re.compile(r"(?:^|\s)(torchrun|(?:\S*/)?python -m [\w.]+|pytest|pip|make)(?=\s|$)")


def blocks(text: str, *kinds: str) -> list[str]:
    """The fenced blocks of `kinds` ("sh", "python")."""
    return [
        body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if kind in kinds
    ]


def inline(text: str) -> list[str]:
    """The `code` in the text and the tables, without the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def lines(script: str) -> list[str]:
    """The commands of a script, one a line, without comments."""
    joined = (line.strip() for line in script.replace("\\\n", " ").splitlines())
    return [line for line in joined if line and not line.startswith("#")]


def used(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}


@functools.cache
def options(module: str, *words: str) -> frozenset[str]:
    """The options in the --help of a module's command."""
    printed, argv = io.TextIOWrapper(io.BytesIO(), "utf-8"), sys.argv
    sys.argv = [module, *words, "--help"]
    try:
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = argv
    printed.seek(0)
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", printed.read()))


def check_module(words: list[str]) -> None:
    """words: `python -m` MODULE and its arguments."""
    module, rest = words[0], words[1:]
    assert importlib.util.find_spec(module), module
    if used(rest):
        layout = rest[:1] if module in ("rsdnet.ingest", "rsdnet.catalog") else []
        assert used(rest) <= options(module, *layout)


def check_torchrun(words: list[str]) -> None:
    """By torchrun's own parser, which takes some of a script's options for its own."""
    found = get_args_parser().parse_args(words)
    assert found.module
    rest = words[words.index(found.training_script) + 1 :]
    assert found.training_script_args == rest
    check_module([found.training_script, *rest])


@functools.cache
def pytest_options() -> str:
    command = [sys.executable, "-m", "pytest", "--help", "benches/"]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout


def check_pytest(words: list[str]) -> None:
    for word in words:
        assert word.split("=")[0] in pytest_options() if word.startswith("-") else (REPO / word).exists(), word


def check_pip(words: list[str]) -> None:
    known = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] == "install"
    assert set(re.findall(r"\w+", words[1])) <= known.keys()


def check_make(words: list[str]) -> None:
    for target in [word for word in words if "=" not in word]:
        assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE), target


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "torchrun": check_torchrun, "pytest": check_pytest, "pip": check_pip, "make": check_make,
}  # fmt: skip


def check(line: str) -> bool:
    """Check the program that a line starts; False where it starts none."""
    if not (found := PROGRAM.search(line)):
        return False
    words = shlex.split(re.split(r" \|\| | &$", line[found.end() :])[0], comments=True)
    head = found[1].split()
    if head[0] in CHECKS:
        CHECKS[head[0]](words)
    elif head[2] in CHECKS:
        CHECKS[head[2]](words)
    else:
        check_module([head[2], *words])
    return True


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_fits_its_program(page: str) -> None:
    for script in blocks(TEXTS[page], "sh", "bash"):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        for line in lines(script):
            assert check(line) or re.split(r"\W", line)[0] in SHELL | SLURM, f"neither run nor checked: {line}"
    for code in inline(TEXTS[page]):
        if PROGRAM.match(code) and " " in code:
            check(code)


def own_commands(text: str) -> list[list[str]]:
    """The words of each `python -m rsdnet....` of the fenced blocks, as it runs here; none with a shell's variables."""
    found = []
    for line in [line for script in blocks(text, "sh") for line in lines(script)]:
        if line.startswith("python -m rsdnet.") and "$" not in line:
            words = [INSTEAD.get(word, word) for word in shlex.split(line, comments=True)[1:]]
            words = [str(REPO / word) if word.startswith("recipes/") else word for word in words]
            added = (extra for key, extra in ALSO.items() if set(key.split(":")) <= set(words))
            found.append([*words, *" ".join(added).split()])
    return found


def make_sources(folder: Path) -> None:
    """GeoTIFFs in the folders that the pages name."""
    rng = np.random.default_rng(0)
    scenes = [sys.executable, "-m", "rsdnet.scenes", folder / "data" / "SEN12MS", "--places=40", "--size=32"]
    subprocess.run(scenes, check=True, capture_output=True)
    for index in range(8):
        layers = {
            "S2L2A": rng.integers(1, 10000, (12, 24, 24)).astype(np.uint16),
            "S1RTC": rng.normal(-14, 5, (2, 24, 24)).astype(np.float32),
            "LULC": rng.integers(0, 3, (1, 24, 24)).astype(np.uint8),
        }
        for name, pixels in layers.items():
            geotiffs.write(folder / "data" / "mine" / name / f"{index}.tif", pixels)
    scene = rng.integers(1, 10000, (10, 40, 40)).astype(np.uint16)
    geotiffs.write(folder / "scene.tif", scene, bands.MS)
    geotiffs.eurosat(folder / "data" / "EuroSAT")
    geotiffs.dfc2020(folder / "data" / "DFC2020")
    rico.encode(rico.bigearthnet(folder / "data" / "ben"), folder / "data" / "encoded")


PYTHON = {page for page, text in TEXTS.items() if blocks(text, "python")}
ELSEWHERE = {"docs/paper.md", "docs/export.md"}  # run by test_paper.py and test_export.py
RUN = [page for page, text in TEXTS.items() if (own_commands(text) or page in PYTHON) and page not in ELSEWHERE]


@pytest.mark.parametrize("page", RUN)
def test_a_pages_commands_run_one_after_another(page: str, tmp_path: Path) -> None:
    commands = own_commands(TEXTS[page])
    if any("rsdnet.ingest" in words for words in commands):
        make_sources(tmp_path)
    else:
        for name in ("sen12ms", "mine"):
            tiny.make(tmp_path / "db" / name, 30)
    for code in blocks(TEXTS[page], "python"):
        for word, other in IN_PYTHON.items():
            code = code.replace(word, other)
        commands.append(["-c", code])
    for words in commands:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=compiling(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def test_the_commands_of_the_readme_are_run() -> None:
    assert {words[1] for words in own_commands(TEXTS["README.md"])} == {
        f"rsdnet.{name}"
        for name in ("ingest", "info", "preview", "train", "probe", "table", "report", "embed", "export")
    }
    assert {"README.md", "docs/data.md", "docs/reader.md"} <= set(RUN)


@pytest.mark.parametrize("page", TEXTS)
def test_options_in_the_text_exist(page: str) -> None:
    named = {word for code in inline(TEXTS[page]) if not PROGRAM.match(code) for word in used(code.split())}
    if named := named - OPTIONS_OF_OTHERS:
        known = options("rsdnet.train") | options("rsdnet.probe") | options("rsdnet.info")
        known |= options("rsdnet.ingest", "pairs") | options("rsdnet.ingest", "bigearthnet")
        known |= options("rsdnet.ingest", "sen12ms") | options("rsdnet.table") | options("benches.learning")
        known |= options("rsdnet.export") | options("rsdnet.catalog", "bigearthnet") | options("rsdnet.embed")
        known |= options("benches.end_to_end")
        known |= {option for action in get_args_parser()._actions for option in action.option_strings}
        assert named <= known


@pytest.mark.parametrize("page", [*TEXTS, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", (REPO / page).read_text()):
        assert link.startswith("https://") or ((REPO / page).parent / link).exists(), link


@pytest.mark.parametrize(
    "page", [page for page in TEXTS if page != "docs/results.md"]
)  # its rows name what was measured then
def test_paths_and_names_in_the_text_exist(page: str) -> None:
    folders = "rsdnet|kernels|csrc|benches|tests|docs|examples|recipes"
    for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*", TEXTS[page]):
        assert (REPO / path.rstrip(".")).exists(), path
    for name in re.findall(r"(?<![\w/.])rsdnet(?:\.[A-Za-z_]\w*)+", TEXTS[page]):
        pkgutil.resolve_name(name)


def test_the_readme_is_a_page() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 120


def test_figures_of_the_readme_are_results() -> None:
    (section,) = re.findall(r"^## Results\n(.*?)^## ", TEXTS["README.md"], re.DOTALL | re.MULTILINE)
    figures = set(re.findall(r"\d+\.\d+", section))
    assert len(figures) > 5
    assert figures <= set(re.findall(r"\d+\.\d+", TEXTS["docs/results.md"]))
