"""The paper's comparison: `python -m rsdnet.table RUN [RUN ...]`. Evaluated runs and their contenders, a row a band.

A column for each run and each contender; runs that differ only in the seed are one. The best is in bold, intervals are
of 95 %, means over the bands that all columns have. All runs must have been evaluated by `rsdnet.probe` on the same
samples.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console

from rsdnet.comparison import picture, screen, texts
from rsdnet.comparison.gather import Comparison, gather
from rsdnet.errors import DataError, command
from rsdnet.files import aside, writable
from rsdnet.options import parse

WRITERS: dict[str, Callable[[Comparison], str]] = {
    ".json": lambda comparison: json.dumps(comparison, indent=1) + "\n",
    ".md": texts.markdown,
    ".csv": texts.table_csv,
    ".tex": texts.latex,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare evaluated runs."""

    run: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of pre-training runs."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = ""
    """Evaluation to compare: multilabel, segmentation or finetune, of RUN/probe-NAME.json; none: RUN/probe.json."""
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SHARE [SHARE ...]")] = ()
    """Shares of the labels to show, such as all 10%% 1%%; none: those that all runs have."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4]|)$")] = ""
    """Features to compare by, as of rsdnet.probe; none: stages, or last of a fine-tuned encoder."""
    out: Path | None = None
    """Folder, or path without an ending, for table.json, .md, .csv, .tex and .png; none: the screen alone."""


def write(comparison: Comparison, out: Path) -> list[Path]:
    """Write every form of a comparison; their paths. Raises DataError where `out` lies in no folder."""
    stem = out / "table" if out.is_dir() else out
    paths = [stem.with_name(stem.name + ending) for ending in (*WRITERS, ".png")]
    for path in paths:
        writable(path, path.suffix[1:].upper())
    for path, form in zip(paths, WRITERS.values(), strict=False):
        with aside(path) as temporary:
            temporary.write_text(form(comparison), encoding="utf-8")
    picture.draw(comparison, paths[-1])
    return paths


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m rsdnet.table", description=__doc__)
    if not options.run:
        raise DataError("no run is named: python -m rsdnet.table RUN [RUN ...]")
    console = Console(markup=False, highlight=False)
    comparison = gather(options.run, options.name, options.labels, options.features)
    screen.show(comparison, console)
    if options.out:
        console.print(", ".join(map(str, write(comparison, options.out))), soft_wrap=True)


if __name__ == "__main__":
    command(main)
