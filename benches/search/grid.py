"""A grid: a TOML file of settings to compare.

base = ["rsdnet/demo.toml"]       # settings of all runs; relative to the grid's folder or to the repository
[settings]                        # by name, over the base; the others are compared with the first
"as it is" = {}
"lars 1" = {optim.optimizer = "lars", optim.lr = 1.0}
[vary]                            # or every combination of these values
"optim.lr" = [0.001, 0.003]
"optim.tau" = [0.98, 0.99]
"""

import itertools
import math
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from benches.search.runs import DEMO, REPO, Variant
from rsdnet import config
from rsdnet.errors import DataError
from rsdnet.train import require_known

Tables = dict[str, Any]
MOST = 1000  # settings of a grid; our choice
NAME = re.compile(r"[\w+(][\w+().,% -]*")  # safe as a folder and as a cell of a table
SETTINGS = "settings.toml"
OWN = {"data": {"data", "split"}, "run": {"run", "resume", "seed", "threads", "log_every"}}  # of the command


class Grid(NamedTuple):
    """base: files. settings: tables by name, in the file's order."""

    path: Path
    base: tuple[Path, ...]
    settings: dict[str, Tables]

    @property
    def name(self) -> str:
        """Of the file, in the repository where it lies there."""
        path = self.path.resolve()
        return path.relative_to(REPO).as_posix() if path.is_relative_to(REPO) else path.name

    def variants(self, runs: Path) -> list[Variant]:
        """Each of the settings, its file written in `runs` where it is not there.

        Raises DataError, before anything is written, on an unknown key, a value out of its type or range, and settings
        that a folder of `runs` has otherwise.
        """
        base = config.to_tables(config.read(*self.base))
        configs = {name: checked(base, tables, f"{self.path}, {name}") for name, tables in self.settings.items()}
        files = {name: runs / name.replace(" ", "-") / SETTINGS for name in self.settings}
        for name, path in files.items():
            require_same(path, self.settings[name], name)
        for name, path in files.items():
            write(path, self.settings[name])
        return [Variant(name, (*self.base, files[name]), configs[name]) for name in self.settings]


def read(path: Path) -> Grid:
    """The grid in a file. Raises DataError on a file that is none."""
    content = load(path)
    if unknown := content.keys() - {"base", "settings", "vary"}:
        raise DataError(f"{path}: unknown key {sorted(unknown)[0]}; a grid has base, and settings or vary")
    settings, vary = content.get("settings", {}), content.get("vary", {})
    if not isinstance(settings, dict) or not isinstance(vary, dict) or bool(settings) == bool(vary):
        raise DataError(f"{path}: a grid has either a table [settings] or a table [vary], with an entry or more")
    base = content.get("base", [str(DEMO)])
    if not isinstance(base, list) or not all(isinstance(each, str) for each in base):
        raise DataError(f"{path}: base = {base!r}: name files in a list")
    found = settings or combinations(vary, path)
    for name, tables in found.items():
        if not NAME.fullmatch(name):
            raise DataError(
                f'{path}: the name "{name}" is made of other signs than letters, digits, spaces and +-.,()%'
            )
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise DataError(f'{path}: "{name}": settings stand in tables, as {{optim.lr = 0.1}}')
    if len({name.replace(" ", "-") for name in found}) < len(found):
        raise DataError(f"{path}: two names differ by spaces and dashes alone")
    return Grid(path, tuple(found_file(each, path) for each in base), found)


def load(path: Path) -> Tables:
    """The content of a TOML file. Raises DataError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not TOML: {error}") from None


def found_file(name: str, grid: Path) -> Path:
    """A file of the base. Raises DataError where it is neither beside the grid nor in the repository."""
    for path in (grid.parent / name, REPO / name):
        if path.is_file():
            return path
    raise DataError(f"{grid}: base {name} lies neither in {grid.parent.absolute()} nor in {REPO}")


def combinations(vary: Mapping[str, Any], path: Path) -> dict[str, Tables]:
    """Settings of all combinations of values, named by them: "lr 0.001, tau 0.98". vary: values by "table.key"."""
    for key, values in vary.items():
        if key.count(".") != 1 or not isinstance(values, list) or not values:
            raise DataError(f'{path}: vary: {key} = {values!r}: write "table.key" = [value, value]')
    if (count := math.prod(map(len, vary.values()))) > MOST:
        raise DataError(f"{path}: {count:,} combinations are more than {MOST:,}")
    last = [key.partition(".")[2] for key in vary]
    titles = last if len(set(last)) == len(last) else list(vary)
    found: dict[str, Tables] = {}
    for values in itertools.product(*vary.values()):
        tables: Tables = {}
        for key, value in zip(vary, values, strict=True):
            table, _, own = key.partition(".")
            tables.setdefault(table, {})[own] = value
        name = ", ".join(f"{title} {shown(value)}" for title, value in zip(titles, values, strict=True))
        if name in found:
            raise DataError(f"{path}: vary names {name} twice")
        found[name] = tables
    return found


def shown(value: Any) -> str:
    """A value of TOML in a name."""
    if isinstance(value, list):
        return " ".join(map(shown, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def checked(base: Tables, settings: Tables, where: str) -> config.Config:
    """The configuration of `settings` over `base`. Raises DataError on a mistake in them."""
    for table, keys in OWN.items():
        if own := keys & settings.get(table, {}).keys():
            raise DataError(f"{where}: {table}.{min(own)} is set by the command: leave it out")
    joined = base | {name: base.get(name, {}) | table for name, table in settings.items()}
    found = config.from_tables(joined, where)
    try:
        require_known(found)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return found


def require_same(path: Path, settings: Tables, name: str) -> None:
    """Raise DataError where the file `path` holds other settings."""
    if path.is_file() and (other := load(path)) != settings:
        raise DataError(
            f"{path} holds other settings of the name {name} ({other}): rename them, or name another --runs"
        )


def write(path: Path, settings: Tables) -> None:
    """Write a settings file, once; several calls may do so at a time."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(tomli_w.dumps(settings))
    os.chmod(file.name, 0o644)  # not private, as a temporary file is
    os.replace(file.name, path)
