"""One HTML page of a run, or of two side by side: `python -m rsdnet.report RUN [RUN] [--out FILE.html]`.

Curves, throughput, the probe's F1 a band, views, settings, versions. The page needs no network and no other file, so it
can be mailed. Of a run that is still going it shows what is there.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from rsdnet.console import size
from rsdnet.errors import DataError, command
from rsdnet.files import aside

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
    samples: int = 4
    """Samples of the run's database whose bands and views are shown; 0: none."""


def report(options: Options) -> str:
    """The page. Raises DataError on a folder that is no run, and on the same run twice."""
    from rsdnet.report import gallery, record
    from rsdnet.report.page import page

    records = [record.read(folder) for folder in (options.run, options.other) if folder is not None]
    if len(records) == 2 and records[0].folder.samefile(records[1].folder):
        raise DataError(f"{options.run} and {options.other} are the same run: name one, or two that differ")
    if len({run.name for run in records}) < len(records):
        records = [dataclasses.replace(run, name=str(run.folder)) for run in records]
    shown = records[:1] if len(records) == 2 and gallery.same_views(*records) else records
    made = page(records, [gallery.gallery(run, options.samples) for run in shown])
    if len(made.encode()) > LIMIT:
        made = page(records, [gallery.Gallery("Their pictures are left out: the page would be too large.", [])])
    return made


def main() -> None:
    """The command."""
    options = tyro.cli(Options, prog="python -m rsdnet.report", description=__doc__)
    if options.samples < 0:
        raise DataError(f"--samples {options.samples}: use 0 or more")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise DataError(f"{options.out}: name a file in a folder that is there, with --out FILE.html")
    made = report(options)
    try:
        with aside(options.out) as temporary:
            temporary.write_text(made, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{options.out} cannot be written ({error.strerror}): name another with --out") from None
    Console().print(f"{options.out}: {size(len(made.encode()), binary=True)}", highlight=False)


if __name__ == "__main__":
    command(main)
