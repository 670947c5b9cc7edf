"""Options of commands: their numeric types with bounds, and one line for every mistake.

A command's options are a dataclass; the type of a field says which values it takes, as in rsdnet/config.py:

    samples: Annotated[int, Field(ge=1, le=100)] = 6
"""

import contextlib
import io
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rsdnet.errors import DataError

T = TypeVar("T")

Positive = Annotated[int, Field(gt=0, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0, le=1)]
Workers = Annotated[int, Field(ge=0, le=1024)]
"""Threads or processes; more would take memory and gain nothing."""
Threads = Annotated[int, Field(ge=1, le=1024)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
"""Side of a picture."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Real = Annotated[float, Field(ge=-sys.float_info.max, le=sys.float_info.max)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]

_ANY = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
_TITLES = ("value error", "invalid choice", "unrecognized options", "required options", "missing argument")
_DROPPED = ("For full helptext", "Argument helptext")
_PLAIN = {
    "invalid literal for int() with base 10": "no whole number",
    "could not convert string to float": "no number",
}


def parse(options: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str | None = None) -> T:
    """The options of a command line, by default this process's. `--help` prints and exits with 0.

    Raises DataError, one line, on an unknown or missing option, and on a value out of its type or range.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return checked(read(lambda: tyro.cli(options, args=words, prog=prog, description=description), words))


def read(parser: Callable[[], T], argv: Sequence[str]) -> T:
    """The result of `parser`, of tyro or argparse, for the command line `argv`.

    Raises DataError with the parser's words before it exits with 2, as one line; and on a word that is not UTF-8.
    """
    for word in argv:
        if word != word.encode(errors="replace").decode():
            raise DataError(f"{word!r} is not UTF-8: rename the file or folder")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _wide("--help" not in argv and "-h" not in argv):
            found = parser()
    except SystemExit as end:
        if end.code != 2:
            raise
        raise DataError(_line(said.getvalue())) from None
    sys.stderr.write(said.getvalue())
    return found


def require_values(argv: Sequence[str], *names: str) -> None:
    """Raise DataError where one of the options `names` stands in the command line `argv` without a value.

    An empty variable of a shell does that, and no value would mean the option's default.
    """
    for word, behind in itertools.pairwise([*argv, "--"]):
        if word in names and behind.startswith("--"):
            raise DataError(f"{word} has no value: name one or more, or leave {word} out")


def checked(options: T) -> T:
    """The same dataclass. Raises DataError on the first field whose value is out of its type or range."""
    for name, kind in typing.get_type_hints(type(options), include_extras=True).items():
        if typing.get_origin(kind) is typing.ClassVar or not hasattr(options, name):
            continue
        value = getattr(options, name)
        try:
            TypeAdapter(kind, config=_ANY).validate_python(value)
        except ValidationError as error:
            raise DataError(f"--{name.replace('_', '-')} {shown(value)}: {reason(error)}") from None
    return options


def reason(error: ValidationError) -> str:
    """The fault of the first bad value, in pydantic's words."""
    text = error.errors()[0]["msg"]
    return text[0].lower() + text[1:]


def shown(value: Any) -> str:
    """A value as it stands on a command line; several side by side."""
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


@contextlib.contextmanager
def _wide(on: bool) -> Iterator[None]:
    """Let tyro break no line, nor a word in it."""
    before = os.environ.get("COLUMNS")
    if on:
        os.environ["COLUMNS"] = "9999"
    try:
        yield
    finally:
        if before is not None:
            os.environ["COLUMNS"] = before
        elif on:
            del os.environ["COLUMNS"]


def _line(said: str) -> str:
    """A parser's box or usage as one line: its title, problem and suggestions."""
    if "error: " in said:  # argparse
        return said.rpartition("error: ")[2].strip()
    lines = [line.strip(" │|╭╮╰╯+") for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()]
    title = lines[0].strip("─- ") if lines else ""
    sections = re.split(r"\n[─-]{4,}\n", "\n".join(lines[1:-1]))
    text = "; ".join(" ".join(section.split()) for section in sections if not section.startswith(_DROPPED))
    for python, plain in _PLAIN.items():
        text = text.replace(python, plain)
    text = re.sub(
        r"no type matching (\S+) could be instantiated from \[(.*?)\]\. Got errors: .*", r"\2 is none of \1", text
    )
    return text if title.lower() in _TITLES else f"{title}: {text}"
