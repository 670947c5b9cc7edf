"""Every numeric option of every command: a value is taken as it stands, or refused by one line and status 2.

The options and their bounds are read from the commands' dataclasses, so a new option is tried as soon as it is there.
"""

import dataclasses
import importlib
import math
import os
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic.fields import FieldInfo

from rsdnet import config, errors, options
from rsdnet.catalog.layouts import ADOPTIONS
from rsdnet.config import Config
from rsdnet.errors import DataError
from rsdnet.ingest import ingest
from rsdnet.ingest.layouts import LAYOUTS
from tests.conftest import REPO

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPO)}
VALUES = ("nan", "inf", "-inf", "-1", "0", "-0.5", "0.5", "1", "1e9", "1000000000", "1e400", "text", "²", "", "9" * 30)


class Option(NamedTuple):
    """A numeric option. count: values it takes; low, high: of a value; open: whether the bounds are excluded."""

    name: str
    type: type
    count: int
    low: float
    high: float
    open: tuple[bool, bool]

    def takes(self, text: str) -> bool:
        """Whether a value of the command line is one of the option's."""
        try:
            value = self.type(text)
        except ValueError:
            return False
        above = value > self.low if self.open[0] else value >= self.low
        below = value < self.high if self.open[1] else value <= self.high
        return above and below and math.isfinite(value)

    def words(self, text: str) -> list[str]:
        """The option on a command line."""
        return (
            [f"--{self.name.replace('_', '-')}", *[text] * self.count] if self.count > 1 else [f"--{self.name}={text}"]
        )


def numeric(kind: type) -> Iterator[Option]:
    """The numeric options of a dataclass."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is not typing.ClassVar:
            yield from _numeric(name, hint, 1)


def _numeric(name: str, hint: Any, count: int) -> Iterator[Option]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        yield from _numeric(name, arguments[0], 1 if arguments[-1] is ... else len(arguments))
    elif origin in (types.UnionType, typing.Union):
        for part in arguments:
            yield from _numeric(name, part, count)
    elif origin is Annotated and arguments[0] in (int, float):
        bounds = {
            key: float(getattr(found, key))
            for note in arguments[1:]
            for found in (note.metadata if isinstance(note, FieldInfo) else [note])
            for key in ("gt", "ge", "lt", "le")
            if hasattr(found, key)
        }
        low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
        assert low is not None and high is not None, f"--{name} states no bounds"  # noqa: PT018
        yield Option(name, arguments[0], count, low, high, ("gt" in bounds, "lt" in bounds))
    elif origin is Annotated:
        yield from _numeric(name, arguments[0], count)
    else:
        assert hint not in (int, float), f"--{name} states no bounds"


class Command(NamedTuple):
    """A command: its options by dataclass, a command line without options, and its `main`."""

    kind: type
    words: list[str]
    main: Callable[[], object]


def command(module: str, *words: str) -> Command:
    found = importlib.import_module(module)
    return Command(found.Options, list(words), found.main)


SECTIONS = [(field.name, type(getattr(Config(), field.name))) for field in dataclasses.fields(Config)]
COMMANDS: dict[str, Callable[[], Command]] = {
    "rsdnet.probe": lambda: command("rsdnet.probe", "RUN"),
    "rsdnet.preview": lambda: command("rsdnet.preview", "DB", "OUT.png"),
    "rsdnet.scenes": lambda: command("rsdnet.scenes", "OUT"),
    "rsdnet.embed": lambda: command("rsdnet.embed.__main__", "ENCODER", "SCENE", "OUT.tif"),
    "rsdnet.info": lambda: command("rsdnet.info.__main__", "DB"),
    "rsdnet.report": lambda: command("rsdnet.report.__main__", "RUN"),
    "benches.embed": lambda: command("benches.embed"),
    "benches.end_to_end": lambda: command("benches.end_to_end"),
    "benches.learning": lambda: command("benches.learning"),
    "benches.step_on_cpu": lambda: command("benches.step_on_cpu"),
}
FLAGS = {"benches.report", "benches.resources", "rsdnet.export", "rsdnet.table"}  # commands without a numeric option


def test_every_command_is_tried() -> None:
    files = [path for folder in ("rsdnet", "benches") for path in (REPO / folder).rglob("*.py")]
    ends = {path for path in files if re.search(r"^ *command\(main\)$", path.read_text(), re.MULTILINE)}
    names = {".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__main__") for path in ends}
    assert names == {*COMMANDS, *FLAGS, "rsdnet.train", "rsdnet.ingest", "rsdnet.catalog", "benches.reference.train"}
    assert not [path for path in files if "tyro.cli(" in path.read_text() and path.parent.name == "benches"]


def refused(monkeypatch: pytest.MonkeyPatch, main: Callable[[], object], words: list[str], name: str) -> None:
    """The command ends with one line that names the option, before it does anything."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(DataError) as caught:
        main()
    said = str(caught.value)
    assert "\n" not in said
    assert re.search(rf"(--|\.){name}\b|--{name.replace('_', '-')}\b", said), said
    assert len(said) < 400


def bounds(option: Option) -> list[str]:
    """Values of the option: its lowest and its highest."""
    if option.type is int:
        return [str(int(option.low) + option.open[0]), str(int(option.high) - option.open[1])]
    return [str(math.nextafter(option.low, 1) if option.open[0] else option.low), str(option.high)]


@pytest.mark.parametrize("name", COMMANDS)
def test_numeric_options_of_commands(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind, words, main = COMMANDS[name]()
    found = list(numeric(kind))
    assert found
    for option in found:
        for text in (*VALUES, *bounds(option)):
            line = [*words, *option.words(text)]
            if option.takes(text):
                got = getattr(options.parse(kind, line, prog=name), option.name)
                assert got in (option.type(text), (option.type(text),) * option.count)
            else:
                refused(monkeypatch, main, line, option.name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_numeric_options_of_layouts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = typing.cast(type, LAYOUTS.find(name))
    found = list(numeric(kind))
    assert {option.name for option in found} >= {"patch", "stride", "max_invalid", "val", "test", "workers"}
    for option in found:
        for text in (*VALUES, *bounds(option)):
            try:
                made = kind(Path(), Path("DB"), **{option.name: option.type(text)})
            except ValueError:
                continue
            if option.takes(text):
                assert options.checked(made) is made
            else:
                with pytest.raises(DataError, match=f"^--{option.name.replace('_', '-')} "):
                    made.check()
        refused(monkeypatch, ingest.main, [name, "SOURCE", "DB", *option.words("nan")], option.name)
    refused(monkeypatch, ingest.main, [name, "SOURCE", "DB", "--workers=text"], "workers")
    assert ingest.layout_of([name, "SOURCE", "DB", "--workers=3"]).workers == 3


@pytest.mark.parametrize("name", ADOPTIONS)
def test_numeric_options_of_adoptions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from rsdnet.catalog import __main__ as adoption

    found = list(numeric(ADOPTIONS[name]))
    assert {option.name for option in found} == {"max_invalid", "val", "test", "split_seed", "workers"}
    for option in found:
        for text in (*VALUES, *bounds(option)):
            line = [name, "DB", *option.words(text)]
            if option.takes(text):
                assert getattr(adoption.asked(line), option.name) == option.type(text)
            else:
                refused(monkeypatch, adoption.main, line, option.name)


@pytest.mark.parametrize(("section", "kind"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_numeric_options_of_training(monkeypatch: pytest.MonkeyPatch, section: str, kind: type) -> None:
    from rsdnet import train

    lowest, highest = list[str](), list[str]()
    for option in numeric(kind):
        for text in VALUES:
            try:
                value = option.type(text)
            except ValueError:
                continue
            several = typing.get_origin(typing.get_type_hints(kind)[option.name]) is tuple
            table = {section: {option.name: [value] * option.count if several else value}}
            if option.takes(text) and not (option.name == "sar_looks" and 0 < value < 1):
                assert config.from_tables(table, "file")
            else:
                with pytest.raises(DataError, match=rf"file: {section}\.{option.name}"):
                    config.from_tables(table, "file")
        for text in ("nan", str(option.low - 1)):
            refused(monkeypatch, train.main, ["--data", "DB", *option.words(text)], option.name)
        low, high = bounds(option)
        lowest += option.words(low)
        highest += option.words(high)
    for words in (lowest, highest):
        assert config.parse(words, Config(), "prog", "text")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["DB", "OUT.png", "--sampels", "3"], "Unrecognized options: --sampels, 3; Perhaps you meant: --samples"),
        (["DB"], "Missing from python -m rsdnet.preview: PATH PNG to write"),
        (["DB", "OUT.png", "--samples"], "Missing value for argument '--samples'"),
        (["DB", "OUT.png", "--split", "tain"], "invalid choice 'tain' for argument '--split'"),
        (["DB", "OUT.png", "--samples", "six"], "Error parsing --samples: no whole number: 'six'"),
        (["DB\udcff", "OUT.png"], "'DB\\udcff' is not UTF-8"),
        (["DB", "nowhere/OUT.png"], "there is no folder"),
        (["DB", "."], ". is a folder: name a file to write, PNG"),
        (["DB", "OUT.png", "--config", "/" + "x" * 300], "File name too long"),
    ],
)
def test_other_mistakes(monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    from rsdnet import preview

    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(DataError) as caught:
        preview.main()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("preview", ["FILE", "OUT.png"]), ("info.__main__", ["FILE"]), ("info.__main__", ["nowhere"]),
        ("info.__main__", ["FILE", "--json", "."]), ("scenes", ["FILE", "--places=1"]), ("report.__main__", ["FILE"]),
        ("report.__main__", ["FILE", "--out", "."]), ("probe", ["FILE"]), ("train", ["--config"]),
        ("train", ["--config", "FOLDER"]), ("train", ["--resume"]), ("ingest.ingest", []),
        ("ingest.ingest", ["sen13ms", "FOLDER", "db"]), ("ingest.ingest", ["sen12ms", "FILE", "db"]),
        ("ingest.ingest", ["sen12ms", "FOLDER", "FILE"]), ("ingest.ingest", ["no.module:Layout", "FOLDER", "db"]),
        ("catalog.__main__", []), ("catalog.__main__", ["pairs", "FOLDER"]), ("catalog.__main__", ["eurosat", "FILE"]),
        ("catalog.__main__", ["eurosat", "FOLDER"]),
    ],
)  # fmt: skip
def test_one_line_on_files_for_folders_and_the_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: list[str]
) -> None:
    (tmp_path / "FILE").write_text("text")
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(DataError) as caught:
        importlib.import_module(f"rsdnet.{module}").main()
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"FILE", "FOLDER"}
    assert (tmp_path / "FILE").read_text() == "text"


@pytest.mark.parametrize("words", [["info", "--sped", "DB"], ["scenes", "OUT", "--places=0"], ["ingest", "pairs", "."]])
def test_a_process_ends_with_status_2_and_one_line(tmp_path: Path, words: list[str]) -> None:
    call = [sys.executable, "-m", f"rsdnet.{words[0]}", *words[1:]]
    done = subprocess.run(call, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)


@pytest.mark.parametrize(("words", "status"), [(["info", "--sped", "DB"], 2), (["scenes", "--help"], 0)])
def test_closed_streams_change_no_status(tmp_path: Path, words: list[str], status: int) -> None:
    call = f'exec "{sys.executable}" -m rsdnet.{" ".join(words)} >&- 2>&-'
    assert subprocess.run(["sh", "-c", call], cwd=tmp_path, env=ENVIRONMENT, check=False).returncode == status


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/place"), "/place: Permission denied"),
        (MemoryError(), "out of memory: ask for smaller batches or sizes, or for fewer at a time"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, said: str) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        errors.command(main)
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {said}\n")
