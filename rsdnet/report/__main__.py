"""One HTML page of a run, or of two side by side: `python -m rsdnet.report RUN [RUN] [--out FILE.html]`.

Curves, throughput, the probe's F1 a band, views, settings, versions. The page needs no network and no other file, so it
can be mailed. Of a run that is still going it shows what is there.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console

from rsdnet import options
from rsdnet.console import size
from rsdnet.errors import DataError, command
from rsdnet.files import aside, writable

LIMIT = 2 << 20  # bytes of a page that mail and browsers take without complaint


@dataclasses.dataclass(frozen=True)
class Options:
    """The runs to report, and the page to write."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a pre-training run."""
    other: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """A second run, to show beside it."""
    out: Path = Path("report.html")
    """Page to write."""
    samples: Annotated[int, Field(ge=0, le=100)] = 4
    """Samples of the run's database whose bands and views are shown; 0: none."""


def report(asked: Options) -> str:
    """The page. Raises DataError on a folder that is no run, and on the same run twice."""
    from rsdnet.report import gallery, record
    from rsdnet.report.page import page

    records = [record.read(folder) for folder in (asked.run, asked.other) if folder is not None]
    if len(records) == 2 and records[0].folder.samefile(records[1].folder):
        raise DataError(f"{asked.run} and {asked.other} are the same run: name one, or two that differ")
    if len({run.name for run in records}) < len(records):
        records = [dataclasses.replace(run, name=str(run.folder)) for run in records]
    shown = records[:1] if len(records) == 2 and gallery.same_views(*records) else records
    made = page(records, [gallery.gallery(run, asked.samples) for run in shown])
    if len(made.encode()) > LIMIT:
        made = page(records, [gallery.Gallery("Their pictures are left out: the page would be too large.", [])])
    return made


def main() -> None:
    """The command."""
    asked = options.parse(Options, prog="python -m rsdnet.report", description=__doc__)
    writable(asked.out, "HTML")
    made = report(asked)
    try:
        with aside(asked.out) as temporary:
            temporary.write_text(made, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{asked.out} cannot be written ({error.strerror}): name another with --out") from None
    Console(markup=False).print(
        f"{asked.out}: {size(len(made.encode()), binary=True)}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    command(main)
