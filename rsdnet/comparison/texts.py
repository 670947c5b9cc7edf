"""A comparison as text: Markdown, CSV and LaTeX, each made from its JSON alone."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rsdnet.comparison.gather import Comparison
from rsdnet.comparison.published import line
from rsdnet.console import percent

ABSENT = "-"
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def title(comparison: Comparison, share: str) -> str:
    """What a table shows, in words."""
    told = (
        f"{comparison['metric']} by {comparison['features']}, {share} labels, {percent(comparison['level'])} intervals"
    )
    return f"{comparison['task']}: {told}" if comparison["task"] else told


def heads(comparison: Comparison) -> list[str]:
    """Of the columns."""
    return [column["head"] for column in comparison["columns"]]


def notes(comparison: Comparison) -> list[str]:
    """Lines below the tables: bands left out of the means, and published figures."""
    return [*omitted(comparison), *map(line, comparison["published"])]


def omitted(comparison: Comparison) -> list[str]:
    """A line on the bands that are left out of the means; none where no band is."""
    lacking = comparison["left_out"]
    told = "; ".join(f"{band} (not in {' and '.join(titles)})" for band, titles in lacking.items())
    return [f"The means are over the bands that all columns have, without {told}."] if lacking else []


def number(cell: Mapping[str, Any], mark: str = "{}", dash: str = "-") -> str:
    """A score and its interval; the best is put into `mark`."""
    low, high = cell["interval"]
    score = f"{cell['score']:.3f}"
    return f"{mark.format(score) if cell['best'] else score} ({low:.3f}{dash}{high:.3f})"


def markdown(comparison: Comparison) -> str:
    """A table for each share of the labels, the best of a row in bold."""
    found = []
    for share, rows in comparison["tables"].items():
        lines = [f"{title(comparison, share)}:", "", *map(_piped, [["band", *heads(comparison)]])]
        lines.append("|---" + "|---:" * len(heads(comparison)) + "|")
        lines += [_piped([row["row"], *_cells(row, "**{}**")]) for row in rows]
        found.append("\n".join(lines))
    return "\n\n".join([*found, *notes(comparison)]) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cells(row: Mapping[str, Any], mark: str, dash: str = "-") -> Iterator[str]:
    return (number(cell, mark, dash) if cell else ABSENT for cell in row["cells"])


def table_csv(comparison: Comparison) -> str:
    """Rows by share and band, of each column the score and both ends of its interval; published figures last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [name for head in heads(comparison) for name in (head, f"{head}, low", f"{head}, high")]
    writer.writerow(["labels", "band", *columns])
    for share, rows in comparison["tables"].items():
        for row in rows:
            values = [(cell["score"], *cell["interval"]) if cell else ("", "", "") for cell in row["cells"]]
            writer.writerow([share, row["row"], *(value for cell in values for value in cell)])
    writer.writerows([["", line(figure), figure["score"]] for figure in comparison["published"]])
    return text.getvalue()


def latex(comparison: Comparison) -> str:
    """A plain tabular for each share of the labels; needs no package."""
    wide = len(heads(comparison)) + 1
    found = []
    for share, rows in comparison["tables"].items():
        lines = [f"% {title(comparison, share)}", rf"\begin{{tabular}}{{l{'r' * (wide - 1)}}}", r"\hline"]
        lines += [_line(["band", *heads(comparison)]), r"\hline"]
        last = "band"
        for row in rows:
            lines += [r"\hline"] * (row["kind"] != last)
            cells = (number(cell, r"\textbf{{{}}}", "--") if cell else ABSENT for cell in row["cells"])
            lines.append(f"{escaped(row['row'])} & {' & '.join(cells)} \\\\")
            last = row["kind"]
        lines.append(r"\hline")
        given = (escaped(line(figure)) for figure in comparison["published"])
        lines += [rf"\multicolumn{{{wide}}}{{l}}{{{figure}}} \\" for figure in given]
        found.append("\n".join([*lines, r"\end{tabular}"]))
    return "\n\n".join([*found, *map(escaped, omitted(comparison))]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(escaped, cells))} \\\\"


def escaped(text: str) -> str:
    """Text for LaTeX, its special signs escaped."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found[0]], text)
