"""A comparison on the screen."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsdnet.comparison import texts
from rsdnet.comparison.gather import Comparison


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for each share of the labels, the best of a row in bold."""
    for share, rows in comparison["tables"].items():
        table = Table(title=Text(texts.title(comparison, share)))
        table.add_column("band", no_wrap=True)
        for head in texts.heads(comparison):
            table.add_column(Text(head), justify="right", overflow="fold")
        last = "band"
        for row in rows:
            if row["kind"] != last:
                table.add_section()
            cells = [Text(texts.number(cell), "bold" if cell["best"] else "") if cell else Text(texts.ABSENT)
                     for cell in row["cells"]]  # fmt: skip
            table.add_row(Text(row["row"]), *cells)
            last = row["kind"]
        console.print(table)
    for note in texts.notes(comparison):
        console.print(Text(note), soft_wrap=True)
