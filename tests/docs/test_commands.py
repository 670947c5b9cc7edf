"""docs/cluster.md: its scripts are bash, and the options they use exist."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parent.parent / "docs" / "cluster.md"
SCRIPTS = re.findall(r"^```(?:bash|sh)\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)


def commands(module: str) -> list[list[str]]:
    """The words of each command of the page's scripts that runs `module` of rsdnet."""
    joined = [line for script in SCRIPTS for line in script.replace("\\\n", " ").splitlines()]
    split = [shlex.split(line, comments=True) for line in joined if f" {module} " in line and not line.startswith("#")]
    return [words[: words.index("||")] if "||" in words else words for words in split]


@cache
def options(*words: str) -> frozenset[str]:
    """The options that a command's --help tells of."""
    done = subprocess.run([sys.executable, "-m", *words, "--help"], capture_output=True, text=True, check=True)
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.stdout))


def used(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_the_scripts_are_bash(script: str, tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_their_options_exist() -> None:
    trained, ingested = commands("rsdnet.train"), commands("rsdnet.ingest")
    assert (len(trained), len(ingested)) == (3, 2)
    for words in trained:
        at = words.index("rsdnet.train")
        torchrun = used(words[words.index("torchrun") : at])
        assert torchrun <= options("torch.distributed.run")
        assert {"--data", "--out", "--batch"} <= used(words[at:]) <= options("rsdnet.train")
    for words in ingested:
        at = words.index("rsdnet.ingest")
        assert {"--shard"} <= used(words[at:]) <= options("rsdnet.ingest", words[at + 1])


def test_options_named_in_the_text_exist() -> None:
    text = re.sub(r"^```.*?^```$", "", DOC.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = {word for code in re.findall(r"`([^`\n]+)`", text) for word in used(code.split())}
    slurms = {"--signal", "--dependency", "--cpus-per-task"}
    known = options("rsdnet.train") | options("rsdnet.info") | options("torch.distributed.run")
    assert "--batchnorm" in named
    assert named - slurms <= known


def test_torchrun_takes_the_command_as_it_is_written() -> None:
    """Its own parser, which takes some of a script's options for its own, on every line that starts it."""
    from torch.distributed.run import get_args_parser

    for words in commands("rsdnet.train"):
        own = words[words.index("torchrun") + 1 :]
        found = get_args_parser().parse_args(own)
        assert found.module
        assert found.training_script == "rsdnet.train"
        assert found.training_script_args == own[own.index("rsdnet.train") + 1 :]
