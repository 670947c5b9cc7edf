"""Tables on the terminal."""

from rich.console import Console
from rich.table import Table


def terminal() -> Console:
    """A console that does not squeeze a table into 80 columns in a pipe or a file."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def table(title: str | None, *columns: str, left: int = 1) -> Table:
    """An empty table, its first `left` columns aligned left, the others right."""
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position < left else "right")
    return made
